"""A host dies and its calls go on at the next that gets its address (`calls.standby: redis`)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import within
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup
from tests.scenarios.worker_pool import WorkerPool

STANDBY: dict[str, dict[str, Any]] = {"calls": {"standby": "redis"}, "timers": {"drain_s": 5}}


def other_host(engine: Engine, directory: Path, redis_url: str, **settings: Any) -> Engine:
    """An engine for the same address, as on another host without the first one's disk."""
    directory.mkdir()
    sip = {"listen": [f"udp:{engine.address[0]}:{engine.address[1]}"]}
    to = {kind: f"sip:{{number}}@127.0.0.1:{port}" for kind, port in engine.ports.items()}
    return Engine(directory, redis_url, {**STANDBY, "sip": sip, "destinations": to, **settings})


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def first(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    shared_redis.client.flushall()
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
    """Wait until Redis has `count` calls of the engine, with all changes."""
    async with asyncio.timeout(within(5)):
        while (
            engine.metric("renvoi_standby_calls") != count
            or engine.metric("renvoi_standby_waiting") != 0
        ):
            await asyncio.sleep(0.05)


def events(engine: Engine, event: str) -> list[dict[str, Any]]:
    return [found for found in engine.events() if found["event"] == event]


async def event(engine: Engine, name: str, wait_s: float = 10) -> dict[str, Any]:
    """The last log event of that name; waits until there is one."""
    async with asyncio.timeout(within(wait_s)):
        while not (found := events(engine, name)):
            await asyncio.sleep(0.02)
    return found[-1]


async def talk(call: Call, ring: Call) -> None:
    """Send requests in both directions."""
    for one, other in ((call, ring), (ring, call)):
        one.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
        info = await other.receive("INFO")
        other.respond(200, to=info)
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
        assert (await event(other, "standby.claimed"))["calls"] == 1
        assert (await event(other, "calls.taken_over"))["continued"] == 1
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


async def test_changes_while_redis_is_away_are_written_later(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    engine = Engine(tmp_path, own_redis.url, STANDBY)
    engine.start()
    try:
        running_engine = RunningEngine(engine, own_redis.client, tmp_path)
        async with Setup(running_engine) as setup:
            stays, goes = await stand(setup), await stand(setup)
            await kept(engine, 2)
            own_redis.kill()  # it comes back empty
            await part(*goes)
            await event(engine, "standby.redis_away")
            own_redis.start()
            await event(engine, "standby.redis_back", 20)
            await kept(engine, 1)
            (key,) = [
                str(key)
                for key in own_redis.client.scan_iter("standby:{*}:*")
                if not str(key).endswith(":taken")
            ]
            async with asyncio.timeout(within(5)):
                while own_redis.client.hlen(key) != 2:  # the call, and the process
                    await asyncio.sleep(0.05)
            own_redis.client.delete(key)  # as a fail-over loses the last writes
            async with asyncio.timeout(within(15)):
                while own_redis.client.hlen(key) != 2:
                    await asyncio.sleep(0.05)
            await event(engine, "standby.rewritten")
            await part(*stays)
            await kept(engine, 0)
        assert not engine.complaints()
    finally:
        engine.stop()


async def test_calls_that_nobody_continues_are_recorded_once(
    first: Setup, tmp_path: Path, shared_redis: RedisServer
) -> None:
    began = time.monotonic()
    calls = [await stand(first) for _ in range(3)]
    await kept(first.engine, 3)
    first.engine.signal(signal.SIGKILL)
    lasted_s = time.monotonic() - began
    await first.engine.exited(5)
    await asyncio.sleep(2)
    others = []
    for name in ("b", "c"):  # on other addresses, with the same Redis
        (tmp_path / name).mkdir()
        settings = {**STANDBY, "rules": {"stale_max_s": 0}, "timers": {"takeover_s": 1}}
        others.append(Engine(tmp_path / name, shared_redis.url, settings))
    try:
        for other in others:
            other.start()
        for call, _ in calls:
            record = await first.ended(call.call_id, outcome="failed", why="worker_died")
            assert record["takeovers"] == "0"
            assert int(record["seconds"]) <= lasted_s + 1
        async with asyncio.timeout(within(5)):
            while not (claimed := [e for one in others for e in events(one, "standby.claimed")]):
                await asyncio.sleep(0.05)
        assert [each["calls"] for each in claimed] == [3]
        async with asyncio.timeout(within(5)):  # the claim is forgotten with the next write
            while any("/" in key for key in first.redis.scan_iter("standby:{*")):
                await asyncio.sleep(0.05)
        assert not any(other.complaints() for other in others)
    finally:
        for other in others:
            other.stop()
    assert len([r for r in first.records() if r["why"] == "worker_died"]) == 3
    assert not [k for k in first.redis.scan_iter("standby:{*") if not str(k).endswith(":taken")]


async def test_calls_that_are_found_too_late_are_recorded(
    first: Setup, tmp_path: Path, shared_redis: RedisServer
) -> None:
    call, _ = await stand(first)
    await kept(first.engine, 1)
    first.engine.signal(signal.SIGKILL)
    await first.engine.exited(5)
    other = other_host(
        first.engine, tmp_path / "other", shared_redis.url, timers={"takeover_s": 0.5}
    )
    other.start()
    try:
        await first.ended(call.call_id, outcome="failed", why="worker_died", takeovers="0")
        assert other.calls() == []
    finally:
        other.stop()


async def test_each_worker_continues_the_calls_of_its_counterpart(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    shared_redis.client.flushall()
    pool = WorkerPool(tmp_path, shared_redis.url, 2, STANDBY)
    pool.start()
    try:
        running_engine = RunningEngine(pool, shared_redis.client, tmp_path)
        async with Setup(running_engine) as setup:
            pairs = []
            for n in range(4):
                phone, caller = [await setup.endpoint() for _ in range(2)]
                line = setup.line(to=[phone.uri()])
                call = caller.start(pool.address_of(n % 2), line, body=OFFER_BYTES)
                ring = await phone.incoming()
                await connect(call, ring)
                pairs.append((call, ring))
            await kept(pool, 4)
            workers = [pool.pid_of(worker) for worker in range(2)]
            pool.signal(signal.SIGKILL)
            await pool.exited(5)
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            (tmp_path / "other").mkdir()
            other = WorkerPool(tmp_path / "other", shared_redis.url, 2, STANDBY)
            other.change(sip={"listen": [f"udp:{pool.address[0]}:{pool.address[1]}"]})
            other.start()
            try:
                await until(lambda: len(other.calls()) == 4, "all are continued")
                for call, ring in pairs:
                    await talk(call, ring)
                    await part(call, ring)
                    await setup.ended(call.call_id, outcome="answered", takeovers="1")
                await kept(other, 0)
                assert not other.complaints()
            finally:
                other.stop()
    finally:
        pool.stop()


async def test_a_rolling_restart_takes_the_calls_along(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    shared_redis.client.flushall()
    pool = WorkerPool(tmp_path, shared_redis.url, 2, STANDBY)
    pool.start()
    try:
        running_engine = RunningEngine(pool, shared_redis.client, tmp_path)
        async with Setup(running_engine) as setup:
            call, ring = await stand(setup)
            await kept(pool, 1)
            pool.signal(signal.SIGHUP)
            await event(pool, "roll.done", 30)
            assert not events(pool, "standby.claimed")
            await kept(pool, 1)
            await talk(call, ring)
            await part(call, ring)
            await setup.ended(call.call_id, outcome="answered", why="bye", takeovers="1")
            await kept(pool, 0)
            assert not pool.complaints()
    finally:
        pool.stop()
