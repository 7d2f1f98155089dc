"""The limits on a line's forwards hold over all workers, and cost nothing far below them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest

from engine.changes.acks import LiveWorker
from engine.changes.worker_registry import WorkerHeartbeat
from engine.config import Limits
from engine.forwards import LAST_HOUR, STANDING, Forwards
from tests.patience import Stalls
from tests.redis.servers import RedisServer, running_server
from tests.redis.stores import until

LINE = "+33972101001"
WORKERS = 4


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not lead to local decisions."""
    monkeypatch.setattr("engine.leases._TICKS", 2000)


@asynccontextmanager
async def worker(server: RedisServer, workers: int = WORKERS) -> AsyncIterator[Forwards]:
    redis = server.connect()
    forwards = Forwards(redis)
    forwards.workers = workers
    await forwards.start()
    try:
        yield forwards
    finally:
        await forwards.close()
        await redis.aclose()


async def forward(forwards: Forwards, call: str, limits: Limits) -> str | None:
    """Admit a forward as a call does: None, or the limit that prevents it."""
    if forwards.standing(LINE) >= limits.forwards_per_line > 0:
        return STANDING
    if forwards.last_hour(LINE, limits.forwards_per_line_per_hour) >= (
        limits.forwards_per_line_per_hour or 1
    ):
        return LAST_HOUR
    if forwards.begin(LINE, limits):
        return None
    return await forwards.ask(LINE, call, limits)


@pytest.mark.parametrize("limit", [1, 7, 50, 100])
@pytest.mark.parametrize("which", [STANDING, LAST_HOUR])
async def test_a_limit_holds_over_four_workers(
    server: RedisServer, patient: None, limit: int, which: str
) -> None:
    limits = Limits(**{STANDING: 0, LAST_HOUR: 0, which: limit})
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(worker(server)) for _ in range(WORKERS)]
        asked = [forward(made[n % WORKERS], f"call-{n}", limits) for n in range(3 * limit + 20)]
        replies = await asyncio.gather(*asked)
        assert replies.count(None) == limit  # spread over all workers: no share is left
        assert set(replies) == {None, which}
        assert sum(each.local_decisions for each in made) == 0


@pytest.mark.parametrize("which", [STANDING, LAST_HOUR])
async def test_one_worker_alone_gets_seven_eighths_at_least(
    server: RedisServer, patient: None, which: str
) -> None:
    limits = Limits(**{STANDING: 0, LAST_HOUR: 0, which: 100})
    async with worker(server) as one:
        replies = [await forward(one, f"call-{n}", limits) for n in range(110)]
    assert 88 <= replies.count(None) <= 100


async def test_the_only_worker_has_the_whole_limit_without_redis(server: RedisServer) -> None:
    limits = Limits(forwards_per_line=20, forwards_per_line_per_hour=15)
    async with worker(server, workers=1) as one:
        replies = [await forward(one, f"call-{n}", limits) for n in range(30)]
        assert replies.count(None) == 15
        assert one.standing(LINE) == 15
    with server.client() as client:
        assert client.keys("forwards:*") == []


@pytest.mark.usefixtures("patient")
async def test_an_ended_forward_makes_room_and_stays_in_the_hour(server: RedisServer) -> None:
    limits = Limits(forwards_per_line=2, forwards_per_line_per_hour=6)
    async with worker(server) as one, worker(server) as other:
        for n in range(0, 6, 2):
            for place, each in enumerate((one, other)):
                assert await forward(each, f"call-{n + place}", limits) is None
            assert await forward(one, "more", limits) == STANDING
            for place, each in enumerate((one, other)):
                each.end(LINE, f"call-{n + place}")
            assert len(one) == len(other) == 0
        for each in (one, other):
            assert await forward(each, "more", limits) == LAST_HOUR
            assert len(each) == 0
            assert not each._pooled
        with server.client() as client:
            await until(lambda: client.zcard(f"forwards:{LINE}") == 0)
            assert client.zcard(f"forwards:hour:{LINE}") == 6
            assert 3500 < cast(int, client.ttl(f"forwards:hour:{LINE}")) <= 3600


@pytest.mark.usefixtures("patient")
async def test_the_hour_outlives_a_worker(server: RedisServer) -> None:
    limits = Limits(forwards_per_line_per_hour=3)
    async with worker(server) as one:
        for n in range(3):
            assert await forward(one, f"call-{n}", limits) is None
    async with worker(server) as next_one:
        assert await forward(next_one, "call-4", limits) == LAST_HOUR
        next_one.release(LINE, "call-1")  # one of those in progress


async def test_while_redis_is_away_each_worker_counts_for_itself(server: RedisServer) -> None:
    limits = Limits(forwards_per_line=4, forwards_per_line_per_hour=6)
    async with worker(server) as one:
        assert await forward(one, "call-0", limits) is None
        server.kill()
        replies = [await forward(one, f"call-{n}", limits) for n in range(1, 8)]
        assert replies == [None] * 3 + [STANDING] * 4
        for n in range(4):
            one.end(LINE, f"call-{n}")
        replies = [await forward(one, f"call-{n}", limits) for n in range(8, 14)]
        assert replies == [None] * 2 + [LAST_HOUR] * 4
        assert one.local_decisions >= 5


async def test_a_redis_that_hangs_is_waited_for_once_and_then_not(
    server: RedisServer, stalls: Stalls
) -> None:
    """In ticks of the loop: 90 ms on an idle machine."""
    limits = Limits(forwards_per_line=20, forwards_per_line_per_hour=20)
    async with worker(server) as one:
        assert await forward(one, "call-0", limits) is None
        before = [pool.local_decisions for pool in one.pools]
        server.pause()
        try:
            assert await forward(one, "call-1", limits) is None  # waits, for one of the two
            now = [pool.local_decisions for pool in one.pools]
            assert now == [before[0] + 1, before[1]]
            begun = time.monotonic()
            for n in range(2, 12):
                assert await forward(one, f"call-{n}", limits) is None
            assert time.monotonic() - begun < 0.5 + stalls.total_s
            assert one.standing(LINE) == one.last_hour(LINE, 20) == 12
        finally:
            server.resume()


async def test_workers_are_counted_by_their_signs_of_life(server: RedisServer) -> None:
    counts: dict[str, int] = {}

    async def live(stack: AsyncExitStack, name: str) -> None:
        redis = server.connect()
        stack.push_async_callback(redis.aclose)
        presence = WorkerHeartbeat(redis, LiveWorker(name, "h", 0, 1, 0.0, (), "", "1"))
        presence.on_workers = lambda count: counts.__setitem__(name, count)
        await presence.start()
        stack.push_async_callback(presence.close)

    async with AsyncExitStack() as stack:
        await live(stack, "0-a")
        assert counts == {"0-a": 1}
        async with AsyncExitStack() as others:
            await live(others, "1-b")
            await live(others, "2-c")
            await until(lambda: counts["0-a"] == 3, 3)
        await until(lambda: counts["0-a"] == 1, 3)
