"""Changes one line document: read, edit, check, and write unless it was changed meanwhile.

`store.documents` compares, writes and logs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis

from rules.fleet import fleet_of
from rules.line_document import load_line
from rules.model import DocumentError, Line
from rules.numbers import Numbering
from rules.validate import canonical, changed_part, check_write, numbers_named
from store.documents import LINES, attempts, read
from store.keys import fleet_key, line_key

Document = dict[str, Any]


class NoLine(Exception):
    """The line does not exist."""


class Unreadable(Exception):
    """The document in Redis, written by another program, is invalid."""


class Conflict(Exception):
    """Other writers keep changing the line; nothing was written."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The line as it is now. `written` is false if nothing had to be changed."""

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
    """Apply `edit` to the forwards of line `number` (E.164).

    Its changes are checked as for a whole document; the rest is not, and turning a forward off is
    always possible.

    Raises:
        NoLine, Unreadable, Conflict.
        DocumentError: naming the field and its value.
        REDIS_ERRORS: Redis is away.
    """
    for attempt in attempts(redis, LINES):
        raw = (await attempt.read([number])).get(number)
        if raw is None:
            raise NoLine(number)
        try:
            before = load_line(raw, number, numbering)
            stored: Document = orjson.loads(raw)
            document: Document = orjson.loads(raw)
            orjson.dumps(stored)
        # An unknown field may have what is no JSON, or is nested more deeply than JSON is written:
        # calls do without it, a copy would not.
        except (DocumentError, orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
            raise Unreadable(str(error)) from None
        edit(document)
        line = await _check(redis, stored, document, number, numbering)
        document = canonical(document, line)
        if document == stored:
            return Changed(before, written=False)
        if await attempt.write({number: document}, who, how):
            return Changed(line, written=True)
    raise Conflict(number)


async def _check(
    redis: Redis, stored: Document, document: Document, number: str, numbering: Numbering
) -> Line:
    """Check the whole document by itself, and its changes together with the other lines."""
    line = load_line(orjson.dumps(document), number, numbering)
    part = changed_part(document, stored)
    others: dict[str, Line | None] = {}
    named = numbers_named(part, numbering)
    fleet, *raws = await read(redis, [fleet_key(line.fleet), *map(line_key, named)])
    for other, raw in zip(named, raws, strict=True):
        try:
            others[other] = load_line(raw, other, numbering) if raw else None
        except DocumentError:
            others[other] = None  # whatever it is, it is not a line that can be a target
    check_write(part, others, numbering, number, fleet_of(fleet, line.fleet, numbering))
    return line
