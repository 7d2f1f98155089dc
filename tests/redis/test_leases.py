"""Live calls: exact over several workers, and fast when Redis is slow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import uvloop

from engine.leases import LiveCalls
from tests.patience import Stalls
from tests.redis.servers import RedisServer, running_server
from tests.redis.stores import until

LINE = "+33972101001"
KEY = f"live:{LINE}"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


@asynccontextmanager
async def worker(
    server: RedisServer, lease_s: float = 60, clock: Callable[[], float] = time.time
) -> AsyncIterator[LiveCalls]:
    redis = server.connect()
    live = LiveCalls(redis, shared=True, lease_s=lease_s, clock=clock)
    await live.start()
    try:
        yield live
    finally:
        await live.close()
        await redis.aclose()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not lead to local decisions."""
    monkeypatch.setattr("engine.leases._TICKS", 2000)


def leases(server: RedisServer) -> set[str]:
    with server.client() as client:
        return set(client.zrangebyscore(KEY, time.time(), "+inf"))


@pytest.mark.usefixtures("patient")
async def test_a_hundred_at_once_over_four_workers(server: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker(server)) for _ in range(4)]
        asked = [workers[n % 4].admit(LINE, f"call-{n}", 2) for n in range(100)]
        replies = await asyncio.gather(*asked)
        assert replies.count(None) == 2
        assert {reply for reply in replies if reply is not None} == {2}
        assert sum(each.count(LINE) for each in workers) == 2
        assert len(leases(server)) == 2
        assert sum(each.local_decisions for each in workers) == 0
    assert leases(server) == set()


@pytest.mark.usefixtures("patient")
async def test_a_call_that_left_makes_room_at_once(server: RedisServer) -> None:
    async with worker(server) as live:
        for n in range(50):
            assert await live.admit(LINE, f"call-{n}", 1) is None
            assert await live.admit(LINE, "other", 1) == 1
            live.leave(LINE, f"call-{n}")
        assert live.count(LINE) == 0
        assert live._calls == live._leased == {}
        await until(lambda: leases(server) == set())


@pytest.mark.usefixtures("patient")
async def test_what_others_write_counts_until_it_lapses(server: RedisServer) -> None:
    with server.client() as client:
        client.zadd(KEY, {"theirs": time.time() + 60, "lapsed": time.time() - 1})
        async with worker(server) as live:
            assert await live.admit(LINE, "a", 2) is None
            assert await live.admit(LINE, "a", 2) is None  # again: the same call
            assert await live.admit(LINE, "b", 2) == 2
            client.zrem(KEY, "theirs")
            assert await live.admit(LINE, "b", 2) is None
        assert client.zrange(KEY, 0, -1) == []


@pytest.mark.usefixtures("patient")
async def test_calls_counted_without_asking(server: RedisServer) -> None:
    async with worker(server) as live, worker(server) as other:
        live.add(LINE, "here")
        assert await live.admit(LINE, "a", 1) == 1
        assert await live.admit(LINE, "a", 2) is None
        live.add(LINE, "everywhere", lease=True)
        await until(lambda: leases(server) == {"a", "everywhere"})
        assert await other.admit(LINE, "b", 2) == 2


@pytest.mark.usefixtures("patient")
async def test_leases_are_renewed_and_those_of_the_dead_lapse(server: RedisServer) -> None:
    async with worker(server, lease_s=4) as live, worker(server) as other:
        redis = server.connect()
        dead = LiveCalls(redis, shared=True, lease_s=4)
        await dead.start()
        assert await dead.admit(LINE, "dead", 2) is None
        assert await live.admit(LINE, "alive", 2) is None
        assert await other.admit(LINE, "c", 2) == 2
        assert dead._task is not None
        dead._task.cancel()
        await redis.aclose()
        await until(lambda: leases(server) == {"alive"})
        assert await other.admit(LINE, "c", 2) is None


@pytest.mark.usefixtures("patient")
async def test_a_restarted_empty_redis_gets_the_leases_back(server: RedisServer) -> None:
    async with worker(server, lease_s=6) as live:
        assert await live.admit(LINE, "a", 3) is None
        server.kill()
        server.start()
        await until(lambda: leases(server) == {"a"}, 6)
        assert await live.admit(LINE, "b", 3) is None  # the script is unknown there
        assert leases(server) == {"a", "b"}
        assert live.local_decisions == 0


async def test_a_paused_redis_delays_no_call(server: RedisServer, stalls: Stalls) -> None:
    async with worker(server) as live:
        assert await live.admit(LINE, "a", 2) is None
        before = live.local_decisions
        server.pause()

        async def timed(call_id: str) -> tuple[int | None, float]:
            begin = time.monotonic()
            reply = await live.admit(LINE, call_id, 2)
            return reply, time.monotonic() - begin

        replies = await asyncio.gather(*(timed(f"p{n}") for n in range(20)))
        assert [reply for reply, _ in replies].count(None) == 1
        assert max(taken for _, taken in replies) < 0.5 + stalls.total_s
        assert live.local_decisions == before + 20
        kept = {"a"} | live._calls[LINE]
        await asyncio.sleep(1.2)
        live.leave(LINE, "a")
        reply, taken = await timed("later")  # now Redis is known to be away
        assert reply is None
        assert taken < 0.08 + stalls.total_s  # Redis is not asked
        server.resume()
        kept = (kept | {"later"}) - {"a"}
        await until(lambda: leases(server) == kept)
        assert await live.admit(LINE, "more", 3) is None
        assert live.count(LINE) == 3


async def test_redis_killed_under_calls(server: RedisServer) -> None:
    async with worker(server) as live:
        server.kill()
        assert await live.admit(LINE, "a", 1) is None
        assert await live.admit(LINE, "b", 1) == 1
        server.start()
        await until(lambda: leases(server) == {"a"})
        live.leave(LINE, "a")
        await until(lambda: leases(server) == set())


async def test_a_caller_who_hangs_up_leaves_no_lease(server: RedisServer) -> None:
    async with worker(server) as live:
        for n in range(200):
            asked = asyncio.create_task(live.admit(LINE, f"call-{n}", 1))
            await asyncio.sleep(0.0003 * (n % 5))
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            live.leave(LINE, f"call-{n}")
        await until(lambda: leases(server) == set())
        assert live._calls == live._leased == {}
        assert await live.admit(LINE, "last", 1) is None


async def test_a_key_of_a_wrong_type_means_a_local_decision(server: RedisServer) -> None:
    with server.client() as client:
        client.set(KEY, "garbage")
    async with worker(server) as live:
        assert await live.admit(LINE, "a", 1) is None
        assert await live.admit(LINE, "b", 1) == 1
        assert await live.admit("+33972101002", "c", 1) is None


@pytest.mark.usefixtures("patient")
async def test_many_calls_in_progress_end(server: RedisServer) -> None:
    async with worker(server) as live:
        for n in range(3000):
            live.add(f"+339{n:08d}", "x", lease=True)
        await until(lambda: not live._changes)
        with server.client() as client:
            await until(lambda: client.dbsize() == 3000)
            for n in range(2000):
                live.leave(f"+339{n:08d}", "x")
            assert await live.admit("+33900000000", "y", 1) is None
            await until(lambda: client.dbsize() == 1001)
    with server.client() as client:
        assert client.dbsize() == 0


async def test_local_counting_needs_no_redis() -> None:
    live = LiveCalls(None, shared=False)
    await live.start()
    assert await live.admit(LINE, "a", 1) is None
    assert await live.admit(LINE, "b", 1) == 1
    assert live.local_decisions == 0
    live.leave(LINE, "a")
    live.leave(LINE, "never there")
    assert live.count(LINE) == 0
    await live.close()


def test_a_late_loop_decides_by_the_answer_that_waits_in_the_socket(server: RedisServer) -> None:
    """The engine's loop runs timers before sockets: in a burst of calls it must not use its own
    count if the answer of Redis is already there."""

    async def decide() -> None:
        async with worker(server) as one, worker(server) as two:
            assert await one.admit(LINE, "first", 1) is None
            assert await two.admit(LINE, "early", 1) == 1  # it is connected
            for n in range(3):
                asked = asyncio.create_task(two.admit(LINE, f"late-{n}", 1))
                await asyncio.sleep(0.001)
                time.sleep(0.6)  # noqa: ASYNC251  the loop is busy with other calls
                assert await asked == 1
            assert two.local_decisions == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(decide())


@pytest.mark.usefixtures("patient")
async def test_an_error_of_ours_does_not_end_the_exchange(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.background_tasks._PAUSE_S", 0.0)
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )
    async with worker(server) as live:
        whole = live._take_changes
        broken = [KeyError("x")]

        def take_changes() -> object:
            if broken:
                raise broken.pop()
            return whole()

        monkeypatch.setattr(live, "_take_changes", take_changes)
        assert await live.admit(LINE, "call-1", 2) is None
        assert leases(server) == {"call-1"}
        assert [type(error) for error in reported] == [KeyError]
