"""Documents are written only over the text that was read: on a real Redis and a real cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from store.audit import read_entry
from store.client import connect_blocking
from store.documents import ATTEMPTS, FLEETS, LINES, attempts, attempts_blocking
from tests.redis.cluster import ClusterServers, cluster, cluster_servers
from tests.redis.servers import RedisServer, running_server

__all__ = ["cluster", "cluster_servers"]

ONE, TWO = "+33972101001", "+33972101002"
ACME, EMCA = {"number": ONE, "fleet": "acme"}, {"number": TWO, "fleet": "emca"}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


@pytest.fixture(params=["single", "cluster"])
def redis(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client for commands, of one Redis and of a cluster."""
    servers = request.getfixturevalue("server" if request.param == "single" else "cluster")
    with connect_blocking(servers.url) as client:
        if request.param == "single":
            client.flushall()
        yield client


def stored(redis: Any, *keys: str) -> list[Any]:
    return [orjson.loads(redis.get(key) or b"null") for key in keys]


def logged(redis: Any, fleet: str) -> list[tuple[str, str]]:
    entries = [read_entry(key, fields) for key, fields in redis.xrange(f"audit:{fleet}")]
    return [(entry.what, entry.line) for entry in entries if entry is not None]


def test_documents_are_written_and_deleted_with_their_log_of_changes(redis: Any) -> None:
    (first, second, third, *_) = attempts_blocking(redis, LINES)
    assert first.read([ONE, TWO]) == {}
    assert first.write({ONE: ACME, TWO: EMCA}, "me", "cli")
    assert stored(redis, f"line:{ONE}", f"line:{TWO}") == [ACME, EMCA]
    assert second.read([TWO, ONE]) == {ONE: orjson.dumps(ACME), TWO: orjson.dumps(EMCA)}
    assert second.write({ONE: ACME | {"fleet": "emca"}, TWO: None}, "me", "cli")
    assert stored(redis, f"line:{TWO}") == [None]
    assert logged(redis, "acme") == [("created", ONE), ("line", ONE)]
    assert logged(redis, "emca") == [("created", TWO), ("line", ONE), ("deleted", TWO)]
    assert third.write({}, "me", "cli")


def test_what_was_changed_meanwhile_is_not_written_over(redis: Any) -> None:
    attempt = next(attempts_blocking(redis, LINES))
    attempt.read([ONE])
    redis.set(f"line:{ONE}", b"{}")
    assert not attempt.write({ONE: ACME}, "me", "cli")
    assert stored(redis, f"line:{ONE}") == [{}]
    assert logged(redis, "acme") == []


def test_a_command_that_comes_twice_is_done_and_logged_once(redis: Any) -> None:
    """As after a lost reply: the client sends it again."""
    attempt = next(attempts_blocking(redis, FLEETS))
    attempt.read(["acme"])
    for _ in range(2):
        assert attempt.write({"acme": {"name": "acme", "suspended": True}}, "me", "cli")
    assert stored(redis, "fleet:acme") == [{"name": "acme", "suspended": True}]
    if type(redis).__name__ == "Redis":  # in a cluster the log entry comes with each
        assert logged(redis, "acme") == [("fleet", "")]


def test_one_redis_writes_all_or_nothing(server: RedisServer) -> None:
    """Also when a document that was only read has changed."""
    with connect_blocking(server.url) as redis:
        redis.flushall()
        redis.set(f"line:{TWO}", orjson.dumps(EMCA))
        attempt = next(attempts_blocking(redis, LINES))
        attempt.read([ONE, TWO])
        redis.delete(f"line:{TWO}")
        assert not attempt.write({ONE: ACME}, "me", "cli")
        assert redis.keys() == []


async def test_on_the_loop_it_is_the_same(server: RedisServer, cluster: ClusterServers) -> None:
    for made in (server.connect, cluster.connect):
        async with made() as redis:
            first, late, *rest = attempts(redis, LINES)
            assert len(rest) == ATTEMPTS - 2
            await redis.delete(f"line:{ONE}")
            for attempt in (first, late):
                assert await attempt.read([ONE]) == {}
            assert await first.write({ONE: ACME}, ONE, "phone")
            assert await late.read([ONE]) == {}  # as at the first read
            assert not await late.write({ONE: None, TWO: EMCA}, ONE, "phone")
            assert await redis.get(f"line:{ONE}") == orjson.dumps(ACME)
