"""How the engine stops: it drains on SIGTERM, and ends at once on SIGINT."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.scenarios.continued import until
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup

DRAIN_S = 60  # no call here reaches it
SHORT_S = 4


@pytest.fixture
async def lone(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    """An engine for one test, which stops it."""
    async for setup in stopped(shared_redis, tmp_path, DRAIN_S):
        yield setup


@pytest.fixture
async def brief(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    """The same, with little time for its calls."""
    async for setup in stopped(shared_redis, tmp_path, SHORT_S):
        yield setup


async def stopped(redis: RedisServer, directory: Path, drain_s: float) -> AsyncIterator[Setup]:
    engine = Engine(directory, redis.url, {"timers": {"drain_s": drain_s}})
    engine.start()
    running_engine = RunningEngine(engine, redis.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
    finally:
        engine.stop()


async def stand(setup: Setup) -> tuple[str, Endpoint, Call, Call]:
    """A call in progress."""
    line, phone = await setup.line_with_phone(max_calls=5)
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    return line, phone, call, ring


async def test_sigterm_refuses_new_calls_and_lets_active_ones_end(lone: Setup) -> None:
    line, phone, call, ring = await stand(lone)
    lone.engine.signal(signal.SIGTERM)
    await until(lambda: lone.engine.get("/readyz")[0] == 503, "it drains")
    late = await lone.call(line)
    assert (await late.final()).code == 503
    assert len(phone.invited()) == 1
    watcher = await lone.endpoint()
    asked = watcher.start(lone.engine.address, "ping", method="OPTIONS", body=b"")
    await asked.receive(503, "OPTIONS")
    status, reason = lone.engine.get("/readyz")
    assert (status, "drain" in reason.lower()) == (503, True)
    assert lone.engine.get("/healthz")[0] == 200
    # the call in progress works normally
    call.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
    lone_info = await ring.receive("INFO")
    ring.respond(200, to=lone_info)
    await call.receive(200, "INFO")
    assert lone.engine.status() is None
    await part(call, ring)
    assert await lone.engine.exited(3) == 0
    await lone.ended(call.call_id, outcome="answered")
    assert not lone.redis.exists(f"live:{line}")


async def test_sigterm_without_calls_ends_at_once(lone: Setup) -> None:
    lone.engine.signal(signal.SIGTERM)
    assert await lone.engine.exited(2) == 0


async def test_the_drain_has_a_deadline(brief: Setup) -> None:
    line, _, call, ring = await stand(brief)
    brief.engine.signal(signal.SIGTERM)
    await call.receive("BYE", wait_s=SHORT_S + 2)
    await ring.receive("BYE")
    assert await brief.engine.exited(3) == 0
    await brief.ended(call.call_id, outcome="answered")
    assert not brief.redis.exists(f"live:{line}")


async def test_sigint_ends_active_calls_with_bye_and_ringing_ones_with_a_refusal(
    lone: Setup,
) -> None:
    line, phone, call, ring = await stand(lone)
    waiting = await lone.call(line)
    rung = await phone.incoming()
    rung.respond(180)
    await waiting.receive(180)
    lone.engine.signal(signal.SIGINT)
    await call.receive("BYE")
    await ring.receive("BYE")
    await rung.receive("CANCEL")
    assert (await waiting.final()).code in (480, 500, 503)
    assert await lone.engine.exited(5) == 0
    await lone.ended(call.call_id, outcome="answered")
    await lone.record(waiting.call_id)
    assert not lone.redis.exists(f"live:{line}")


async def test_sigint_during_the_drain_ends_it(lone: Setup) -> None:
    _, _, call, ring = await stand(lone)
    began = time.monotonic()
    lone.engine.signal(signal.SIGTERM)
    await until(lambda: lone.engine.get("/readyz")[0] == 503, "it drains")
    lone.engine.signal(signal.SIGINT)
    await call.receive("BYE")
    await ring.receive("BYE")
    assert await lone.engine.exited(3) == 0
    assert time.monotonic() - began < DRAIN_S
