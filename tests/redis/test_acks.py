"""Which workers have a change in force: heartbeats and acknowledgements on a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from engine.changes import acks, worker_registry
from engine.changes.acks import Acks, LiveWorker, in_force, in_force_blocking, live_workers
from engine.changes.worker_registry import WorkerHeartbeat
from rules.numbers import Numbering
from store.keys import ACK, PROBE, WORKER, WORKERS, worker_key
from store.lines import Store
from tests.patience import within
from tests.redis.servers import RedisServer, running_server
from tests.redis.stores import until

LINE = "+33972101001"
FRANCE = Numbering("FR")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


def heartbeat(index: int, started: float = 1.0, id_: str = "") -> LiveWorker:
    """The heartbeat of a worker."""
    place = (f"udp:127.0.0.1:{5080 + index}",)
    return LiveWorker(id_ or f"w{index}", "host", index, 7, started, place, "127.0.0.1:9100", "1")


@asynccontextmanager
async def worker(server: Any, index: int) -> AsyncIterator[tuple[Store, WorkerHeartbeat]]:
    """A worker's store and heartbeat, connected as in the engine."""
    client = server.connect()
    store = Store(
        client,
        numbering=FRANCE,
        cache_lines=10,
        stale_max_s=3600,
        timezone="Europe/Paris",
        canary=f"test-{index}",
    )
    here = WorkerHeartbeat(client, heartbeat(index))
    store.on_probe = here.on_probe
    try:
        await store.start()
        await here.start()
        yield store, here
    finally:
        await here.close()
        await store.close()
        await client.aclose()


def document(label: str) -> str:
    return f'{{"number": "{LINE}", "fleet": "acme", "label": "{label}"}}'


def label(store: Store) -> str:
    """From memory, without Redis."""
    entry = store.peek(LINE)
    assert entry is not None
    assert entry.line is not None
    return entry.line.label


async def test_every_worker_that_has_acknowledged_answers_by_the_new_rules(
    server: RedisServer,
) -> None:
    client = server.connect()
    async with AsyncExitStack() as stack:
        stores = [(await stack.enter_async_context(worker(server, n)))[0] for n in range(3)]
        await client.set(f"line:{LINE}", document("first"))
        for store in stores:
            await store.look_up(LINE)
        for n in range(20):
            await client.set(f"line:{LINE}", document(str(n)))
            found = await in_force(client, LINE, within(1))
            assert found.complete, found
            assert [w.index for w in found.workers] == [0, 1, 2]
            assert set(found.said) == {"w0", "w1", "w2"}
            # Memory has the new rules: a call for which Redis is too slow uses the last good copy.
            assert [label(store) for store in stores] == [str(n)] * 3
        assert "in force on 3 of 3 workers after " in found.in_words()
    assert (await in_force(client, LINE)).workers == ()
    await client.aclose()


async def test_an_error_of_ours_ends_no_sign_of_life(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_registry, "RENEW_S", 0.05)
    reported: list[dict[str, Any]] = []
    counts: list[int] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fails(count: int) -> None:
        counts.append(count)
        raise LookupError

    async with worker(server, 0) as (_, here):
        here.on_workers = fails
        await until(lambda: len(counts) > 2)
        assert all(isinstance(context["exception"], LookupError) for context in reported)
        here.on_workers = counts.append
        count_before = len(counts)
        await until(lambda: len(counts) > count_before)


async def test_a_change_does_not_wait_when_no_engine_runs(server: RedisServer) -> None:
    client = server.connect()
    found = await in_force(client, LINE)
    assert (found.workers, found.complete, found.missing) == ((), False, ())
    assert found.in_words() == "no engine runs: in force as soon as one does"
    assert await client.keys() == []
    await client.aclose()


async def test_a_worker_that_does_not_acknowledge_is_named_until_it_does(
    server: RedisServer,
) -> None:
    client = server.connect()
    async with worker(server, 0), worker(server, 1) as (deaf, _):
        hear, deaf.on_probe = deaf.on_probe, None
        found = await in_force(client, LINE, within_s=within(0.3))
        assert [w.id for w in found.missing] == ["w1"]
        assert set(found.said) == {"w0"}
        assert found.in_words().endswith("no word from host/1 (pid 7)")
        assert "1 of 2 workers" in found.in_words()
        plain = found.plain()
        assert (plain["workers"], plain["acknowledged"], plain["complete"]) == (2, 1, False)
        assert plain["missing"][0]["id"] == "w1"

        waiting = asyncio.create_task(in_force(client, LINE, within_s=within(5)))
        await asyncio.sleep(0.1)
        deaf.on_probe = hear  # the probe is repeated until all have acknowledged
        assert (await waiting).complete
    await client.aclose()


async def test_a_stream_that_was_cut_is_waited_for(server: RedisServer) -> None:
    client = server.connect()
    async with worker(server, 0):
        with server.client() as other:
            other.client_kill_filter(_type="pubsub")
        assert (await in_force(client, LINE, within_s=within(5))).complete
    await client.aclose()


async def test_a_worker_that_was_killed_is_forgotten_when_its_successor_is_there(
    server: RedisServer,
) -> None:
    client = server.connect()
    async with worker(server, 0):
        with server.client() as other:
            killed = heartbeat(0, started=0.5, id_="killed")
            other.set(worker_key(killed.id), orjson.dumps(killed), ex=5)
            other.zadd(WORKERS, {killed.id: time.time() + 5, "gone": time.time() - 9})
            other.set(WORKER + "gone", "{}", ex=5)
        assert [w.id for w in await live_workers(client)] == ["w0"]
        assert (await in_force(client, LINE, within(1))).complete
    await client.aclose()


async def test_the_sign_of_life_ends_with_the_worker(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_registry, "LIFE_S", 4)
    monkeypatch.setattr(worker_registry, "RENEW_S", 0.2)
    client = server.connect()
    async with worker(server, 0) as (_, here):
        await asyncio.sleep(4.3)
        assert len(await live_workers(client)) == 1
        for task in here._tasks:
            task.cancel()  # as when the process is killed: the heartbeat is not withdrawn
        async with asyncio.timeout(within(4.3)):
            while await live_workers(client):
                await asyncio.sleep(0.05)
    await client.aclose()


async def test_one_probe_is_acknowledged_once(server: RedisServer) -> None:
    client = server.connect()
    async with worker(server, 0):
        await in_force(client, LINE, within(1))
        (probe,) = await client.keys(PROBE + "*")
        (ack,) = await client.keys(ACK + "*")
        assert 0 < await client.ttl(probe) <= 60
        assert 0 < await client.ttl(ack) <= 60
        await client.delete(ack, probe)  # as when both expire: the stream reports it
        assert (await in_force(client, LINE, within(1))).complete
        assert await client.exists(ack) == 0
    await client.aclose()


async def test_redis_away_is_an_error_for_the_caller(server: RedisServer) -> None:
    once = Retry(NoBackoff(), 0)
    client = redis.asyncio.Redis(unix_socket_path=str(server.socket), retry=once)
    server.kill()
    with pytest.raises(redis.RedisError):
        await in_force(client, LINE)
    await client.aclose()


async def test_commands_ask_the_same_without_a_loop(server: RedisServer) -> None:
    def ask() -> Acks:
        with server.client() as client:
            return in_force_blocking(client, LINE, within(1))

    async with worker(server, 0):
        assert (await asyncio.to_thread(ask)).complete


def test_a_probe_lives_where_its_line_does() -> None:
    """The hash tag of a Redis Cluster: one node, one stream."""
    for number in (LINE, "+33612345678", "+1"):
        asking = acks._ask(number, 1.0)
        next(asking)
        _, commands = asking.send([[b"w0"]])
        key = str(commands[0][1])
        assert key_slot(key.encode()) == key_slot(f"line:{number}".encode())


async def test_a_goodbye_ends_wherever_the_sign_of_life_is(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py loses a cancellation at one step of sending: cancels at every step."""
    monkeypatch.setattr(worker_registry, "RENEW_S", 0)
    client = redis.asyncio.Redis(unix_socket_path=str(server.socket), socket_timeout=2.0)
    try:
        for steps in range(40):
            here = WorkerHeartbeat(client, heartbeat(0))
            await here.start()
            for _ in range(steps):
                await asyncio.sleep(0)
            async with asyncio.timeout(within(3)):
                await here.close()
    finally:
        await client.aclose()
