"""How the engine stops: it drains on SIGTERM, and ends at once on SIGINT."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest

from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup

DRAIN_S = 4


@pytest.fixture
async def lone(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Setup]:
    """An engine of the test's own, to be stopped."""
    directory = tmp_path_factory.mktemp("engine")
    engine = Engine(directory, shared_redis.url, {"timers": {"drain_s": DRAIN_S}})
    engine.start()
    running_engine = RunningEngine(engine, shared_redis.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
    finally:
        engine.stop()


async def stand(setup: Setup) -> tuple[str, Endpoint, Call, Call]:
    """A call that stands."""
    line, phone = await setup.line_with_phone(max_calls=5)
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    return line, phone, call, ring


async def test_sigterm_refuses_new_calls_and_lets_standing_ones_end(lone: Setup) -> None:
    line, phone, call, ring = await stand(lone)
    lone.engine.signal(signal.SIGTERM)
    await asyncio.sleep(0.3)
    late = await lone.call(line)
    assert (await late.final()).code == 503
    assert len(phone.invited()) == 1
    watcher = await lone.endpoint()
    asked = watcher.start(lone.engine.address, "ping", method="OPTIONS", body=b"")
    await asked.receive(503, "OPTIONS")
    status, reason = lone.engine.get("/readyz")
    assert (status, "drain" in reason.lower()) == (503, True)
    assert lone.engine.get("/healthz")[0] == 200
    # the standing call is as good as any
    call.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
    lone_info = await ring.receive("INFO")
    ring.respond(200, to=lone_info)
    await call.receive(200, "INFO")
    assert lone.engine.status() is None
    await part(call, ring)
    assert await lone.engine.exited(3) == 0
    await lone.ended(call.call_id, outcome="answered")
    assert not lone.redis.exists(f"live:{line}")


async def test_sigterm_with_nothing_standing_ends_at_once(lone: Setup) -> None:
    lone.engine.signal(signal.SIGTERM)
    assert await lone.engine.exited(2) == 0


async def test_the_drain_has_a_deadline(lone: Setup) -> None:
    line, _, call, ring = await stand(lone)
    lone.engine.signal(signal.SIGTERM)
    await call.receive("BYE", wait_s=DRAIN_S + 2)
    await ring.receive("BYE")
    assert await lone.engine.exited(3) == 0
    await lone.ended(call.call_id, outcome="answered")
    assert not lone.redis.exists(f"live:{line}")


async def test_sigint_ends_standing_calls_with_bye_and_ringing_ones_with_a_refusal(
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
    await asyncio.sleep(0.3)
    lone.engine.signal(signal.SIGINT)
    await call.receive("BYE")
    await ring.receive("BYE")
    assert await lone.engine.exited(3) == 0
    assert time.monotonic() - began < DRAIN_S
