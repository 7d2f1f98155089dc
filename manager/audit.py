"""Reads the log of changes for page and API: one Redis stream per fleet. Each change writes its own
entry, in its transaction (`store/audit.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from manager.records import is_place
from store.audit import Change, read_entry
from store.keys import audit_key

__all__ = ["Change", "one", "read", "search"]

_READ_AT_ONCE = 500
_MOST_READ = 5_000


def _is_change(change: Change) -> bool:
    return change.what != "seen"


async def read(
    redis: Redis,
    fleet: str,
    line: str | None = None,
    limit: int = 20,
    wanted: Callable[[Change], bool] = _is_change,
) -> list[Change]:
    """The last changes of a fleet, or of one of its lines, newest first. Reads at most 5,000
    entries."""
    return (await search(redis, fleet, line, limit, wanted=wanted))[0]


async def search(
    redis: Redis,
    fleet: str,
    line: str | None,
    limit: int,
    before: str = "+",
    wanted: Callable[[Change], bool] = _is_change,
) -> tuple[list[Change], str | None]:
    """The same from `before` (an id, not included) back, and where to continue (None = no older
    ones). A line's may be far apart in the log of its fleet: the result may be empty although there
    are older ones."""
    client: Any = redis
    found: list[Change] = []
    end, seen = before if before == "+" else f"({before}", 0
    while seen < _MOST_READ:
        entries = await client.xrevrange(audit_key(fleet), max=end, count=_READ_AT_ONCE)
        for key, fields in entries:
            change = read_entry(key, fields)
            if change is not None and line in (None, change.line) and wanted(change):
                found.append(change)
                if len(found) == limit:
                    return found, change.id
        seen += len(entries)
        if len(entries) < _READ_AT_ONCE:
            return found, None
        end = f"({entries[-1][0].decode()}"
    return found, end.removeprefix("(")


async def one(redis: Redis, fleet: str, change: str) -> Change | None:
    """The change with that id; None if the log does not have it."""
    if not is_place(change):
        return None
    client: Any = redis
    found = await client.xrange(audit_key(fleet), change, change)
    return read_entry(*found[0]) if found else None
