"""The days to come of a line that changes by itself: what happens to calls, hour by hour, as a
picture and as text, by the engine's own decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from msgspec.structs import replace

from manager.line_now import circumstances
from manager.web import Visit
from rules.ahead import changes_by_itself, moments
from rules.decide import Decision, ForwardTo, Reject, Ring, Situation, decide
from rules.fleet import Fleet
from rules.model import Condition, Line

DAYS = 7
COLOURS = 6
_DAY_MINUTES = 1440


@dataclass(frozen=True, slots=True)
class Span:
    """From one moment to another, in unix seconds, the same happens to calls: `what`, which is
    the text of that place in the legend."""

    begin: float
    end: float
    what: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a day: from and to, in minutes since midnight, and the place in the legend."""

    begin: int
    end: int
    what: int

    @property
    def width(self) -> int:
        return self.end - self.begin

    @property
    def hours(self) -> str:
        return f"{_clock(self.begin)}–{_clock(self.end)}"

    @property
    def colour(self) -> int:
        return self.what % COLOURS


@dataclass(frozen=True, slots=True)
class Day:
    """A day: its name, and its parts in order."""

    name: str
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Week:
    """The days to come. `next_at`: when the next change is, in unix seconds; None = none of these
    days."""

    days: Sequence[Day]
    legend: Sequence[str]
    next_at: float | None


def week_of(
    visit: Visit, line: Line, fleet: Fleet, targets: Mapping[str, Line | None], now: float
) -> Week | None:
    """The days from today on, for a caller from outside; None for a line that does not change by
    itself.

    Args:
        line: with its profiles.
        targets: the lines of `line.target_numbers()`.
    """
    if not changes_by_itself(line):
        return None
    today = datetime.fromtimestamp(now, visit.site.zone).replace(
        hour=0, minute=0, second=0, microsecond=0, fold=0
    )
    midnights = [today + timedelta(days=day) for day in range(DAYS + 1)]
    legend: list[str] = []
    spans = _spans(
        visit, line, fleet, targets, midnights[0].timestamp(), midnights[-1].timestamp(), legend
    )
    days = []
    for begin, end in pairwise(midnights):
        days.append(Day(_name(visit, begin), _parts(spans, begin, end)))
    present = next((span for span in spans if span.begin <= now < span.end), None)
    later = present.end if present is not None and present is not spans[-1] else None
    return Week(days, legend, later)


def _spans(
    visit: Visit,
    line: Line,
    fleet: Fleet,
    targets: Mapping[str, Line | None],
    begin: float,
    end: float,
    legend: list[str],
) -> list[Span]:
    spans: list[Span] = []
    borders = [begin, *moments(line, fleet.calendars, begin, end)]
    for place, at in enumerate(borders):
        until = borders[place + 1] if place + 1 < len(borders) else end
        text = _in_words(visit, line, fleet, targets, at)
        if text not in legend:
            legend.append(text)
        what = legend.index(text)
        if spans and spans[-1].what == what:
            spans[-1] = Span(spans[-1].begin, until, what)
        elif until > at:
            spans.append(Span(at, until, what))
    return spans


def _in_words(
    visit: Visit, line: Line, fleet: Fleet, targets: Mapping[str, Line | None], at: float
) -> str:
    """What happens to a call at a moment, if a phone is connected and the line is free."""
    situation = Situation(
        visited=(line.number,),
        fleet_suspended=fleet.suspended,
        fleet_countries=fleet.forward_countries,
        circumstances=circumstances(fleet, at),
    )
    decision = decide(line, situation, targets)
    if not isinstance(decision, Ring):
        return _where(visit, line, decision)
    text = visit.say("week_rings")
    if decision.also:
        beside = ", ".join(
            visit.places.where(line.fleet, line.number, to.kind, to.number) for to in decision.also
        )
        text = visit.say("week_rings_also", beside=beside)
    if decision.after_s is None:
        return text
    then = decide(line, replace(situation, trigger=Condition.NO_ANSWER), targets)
    where = _where(visit, line, then)
    return visit.say("week_then", first=text, seconds=decision.after_s, where=where)


def _where(visit: Visit, line: Line, decision: Decision) -> str:
    if isinstance(decision, ForwardTo):
        return visit.places.where(line.fleet, line.number, decision.kind, decision.number)
    assert isinstance(decision, Reject)
    if decision.why == "do_not_disturb":
        return visit.say("do_not_disturb")
    return visit.teller.end(decision)


def _parts(spans: Sequence[Span], begin: datetime, end: datetime) -> list[Part]:
    """The parts of the day between two midnights, by the clock on the wall."""
    first, last = begin.timestamp(), end.timestamp()
    parts = []
    for span in spans:
        if span.end <= first or span.begin >= last:
            continue
        start = 0 if span.begin <= first else _minute(span.begin, begin)
        stop = _DAY_MINUTES if span.end >= last else _minute(span.end, begin)
        if start < stop:
            parts.append(Part(start, stop, span.what))
    return parts


def _minute(unix: float, day: datetime) -> int:
    local = datetime.fromtimestamp(unix, day.tzinfo)
    return local.hour * 60 + local.minute


def _name(visit: Visit, day: datetime) -> str:
    names = visit.say("weekdays").split(",")
    return f"{names[day.weekday()]} {day.day}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
