"""`max_calls` over several workers: never one call too many, at any worker."""

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
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup, to_number
from tests.scenarios.worker_pool import WorkerPool

WORKERS = 3
AT_ONCE = 102
MAX_CALLS = 5
FORWARDS, FORWARDS_AN_HOUR = 24, 48  # of one line: a worker's local quota is 1 and 2
ROUNDS = 6


SETTINGS = {  # this tests a burst: no load shedding
    "limits": {
        "wait_s": 0,
        "forwards_per_line": FORWARDS,
        "forwards_per_line_per_hour": FORWARDS_AN_HOUR,
    },
}


Standing = Callable[[Setup, int], Awaitable[tuple[str, list[Call]]]]
Limit = Callable[[Setup, str], Awaitable[None]]


async def burst(setup: Setup, line: str) -> list[Call]:
    """A hundred calls to the line at once; the calls of each worker come from a separate
    endpoint."""
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    callers = [await setup.endpoint() for _ in range(WORKERS)]
    calls = [
        callers[n % WORKERS].start(pool.address_of(n % WORKERS), line, body=OFFER_BYTES)
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


async def test_of_a_hundred_calls_at_once_exactly_max_calls_ring(setup: Setup) -> None:
    """If Redis does not answer in time, a worker uses its own count (forwarding-rules.md 5: a call
    does not wait for Redis). Such a round is not valid."""
    pool = setup.engine
    exact = 0
    for _ in range(ROUNDS):
        phone = await setup.endpoint()
        line = setup.line(to=[phone.uri()], max_calls=MAX_CALLS)
        ringing = asyncio.create_task(_ring_all(setup, phone))
        unshared = pool.metric("renvoi_live_unshared_total")
        calls = await burst(setup, line)
        refused = [call for call in calls if 486 in call.codes()]
        rung = [call for call in calls if 180 in call.codes()]
        shared = pool.metric("renvoi_live_unshared_total") == unshared
        assert len(refused) + len(rung) == AT_ONCE
        if shared:
            exact += 1
            assert len(rung) == MAX_CALLS
            assert len(phone.invited()) == MAX_CALLS
            assert setup.redis.zcard(f"live:{line}") == MAX_CALLS
        for call in rung:
            call.cancel()
        for call in rung:
            await call.receive(487)
        ringing.cancel()
    print(f"{exact} of {ROUNDS} rounds by Redis alone")
    assert exact > 0


async def refused(setup: Setup, worker: int, line: str, phone: Endpoint | None = None) -> None:
    """That worker refuses a call to the line. Again, if Redis did not answer it in time; what it
    admitted by its own count has reached the phone."""
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    for _ in range(ROUNDS):
        unshared = pool.metric("renvoi_live_unshared_total")
        call = (await setup.endpoint()).start(pool.address_of(worker), line, body=OFFER_BYTES)

        def is_alone(unshared: float = unshared) -> bool:
            return pool.metric("renvoi_live_unshared_total") > unshared

        await until(lambda: call.codes() or is_alone(), call)  # noqa: B023
        if 486 in call.codes():
            return
        assert is_alone(), f"worker {worker}: {call}"
        if not call.codes():
            call.cancel()
            await call.receive(487)
        if phone is not None:
            await phone.incoming()
    pytest.fail("Redis did not answer in time in any round")


async def _ring_all(setup: Setup, phone: Endpoint, user: str = "") -> None:
    while True:
        ring = await phone.incoming(user, wait_s=60)
        ring.respond(180)


async def test_a_call_that_ends_in_one_worker_makes_room_in_another(setup: Setup) -> None:
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    line, phone = await setup.line_with_phone(max_calls=1)
    for turn in range(2 * WORKERS):
        caller = await setup.endpoint()
        call = caller.start(pool.address_of(turn % WORKERS), line, body=OFFER_BYTES)
        ring = await phone.incoming()
        await connect(call, ring)
        await refused(setup, (turn + 1) % WORKERS, line, phone)
        await part(call, ring)
        await pool.until(lambda: setup.redis.zcard(f"live:{line}") == 0)


async def test_of_a_hundred_calls_at_once_exactly_the_limit_is_forwarded(setup: Setup) -> None:
    """The limit against loops and toll fraud, over all workers; freed when a call ends."""
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    for _ in range(ROUNDS):
        target = numbers.outside_number()
        line = setup.line(forwards={"unconditional": to_number(target)})
        ringing = asyncio.create_task(_ring_all(setup, setup.server("number"), target))
        unshared = pool.metric("renvoi_live_unshared_total")
        calls = await burst(setup, line)
        shared = pool.metric("renvoi_live_unshared_total") == unshared
        reached = setup.server("number").invited(target)
        refused = [call for call in calls if 480 in call.codes()]
        assert len(refused) + len(reached) == AT_ONCE
        for call in calls:
            if call not in refused:
                call.cancel()
                await call.receive(487)
        ringing.cancel()
        await pool.until(lambda: setup.redis.zcard(f"forwards:{line}") == 0)  # noqa: B023
        if shared:
            assert len(reached) == FORWARDS
            assert pool.metric("renvoi_forwards_prevented_total", reason="forwards_per_line") >= 78
            return
    pytest.fail("Redis did not answer in time in any round")


async def test_forwards_in_an_hour_are_counted_by_all_workers_together(setup: Setup) -> None:
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    for _ in range(ROUNDS):
        target = numbers.outside_number()
        line = setup.line(forwards={"unconditional": to_number(target)})
        busy = asyncio.create_task(_refuse_all(setup.server("number"), target))
        unshared = pool.metric("renvoi_live_unshared_total")
        answers = []
        for turn in range(FORWARDS_AN_HOUR + 6):
            caller = await setup.endpoint()
            call = caller.start(pool.address_of(turn % WORKERS), line, body=OFFER_BYTES)
            answers.append((await call.final()).code)
            caller.close()
        busy.cancel()
        if pool.metric("renvoi_live_unshared_total") == unshared:
            assert answers == [486] * FORWARDS_AN_HOUR + [480] * 6
            assert setup.redis.zcard(f"forwards:hour:{line}") == FORWARDS_AN_HOUR - 2 * WORKERS
            return
    pytest.fail("Redis did not answer in time in any round")


async def _refuse_all(server: Endpoint, target: str) -> None:
    while True:
        (await server.incoming(target, wait_s=60)).respond(486)


async def test_a_line_that_is_forwarded_now_and_then_asks_redis_for_nothing(setup: Setup) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    with setup.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        for _ in range(2):  # a worker's local quota of the hour
            call = await setup.call(line)
            away = await setup.server("number").incoming(target)
            away.respond(486)
            await setup.ended((await call.final()).call_id, code=486)
        setup.redis.echo("that is all")
        commands = iter(lambda: monitor.next_command()["command"], "ECHO that is all")
        counts = (f"forwards:{line}", f"forwards:hour:{line}")
        assert not [command for command in commands if any(count in command for count in counts)]


async def full_everywhere(setup: Setup, line: str) -> None:
    """Soon after the limit was written (a second, as documented), the call in progress counts, and
    no worker admits another."""
    await setup.settle()
    await until(lambda: setup.redis.zcard(f"live:{line}"), "the call counts")
    for worker in range(WORKERS):
        await refused(setup, worker, line)


async def limit_by_write(setup: Setup, line: str) -> None:
    setup.change(line, max_calls=1)


async def limit_by_command(setup: Setup, line: str) -> None:
    await renvoi(setup, "line", "set", "-", document={**document(setup, line), "max_calls": 1})


async def limit_by_import(setup: Setup, line: str) -> None:
    """Together with many others, which the engine gets at once."""
    others = [{"number": f"+339710{n:05}", "fleet": "other"} for n in range(2500)]
    lines = [*others, {**document(setup, line), "max_calls": 1}]
    text = "\n".join(map(json.dumps, lines))
    await renvoi(setup, "line", "import", "-", "--format", "jsonl", text=text)


async def limit_by_mending(setup: Setup, line: str) -> None:
    """The limit comes in a document that is refused, and applies when that is corrected."""
    bad = {**document(setup, line), "max_calls": 1, "offer": 7}
    setup.redis.set(f"line:{line}", json.dumps(bad))
    await setup.settle()
    setup.redis.set(f"line:{line}", json.dumps({**bad, "offer": {}}))


def document(setup: Setup, line: str) -> dict[str, object]:
    text = setup.redis.get(f"line:{line}")
    assert text is not None
    found: dict[str, object] = json.loads(text)
    return found


async def renvoi(setup: Setup, *words: str, document: object = None, text: str = "") -> None:
    command = [sys.executable, "-m", "engine.cli", *words, "--config", str(setup.engine.config)]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        input=(text or json.dumps(document)).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def rings(setup: Setup, worker: int) -> tuple[str, list[Call]]:
    """A call that rings at the line."""
    line, phone = await setup.line_with_phone()
    call = (await setup.endpoint()).start(address(setup, worker), line, body=OFFER_BYTES)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    return line, [call]


async def talks(setup: Setup, worker: int) -> tuple[str, list[Call]]:
    """A call that was answered at the line."""
    line, phone = await setup.line_with_phone()
    call = (await setup.endpoint()).start(address(setup, worker), line, body=OFFER_BYTES)
    await connect(call, await phone.incoming())
    return line, [call]


async def makes(setup: Setup, worker: int) -> tuple[str, list[Call]]:
    """A call that the line places."""
    line, _ = await setup.line_with_phone()
    other, phone = await setup.line_with_phone()
    identity = [("P-Asserted-Identity", f"<sip:{line}@office.example>")]
    call = (await setup.endpoint()).start(
        address(setup, worker), other, headers=identity, body=OFFER_BYTES
    )
    await connect(call, await phone.incoming())
    return line, [call]


async def is_forwarded_to(setup: Setup, worker: int) -> tuple[str, list[Call]]:
    """A call that another line forwards to the line."""
    line, phone = await setup.line_with_phone()
    other = setup.line(forwards={"unconditional": to_number(line)})
    call = (await setup.endpoint()).start(address(setup, worker), other, body=OFFER_BYTES)
    await connect(call, await phone.incoming())
    return line, [call]


async def hunts(setup: Setup, worker: int) -> tuple[str, list[Call]]:
    """A call that the line forwards to a line, from a number that becomes a line."""
    number = numbers.line_number()
    line, phone = await setup.line_with_phone()
    identity = [("P-Asserted-Identity", f"<sip:{number}@office.example>")]
    call = (await setup.endpoint()).start(
        address(setup, worker), line, headers=identity, body=OFFER_BYTES
    )
    await connect(call, await phone.incoming())
    setup.line(number=number)
    return number, [call]


def address(setup: Setup, worker: int) -> tuple[str, int]:
    assert isinstance(setup.engine, WorkerPool)
    return setup.engine.address_of(worker)


@pytest.mark.parametrize("stands", [rings, talks, makes, is_forwarded_to, hunts])
async def test_a_limit_that_is_written_during_calls_holds_in_every_worker(
    setup: Setup, stands: Standing
) -> None:
    line, calls = await stands(setup, 1)
    assert not setup.redis.exists(f"live:{line}")
    await limit_by_write(setup, line)
    await full_everywhere(setup, line)
    await until(lambda: setup.redis.zcard(f"live:{line}") == 1, "it counts once")
    await leave(setup, line, calls)


@pytest.mark.parametrize("limit", [limit_by_command, limit_by_import, limit_by_mending])
async def test_however_a_limit_is_written_it_holds_in_every_worker(
    setup: Setup, limit: Limit
) -> None:
    line, calls = await talks(setup, 2)
    await limit(setup, line)
    await full_everywhere(setup, line)
    await leave(setup, line, calls)


async def leave(setup: Setup, line: str, calls: list[Call]) -> None:
    """The calls end, and the line is free again."""
    for call in calls:
        call.abandon()
    assert isinstance(setup.engine, WorkerPool)
    await setup.engine.until(lambda: setup.redis.zcard(f"live:{line}") == 0)


async def test_lines_without_a_limit_ask_redis_for_nothing(setup: Setup) -> None:
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    line, phone = await setup.line_with_phone()
    limited, limited_phone = await setup.line_with_phone(max_calls=9)
    for number, callee in ((line, phone), (limited, limited_phone)):  # both in memory
        await one_call(setup, number, callee)
    assert await counts_asked(setup, line, phone) == 0
    assert await counts_asked(setup, limited, limited_phone) == 4


async def counts_asked(setup: Setup, line: str, phone: Endpoint) -> int:
    """How often Redis was asked for a live count by four calls."""

    def asked() -> int:
        stats = setup.redis.info("commandstats")
        return int(stats.get("cmdstat_zcard", {"calls": 0})["calls"])

    before = asked()
    for _ in range(4):
        await one_call(setup, line, phone)
    return asked() - before


async def one_call(setup: Setup, line: str, phone: Endpoint) -> None:
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_where_the_front_shards_by_number_the_check_is_local(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    engine = Engine(tmp_path, shared_redis.url, {"rules": {"live_count": "local"}})
    engine.start()
    running_engine = RunningEngine(engine, shared_redis.client, tmp_path)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            line, phone = await setup.line_with_phone(max_calls=1)
            await one_call(setup, line, phone)
            assert await counts_asked(setup, line, phone) == 0
            standing = await setup.call(line)
            ring = await phone.incoming()
            await connect(standing, ring)
            assert (await (await setup.call(line)).final()).code == 486
            assert not setup.redis.exists(f"live:{line}")
            await part(standing, ring)
    finally:
        engine.stop()
