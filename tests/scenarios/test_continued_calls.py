"""A worker dies and its calls go on in the next: requests inside them, their end, their record."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup

FLUSHED_S = 0.2  # changes are in the journal 50 ms later


@pytest.fixture
async def lone(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    engine = Engine(tmp_path, shared_redis.url, {"timers": {"drain_s": 5}})
    engine.start()
    running_engine = RunningEngine(engine, shared_redis.client, tmp_path)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
        assert not engine.leaks(shared_redis.client)
        assert not engine.complaints()
    finally:
        engine.stop()


async def stand(setup: Setup, **fields: object) -> tuple[Call, Call]:
    line, phone = await setup.line_with_phone(**fields)
    call = await setup.call(line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    return call, ring


async def killed(setup: Setup) -> None:
    """The engine dies, and the next one is up."""
    setup.engine.signal(signal.SIGKILL)
    await setup.engine.exited(5)
    setup.engine.start()


def told(setup: Setup, event: str) -> list[dict[str, Any]]:
    return [found for found in setup.engine.events() if found["event"] == event]


async def talk(call: Call, ring: Call) -> None:
    """Requests go both ways."""
    for one, other in ((call, ring), (ring, call)):
        one.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
        heard = await other.receive("INFO")
        other.respond(200, to=heard)
        await one.receive(200, "INFO")


@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_an_answered_call_goes_on_and_ends_by_its_own_bye(lone: Setup, who: str) -> None:
    call, ring = await stand(lone)
    await asyncio.sleep(FLUSHED_S)
    await killed(lone)
    assert told(lone, "calls.taken_over")[-1]["continued"] == 1
    assert lone.engine.metric("renvoi_calls_taken_over_total", result="continued") == 1
    (shown,) = lone.engine.calls()
    assert (shown["call_id"], shown["state"]) == (call.call_id, "answered")
    await talk(call, ring)
    await part(*((call, ring) if who == "caller" else (ring, call)))
    record = await lone.ended(call.call_id, outcome="answered", why="bye", takeovers="1")
    assert record["legs"][0]["code"] == 200
    (again,) = [r for r in lone.records() if r["call_id"] == call.call_id]
    assert again["id"] == record["id"]


@pytest.mark.parametrize("how", ["list", "also_ring"])
async def test_the_target_that_answered_pays_after_the_death_too(lone: Setup, how: str) -> None:
    targets = [{"kind": "number", "number": f"+3361234567{n}"} for n in range(3)]
    forwards = {"unconditional": {"on": True, "ring": "together", "to": targets}}
    fields: dict[str, Any] = {"forwards": forwards} if how == "list" else {"also_ring": targets}
    line = lone.line(**fields)
    call = await lone.call(line, body=OFFER_BYTES)
    number = targets[1]["number"]
    away = await lone.server("number").incoming(number)
    await connect(call, away)
    await asyncio.sleep(FLUSHED_S)
    await killed(lone)
    await talk(call, away)
    await part(call, away)
    destination, condition = ("number", "unconditional") if how == "list" else ("line", "none")
    record = await lone.ended(
        call.call_id, payer=line, billing="out_of_plan", takeovers="1", condition=condition,
        destination=destination, target=number if how == "list" else line,
    )  # fmt: skip
    (paid,) = record["forwards"]
    assert (paid["number"], paid["seconds"]) == (number, int(record["seconds"]))
    assert len(record["legs"]) == 3


@pytest.mark.parametrize("ring", ["in_turn", "together"])
async def test_a_list_that_rings_when_the_worker_dies(lone: Setup, ring: str) -> None:
    targets = [{"kind": "number", "number": f"+3361234568{n}"} for n in range(3)]
    forward = {"on": True, "ring": ring, "to": targets}
    line = lone.line(forwards={"unconditional": forward})
    call = await lone.call(line, body=OFFER_BYTES)
    away = await lone.server("number").incoming(targets[0]["number"])
    away.respond(180)
    await call.receive(180)
    await asyncio.sleep(FLUSHED_S)
    await killed(lone)
    await away.receive("CANCEL")
    await call.receive(503)
    record = await lone.ended(
        call.call_id, why="worker_died", condition="unconditional", destination="number", payer=""
    )
    assert record["forwards"] == []
    assert not lone.redis.zcard(f"forwards:{line}")


async def test_a_ringing_call_is_ended_on_both_sides(lone: Setup) -> None:
    line, phone = await lone.line_with_phone()
    call = await lone.call(line, body=OFFER_BYTES)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    await asyncio.sleep(FLUSHED_S)
    await killed(lone)
    await ring.receive("CANCEL")
    final = await call.final()
    assert (final.code, final.one("Retry-After")) == (503, "0")
    await lone.ended(call.call_id, outcome="failed", why="worker_died", takeovers="1")
    assert told(lone, "calls.taken_over")[-1]["ended"] == 1
