"""The machine's clock is set during calls: billing and limits use the elapsed time.

libfaketime changes the clock of this engine only, and not the monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup, to_number
from tests.scenarios.worker_pool import WorkerPool

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
HOUR_S = 3600
HOURS = {"mobile": "hours", "mobile_hours": 1}
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")


class Clock:
    """The wall clock of an engine, `ahead_s` ahead of this machine's."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """Set it; takes effect within a second."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}")
        new.replace(self._file)

    def drive(self, engine: Engine) -> None:
        """Make an engine use it that has not started yet."""
        engine.environment |= {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds between two checks
            "DONT_FAKE_MONOTONIC": "1",
        }


@contextmanager
def driven(engine: Engine, clock: Clock) -> Iterator[None]:
    clock.drive(engine)
    engine.start()
    try:
        yield
    finally:
        engine.stop()


@pytest.fixture
async def clocked(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[tuple[Setup, Clock]]:
    clock = Clock(tmp_path)
    engine = Engine(tmp_path, shared_redis.url)
    with driven(engine, clock):
        running_engine = RunningEngine(engine, shared_redis.client, tmp_path)
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup, clock


async def forwarded(setup: Setup, **fields: Any) -> tuple[str, Call, Call]:
    """An answered call that a line forwards to a mobile and pays for."""
    mobile = numbers.mobile_number()
    line = setup.line(forwards={"unconditional": to_number(mobile)}, **fields)
    call = await setup.call(line)
    away = await setup.server("number").incoming(mobile)
    await connect(call, away)
    return line, call, away


def used(setup: Setup, line: str) -> dict[str, int]:
    """The usage of the line, in any month of the engine's clock."""
    found: dict[str, int] = {}
    for key in setup.redis.keys(f"usage:{line}:*"):
        for name, seconds in setup.redis.hgetall(key).items():
            found[str(name)] = found.get(str(name), 0) + int(seconds)
    return found


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S, 40 * 86400])
async def test_a_call_is_paid_for_by_elapsed_time(
    clocked: tuple[Setup, Clock], step_s: int
) -> None:
    setup, clock = clocked
    began = time.monotonic()
    line, call, away = await forwarded(setup, offer=HOURS)
    answered = time.monotonic()
    clock.set(step_s)
    await asyncio.sleep(2.2)  # the billed time; the clock is set in its first second
    least_s = time.monotonic() - answered
    await part(call, away)
    most_s = time.monotonic() - began
    record = await setup.record(call.call_id)
    assert int(least_s) <= int(record["seconds"]) <= round(most_s)
    assert record["forwards"][0]["seconds"] == int(record["seconds"])
    times = [float(record[name]) for name in ("received", "rang", "answered", "ended")]
    assert times == sorted(times)
    assert times[-1] - times[0] <= most_s + 0.1
    assert sum(used(setup, line).values()) == int(record["seconds"])


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
async def test_an_active_call_uses_plan_and_cap_by_elapsed_time(
    clocked: tuple[Setup, Clock], step_s: int
) -> None:
    """The plan has an hour, the cap a minute: neither is used up, and no call is ended for it."""
    setup, clock = clocked
    fleet = f"clock{step_s}"
    setup.redis.set(f"fleet:{fleet}", json.dumps({"name": fleet, "cap_seconds": 60}))
    line, call, away = await forwarded(setup, offer=HOURS, fleet=fleet)
    _, other, there = await forwarded(setup, fleet=fleet, offer={"mobile": "unlimited"})
    clock.set(step_s)
    await asyncio.sleep(1.2)  # until libfaketime has read the new time
    second = await setup.call(line)
    again = await setup.server("number").incoming()
    await connect(second, again)
    await asyncio.sleep(4)  # several checks of the cap, one per second
    for one in (call, other, second):
        assert not one.requests("BYE")
    for one, far in ((call, away), (other, there), (second, again)):
        await part(one, far)
    record = await setup.record(second.call_id)
    assert record["billing"] == "deducted"
    assert record["why"] == "bye"
    third = await setup.call(line)  # the plan still has seconds
    await connect(third, again := await setup.server("number").incoming())
    await part(third, again)
    assert (await setup.record(third.call_id))["billing"] == "deducted"


async def test_a_call_ends_when_its_longest_time_has_passed(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    engine = Engine(tmp_path, shared_redis.url, {"timers": {"max_call_s": 3}})
    with driven(engine, clock):
        running_engine = RunningEngine(engine, shared_redis.client, tmp_path)
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            began = time.monotonic()
            _, call, away = await forwarded(setup)
            clock.set(HOUR_S)
            assert engine.metric("renvoi_oldest_call_seconds") < 60
            await call.receive("BYE")
            await away.receive("BYE")
            assert time.monotonic() - began >= 2.9
            record = await setup.record(call.call_id)
            assert record["why"] == "max_call"
            assert 3 <= int(record["seconds"]) < 60


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
async def test_a_call_of_a_dead_worker_is_paid_for_by_elapsed_time(
    shared_redis: RedisServer, tmp_path: Path, step_s: int
) -> None:
    clock = Clock(tmp_path)
    pool = WorkerPool(tmp_path, shared_redis.url, 2, {"timers": {"takeover_s": 0}})
    with driven(pool, clock):
        running_engine = RunningEngine(pool, shared_redis.client, tmp_path)
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            line, call, _ = await forwarded(setup)
            clock.set(step_s)
            # The billed time, up to the last heartbeat; the clock is set in its first second.
            await asyncio.sleep(4.2)
            pool.kill(0)
            record = await setup.record(call.call_id, wait_s=20)
            assert record["why"] == "worker_died"
            assert 1 <= int(record["seconds"]) < 60
            assert sum(used(setup, line).values()) == int(record["seconds"])
            os.truncate(pool._log, 0)  # the log events of the dead worker are expected


async def test_registrations_that_a_wrong_clock_took_for_expired_count_after_a_step(
    clocked: tuple[Setup, Clock],
) -> None:
    """As at a start before the machine has the time from the network."""
    setup, clock = clocked
    line, phone = await setup.line_with_phone()
    setup.register(line, phone.uri(), expires_s=HOUR_S)
    await set_clock(setup, clock, 3 * HOUR_S, steps=1)
    assert (await (await setup.call(line)).final()).code == 480
    await set_clock(setup, clock, 0, steps=2)
    call = await setup.call(line)
    (await phone.incoming()).respond(486)
    assert (await call.final()).code == 486


async def set_clock(setup: Setup, clock: Clock, ahead_s: int, *, steps: int) -> None:
    """Set it and wait until the engine has noticed so many steps."""
    clock.set(ahead_s)
    deadline = time.monotonic() + within(10)
    while sum(event["event"] == "clock.stepped" for event in setup.engine.events()) < steps:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_calls_of_other_workers_count_again_within_a_second_of_a_step(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    """Leases have absolute times: by the new clock all of them may have expired."""
    clock = Clock(tmp_path)
    pool = WorkerPool(tmp_path, shared_redis.url, 2)
    with driven(pool, clock):
        running_engine = RunningEngine(pool, shared_redis.client, tmp_path)
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            line, phone = await setup.line_with_phone(max_calls=1)
            setup.register(line, phone.uri(), expires_s=3 * HOUR_S)
            first = await setup.call(line)
            await connect(first, ring := await phone.incoming())
            clock.set(HOUR_S)
            await pool.until(lambda: len(pool.logged("clock.stepped")) == 2)
            # The lease of the call is renewed by the new clock.
            key, ahead = f"live:{line}", HOUR_S
            await pool.until(lambda: setup.redis.zcount(key, time.time() + ahead, "+inf"))
            caller = await setup.endpoint()
            second = caller.start(pool.address_of(1), line, body=OFFER_BYTES)
            assert (await second.final()).code == 486
            await part(first, ring)
