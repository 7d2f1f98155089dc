"""One line document changed in place, against a real Redis and a real cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from engine.changes.acks import in_force
from engine.changes.change import Conflict, NoLine, Unreadable, change_line
from rules.line_document import load_line
from rules.model import DocumentError
from rules.numbers import Numbering
from tests.redis.cluster import ClusterServers, cluster, cluster_servers
from tests.redis.servers import RedisServer, running_server
from tests.redis.test_acks import worker

__all__ = ["cluster", "cluster_servers"]

LINE, PEER, OTHER = "+33972101001", "+33972101002", "+33972101009"
FRANCE = Numbering("FR")
TO_PEER = {"on": True, "to": {"kind": "number", "number": PEER}}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def other(server: RedisServer) -> Iterator[redis.Redis]:
    """Another program that reads and writes."""
    with server.client() as client:
        client.flushall()
        client.set(f"line:{LINE}", json.dumps({"number": LINE, "fleet": "acme", "crm": 7}))
        client.set(f"line:{OTHER}", json.dumps({"number": OTHER, "fleet": "globex"}))
        yield client


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    connected = server.connect()
    yield connected
    await connected.aclose()


def busy(to: dict[str, Any]) -> Any:
    """An edit that sets the busy forward."""

    def edit(document: dict[str, Any]) -> None:
        document["forwards"] = {**(document.get("forwards") or {}), "busy": to}

    return edit


async def test_it_is_written_with_its_entry_in_the_log(
    client: redis.asyncio.Redis, other: redis.Redis
) -> None:
    national = {"on": True, "to": {"kind": "number", "number": "0972101002"}}
    changed = await change_line(client, LINE, busy(national), FRANCE, who="me", how="phone")
    assert changed.written
    stored = json.loads(str(other.get(f"line:{LINE}")))
    assert stored == {"number": LINE, "fleet": "acme", "crm": 7, "forwards": {"busy": TO_PEER}}
    again = await change_line(client, LINE, busy(TO_PEER), FRANCE, who="me", how="phone")
    assert not again.written
    assert again.line == changed.line
    entries: Any = other.xrange("audit:acme")
    ((_, entry),) = entries
    assert (entry["who"], entry["how"], entry["what"]) == ("me", "phone", "forwards")
    assert json.loads(entry["to"]) == {"forwards": {"busy": TO_PEER}}


async def test_changes_at_once_are_all_made(
    client: redis.asyncio.Redis, other: redis.Redis
) -> None:
    def edit_of(n: int) -> Any:
        return lambda document: document.__setitem__(f"x{n}", n)

    edits = [change_line(client, LINE, edit_of(n), FRANCE, who="", how="") for n in range(12)]
    await asyncio.gather(*edits)
    stored = json.loads(str(other.get(f"line:{LINE}")))
    assert all(stored[f"x{n}"] == n for n in range(12))
    assert other.xlen("audit:acme") == 12


async def test_a_line_that_changes_constantly_is_given_up(
    client: redis.asyncio.Redis, other: redis.Redis
) -> None:
    count = 0

    def edit(document: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        other.set(f"line:{LINE}", json.dumps({"number": LINE, "fleet": "acme", "n": count}))
        document["mine"] = True

    with pytest.raises(Conflict):
        await change_line(client, LINE, edit, FRANCE, who="", how="")
    assert "mine" not in str(other.get(f"line:{LINE}"))
    assert other.xlen("audit:acme") == 0


@pytest.mark.parametrize(
    "to",
    [
        {"kind": "number", "number": LINE},
        {"kind": "number", "number": "0899123456"},
        {"kind": "voicemail", "number": OTHER},
        {"kind": "fax", "number": LINE},
    ],
)
async def test_what_may_not_be_is_refused(
    client: redis.asyncio.Redis, other: redis.Redis, to: dict[str, str]
) -> None:
    before = other.get(f"line:{LINE}")
    with pytest.raises(DocumentError, match=r"forwards\.busy\.to\.number"):
        await change_line(client, LINE, busy({"on": True, "to": to}), FRANCE, who="", how="")
    assert other.get(f"line:{LINE}") == before


async def test_what_is_left_alone_or_turned_off_is_not_judged(
    client: redis.asyncio.Redis, other: redis.Redis
) -> None:
    stale = {"on": True, "to": {"kind": "fax", "number": PEER}}  # a line that was deleted
    document = {"number": LINE, "fleet": "acme", "forwards": {"busy": stale, "unreachable": stale}}
    other.set(f"line:{LINE}", json.dumps(document))
    changed = await change_line(client, LINE, busy({**stale, "on": False}), FRANCE, who="", how="")
    assert changed.written


async def test_an_offer_that_is_left_alone_is_not_judged(
    client: redis.asyncio.Redis, other: redis.Redis
) -> None:
    """Hours of which there are none: another program wrote them."""
    document = {"number": LINE, "fleet": "acme", "offer": {"mobile": "hours"}}
    other.set(f"line:{LINE}", json.dumps(document | {"forwards": {"busy": TO_PEER}}))
    for forward in ({**TO_PEER, "on": False}, TO_PEER):
        changed = await change_line(client, LINE, busy(forward), FRANCE, who="", how="")
        assert changed.written

    def edit(document: dict[str, Any]) -> None:
        document["offer"] = {"mobile": "hours", "mobile_hours": 0}

    with pytest.raises(DocumentError, match=r"offer\.mobile_hours"):
        await change_line(client, LINE, edit, FRANCE, who="", how="")


async def test_no_line_and_no_document(client: redis.asyncio.Redis, other: redis.Redis) -> None:
    with pytest.raises(NoLine):
        await change_line(client, PEER, busy(TO_PEER), FRANCE, who="", how="")
    # In an unknown field calls do without what is no JSON, but nobody can write it again.
    latin = b'{"number": "%b", "fleet": "acme", "crm": "\xe9"}' % PEER.encode()
    for document in (b"{", latin):
        other.set(f"line:{PEER}", document)
        with pytest.raises(Unreadable):
            await change_line(client, PEER, busy(TO_PEER), FRANCE, who="", how="")
    assert load_line(latin, PEER, FRANCE).number == PEER


async def test_a_document_that_is_nested_too_deeply_is_not_changed(
    client: redis.asyncio.Redis, other: redis.Redis
) -> None:
    """It can be read, and not written."""
    deep = b'{"number": "%b", "fleet": "acme", "x": %b}' % (PEER.encode(), b"[" * 300 + b"]" * 300)
    other.set(f"line:{PEER}", deep)
    assert load_line(deep, PEER, FRANCE).number == PEER
    with pytest.raises(Unreadable):
        await change_line(client, PEER, busy(TO_PEER), FRANCE, who="", how="")
    assert other.get(f"line:{PEER}") is not None


async def test_on_a_cluster_too(cluster: ClusterServers) -> None:
    """Lines of every master, each confirmed by the workers: the probe goes to the line's node."""
    client: Any = cluster.connect()
    try:
        async with worker(cluster, 0), worker(cluster, 1):
            with cluster.client() as other:
                for n in range(12):
                    number = f"+3397210{n:04d}"
                    other.set(f"line:{number}", json.dumps({"number": number, "fleet": "acme"}))
                    off = {"on": False, "to": {"kind": "voicemail", "number": number}}
                    changed = await change_line(client, number, busy(off), FRANCE, who="", how="")
                    assert changed.written
                    found = await in_force(client, number, within_s=10)
                    assert found.complete, found
                    assert len(found.workers) == 2
                assert other.xlen("audit:acme") == 12
    finally:
        await client.aclose()
