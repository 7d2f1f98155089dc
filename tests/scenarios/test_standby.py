"""A host dies and its calls go on at the next that gets its address (`calls.standby: redis`)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import within
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup

STANDBY: dict[str, dict[str, Any]] = {"calls": {"standby": "redis"}, "timers": {"drain_s": 5}}


def other_host(engine: Engine, directory: Path, redis_url: str, **settings: Any) -> Engine:
    """An engine for the same address, as on a host that has nothing of the first one's disk."""
    directory.mkdir()
    sip = {"listen": [f"udp:{engine.address[0]}:{engine.address[1]}"]}
    to = {kind: f"sip:{{number}}@127.0.0.1:{port}" for kind, port in engine.ports.items()}
    return Engine(directory, redis_url, {**STANDBY, "sip": sip, "destinations": to, **settings})


@pytest.fixture
async def first(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    engine = Engine(tmp_path, shared_redis.url, STANDBY)
    engine.start()
    running_engine = RunningEngine(engine, shared_redis.client, tmp_path)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
        assert not engine.complaints()
    finally:
        engine.stop()


async def stand(setup: Setup, **fields: object) -> tuple[Call, Call]:
    line, phone = await setup.line_with_phone(**fields)
    call = await setup.call(line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    return call, ring


async def kept(engine: Engine, count: int) -> None:
    """Redis has so many calls of the engine, and everything that has changed."""
    async with asyncio.timeout(within(5)):
        while (
            engine.metric("renvoi_standby_calls") != count
            or engine.metric("renvoi_standby_waiting") != 0
        ):
            await asyncio.sleep(0.05)


def told(engine: Engine, event: str) -> list[dict[str, Any]]:
    return [found for found in engine.events() if found["event"] == event]


async def talk(call: Call, ring: Call) -> None:
    """Requests go both ways."""
    for one, other in ((call, ring), (ring, call)):
        one.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
        heard = await other.receive("INFO")
        other.respond(200, to=heard)
        await one.receive(200, "INFO")


@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_the_calls_of_a_dead_host_go_on(
    first: Setup, tmp_path: Path, shared_redis: RedisServer, who: str
) -> None:
    call, ring = await stand(first, max_calls=1)
    await kept(first.engine, 1)
    first.engine.signal(signal.SIGKILL)
    await first.engine.exited(5)
    other = other_host(first.engine, tmp_path / "other", shared_redis.url)
    other.start()
    try:
        assert told(other, "standby.claimed")[-1]["calls"] == 1
        assert told(other, "calls.taken_over")[-1]["continued"] == 1
        (shown,) = other.calls()
        assert (shown["call_id"], shown["state"]) == (call.call_id, "answered")
        await talk(call, ring)
        await part(*((call, ring) if who == "caller" else (ring, call)))
        record = await first.ended(call.call_id, outcome="answered", why="bye", takeovers="1")
        assert abs(float(record["ended"]) - float(record["answered"]) - int(record["seconds"])) < 1
        (again,) = [r for r in first.records() if r["call_id"] == call.call_id]
        assert again["id"] == record["id"]
        await kept(other, 0)
        assert not other.complaints()
    finally:
        other.stop()
    keys = [str(key) for key in first.redis.scan_iter("standby:{*")]
    assert all(key.endswith(":taken") for key in keys), keys
