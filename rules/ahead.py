"""When what a line does changes by itself, without a write: for pages that show the hours to come.
Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rules.calendar import Calendar
from rules.model import Line

Calendars = Mapping[str, Calendar]


def changes_by_itself(line: Line) -> bool:
    """Whether a forward that is on, or the choice of a profile, has hours or an end."""
    return any(True for _ in _ends(line)) or any(True for _ in _names(line))


def moments(line: Line, calendars: Calendars, begin: float, end: float) -> list[float]:
    """The moments after `begin` and up to `end`, in unix seconds and in order, at which a decision
    may change: ends of forwards and of profiles, and the hours of their calendars.

    Args:
        calendars: the fleet's.
    """
    found = {until for until in _ends(line) if begin < until <= end}
    for name in set(_names(line)):
        calendar = line.calendars.get(name) or calendars.get(name)
        if calendar is not None:
            found.update(calendar.edges(begin, end))
    return sorted(found)


def _lines(line: Line) -> Iterator[Line]:
    yield line
    for use in line.profile:
        yield line.profiles[use.name]


def _ends(line: Line) -> Iterator[float]:
    for use in line.profile:
        if use.until is not None:
            yield use.until
    for each in _lines(line):
        for _, forward in each.all_forwards():
            if forward.on and forward.until is not None:
                yield forward.until


def _names(line: Line) -> Iterator[str]:
    """The calendars that decide."""
    for use in line.profile:
        if use.when is not None:
            yield use.when.calendar
    for each in _lines(line):
        for _, forward in each.all_forwards():
            if forward.on and forward.when is not None:
                yield forward.when.calendar
