"""`max_calls` over several workers: never one call too many, whichever worker it comes to."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.patience import within
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


Standing = Callable[[Stage, int], Awaitable[tuple[str, list[Call]]]]
Limit = Callable[[Stage, str], Awaitable[None]]


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
    deadline = time.monotonic() + within(20)
    while not call.codes():
        assert time.monotonic() < deadline, call
        await asyncio.sleep(0.02)


async def test_of_a_hundred_calls_at_once_exactly_max_calls_ring(stage: Stage) -> None:
    """Where Redis did not tell in time, a worker goes by its own count (forwarding-rules.md 5: a
    call does not wait for Redis); a round in which that happened shows nothing."""
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


LIMIT_WITHIN_S = 1.0  # until every worker knows of it; "within one second of the write"


async def full_everywhere(stage: Stage, line: str) -> None:
    """A second after the limit was written no worker lets one more call in."""
    await stage.settle()
    await asyncio.sleep(LIMIT_WITHIN_S)  # the promise itself
    crew = stage.engine
    assert isinstance(crew, Crew)
    for worker in range(WORKERS):
        caller = await stage.endpoint()
        call = caller.start(crew.address_of(worker), line, body=OFFER_BYTES)
        assert (await call.final()).code == 486, f"worker {worker}"


async def limit_by_write(stage: Stage, line: str) -> None:
    stage.change(line, max_calls=1)


async def limit_by_command(stage: Stage, line: str) -> None:
    await renvoi(stage, "line", "set", "-", document={**document(stage, line), "max_calls": 1})


async def limit_by_import(stage: Stage, line: str) -> None:
    """With so many others that the engine hears of all at once."""
    others = [{"number": f"+339710{n:05}", "fleet": "other"} for n in range(2500)]
    lines = [*others, {**document(stage, line), "max_calls": 1}]
    text = "\n".join(map(json.dumps, lines))
    await renvoi(stage, "line", "import", "-", "--format", "jsonl", text=text)


async def limit_by_mending(stage: Stage, line: str) -> None:
    """The limit comes with a document that is refused, and counts when that is mended."""
    bad = {**document(stage, line), "max_calls": 1, "offer": 7}
    stage.redis.set(f"line:{line}", json.dumps(bad))
    await stage.settle()
    stage.redis.set(f"line:{line}", json.dumps({**bad, "offer": {}}))


def document(stage: Stage, line: str) -> dict[str, object]:
    text = stage.redis.get(f"line:{line}")
    assert text is not None
    found: dict[str, object] = json.loads(text)
    return found


async def renvoi(stage: Stage, *words: str, document: object = None, text: str = "") -> None:
    command = [sys.executable, "-m", "engine.cli", *words, "--config", str(stage.engine.config)]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        input=(text or json.dumps(document)).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def rings(stage: Stage, worker: int) -> tuple[str, list[Call]]:
    """A call that rings at the line."""
    line, phone = await stage.line_with_phone()
    call = (await stage.endpoint()).start(address(stage, worker), line, body=OFFER_BYTES)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    return line, [call]


async def talks(stage: Stage, worker: int) -> tuple[str, list[Call]]:
    """A call that was answered at the line."""
    line, phone = await stage.line_with_phone()
    call = (await stage.endpoint()).start(address(stage, worker), line, body=OFFER_BYTES)
    await connect(call, await phone.incoming())
    return line, [call]


async def makes(stage: Stage, worker: int) -> tuple[str, list[Call]]:
    """A call that the line makes."""
    line, _ = await stage.line_with_phone()
    other, phone = await stage.line_with_phone()
    identity = [("P-Asserted-Identity", f"<sip:{line}@office.example>")]
    call = (await stage.endpoint()).start(
        address(stage, worker), other, headers=identity, body=OFFER_BYTES
    )
    await connect(call, await phone.incoming())
    return line, [call]


async def is_forwarded_to(stage: Stage, worker: int) -> tuple[str, list[Call]]:
    """A call that another line forwards to the line."""
    line, phone = await stage.line_with_phone()
    other = stage.line(forwards={"unconditional": to_number(line)})
    call = (await stage.endpoint()).start(address(stage, worker), other, body=OFFER_BYTES)
    await connect(call, await phone.incoming())
    return line, [call]


async def hunts(stage: Stage, worker: int) -> tuple[str, list[Call]]:
    """A call that the line forwards to a line, made by a number that becomes a line."""
    number = numbers.line_number()
    line, phone = await stage.line_with_phone()
    identity = [("P-Asserted-Identity", f"<sip:{number}@office.example>")]
    call = (await stage.endpoint()).start(
        address(stage, worker), line, headers=identity, body=OFFER_BYTES
    )
    await connect(call, await phone.incoming())
    stage.line(number=number)
    return number, [call]


def address(stage: Stage, worker: int) -> tuple[str, int]:
    assert isinstance(stage.engine, Crew)
    return stage.engine.address_of(worker)


@pytest.mark.parametrize("stands", [rings, talks, makes, is_forwarded_to, hunts])
async def test_a_limit_that_is_written_while_calls_stand_holds_in_every_worker(
    stage: Stage, stands: Standing
) -> None:
    line, calls = await stands(stage, 1)
    assert not stage.redis.exists(f"live:{line}")
    await limit_by_write(stage, line)
    await full_everywhere(stage, line)
    assert stage.redis.zcard(f"live:{line}") == 1
    await leave(stage, line, calls)


@pytest.mark.parametrize("limit", [limit_by_command, limit_by_import, limit_by_mending])
async def test_however_a_limit_is_written_it_holds_in_every_worker(
    stage: Stage, limit: Limit
) -> None:
    line, calls = await talks(stage, 2)
    await limit(stage, line)
    await full_everywhere(stage, line)
    await leave(stage, line, calls)


async def leave(stage: Stage, line: str, calls: list[Call]) -> None:
    """The calls end, and the line is free again."""
    for call in calls:
        call.abandon()
    assert isinstance(stage.engine, Crew)
    await stage.engine.until(lambda: stage.redis.zcard(f"live:{line}") == 0)


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
