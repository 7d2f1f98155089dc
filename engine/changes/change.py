"""One line document changed in place: read, edited, checked, written if nobody else wrote it.

The comparison is made by Redis, in one script with the write and with its entry in the log of
changes (`audit.py`). In a Redis Cluster the log lives on another node; there the entry follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis, RedisCluster

from engine.changes import audit
from rules.fleet import countries_of
from rules.model import DocumentError, Line, load_line
from rules.numbers import Numbering
from rules.validate import canonical, check_write, numbers_named
from store.keys import fleet_key, line_key
from store.script import Script

ATTEMPTS = 20

# KEYS: the line, and the logs that are on the same node. ARGV: the document that was read, the one
# to write (each '' = none), how many entries a log keeps, then the fields of the entry.
# 0 = changed meanwhile.
_SWAP = Script("""
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
for n = 2, #KEYS do
  redis.call('XADD', KEYS[n], 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 4))
end
return 1
""")

Document = dict[str, Any]


class NoLine(Exception):
    """There is no such line."""


class Unreadable(Exception):
    """The document in Redis is refused; somebody else has written it."""


class Conflict(Exception):
    """The line is changed by others all the time; nothing was written."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The line as it is now. `written` is false when it was so already."""

    line: Line
    written: bool


async def change_line(
    redis: Redis,
    number: str,
    edit: Callable[[Document], None],
    numbering: Numbering,
    *,
    who: str,
    how: str,
) -> Changed:
    """Change the forwards of line `number` (E.164) as `edit` does with its document.

    What `edit` changes is checked as it is when a whole document is written; what it leaves alone
    is not, and turning a forward off is always possible.

    Raises:
        NoLine, Unreadable, Conflict.
        DocumentError: naming the field and its value.
        REDIS_ERRORS: Redis is away.
    """
    client: Any = redis
    for _ in range(ATTEMPTS):
        raw = await client.get(line_key(number))
        if raw is None:
            raise NoLine(number)
        try:
            before = load_line(raw, number, numbering)
        except DocumentError as error:
            raise Unreadable(str(error)) from None
        stored: Document = orjson.loads(raw)
        document: Document = orjson.loads(raw)
        edit(document)
        line = await _check(client, stored, document, number, numbering)
        document = canonical(document, line)
        if document == stored:
            return Changed(before, written=False)
        new = orjson.dumps(document)
        if await swap(redis, number, raw, new, audit.entries(who, how, number, raw, document)):
            return Changed(line, written=True)
    raise Conflict(number)


async def swap(
    redis: Redis, number: str, old: bytes | None, new: bytes | None, entries: audit.Entries
) -> bool:
    """Write line `number` if it still is `old`, with its entries in the logs of changes (all the
    same, one for each fleet). None = there is none. False: somebody else was quicker.

    Raises REDIS_ERRORS.
    """
    return await swap_key(redis, line_key(number), old, new, entries)


async def swap_key(
    redis: Redis, key: str, old: bytes | None, new: bytes | None, entries: audit.Entries
) -> bool:
    """The same for the document at any key. Raises REDIS_ERRORS."""
    client: Any = redis
    logs = [log for log, _ in entries]
    apart = isinstance(client, RedisCluster)
    keys = [key, *([] if apart else logs)]
    told = entries[0][1] if entries else {}
    fields = [part for field in told.items() for part in field]
    done = await _SWAP.run(client, keys, old or b"", new or b"", audit.KEPT, *fields)
    if done and apart:
        for log in logs:
            await client.xadd(log, told, maxlen=audit.KEPT, approximate=True)
    return bool(done)


async def _check(
    client: Any, stored: Document, document: Document, number: str, numbering: Numbering
) -> Line:
    """The document as a whole by itself, and what has changed in it with the other lines."""
    line = load_line(orjson.dumps(document), number, numbering)
    before = stored.get("forwards") or {}
    changed = {
        name: forward
        for name, forward in (document.get("forwards") or {}).items()
        if forward and forward.get("on") and forward != before.get(name)
    }
    part = {**document, "forwards": changed}
    others: dict[str, Line | None] = {}
    for other in numbers_named(part, numbering):
        raw = await client.get(line_key(other))
        try:
            others[other] = load_line(raw, other, numbering) if raw else None
        except DocumentError:
            others[other] = None  # whatever it is, it is no line that can be forwarded to
    fleet = countries_of(await client.get(fleet_key(line.fleet)), line.fleet)
    check_write(part, others, numbering, number, fleet)
    return line
