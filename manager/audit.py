"""The log of changes: one Redis stream per fleet, written in the transaction of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis

from engine.changes.audit import PREFIX, Json

_READ_AT_ONCE = 500
_MOST_READ = 5_000
_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `at` in unix seconds; `before` and `after` hold only what has changed."""

    id: str
    at: float
    who: str
    how: str  # page | api | phone | cli
    line: str
    what: str  # forwards | line | created | deleted
    before: Json
    after: Json


async def read(
    redis: Redis, fleet: str, line: str | None = None, limit: int = 20, before: str = "+"
) -> list[Change]:
    """The last changes of a fleet, or of one of its lines, newest first, from `before` (an id, not
    included) back. Looks at no more than 5,000 entries."""
    client: Any = redis
    found: list[Change] = []
    end, seen = before if before == "+" else f"({before}", 0
    while len(found) < limit and seen < _MOST_READ:
        entries = await client.xrevrange(PREFIX + fleet, max=end, count=_READ_AT_ONCE)
        for key, fields in entries:
            change = _change(key.decode(), fields)
            if change is not None and line in (None, change.line):
                found.append(change)
        seen += len(entries)
        if len(entries) < _READ_AT_ONCE:
            break
        end = f"({entries[-1][0].decode()}"
    return found[:limit]


async def one(redis: Redis, fleet: str, change: str) -> Change | None:
    """The change of that id; None when the log does not have it."""
    if not _ID.fullmatch(change):
        return None
    client: Any = redis
    found = await client.xrange(PREFIX + fleet, change, change)
    return _change(found[0][0].decode(), found[0][1]) if found else None


def _change(key: str, fields: dict[bytes, bytes]) -> Change | None:
    try:
        text = {name: fields[name.encode()].decode() for name in ("who", "how", "line", "what")}
        before, after = orjson.loads(fields[b"from"]), orjson.loads(fields[b"to"])
        at = int(key.partition("-")[0]) / 1000
    except (KeyError, ValueError):
        return None  # not written by us
    if not (_is_document(before) and _is_document(after)):
        return None
    return Change(id=key, at=at, before=before, after=after, **text)


def _is_document(value: object) -> bool:
    """Whether it can be part of a line document."""
    if not isinstance(value, dict):
        return False
    return value.get("forwards") is None or isinstance(value["forwards"], dict)
