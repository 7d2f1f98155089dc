"""A line at this moment: its registered phones and its calls in progress."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from rules.contact import Contact, read_contacts
from rules.model import Line


@dataclass(frozen=True, slots=True)
class State:
    """`calls` is None for a line without a limit, whose calls nobody counts in Redis."""

    contacts: Sequence[Contact]
    calls: int | None


async def of_line(redis: Redis, line: Line) -> State:
    client: Any = redis
    now = time.time()
    members = await client.zrangebyscore(f"reg:{line.number}", f"({now}", "+inf", withscores=True)
    contacts, _ = read_contacts(members)
    calls = None
    if line.max_calls is not None:
        calls = int(await client.zcount(f"live:{line.number}", f"({now}", "+inf"))
    return State(contacts, calls)


@dataclass(frozen=True, slots=True)
class Now:
    """What a list needs to know of a line. `calls` that count on it, 0 for one without a limit."""

    registered: bool
    calls: int


async def of_several(redis: Redis, lines: Sequence[Line]) -> dict[str, Now]:
    """By number, asked in one go."""
    pipe: Any = redis.pipeline(transaction=False)
    now = time.time()
    for line in lines:
        pipe.zcount(f"reg:{line.number}", f"({now}", "+inf")
        pipe.zcount(f"live:{line.number}", f"({now}", "+inf")
    counts = await pipe.execute() if lines else []
    pairs = zip(lines, counts[::2], counts[1::2], strict=True)
    return {
        line.number: Now(bool(contacts), 0 if line.max_calls is None else int(calls))
        for line, contacts, calls in pairs
    }


async def registered(redis: Redis, numbers: Sequence[str]) -> set[str]:
    """Those of the lines that have a live registration, asked in one go."""
    pipe: Any = redis.pipeline(transaction=False)
    now = time.time()
    for number in numbers:
        pipe.zcount(f"reg:{number}", f"({now}", "+inf")
    counts = await pipe.execute() if numbers else []
    return {number for number, count in zip(numbers, counts, strict=True) if count}
