"""Calendars: the hours in which a forward applies. Pure: the moment is an argument.

Hours are those that the clock on the wall shows in the calendar's time zone. An hour that occurs
twice, when summer time ends, is open both times or neither; one that does not occur is neither.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import holidays

DAY_MINUTES = 24 * 60
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class When:
    """When a forward applies: while the calendar of this name is open; `negated`: while it is
    closed."""

    calendar: str
    negated: bool = False

    def __str__(self) -> str:
        return f"not {self.calendar}" if self.negated else self.calendar


@dataclass(frozen=True, slots=True)
class Hours:
    """Opening hours of a weekday, in minutes since its midnight. `end` is exclusive; above 1,440
    they end on the following day."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Period:
    """A period of local time without a zone; `end` is exclusive."""

    begin: datetime
    end: datetime


class Periods:
    """Periods, joined and in order, so that each look-up takes logarithmic time."""

    __slots__ = ("_begins", "_ends")

    def __init__(self, periods: Iterable[Period] = ()) -> None:
        self._begins: list[datetime] = []
        self._ends: list[datetime] = []
        for period in sorted(periods, key=lambda each: each.begin):
            if self._ends and period.begin <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], period.end)
            else:
                self._begins.append(period.begin)
                self._ends.append(period.end)

    def __len__(self) -> int:
        return len(self._begins)

    def __repr__(self) -> str:
        return f"Periods({list(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Periods) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __iter__(self) -> Iterator[Period]:
        return map(Period, self._begins, self._ends)

    def have(self, begin: datetime, end: datetime | None = None) -> bool:
        """Whether a moment is in one of them; with `end`, all of the time from `begin` to it."""
        place = bisect_right(self._begins, begin) - 1
        if place < 0:
            return False
        return begin < self._ends[place] if end is None else end <= self._ends[place]


@dataclass(frozen=True, slots=True)
class Holidays:
    """The public holidays of a country, or of one of its subdivisions, as the `holidays` package
    has them."""

    country: str
    subdivision: str | None = None

    @classmethod
    def read(cls, text: str) -> Holidays:
        """From "FR" or "FR-57". Raises ValueError: the package has no such country or
        subdivision."""
        country, dash, subdivision = text.partition("-")
        known = _known_holidays().get(country)
        if known is None:
            raise ValueError("expected a country's two letters, such as FR, that has holidays")
        if dash and subdivision not in known:
            some = ", ".join(known) or "it has none"
            raise ValueError(f"is no subdivision of {country} with holidays: {some}")
        return cls(country, subdivision if dash else None)

    def on(self, ordinal: int) -> bool:
        """Whether a day, by its proleptic Gregorian ordinal, is a holiday."""
        year = date.fromordinal(ordinal).year
        return ordinal in _holidays_of(self.country, self.subdivision, year)

    def prepare(self, years: Iterable[int]) -> None:
        """Compute these years now (half a millisecond each), so that no call waits for it."""
        for year in years:
            _holidays_of(self.country, self.subdivision, year)


@dataclass(frozen=True, slots=True)
class Calendar:
    """A calendar. `opened` beats `closed`, which beats `holidays`, which beat `weekly`.

    Attributes:
        weekly: the hours of each weekday, Monday first.
        overnight: some hours end on the day after.
    """

    zone: ZoneInfo
    weekly: tuple[tuple[Hours, ...], ...]
    holidays: Holidays | None = None
    closed: Periods = Periods()
    opened: Periods = Periods()
    overnight: bool = False

    def is_open(self, unix: float) -> bool:
        """Whether it is open at a moment, in unix seconds."""
        local = datetime.fromtimestamp(unix, self.zone).replace(tzinfo=None)
        if self.opened and self.opened.have(local):
            return True
        if self.closed and self.closed.have(local):
            return False
        ordinal, minute = local.toordinal(), local.hour * 60 + local.minute
        if self._has(ordinal, minute):
            return True
        return self.overnight and ordinal > 1 and self._has(ordinal - 1, minute + DAY_MINUTES)

    def prepare(self, unix: float) -> None:
        """Compute what it needs near a moment, so that no call waits for it."""
        if self.holidays is not None:
            year = datetime.fromtimestamp(unix, self.zone).year
            self.holidays.prepare(range(year - 1, year + 3))

    def edges(self, begin: float, end: float) -> Iterator[float]:
        """The moments after `begin` and up to `end`, in unix seconds and in no order, at which it
        may open or close. At others it does not."""
        first, last = (datetime.fromtimestamp(unix, self.zone).toordinal() for unix in (begin, end))
        local: set[datetime] = set()
        for ordinal in range(max(1, first - 1), last + 2):
            midnight = datetime.fromordinal(ordinal)
            local.add(midnight)
            for hours in self.weekly[(ordinal - 1) % 7]:
                local.update(midnight + timedelta(minutes=m) for m in (hours.begin, hours.end))
            if _offset(midnight, self.zone) != _offset(midnight + _DAY, self.zone):
                # The clock is put forward or back on this day, at a quarter of an hour.
                local.update(midnight + timedelta(minutes=m) for m in range(0, DAY_MINUTES, 15))
        for periods in (self.closed, self.opened):
            local.update(moment for each in periods for moment in (each.begin, each.end))
        for moment in local:
            for fold in (0, 1):
                unix = moment.replace(tzinfo=self.zone, fold=fold).timestamp()
                if begin < unix <= end:
                    yield unix

    def _has(self, ordinal: int, minute: int) -> bool:
        """Whether the hours that begin on a day have a minute, counted from its midnight."""
        for hours in self.weekly[(ordinal - 1) % 7]:
            if hours.begin <= minute < hours.end:
                break
        else:
            return False
        if self.closed:
            midnight = datetime.fromordinal(ordinal)
            if self.closed.have(midnight, midnight + _DAY):
                return False
        return self.holidays is None or not self.holidays.on(ordinal)


def _offset(local: datetime, zone: ZoneInfo) -> timedelta | None:
    return local.replace(tzinfo=zone).utcoffset()


@lru_cache(1)
def _known_holidays() -> dict[str, list[str]]:
    """The subdivisions of each country that has holidays."""
    return holidays.list_supported_countries(include_aliases=False)


@lru_cache(4096)
def _holidays_of(country: str, subdivision: str | None, year: int) -> frozenset[int]:
    """The ordinals of a year's holidays."""
    found = holidays.country_holidays(country, subdiv=subdivision, years=year)
    return frozenset(day.toordinal() for day in found)
