"""A master that becomes a replica: it answers, takes no writes and keeps its connections, while its
name may lead to the next master."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ReadOnlyError

from engine.leases import LiveCalls
from store.client import close, connect
from tests.redis.servers import RedisServer, running_server
from tests.redis.stores import until

LINE = "+33972101001"


class Pair:
    """Two servers and a name, which leads to the first one until `fail_over`."""

    def __init__(self, old: RedisServer, new: RedisServer, name: Path) -> None:
        self.old, self.new, self._name = old, new, name
        name.symlink_to(old.socket)

    @property
    def url(self) -> str:
        return f"unix://{self._name}"

    def fail_over(self) -> None:
        """The name leads to the second one; the first one closes nothing."""
        with self.old.client() as client:
            client.replicaof("127.0.0.1", "1")  # of a master that is not there
        self._name.unlink()
        self._name.symlink_to(self.new.socket)


@pytest.fixture
def pair() -> Iterator[Pair]:
    # Not pytest's folder: the path of a unix socket is at most 107 bytes long.
    with (
        running_server() as old,
        running_server() as new,
        tempfile.TemporaryDirectory(prefix="rs") as folder,
    ):
        yield Pair(old, new, Path(folder) / "s")


def leases(server: RedisServer) -> set[str]:
    with server.client() as client:
        return set(client.zrangebyscore(f"live:{LINE}", time.time(), "+inf"))


async def test_a_client_follows_the_name(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.client.RENEW_S", 0.0)
    client: Any = connect(pair.url)
    await client.set("before", "1")
    pair.fail_over()
    with pytest.raises(ReadOnlyError):
        await client.set("one", "1")
    await client.set("one", "2")
    with pair.new.client() as other:
        assert other.get("one") == "2"
    await close(client)


async def test_a_pipeline_follows_the_name(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.client.RENEW_S", 0.0)
    client: Any = connect(pair.url)
    await client.ping()
    pair.fail_over()
    for _ in range(2):
        pipe = client.pipeline(transaction=False)
        pipe.get("one")
        pipe.set("one", "1")
        replies = await pipe.execute(raise_on_error=False)
    assert replies == [None, True]
    await close(client)


async def test_calls_are_counted_at_the_next_master(pair: Pair) -> None:
    client = connect(pair.url)
    live = LiveCalls(client, shared=True)
    await live.start()
    assert await live.admit(LINE, "first", 5) is None
    pair.fail_over()
    assert await live.admit(LINE, "second", 5) is None
    await until(lambda: leases(pair.new) == {"first", "second"}, 5)
    await live.close()
    await close(client)


async def test_a_call_that_ended_meanwhile_is_not_counted_afterwards(pair: Pair) -> None:
    """The same server takes writes again, as after too few replicas."""
    errors: list[BaseException] = []
    client = connect(pair.old.url)
    live = LiveCalls(client, shared=True, on_error=errors.append)
    await live.start()
    assert await live.admit(LINE, "first", 1) is None
    with pair.old.client() as other:
        other.replicaof("127.0.0.1", "1")
        live.leave(LINE, "first")
        await until(lambda: errors, 5)
        other.replicaof("NO", "ONE")
    await until(lambda: leases(pair.old) == set(), 5)
    assert await live.admit(LINE, "second", 1) is None
    await live.close()
    await close(client)
