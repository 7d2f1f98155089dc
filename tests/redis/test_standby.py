"""Answered calls that processes store in Redis, and which process takes them over; on one server
and a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.crc import key_slot

from store.client import Client, close, connect
from store.keys import standby_key, standby_taken_key
from store.standby import Head, Newer, StandbyCalls
from tests.redis.cluster import ClusterServers, folder
from tests.redis.servers import running_server

PLACE = "192.0.2.10:5060;transport=udp"
HEAD = Head(2, 1_764_500_000.25, 4711.5)
ENTRIES = {"0-a-1": b"\x93\x00\xff" + bytes(range(256)), "0-a-2": b"x" * 70_000}
KEPT_S = 600


@contextmanager
def alone() -> Iterator[str]:
    with running_server() as server:
        yield server.url


@contextmanager
def cluster() -> Iterator[str]:
    with folder() as directory:
        servers = ClusterServers(directory)
        try:
            servers.start()
            yield servers.url
        finally:
            servers.stop()


@pytest.fixture(scope="module", params=[alone, cluster], ids=["alone", "cluster"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.param() as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    client = connect(url)
    yield client
    for place in await StandbyCalls(client, KEPT_S).places():
        await StandbyCalls(client, KEPT_S).withdraw(place)
    await client.delete(standby_key(PLACE))
    for process in ("a", "a/b", "a/b/c", "b"):
        await client.delete(standby_key(PLACE, process), standby_taken_key(PLACE, process))
    await close(client)


@pytest.fixture
def calls(client: Client) -> StandbyCalls:
    return StandbyCalls(client, KEPT_S)


async def silent(calls: StandbyCalls, process: str, at_least_s: float) -> None:
    while {p.name: p.age_s for p in await calls.processes(PLACE)}[process] < at_least_s:
        await asyncio.sleep(0.01)


async def test_what_a_process_wrote_is_what_another_gets(calls: StandbyCalls) -> None:
    written = await calls.write(PLACE, "a", HEAD, ENTRIES, [])
    assert (written.taken, written.calls) == (None, 2)
    assert [p.name for p in written.processes] == ["a"]
    changed = {"0-a-3": b"three", "0-a-2": b"newer"}
    assert (await calls.write(PLACE, "a", HEAD, changed, ["0-a-1", "0-a-9"])).calls == 2
    claimed = await calls.claim(PLACE, "a", "b", 0, 2, tell=True)
    assert claimed is not None
    assert (claimed.head, claimed.entries) == (HEAD, {"0-a-2": b"newer", "0-a-3": b"three"})
    assert [p.name for p in await calls.processes(PLACE)] == ["a/b"]
    await calls.forget(PLACE, claimed.name)
    assert await calls.processes(PLACE) == []


async def test_entries_are_kept_byte_by_byte(calls: StandbyCalls) -> None:
    await calls.write(PLACE, "a", HEAD, ENTRIES, [])
    claimed = await calls.claim(PLACE, "a", "b", 0, 2, tell=True)
    assert claimed is not None
    assert claimed.entries == ENTRIES


async def test_one_of_many_gets_them_and_the_owner_learns_of_it(calls: StandbyCalls) -> None:
    await calls.write(PLACE, "a", HEAD, ENTRIES, [])
    claims = [calls.claim(PLACE, "a", f"{n}", 0, 2, tell=True) for n in range(20)]
    (claimed,) = [each for each in await asyncio.gather(*claims) if each is not None]
    assert set(claimed.entries) == set(ENTRIES)
    written = await calls.write(PLACE, "a", HEAD, {"0-a-4": b"four"}, [])
    assert set(written.taken or ()) == set(ENTRIES)
    assert set(await calls.replace(PLACE, "a")) == set(ENTRIES)
    await calls.forget(PLACE, claimed.name)
    assert await calls.processes(PLACE) == []


async def test_what_comes_back_is_not_taken_any_more(calls: StandbyCalls) -> None:
    await calls.write(PLACE, "a", HEAD, ENTRIES, [])
    await calls.claim(PLACE, "a", "b", 0, 2, tell=True)
    await calls.give_back(PLACE, "a", ["0-a-1"])
    await calls.give_back(PLACE, "a", [])
    assert await calls.replace(PLACE, "a") == ["0-a-2"]


async def test_a_process_that_lives_keeps_its_calls(calls: StandbyCalls) -> None:
    await calls.write(PLACE, "a", HEAD, ENTRIES, [])
    assert await calls.claim(PLACE, "a", "b", 60, 2, tell=True) is None
    await silent(calls, "a", 0.2)
    assert await calls.claim(PLACE, "a", "b", 0.2, 2, tell=True) is not None


async def test_a_claim_whose_owner_dies_is_claimed_again(calls: StandbyCalls) -> None:
    await calls.write(PLACE, "a", HEAD, ENTRIES, [])
    first = await calls.claim(PLACE, "a", "b", 0, 2, tell=True)
    assert first is not None
    again = await calls.claim(PLACE, first.name, "c", 0, 2, tell=True)
    assert again is not None
    assert (again.head, again.entries) == (first.head, first.entries)


async def test_a_newer_version_is_left_alone(calls: StandbyCalls) -> None:
    await calls.write(PLACE, "a", HEAD._replace(version=3), ENTRIES, [])
    with pytest.raises(Newer):
        await calls.claim(PLACE, "a", "b", 0, 2, tell=True)
    assert (await calls.write(PLACE, "a", HEAD, {}, [])).calls == 2


async def test_a_process_that_is_recorded_may_write_again(calls: StandbyCalls) -> None:
    await calls.write(PLACE, "a", HEAD, ENTRIES, [])
    assert await calls.claim(PLACE, "a", "b", 0, 2, tell=False) is not None
    written = await calls.write(PLACE, "a", HEAD, {"0-a-4": b"four"}, [])
    assert (written.taken, written.calls) == (None, 1)  # the others are missing in Redis


async def test_a_process_of_the_same_host_replaces_the_dead_one(calls: StandbyCalls) -> None:
    await calls.write(PLACE, "a", HEAD, ENTRIES, [])
    assert await calls.replace(PLACE, "a") == []
    assert await calls.processes(PLACE) == []
    assert await calls.claim(PLACE, "a", "b", 0, 2, tell=True) is None
    # A command that it sent just before it died does not restore it.
    assert (await calls.write(PLACE, "a", HEAD, ENTRIES, [])).taken == []
    assert await calls.processes(PLACE) == []


async def test_what_is_no_head_is_no_error(calls: StandbyCalls, client: Client) -> None:
    await calls.write(PLACE, "a", HEAD, ENTRIES, [])
    any_client: Any = client
    await any_client.hset(standby_key(PLACE, "a"), "", "nonsense")
    claimed = await calls.claim(PLACE, "a", "b", 0, 2, tell=True)
    assert claimed is not None
    assert claimed.head.version == -1
    assert abs(claimed.head.unix - time.time()) < 60


async def test_all_of_it_expires(calls: StandbyCalls, client: Client) -> None:
    await calls.write(PLACE, "a", HEAD, ENTRIES, [])
    await calls.write(PLACE, "b", HEAD, ENTRIES, [])
    await calls.claim(PLACE, "a", "b", 0, 2, tell=True)
    for key in (
        standby_key(PLACE),
        standby_key(PLACE, "b"),
        standby_key(PLACE, "a/b"),
        standby_taken_key(PLACE, "a"),
    ):
        assert 0 < await client.ttl(key) <= KEPT_S
        assert key_slot(key.encode()) == key_slot(standby_key(PLACE).encode())


async def test_places(calls: StandbyCalls) -> None:
    for place in (PLACE, "[2001:db8::1]:5060;transport=tls"):
        await calls.announce(place)
    await calls.announce(PLACE)
    assert sorted(await calls.places()) == [PLACE, "[2001:db8::1]:5060;transport=tls"]
    await calls.withdraw(PLACE)
    assert await calls.places() == ["[2001:db8::1]:5060;transport=tls"]
