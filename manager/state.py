"""The present state of a line: its registered phones and its calls in progress."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis, RedisCluster

from rules.contact import Contact, read_contacts
from rules.model import Line
from store.keys import live_key, registrations_key
from store.script import Script

_COUNT = Script("""
local counts = {}
for n, key in ipairs(KEYS) do counts[n] = redis.call('ZCOUNT', key, ARGV[1], '+inf') end
return counts
""")


@dataclass(frozen=True, slots=True)
class State:
    """`calls` is None for a line without a limit, whose calls are not counted in Redis."""

    contacts: Sequence[Contact]
    calls: int | None


async def of_line(redis: Redis, line: Line) -> State:
    client: Any = redis
    now = time.time()
    key = registrations_key(line.number)
    members = await client.zrangebyscore(key, f"({now}", "+inf", withscores=True)
    contacts, _ = read_contacts(members)
    calls = None
    if line.max_calls is not None:
        calls = int(await client.zcount(live_key(line.number), f"({now}", "+inf"))
    return State(contacts, calls)


@dataclass(frozen=True, slots=True)
class Now:
    """The state of a line for a list. `calls` that count on it, 0 for one without a limit."""

    registered: bool
    calls: int


async def of_several(redis: Redis, lines: Sequence[Line]) -> dict[str, Now]:
    """By number, in one request."""
    limited = [line.number for line in lines if line.max_calls is not None]
    keys = [registrations_key(line.number) for line in lines]
    keys += [live_key(number) for number in limited]
    counts = await _counts(redis, keys)
    calls = dict(zip(limited, counts[len(lines) :], strict=True))
    return {
        line.number: Now(count > 0, calls.get(line.number, 0))
        for line, count in zip(lines, counts, strict=False)
    }


async def registered(redis: Redis, numbers: Sequence[str]) -> set[str]:
    """Those of the lines that have a live registration, in one request."""
    counts = await _counts(redis, [registrations_key(number) for number in numbers])
    return {number for number, count in zip(numbers, counts, strict=True) if count}


async def _counts(redis: Redis, keys: Sequence[str]) -> list[int]:
    """The numbers of unexpired members. One command, because parsing a hundred replies takes as
    long as the rest of a page."""
    if not keys:
        return []
    client: Any = redis
    now = f"({time.time()}"
    if not isinstance(client, RedisCluster):
        return [int(count) for count in await _COUNT.run(client, keys, now)]
    pipe = client.pipeline(transaction=False)  # in a cluster they are on several nodes
    for key in keys:
        pipe.zcount(key, now, "+inf")
    return [int(count) for count in await pipe.execute()]
