"""One of several workers dies: messages in the gap wait in its sockets, which stay open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.scenarios import numbers
from tests.scenarios.continued import is_up, noted, talk
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup
from tests.scenarios.test_takeover_workers import through
from tests.scenarios.test_transfer import own
from tests.scenarios.test_transfer import talk as conversation
from tests.scenarios.worker_pool import WorkerPool

MANY = 40


@pytest.fixture(scope="module")
def running_engine(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    shared_redis.client.flushall()
    directory = tmp_path_factory.mktemp("pool")
    pool = WorkerPool(directory, shared_redis.url, 2)
    pool.start()
    try:
        yield RunningEngine(pool, shared_redis.client, directory)
        assert not pool.leaks(shared_redis.client)
        assert {event["event"] for event in pool.complaints()} == {"worker.died"}
    finally:
        pool.stop()


async def stand(setup: Setup, worker: int) -> tuple[Call, Call]:
    """A call of that worker."""
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    line, phone = await setup.line_with_phone()
    caller = await setup.endpoint()
    call = caller.start(pool.address_of(worker), line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    return call, ring


async def test_all_hang_up_in_the_gap_and_nobody_repeats_it(setup: Setup) -> None:
    """Their BYEs are the first messages that the next process reads, before its other work."""
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    pairs = [await stand(setup, 1) for _ in range(MANY)]
    await noted(setup, pairs[-1][0], is_up)
    pid = pool.kill(1)
    for place, (call, ring) in enumerate(pairs):
        (call if place % 2 else ring).request("BYE")
    await pool.replaced(1, pid)
    for place, (call, ring) in enumerate(pairs):
        one, other = (call, ring) if place % 2 else (ring, call)
        await one.receive(200, "BYE")
        await other.receive("BYE")
    for call, _ in pairs:
        await setup.ended(call.call_id, outcome="answered", why="bye")
    assert pool.calls() == []


async def test_a_call_of_the_other_worker_does_not_notice(setup: Setup) -> None:
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    mine, other = await stand(setup, 1), await stand(setup, 0)
    for call, _ in (mine, other):
        await noted(setup, call, is_up)
    pid = pool.kill(1)
    await part(*other)
    await setup.ended(other[0].call_id, outcome="answered", takeovers="0")
    await pool.replaced(1, pid)
    await talk(*mine)
    await part(*mine)
    await setup.ended(mine[0].call_id, outcome="answered", takeovers="1")


async def test_a_worker_that_dies_again_and_again_keeps_its_calls(setup: Setup) -> None:
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    call, ring = await stand(setup, 1)
    await noted(setup, call, is_up)
    for _ in range(3):
        pid = pool.kill(1)
        await pool.replaced(1, pid)
        await asyncio.sleep(0.1)
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered", takeovers="3")


async def test_what_a_worker_handed_to_a_dead_one_reaches_its_successor(setup: Setup) -> None:
    """The caller sends everything to the worker that got its INVITE, by a fixed route."""
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    caller = numbers.caller_number()
    line, call, ring = await conversation(setup, caller)
    taking = await through(setup, 1, line, caller, ("Replaces", own(ring)))
    taken = await ring.endpoint.incoming()
    await connect(taking, taken)
    await setup.ended(call.call_id, why="replaced")
    await noted(setup, taking, is_up)
    pid = pool.kill(0)
    await pool.replaced(0, pid)
    await talk(taking, taken)
    await part(taking, taken)
    await setup.ended(taking.call_id, outcome="answered", takeovers="1")
