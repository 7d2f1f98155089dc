"""Answers of Redis that come in another order than they were asked for."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

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

    def answer(self, word: str, reply: Any) -> None:
        """The oldest command with this word."""
        place = next(n for n, (asked, _) in enumerate(self.asked) if asked == word)
        self.asked.pop(place)[1](reply, self.span, 1.0)


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
