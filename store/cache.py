"""The cache of what was read from Redis, and whether each entry is still current. Pure except for
clocks.

An entry is current while the stream of invalidations that it was read under has not been
interrupted, and its key has not been named in it. That period is a `Span`, shared by all entries
read in it. An entry is current if its span has not ended, so losing the stream makes every entry
stale at once without touching any. Stale entries stay as the last good copies.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from rules.contact import Contact
from rules.model import DocumentError, Line

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Entry:
    """The cached data of a number.

    Attributes:
        line: its line; None if it is not one of our lines, or never had a good document.
        contacts: its registrations, preferred first; some may have expired since.
        plan_used_s: seconds of the month's hours to mobiles that are used; 0 without such a plan.
        refused: why the present document in Redis is refused. `line` is then the last good one.
        targets: the other numbers that the line's forwards name.
        asks_for_caller: decisions need the caller's line too (`Line.asks_for_caller`).
        first_expiry: unix seconds when the first of the contacts expires.
    """

    line: Line | None = None
    contacts: tuple[Contact, ...] = ()
    plan_used_s: float = 0.0
    refused: DocumentError | None = None
    targets: tuple[str, ...] = ()
    first_expiry: float = math.inf
    asks_for_caller: bool = False

    @classmethod
    def of(
        cls, line: Line | None, contacts: tuple[Contact, ...], refused: DocumentError | None
    ) -> "Entry":
        """An entry with the derived fields filled in."""
        return cls(
            line,
            contacts,
            refused=refused,
            targets=line.target_numbers() if line is not None else (),
            first_expiry=min((contact.expires for contact in contacts), default=math.inf),
            asks_for_caller=line is not None and line.asks_for_caller,
        )

    def live_contacts(self, now: float) -> tuple[Contact, ...]:
        """The contacts that have not expired at `now` (unix seconds), preferred first."""
        if now < self.first_expiry:
            return self.contacts
        return tuple(contact for contact in self.contacts if now < contact.expires)

    def plan_left_s(self) -> float | None:
        """Seconds left of the month's hours to mobiles; None without such a plan."""
        plan_s = self.line.offer.plan_s if self.line is not None else None
        return None if plan_s is None else max(0.0, plan_s - self.plan_used_s)


class Span:
    """A period in which no invalidation can have been missed.

    A joint span covers what was read from several servers, and ends with the first of theirs.

    Attributes:
        lost_at: monotonic seconds until which its entries are known to be current; None while the
            span lasts.
    """

    __slots__ = ("_joint", "lost_at")

    def __init__(self, lost_at: float | None = None) -> None:
        self.lost_at = lost_at
        self._joint: dict[Span, Span] | None = None

    def end(self, lost_at: float) -> None:
        """End this span, and every joint span that it is part of."""
        if self.lost_at is not None:
            return
        self.lost_at = lost_at
        joint, self._joint = self._joint, None
        for span in (joint or {}).values():
            span.end(lost_at)

    def with_other(self, other: "Span") -> "Span":
        """The joint span that lasts while both do: the same object each time."""
        if other is self:
            return self
        for span in (self, other):
            if span.lost_at is not None:
                return span
        known = self._joint = self._joint or {}
        joint = known.get(other)
        if joint is None:
            for old in [old for old in known if old.lost_at is not None]:
                del known[old]
            joint = known[other] = Span()
            other._joint = other._joint or {}
            other._joint[self] = joint
        return joint


@dataclass(slots=True)
class Slot:
    """An entry with data for the cache.

    Attributes:
        digest: of the document the entry was read from, so that it is not parsed twice.
        until: unix seconds until which the used plan is valid (the month's end).
        lacks_phone: a phone has registered since, or may have, and the entry has none.
        begun: monotonic seconds when its read began.
    """

    entry: Entry
    span: Span
    digest: bytes = b""
    until: float | None = None
    lacks_phone: bool = False
    begun: float = 0.0

    def use_plan(self, used_s: float, until: float) -> None:
        """Add what is used of the month's plan."""
        self.entry = replace(self.entry, plan_used_s=used_s)
        self.until = until


class Cache:
    """Bounded, least recently used first out.

    Lines and unknown numbers are stored separately, so that a scan of numbers that do not exist
    evicts no line.
    """

    def __init__(
        self,
        cache_lines: int,
        stale_max_s: float,
        *,
        unix: Clock = time.time,
        now: Clock = time.monotonic,
    ) -> None:
        """Remember at most `cache_lines` lines, and a quarter as many unknown numbers."""
        self._unix = unix
        self._now = now
        self._stale_max_s = stale_max_s
        self._lines: OrderedDict[str, Slot] = OrderedDict()
        self._unknown: OrderedDict[str, Slot] = OrderedDict()
        self._most_lines = max(1, cache_lines)
        self._most_unknown = max(16, cache_lines // 4)

    def __len__(self) -> int:
        return len(self._lines) + len(self._unknown)

    def find(self, number: str) -> Slot | None:
        """The slot of a number, current or not; it becomes the most recently used."""
        slot = self._lines.get(number)
        if slot is not None:
            self._lines.move_to_end(number)
            return slot
        slot = self._unknown.get(number)
        if slot is not None:
            self._unknown.move_to_end(number)
        return slot

    def recall(self, number: str) -> tuple[Entry | None, bool]:
        """The last good entry of a number, None without one, and whether it is current."""
        slot = self.find(number)
        if slot is None:
            return None, False
        if slot.until is None and slot.span.lost_at is None:  # nearly always
            return slot.entry, True
        return self.last_good(slot), self.is_current(slot)

    def is_current(self, slot: Slot) -> bool:
        """Whether Redis certainly holds the same at this moment."""
        return slot.span.lost_at is None and (slot.until is None or self._unix() < slot.until)

    def last_good(self, slot: Slot) -> Entry | None:
        """The entry, current or stale, unless it is older than `stale_max_s`."""
        lost_at = slot.span.lost_at
        if lost_at is not None and self._now() - lost_at > self._stale_max_s:
            return None
        return self.latest(slot)

    def latest(self, slot: Slot) -> Entry:
        """The entry, current or stale, however old."""
        if slot.until is not None and self._unix() >= slot.until:
            # Last month's use no longer counts; this month's is not known yet.
            return replace(slot.entry, plan_used_s=0.0)
        return slot.entry

    def keep(self, number: str, slot: Slot) -> None:
        """Store a slot, and evict the least recently used one if there are too many."""
        if slot.entry.line is None:
            self._lines.pop(number, None)
            shelf, most = self._unknown, self._most_unknown
        else:
            self._unknown.pop(number, None)
            shelf, most = self._lines, self._most_lines
        shelf[number] = slot
        shelf.move_to_end(number)
        if len(shelf) > most:
            shelf.popitem(last=False)

    def invalidate(
        self, number: str, *, usage_only: bool = False, registered: bool = False
    ) -> None:
        """Handle a change of this number's keys.

        Args:
            usage_only: only the used plan has changed, which matters only to lines with a plan.
            registered: its registrations have changed.
        """
        slot = self._lines.get(number) or self._unknown.get(number)
        if slot is None or (usage_only and slot.until is None):
            return
        if registered and not slot.entry.live_contacts(self._unix()):
            slot.lacks_phone = True
        if slot.span.lost_at is None:
            slot.span = Span(lost_at=self._now())
