"""Connections that go silent without being closed, and a Redis that comes back empty."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import redis

from store.client import connect
from tests.patience import Stalls, within
from tests.redis.relay import Relay
from tests.redis.servers import RedisServer, running_server
from tests.redis.stores import document, labelled, settled, store_on, until

LINE, OTHER = "+33972101001", "+33972101002"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


async def test_a_known_line_never_waits_for_a_dead_connection(
    server: RedisServer, stalls: Stalls
) -> None:
    stalls.watch(server.pid)
    with server.client() as other:
        for number in (LINE, OTHER):
            other.set(f"line:{number}", document(number, label="one"))
        async with (
            Relay(str(server.socket)) as relay,
            store_on(connect(relay.url)) as store,
        ):
            await settled(store, LINE, OTHER)
            # OTHER has changed and has not been read again when the connections go dead.
            other.set(f"line:{OTHER}", document(OTHER, label="two"))
            await until(lambda: store.peek(OTHER) is None, 1)
            relay.go_dead()
            cut, slowest, made = time.monotonic(), 0.0, relay.accepted
            in_force = 0.0
            while not in_force or time.monotonic() - cut < 2:
                assert time.monotonic() - cut < 5 + stalls.total_s, "never read again"
                for number in (LINE, OTHER):
                    start = time.monotonic()
                    entry = store.peek(number) or await store.look_up(number)
                    slowest = max(slowest, time.monotonic() - start)
                    assert entry.line is not None
                    if number == OTHER and entry.line.label == "two" and not in_force:
                        in_force = time.monotonic() - cut
                await asyncio.sleep(0.005)
            assert slowest < 0.2 + stalls.total_s
            assert relay.accepted > made
            # and what was written while they were dead is in force
            other.set(f"line:{LINE}", document(LINE, label="two"))
            await labelled(store, LINE, "two")
            await until(lambda: store.redis_up and store.age_s() == 0, 5)


async def test_dead_connections_of_the_client_are_noticed_by_the_writers(
    server: RedisServer,
) -> None:
    async with Relay(str(server.socket)) as relay:
        client = connect(relay.url, socket_timeout=within(0.5))
        try:
            await client.set("a", 1)
            relay.go_dead()
            with pytest.raises(redis.TimeoutError):
                await client.get("a")
            assert await client.get("a") == b"1"
        finally:
            await client.aclose()


async def test_a_connection_closed_while_it_was_idle_costs_the_writers_nothing(
    server: RedisServer,
) -> None:
    client = connect(server.url)
    try:
        with server.client() as other:
            for _ in range(20):
                await client.set("a", 1)
                other.client_kill_filter(_type="normal", skipme=True)
                assert await client.get("a") == b"1"
    finally:
        await client.aclose()


@pytest.mark.usefixtures("patient")
async def test_a_redis_that_comes_back_with_nothing_has_no_lines_and_takes_new_ones(
    server: RedisServer,
) -> None:
    with server.client() as other:
        other.set(f"line:{LINE}", document(LINE, label="one"))
        async with store_on(connect(server.url)) as store:
            await settled(store, LINE)
            server.kill()
            await until(lambda: not store.redis_up, 3)
            known = store.peek(LINE)
            assert known is not None
            assert known.line is not None
            await asyncio.to_thread(server.start)
            await until(lambda: store.redis_up and store.age_s() == 0, 3)
            assert (await store.look_up(LINE)).line is None
            with server.client() as again:
                again.set(f"line:{LINE}", document(LINE, label="new"))
            await labelled(store, LINE, "new")
