"""Answers of Redis that come in another order than they were asked for."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from rules.numbers import Numbering
from store.cache import Span
from store.keys import probe_key
from store.lines import Store

NUMBER = "+33972101001"
BEFORE = {"label": "before", "offer": {"mobile": "hours", "mobile_hours": 2}}
AFTER = {"label": "after"}


def document(fields: dict[str, Any]) -> bytes:
    return json.dumps({"number": NUMBER, "fleet": "acme", **fields}).encode()


class Server:
    """A shard whose answers the test gives."""

    def __init__(self) -> None:
        self.up = self.prompt = True
        self.span = Span()
        self.canary = SimpleNamespace(key="canary")
        self.lost_at = 0.0
        self.asked: list[tuple[str, Any]] = []

    def ask(self, command: tuple[Any, ...], take: Any) -> None:
        self.asked.append((command[0], take))

    def answer(self, word: str, reply: Any, begun: float = 1.0) -> None:
        """The oldest command with this word, in an exchange that began at this time."""
        place = next(n for n, (asked, _) in enumerate(self.asked) if asked == word)
        self.asked.pop(place)[1](reply, self.span, begun)


def asked() -> tuple[Store, Any]:
    store = Store(
        Redis(), numbering=Numbering("FR"), cache_lines=9, stale_max_s=60, timezone="UTC", canary=""
    )
    server: Any = Server()
    layout: Any = SimpleNamespace(shards=(server,), shard_of=lambda _key: server)
    store._layout = layout
    return store, server


async def test_an_older_answer_that_comes_last_replaces_no_newer_one() -> None:
    """The read before the change waits for the use of its plan; the new document has no plan."""
    store, server = asked()
    first = asyncio.create_task(store.look_up(NUMBER))
    await asyncio.sleep(0)
    server.answer("GET", document(BEFORE))
    server.answer("ZREVRANGEBYSCORE", [])
    store.on_keys(server, [f"line:{NUMBER}".encode()])
    second = asyncio.create_task(store.look_up(NUMBER))
    await asyncio.sleep(0)
    server.answer("GET", document(AFTER))
    server.answer("ZREVRANGEBYSCORE", [])
    server.answer("HGET", b"60")
    entries = [await second, await first, store.peek(NUMBER)]
    assert [e and e.line and e.line.label for e in entries] == ["after"] * 3


async def test_an_older_answer_replaces_no_newer_one_that_is_in_doubt_by_now() -> None:
    """A phone registers between the two answers: the newer document is still the newer one."""
    store, server = asked()
    first = store._read(NUMBER).future
    server.answer("GET", document(BEFORE))
    server.answer("ZREVRANGEBYSCORE", [])
    store.on_keys(server, [f"line:{NUMBER}".encode()])
    server.answer("GET", document(AFTER), 2.0)
    server.answer("ZREVRANGEBYSCORE", [], 2.0)
    store.on_keys(server, [f"reg:{NUMBER}".encode()])
    server.answer("HGET", b"60", 3.0)
    server.up = server.prompt = False
    entries = [first.result(), store.peek(NUMBER)]
    assert [e and e.line and e.line.label for e in entries] == ["after"] * 2


@pytest.mark.parametrize("earlier", [[f"reg:{NUMBER}".encode()], None])
async def test_a_change_is_not_confirmed_by_a_read_that_was_overtaken_before(
    earlier: list[bytes] | None,
) -> None:
    """Something else of the number changes first, or everything (None), while it is read."""
    store, server = asked()
    confirmed: list[str] = []
    store.on_probe = confirmed.append
    store._read(NUMBER)
    store.on_keys(server, earlier)
    probe = probe_key(NUMBER, "1")
    store.on_keys(server, [f"line:{NUMBER}".encode(), probe.encode()])
    server.answer("GET", document({"label": "before"}))
    server.answer("ZREVRANGEBYSCORE", [])
    await asyncio.sleep(0)
    assert confirmed == []
    for begun in (2.0, 3.0):
        server.answer("GET", document(AFTER), begun)
        server.answer("ZREVRANGEBYSCORE", [], begun)
    await asyncio.sleep(0)
    assert confirmed == [probe]
    server.prompt = False
    entry = store.peek(NUMBER)
    assert entry is not None
    assert entry.line is not None
    assert entry.line.label == "after"


async def test_a_change_is_not_confirmed_while_the_old_document_may_still_come() -> None:
    """Memory would have nothing else, and calls would follow it while Redis does not answer."""
    store, server = asked()
    confirmed: list[str] = []
    store.on_probe = confirmed.append
    first = asyncio.create_task(store.look_up(NUMBER))
    await asyncio.sleep(0)
    probe = probe_key(NUMBER, "1")
    store.on_keys(server, [f"line:{NUMBER}".encode(), probe.encode()])
    server.answer("GET", document({"label": "before"}))
    server.answer("ZREVRANGEBYSCORE", [])
    await first
    assert confirmed == []
    server.answer("GET", document(AFTER))
    server.answer("ZREVRANGEBYSCORE", [])
    await asyncio.sleep(0)
    assert confirmed == [probe]
    server.prompt = False
    entry = store.peek(NUMBER)
    assert entry is not None
    assert entry.line is not None
    assert entry.line.label == "after"


async def test_a_change_of_a_line_that_is_not_in_memory_is_confirmed_at_once() -> None:
    store, server = asked()
    confirmed: list[str] = []
    store.on_probe = confirmed.append
    probe = probe_key(NUMBER, "1")
    store.on_keys(server, [f"line:{NUMBER}".encode(), probe.encode()])
    assert confirmed == [probe]
    assert server.asked == []
