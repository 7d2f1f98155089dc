"""What the documents of lines and of fleets both may have: `calendars` and `lists`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from rules.calendar import DAY_MINUTES, Calendar, Holidays, Hours, Period, Periods, When
from rules.callers import CallerList
from rules.model import DocumentError
from rules.numbers import NumberError, Numbering

_LONGEST_NAME = 64
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T(?:([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?|24:00)"
)
_PREFIX = re.compile(r"\+[1-9][0-9]{0,14}")
_NOT = "not "
LATEST = 253_339_228_800
"""Unix seconds of the begin of the year 9998: beyond it some time zones have no dates."""


class Weekly(msgspec.Struct):
    """The hours of each weekday, such as "09:00-12:30"; none = closed."""

    mon: list[str] | None = None
    tue: list[str] | None = None
    wed: list[str] | None = None
    thu: list[str] | None = None
    fri: list[str] | None = None
    sat: list[str] | None = None
    sun: list[str] | None = None


class CalendarDocument(msgspec.Struct):
    """The fields of a calendar that are read."""

    zone: str | None = None
    weekly: Weekly | None = None
    holidays: str | None = None
    closed: list[str] | None = None
    open: list[str] | None = None


def calendars_of(
    given: Mapping[str, CalendarDocument] | None, numbering: Numbering
) -> dict[str, Calendar]:
    """The calendars of a document. Raises DocumentError."""
    found = {}
    for name, calendar in (given or {}).items():
        path = f"calendars.{name}"
        check_name(path, name)
        if name.startswith(_NOT):
            raise DocumentError(path, name, 'expected a name that does not begin with "not "')
        found[name] = _calendar(path, calendar, numbering.timezone)
    return found


def lists_of(given: Mapping[str, list[str]] | None, numbering: Numbering) -> dict[str, CallerList]:
    """The lists of callers of a document, with their numbers in E.164. Raises DocumentError."""
    found = {}
    for name, members in (given or {}).items():
        path = f"lists.{name}"
        check_name(path, name)
        if not members:
            raise DocumentError(path, members, "expected at least one number or prefix")
        numbers, prefixes = [], []
        for place, member in enumerate(members):
            if member.endswith("*"):
                prefixes.append(_prefix(f"{path}[{place}]", member))
                continue
            try:
                numbers.append(numbering.normalise(member))
            except NumberError as error:
                raise DocumentError(f"{path}[{place}]", member, error.problem) from None
        found[name] = CallerList(numbers, prefixes)
    return found


def read_when(path: str, text: str) -> When:
    """From `NAME` or `not NAME`. Raises DocumentError."""
    negated = text.startswith(_NOT)
    name = text.removeprefix(_NOT)
    if not _is_name(name) or name.startswith(_NOT):
        raise DocumentError(path, text, "expected the name of a calendar, or not NAME")
    return When(name, negated)


def read_until(path: str, text: str) -> float:
    """Unix seconds of a moment in ISO 8601 with its offset from UTC. Raises DocumentError."""
    problem = "expected a moment with its offset, such as 2026-12-07T08:00:00+01:00"
    try:
        moment = datetime.fromisoformat(text)
        unix = moment.timestamp()
        if moment.tzinfo is None or "T" not in text.upper() or not 0 <= unix < LATEST:
            raise DocumentError(path, text, problem)
        return unix
    except (ValueError, OverflowError):
        raise DocumentError(path, text, problem) from None


def has_ended(part: Any, now: float) -> bool:
    """Whether the `until` of a forward, or of a use of a profile, has passed by `now` (unix
    seconds). Raises DocumentError."""
    until = part.get("until") if isinstance(part, Mapping) else None
    return isinstance(until, str) and read_until("until", until) <= now


def _prefix(path: str, text: str) -> str:
    prefix = re.sub(r"[\s().-]", "", text[:-1])
    if prefix.startswith("00"):
        prefix = f"+{prefix[2:]}"
    if not _PREFIX.fullmatch(prefix):
        problem = "expected a prefix in international form, such as +331411*"
        raise DocumentError(path, text, problem)
    return prefix


def check_name(path: str, name: str) -> None:
    """Check the name of a calendar, a list or a profile. Raises DocumentError."""
    if not _is_name(name):
        problem = f"expected a name of 1 to {_LONGEST_NAME} printable characters"
        raise DocumentError(path, name, problem)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable() and name == name.strip()


def _calendar(path: str, given: CalendarDocument, timezone: str) -> Calendar:
    weekly = given.weekly or Weekly()
    days = []
    for day in Weekly.__struct_fields__:
        hours = getattr(weekly, day) or ()
        days.append(
            tuple(_hours(f"{path}.weekly.{day}[{i}]", text) for i, text in enumerate(hours))
        )
    holidays = None
    if given.holidays is not None:
        try:
            holidays = Holidays.read(given.holidays)
        except ValueError as error:
            raise DocumentError(f"{path}.holidays", given.holidays, str(error)) from None
    return Calendar(
        _zone(f"{path}.zone", timezone if given.zone is None else given.zone),
        tuple(days),
        holidays,
        _periods(f"{path}.closed", given.closed),
        _periods(f"{path}.open", given.open),
        any(hours.end > DAY_MINUTES for day in days for hours in day),
    )


@lru_cache(1024)
def _known_zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _zone(path: str, name: str) -> ZoneInfo:
    try:
        return _known_zone(name)
    except (KeyError, ValueError, OSError):
        problem = "expected a time zone such as Europe/Paris"
        raise DocumentError(path, name, problem) from None


def _hours(path: str, text: str) -> Hours:
    found = _HOURS.fullmatch(text)
    if found is None:
        raise DocumentError(path, text, "expected hours such as 09:00-12:30, 24:00 as an end only")
    begin = 60 * int(found[1]) + int(found[2])
    end = DAY_MINUTES if found[3] is None else 60 * int(found[3]) + int(found[4])
    if begin == end:
        raise DocumentError(path, text, "begins when it ends; a whole day is 00:00-24:00")
    return Hours(begin, end if begin < end else end + DAY_MINUTES)


def _periods(path: str, given: list[str] | None) -> Periods:
    return Periods(_period(f"{path}[{place}]", text) for place, text in enumerate(given or ()))


def _period(path: str, text: str) -> Period:
    """From a day, two days, or two moments, with "/" between."""
    first, slash, last = text.partition("/")
    last = last if slash else first
    try:
        if _DAY.fullmatch(first) and _DAY.fullmatch(last):
            begin = datetime.combine(date.fromisoformat(first), time())
            end = datetime.combine(date.fromisoformat(last), time()) + timedelta(days=1)
        elif slash and "T" in first and "T" in last:
            begin, end = _moment(first), _moment(last)
        else:
            raise ValueError(text)
    except (ValueError, OverflowError):
        problem = (
            "expected a day (2026-12-24), two days (2026-12-28/2027-01-02), or two local times "
            "(2026-12-26T10:00/2026-12-26T12:00)"
        )
        raise DocumentError(path, text, problem) from None
    if begin >= end:
        raise DocumentError(path, text, "ends before it begins")
    return Period(begin, end)


def _moment(text: str) -> datetime:
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError(text)
    day = datetime.combine(date.fromisoformat(found[1]), time())
    if found[2] is None:
        return day + timedelta(days=1)
    seconds = int(found[4] or 0)
    return day + timedelta(hours=int(found[2]), minutes=int(found[3]), seconds=seconds)
