"""`max_calls` over several workers: never one call too many, whichever worker it comes to."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.scenarios import numbers
from tests.scenarios.crew import Crew
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.stage import OFFER_BYTES, Stage, Theatre, to_number

WORKERS = 3
AT_ONCE = 102
MAX_CALLS = 5
FORWARDS, FORWARDS_AN_HOUR = 24, 48  # of one line: a worker's own share of them is 1 and 2
ROUNDS = 6


SETTINGS = {  # a burst is what this is about: none is to be shed
    "limits": {
        "wait_s": 0,
        "forwards_per_line": FORWARDS,
        "forwards_per_line_per_hour": FORWARDS_AN_HOUR,
    },
    "timers": {"pre_ringing_s": 1},
}


async def burst(stage: Stage, line: str) -> list[Call]:
    """A hundred calls to the line at once, each worker's share from an endpoint of its own."""
    crew = stage.engine
    assert isinstance(crew, Crew)
    callers = [await stage.endpoint() for _ in range(WORKERS)]
    calls = [
        callers[n % WORKERS].start(crew.address_of(n % WORKERS), line, body=OFFER_BYTES)
        for n in range(AT_ONCE)
    ]
    await asyncio.gather(*(_settled(call) for call in calls))
    return calls


async def _settled(call: Call) -> None:
    """Until it rings or is refused."""
    deadline = time.monotonic() + 20
    while not call.codes():
        assert time.monotonic() < deadline, call
        await asyncio.sleep(0.02)


async def test_of_a_hundred_calls_at_once_exactly_max_calls_ring(stage: Stage) -> None:
    """Where Redis did not tell in time, a worker goes by its own count (domain.md 5: a call does
    not wait for Redis); a round in which that happened shows nothing."""
    crew = stage.engine
    exact = 0
    for _ in range(ROUNDS):
        phone = await stage.endpoint()
        line = stage.line(to=[phone.uri()], max_calls=MAX_CALLS)
        ringing = asyncio.create_task(_ring_all(stage, phone))
        unshared = crew.metric("renvoi_live_unshared_total")
        calls = await burst(stage, line)
        refused = [call for call in calls if 486 in call.codes()]
        rung = [call for call in calls if 180 in call.codes()]
        told = crew.metric("renvoi_live_unshared_total") == unshared
        assert len(refused) + len(rung) == AT_ONCE
        if told:
            exact += 1
            assert len(rung) == MAX_CALLS
            assert len(phone.invited()) == MAX_CALLS
            assert stage.redis.zcard(f"live:{line}") == MAX_CALLS
        for call in rung:
            call.cancel()
        for call in rung:
            await call.receive(487)
        ringing.cancel()
    print(f"{exact} of {ROUNDS} rounds by Redis alone")
    assert exact > 0


async def _ring_all(stage: Stage, phone: Endpoint, user: str = "") -> None:
    while True:
        ring = await phone.incoming(user, wait_s=60)
        ring.respond(180)


async def test_a_call_that_ends_in_one_worker_makes_room_in_another(stage: Stage) -> None:
    crew = stage.engine
    assert isinstance(crew, Crew)
    line, phone = await stage.line_with_phone(max_calls=1)
    for turn in range(2 * WORKERS):
        caller = await stage.endpoint()
        call = caller.start(crew.address_of(turn % WORKERS), line, body=OFFER_BYTES)
        ring = await phone.incoming()
        await connect(call, ring)
        other = await stage.endpoint()
        busy = other.start(crew.address_of((turn + 1) % WORKERS), line, body=OFFER_BYTES)
        assert (await busy.final()).code == 486
        await part(call, ring)
        await crew.until(lambda: stage.redis.zcard(f"live:{line}") == 0)


async def test_of_a_hundred_calls_at_once_exactly_the_limit_is_forwarded(stage: Stage) -> None:
    """The limit against loops and toll fraud, over all workers; freed when a call ends."""
    crew = stage.engine
    assert isinstance(crew, Crew)
    for _ in range(ROUNDS):
        target = numbers.outside_number()
        line = stage.line(forwards={"unconditional": to_number(target)})
        ringing = asyncio.create_task(_ring_all(stage, stage.server("number"), target))
        unshared = crew.metric("renvoi_live_unshared_total")
        calls = await burst(stage, line)
        told = crew.metric("renvoi_live_unshared_total") == unshared
        reached = stage.server("number").invited(target)
        refused = [call for call in calls if 480 in call.codes()]
        assert len(refused) + len(reached) == AT_ONCE
        for call in calls:
            if call not in refused:
                call.cancel()
                await call.receive(487)
        ringing.cancel()
        await crew.until(lambda: stage.redis.zcard(f"forwards:{line}") == 0)  # noqa: B023
        if told:
            assert len(reached) == FORWARDS
            assert crew.metric("renvoi_forwards_prevented_total", reason="forwards_per_line") >= 78
            return
    pytest.fail("Redis did not tell in time in any round")


async def test_forwards_in_an_hour_are_counted_by_all_workers_together(stage: Stage) -> None:
    crew = stage.engine
    assert isinstance(crew, Crew)
    target = numbers.outside_number()
    line = stage.line(forwards={"unconditional": to_number(target)})
    answers = []
    for turn in range(FORWARDS_AN_HOUR + 6):
        caller = await stage.endpoint()
        call = caller.start(crew.address_of(turn % WORKERS), line, body=OFFER_BYTES)
        if turn < FORWARDS_AN_HOUR:
            away = await stage.server("number").incoming(target)
            away.respond(486)
        answers.append((await call.final()).code)
        caller.close()
    assert answers == [486] * FORWARDS_AN_HOUR + [480] * 6
    assert stage.redis.zcard(f"forwards:hour:{line}") == FORWARDS_AN_HOUR - 2 * WORKERS


async def test_a_line_that_is_forwarded_now_and_then_asks_redis_for_nothing(stage: Stage) -> None:
    target = numbers.outside_number()
    line = stage.line(forwards={"unconditional": to_number(target)})
    with stage.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        for _ in range(2):  # a worker's share of the hour
            call = await stage.call(line)
            away = await stage.server("number").incoming(target)
            away.respond(486)
            await stage.ended((await call.final()).call_id, code=486)
        stage.redis.echo("that is all")
        told = iter(lambda: monitor.next_command()["command"], "ECHO that is all")
        counts = (f"forwards:{line}", f"forwards:hour:{line}")
        assert not [command for command in told if any(count in command for count in counts)]


async def test_lines_without_a_limit_ask_redis_for_nothing(stage: Stage) -> None:
    crew = stage.engine
    assert isinstance(crew, Crew)
    line, phone = await stage.line_with_phone()
    limited, limited_phone = await stage.line_with_phone(max_calls=9)
    for number, callee in ((line, phone), (limited, limited_phone)):  # both in memory
        await one_call(stage, number, callee)
    assert await counts_asked(stage, line, phone) == 0
    assert await counts_asked(stage, limited, limited_phone) == 4


async def counts_asked(stage: Stage, line: str, phone: Endpoint) -> int:
    """How often Redis was asked for a live count by four calls."""

    def told() -> int:
        stats = stage.redis.info("commandstats")
        return int(stats.get("cmdstat_zcard", {"calls": 0})["calls"])

    before = told()
    for _ in range(4):
        await one_call(stage, line, phone)
    return told() - before


async def one_call(stage: Stage, line: str, phone: Endpoint) -> None:
    call = await stage.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_where_the_front_shards_by_number_the_check_asks_nobody(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    engine = Engine(tmp_path, shared_redis.url, {"rules": {"live_count": "local"}})
    engine.start()
    theatre = Theatre(engine, shared_redis.client, tmp_path)
    try:
        async with theatre.endpoints() as servers, Stage(theatre, servers) as stage:
            line, phone = await stage.line_with_phone(max_calls=1)
            await one_call(stage, line, phone)
            assert await counts_asked(stage, line, phone) == 0
            standing = await stage.call(line)
            ring = await phone.incoming()
            await connect(standing, ring)
            assert (await (await stage.call(line)).final()).code == 486
            assert not stage.redis.exists(f"live:{line}")
            await part(standing, ring)
    finally:
        engine.stop()
