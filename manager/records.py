"""Calls and usage of a line, from the engine's records (docs/cdr.md)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from redis.asyncio import Redis

from engine.records.record import CallRecord, ForwardRecord, read_entry
from rules.billing import month_of
from rules.fleet import Fleet, load_fleet
from rules.model import CAPPED, Billing, Condition, DocumentError, Kind, Line
from rules.numbers import Numbering
from store.fleets import capped_s
from store.keys import RECORDS, fleet_key, fleet_usage_key, usage_key

_READ_AT_ONCE = 500
_SKEW_S = 60  # how far the clocks of an engine and of Redis may differ
_LONGEST_CALL_S = 7 * 86_400
_PLACE = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_MOST_READ = 5_000  # entries that one request reads: the stream holds the calls of all fleets


@dataclass(frozen=True, slots=True)
class Met:
    """A call of a line: its record, and this line's forward, if any."""

    record: CallRecord
    forward: ForwardRecord | None


@dataclass(frozen=True, slots=True)
class Span:
    """The requested calls: received from `start` to before `end` (unix seconds, None = any)."""

    start: float | None = None
    end: float | None = None
    wanted: Callable[[Met], bool] = lambda _met: True

    def has(self, call: Met) -> bool:
        at = call.record.received
        early = self.start is not None and at < self.start
        late = self.end is not None and at >= self.end
        return not early and not late and self.wanted(call)

    @property
    def first(self) -> str:
        """Where it begins in the stream: a record is written when its call has ended."""
        return "-" if self.start is None else str(max(0, int((self.start - _SKEW_S) * 1000)))

    @property
    def last(self) -> str:
        """Where it ends."""
        return "+" if self.end is None else str(max(0, int((self.end + _LONGEST_CALL_S) * 1000)))


async def of_line(
    redis: Redis, line: Line, limit: int, before: str = "+"
) -> tuple[Sequence[Met], str | None]:
    """The last calls of the line, newest first, and where to continue (None = no older ones).

    `before`: a stream id, not included.
    """
    return await search(redis, line, limit, before, Span())


async def search(
    redis: Redis, line: Line, limit: int, before: str, span: Span
) -> tuple[list[Met], str | None]:
    """The same for those of a span. One request reads at most 5,000 entries: the result may be
    empty although there are older ones."""
    client: Any = redis
    found: list[Met] = []
    end, seen = span.last if before == "+" else f"({before}", 0
    while seen < _MOST_READ:
        entries = await client.xrevrange(RECORDS, max=end, min=span.first, count=_READ_AT_ONCE)
        for key, entry in entries:
            call = met(entry, line)
            if call is not None and span.has(call):
                found.append(call)
                if len(found) == limit:
                    return found, key.decode()
        seen += len(entries)
        if len(entries) < _READ_AT_ONCE:
            return found, None
        end = f"({entries[-1][0].decode()}"
    return found, end.removeprefix("(")


def is_place(text: str) -> bool:
    """Whether it is a valid stream id: two numbers of 64 bits, except 0-0. Redis reports any other
    as an error."""
    found = _PLACE.fullmatch(text)
    return found is not None and 0 < max(map(int, found.groups())) < 2**64


def met(entry: dict[bytes, bytes], line: Line) -> Met | None:
    """The data of a stream entry for a line; None if it does not concern the line."""
    number = line.number.encode()
    # Most entries are of other lines: check before decoding.
    if entry.get(b"called") != number and b'"%b"' % number not in entry.get(b"forwards", b""):
        return None
    try:
        record = read_entry(entry)
    except ValueError:
        return None
    # A line that moved from another fleet does not show what was forwarded there. A payment for a
    # transfer ("none") is not a forward.
    made = [f for f in record.forwards if f.line == line.number and f.condition != "none"]
    forward = next((f for f in made if f.fleet in ("", line.fleet)), None)
    if forward is None and made:
        return None
    if forward is not None and not _known(forward):
        return None  # not written by the engine
    return Met(record, forward) if forward or record.called == line.number else None


def _known(forward: ForwardRecord) -> bool:
    """Whether its values are those of the contract, because any program may write to the stream."""
    return (
        forward.condition in set(Condition)
        and forward.kind in {"line", *Kind}
        and forward.billing in set(Billing)
    )


@dataclass(frozen=True, slots=True)
class Month:
    """Forwarded seconds of a line in a month, by class. `plan_left_s` None = no plan of hours."""

    month: str
    seconds: dict[str, int]
    plan_left_s: float | None


async def usage(redis: Redis, line: Line, zone: ZoneInfo, month: str | None = None) -> Month:
    """`month` such as "2026-11"; None = this one."""
    client: Any = redis
    name = month or month_of(time.time(), zone)[0]
    raw = await client.hgetall(usage_key(line.number, name))
    seconds = dict.fromkeys((str(b) for b in Billing), 0)
    for key, value in raw.items():
        level = key.decode("utf-8", "replace")
        if level in seconds:
            try:
                seconds[level] = int(float(value))
            except (ValueError, OverflowError):
                continue  # not written by the engine
    left = None
    if line.offer.mobile == "hours":
        left = max(0.0, line.offer.mobile_hours * 3600 - seconds[Billing.DEDUCTED])
    return Month(name, seconds, left)


@dataclass(frozen=True, slots=True)
class Purse:
    """The monthly cap of a fleet's lines out of plan and abroad. `left_s` is negative if it is
    exceeded; None = no cap. `countries`: of allowed targets; None = no list. `fleet`: its document,
    None without one."""

    suspended: bool = False
    cap_s: int | None = None
    left_s: float | None = None
    countries: frozenset[str] | None = None
    fleet: Fleet | None = None

    @property
    def empty(self) -> bool:
        return self.left_s is not None and self.left_s <= 0


async def purse(
    redis: Redis, fleet: str, zone: ZoneInfo, numbering: Numbering | None = None
) -> Purse:
    """The fleet's cap and what is left of it; no cap if its document is invalid. Without
    `numbering` it has no calendars and no lists."""
    client: Any = redis
    raw = await client.get(fleet_key(fleet))
    try:
        document = load_fleet(raw, fleet, numbering) if raw else None
    except DocumentError:
        document = None
    if document is None:
        return Purse()
    if document.cap_seconds is None:
        return Purse(document.suspended, countries=document.forward_countries, fleet=document)
    month = month_of(time.time(), zone)[0]
    used = await client.hmget(fleet_usage_key(fleet, month), CAPPED)
    left = document.cap_seconds - capped_s(used)
    countries = document.forward_countries
    return Purse(document.suspended, document.cap_seconds, left, countries, document)
