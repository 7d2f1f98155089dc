"""The calls of a dead host are claimed by one process: what happens if Redis fails meanwhile."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from engine.call_entry import VERSION, active, encode
from engine.call_facts import CallFacts
from engine.standby_claims import DEAD_S, OwnName, StandbyClaims
from store.standby import Claimed, Head, Process

PLACE = "192.0.2.10:5060;transport=udp"
CLAIM = "0-dead/0-this"


class Store:
    """What Redis has. `failures`: how often it does not answer."""

    def __init__(self, failures: int = 0, calls: tuple[str, ...] = ()) -> None:
        self.failures = failures
        self._calls = calls

    async def claim(self, *_: Any, **__: Any) -> Claimed:
        head = Head(VERSION, time.time(), time.monotonic())
        entries = {
            id_: encode(active(CallFacts(id_, "a", "+33612345678", "+33972101001")))
            for id_ in self._calls
        }
        return Claimed(PLACE, "0-dead", CLAIM, DEAD_S, head, entries)

    async def processes(self, _place: str) -> list[Process]:
        return [Process("0-dead/0-before", DEAD_S)]

    async def give_back(self, *_: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise RedisConnectionError("away")


def claims_in(store: Store) -> Any:
    endpoint: Any = SimpleNamespace(receive=lambda *_: None, places=lambda: [PLACE])
    parts: Any = SimpleNamespace(dead=[])
    calls: Any = {}
    redis_store: Any = store
    return StandbyClaims(
        parts, redis_store, parts, calls, endpoint, OwnName("0-this"),
        continue_calls=lambda _: parts, on_error=lambda _: None,
    )  # fmt: skip


async def test_a_claim_that_redis_interrupts_is_not_given_up() -> None:
    """The calls are forgotten in Redis once they are written anew: not if nobody has them."""
    claims = claims_in(Store(failures=1))
    claims._name.earlier = ["0-this"]  # under which another host had taken calls of this one
    with pytest.raises(RedisConnectionError):
        await claims._claim(PLACE, "0-dead", DEAD_S, tell=True)
    assert claims._unwritten == []
    assert await claims._claim(PLACE, "0-dead", DEAD_S, tell=True) is not None
    assert claims._unwritten == [(PLACE, CLAIM)]


async def test_a_call_of_a_claim_that_is_in_the_journal_as_well_is_continued_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process before this one had claimed it, and ended before it was forgotten in Redis."""

    async def written_of(*_: Any) -> set[str]:
        return set()

    monkeypatch.setattr("engine.standby_claims.written_of", written_of)
    monkeypatch.setattr("engine.standby_claims.is_here", lambda _place: True)
    journal: Any = SimpleNamespace(pending={"0-dead-1"}, active=[])
    claims = claims_in(Store(calls=("0-dead-1", "0-dead-2")))
    (claimed,) = await claims.begin([journal])
    assert [call.id for call in claimed.active] == ["0-dead-2"]
