"""The machine's clock is set while calls stand: who pays, and until when, goes by what has passed.

The clock that only this engine sees is libfaketime's, which leaves the monotonic one alone.
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

from tests.scenarios import numbers
from tests.scenarios.crew import Crew
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.stage import OFFER_BYTES, Stage, Theatre, to_number

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
HOUR_S = 3600
HOURS = {"mobile": "hours", "mobile_hours": 1}
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not there")


class Clock:
    """The wall clock of an engine: `ahead_s` of this machine's."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """Step it, within a second."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}")
        new.replace(self._file)

    def drive(self, engine: Engine) -> None:
        """Let an engine that has not started go by it."""
        engine.environment |= {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds: it looks no more often
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
async def scene(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[tuple[Stage, Clock]]:
    clock = Clock(tmp_path)
    engine = Engine(tmp_path, shared_redis.url)
    with driven(engine, clock):
        theatre = Theatre(engine, shared_redis.client, tmp_path)
        async with theatre.endpoints() as servers, Stage(theatre, servers) as stage:
            yield stage, clock


async def forwarded(stage: Stage, **fields: Any) -> tuple[str, Call, Call]:
    """An answered call that a line forwards to a mobile, which it pays for."""
    mobile = numbers.mobile_number()
    line = stage.line(forwards={"unconditional": to_number(mobile)}, **fields)
    call = await stage.call(line)
    away = await stage.server("number").incoming(mobile)
    await connect(call, away)
    return line, call, away


def used(stage: Stage, line: str) -> dict[str, int]:
    """What the line has used, whichever month the engine's clock said."""
    found: dict[str, int] = {}
    for key in stage.redis.keys(f"usage:{line}:*"):
        for name, seconds in stage.redis.hgetall(key).items():
            found[str(name)] = found.get(str(name), 0) + int(seconds)
    return found


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S, 40 * 86400])
async def test_a_call_is_paid_for_by_what_has_passed(
    scene: tuple[Stage, Clock], step_s: int
) -> None:
    stage, clock = scene
    began = time.monotonic()
    line, call, away = await forwarded(stage, offer=HOURS)
    answered = time.monotonic()
    clock.set(step_s)
    await asyncio.sleep(2.2)  # what is billed; the step is within its first second
    least_s = time.monotonic() - answered
    await part(call, away)
    most_s = time.monotonic() - began
    record = await stage.record(call.call_id)
    assert int(least_s) <= int(record["seconds"]) <= round(most_s)
    assert record["forwards"][0]["seconds"] == int(record["seconds"])
    times = [float(record[name]) for name in ("received", "rang", "answered", "ended")]
    assert times == sorted(times)
    assert times[-1] - times[0] <= most_s + 0.1
    assert sum(used(stage, line).values()) == int(record["seconds"])


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
async def test_what_a_standing_call_uses_of_a_plan_and_a_cap_is_what_has_passed(
    scene: tuple[Stage, Clock], step_s: int
) -> None:
    """The plan has an hour, the cap a minute: neither is used up, and no call is ended for it."""
    stage, clock = scene
    fleet = f"clock{step_s}"
    stage.redis.set(f"fleet:{fleet}", json.dumps({"name": fleet, "cap_seconds": 60}))
    line, call, away = await forwarded(stage, offer=HOURS, fleet=fleet)
    _, other, there = await forwarded(stage, fleet=fleet, offer={"mobile": "unlimited"})
    clock.set(step_s)
    await asyncio.sleep(1.2)  # as the clock looks for its step
    second = await stage.call(line)
    again = await stage.server("number").incoming()
    await connect(second, again)
    await asyncio.sleep(4)  # several weighings of the cap, one a second
    for one in (call, other, second):
        assert not one.requests("BYE")
    for one, far in ((call, away), (other, there), (second, again)):
        await part(one, far)
    record = await stage.record(second.call_id)
    assert record["billing"] == "deducted"
    assert record["why"] == "bye"
    third = await stage.call(line)  # the plan goes on
    await connect(third, again := await stage.server("number").incoming())
    await part(third, again)
    assert (await stage.record(third.call_id))["billing"] == "deducted"


async def test_a_call_ends_when_its_longest_time_has_passed(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    engine = Engine(tmp_path, shared_redis.url, {"timers": {"max_call_s": 3}})
    with driven(engine, clock):
        theatre = Theatre(engine, shared_redis.client, tmp_path)
        async with theatre.endpoints() as servers, Stage(theatre, servers) as stage:
            _, call, away = await forwarded(stage)
            answered = time.monotonic()
            clock.set(HOUR_S)
            assert engine.metric("renvoi_oldest_call_seconds") < 60
            await call.receive("BYE")
            await away.receive("BYE")
            assert time.monotonic() - answered >= 2.9
            record = await stage.record(call.call_id)
            assert record["why"] == "max_call"
            assert 3 <= int(record["seconds"]) < 60


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
async def test_a_worker_that_dies_leaves_a_call_that_is_paid_for_by_what_has_passed(
    shared_redis: RedisServer, tmp_path: Path, step_s: int
) -> None:
    clock = Clock(tmp_path)
    crew = Crew(tmp_path, shared_redis.url, 2)
    with driven(crew, clock):
        theatre = Theatre(crew, shared_redis.client, tmp_path)
        async with theatre.endpoints() as servers, Stage(theatre, servers) as stage:
            line, call, _ = await forwarded(stage)
            clock.set(step_s)
            await asyncio.sleep(2.2)  # what is billed; the step is within its first second
            crew.kill(0)
            record = await stage.record(call.call_id, wait_s=20)
            assert record["why"] == "worker_died"
            assert 1 <= int(record["seconds"]) < 60
            assert sum(used(stage, line).values()) == int(record["seconds"])
            os.truncate(crew._log, 0)  # that a worker died is no complaint here


async def test_calls_of_other_workers_count_again_within_a_second_of_a_step(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    """Leases carry times: by the new clock all of them may have lapsed."""
    clock = Clock(tmp_path)
    crew = Crew(tmp_path, shared_redis.url, 2)
    with driven(crew, clock):
        theatre = Theatre(crew, shared_redis.client, tmp_path)
        async with theatre.endpoints() as servers, Stage(theatre, servers) as stage:
            line, phone = await stage.line_with_phone(max_calls=1)
            stage.register(line, phone.uri(), expires_s=3 * HOUR_S)
            first = await stage.call(line)
            await connect(first, ring := await phone.incoming())
            clock.set(HOUR_S)
            await crew.until(lambda: len(crew.told("clock.stepped")) == 2)
            await asyncio.sleep(1.0)  # what other workers count is told once a second
            caller = await stage.endpoint()
            second = caller.start(crew.address_of(1), line, body=OFFER_BYTES)
            assert (await second.final()).code == 486
            await part(first, ring)
