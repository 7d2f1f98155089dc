"""The list of lines: to choose one, or several; and lines for a field of a form, while typing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson
from starlette.responses import Response

from manager import records, state
from manager.forms import ORDER
from manager.line_page import summary
from manager.lines import Stored
from manager.records import Purse
from manager.state import Now
from manager.web import Visit, see
from rules.applies import line_now
from rules.decide import Circumstances, Decision, ForwardTo, Ring, Situation, decide
from rules.model import Condition, Kind, Line

LINES_A_PAGE = 50
_SUGGESTED = 20


@dataclass(frozen=True, slots=True)
class Row:
    """A line in the list, and where a call to it goes now.

    Attributes:
        kind: "ring", "forward" or "stop" (nobody is reached).
        now: where it goes, as text.
        because: the condition of the forward that is carried out now.
        later: the other forwards that may be carried out, each with where it leads.
        resting: those that are on but inactive, because all calls are forwarded.
    """

    line: Line
    connected: bool
    kind: str
    now: str
    because: Condition | None
    later: Sequence[tuple[Condition, str]]
    resting: Sequence[Condition]


async def lines(visit: Visit) -> Response:
    """Choose the line. With `part=list` only the list, for the search while typing."""
    site, words, after = visit.site, visit.query("q"), visit.query("after")
    fleet = visit.query("fleet") or None
    page = site.directory.search(visit.who, fleet, words, after, LINES_A_PAGE, names_first=True)
    if only := only_line(visit):
        return see(f"/lines/{only}")
    stored = await site.lines.several(visit.who, [line.number for line in page.lines])
    template = "_lines.html" if visit.query("part") == "list" else "lines.html"
    return visit.page(
        template,
        rows=await _rows(visit, list(stored.values())),
        found=page,
        words=words,
        after=after,
        fleet=fleet or "",
        fleets=site.directory.fleets() if visit.who.operator else [],
    )


def only_line(visit: Visit) -> str | None:
    """The number of a customer's only line; None with several."""
    if visit.who.operator:
        return None
    found = visit.site.directory.search(visit.who, limit=2).lines
    return found[0].number if len(found) == 1 else None


async def _rows(visit: Visit, stored: Sequence[Stored]) -> list[Row]:
    """The rows of these lines, by the engine's own decision on the data in Redis."""
    site, found = visit.site, [one.line for one in stored]
    fleets = sorted({line.fleet for line in found})
    now, purses = await asyncio.gather(
        state.of_several(visit.redis, found),
        asyncio.gather(*(records.purse(visit.redis, f, site.zone, site.numbering) for f in fleets)),
    )
    by_fleet = dict(zip(fleets, purses, strict=True))
    own = [line_now(line, _circumstances(by_fleet[line.fleet])) for line in found]
    wanted = {number for line in own for number in _due(line, now[line.number])}
    targets = await visit.site.lines.any_of(fleets, sorted(wanted))
    return [
        _row(visit, line, now[line.number], targets[line.fleet], by_fleet[line.fleet])
        for line in own
    ]


def _due(line: Line, now: Now) -> Iterator[str]:
    """The targets that decide where a call goes now."""
    is_busy = line.max_calls is not None and now.calls >= line.max_calls
    is_busy = is_busy or line.do_not_disturb
    for condition, is_due in (
        (Condition.UNCONDITIONAL, True),
        (Condition.BUSY, is_busy),
        (Condition.UNREACHABLE, not now.registered),
    ):
        for forward in line.all_of(condition) if is_due else ():
            if forward.on:
                yield from (to.number for to in forward.destinations if to.number != line.number)
    yield from (to.number for to in line.also_ring)


def _row(
    visit: Visit, line: Line, now: Now, targets: Mapping[str, Line | None], purse: Purse
) -> Row:
    decision = decide(
        line,
        Situation(
            calls_in_progress=now.calls,
            registered=now.registered,
            visited=(line.number,),
            cap_left_s=purse.left_s,
            fleet_suspended=purse.suspended,
            fleet_countries=purse.countries,
            circumstances=_circumstances(purse) if line.asks_for_moment else None,
        ),
        targets,
    )
    because = decision.condition if isinstance(decision, ForwardTo) else None
    words = summary(visit, line)
    on = [c for c in ORDER if c is not because and words[c]]
    all_calls = because is Condition.UNCONDITIONAL
    later = [(each, words[each]) for each in on if not all_calls]
    kind, where = _effect(visit, line, decision)
    return Row(line, now.registered, kind, where, because, later, on if all_calls else ())


def _circumstances(purse: Purse) -> Circumstances:
    """For a caller from outside, now."""
    fleet = purse.fleet
    if fleet is None:
        return Circumstances(time.time())
    return Circumstances(time.time(), False, fleet.calendars, fleet.lists)


def _effect(visit: Visit, line: Line, decision: Decision) -> tuple[str, str]:
    if isinstance(decision, Ring):
        return "ring", visit.say("list_rings")
    if isinstance(decision, ForwardTo):
        where = visit.places.where(line.fleet, line.number, decision.kind, decision.number)
        return "forward", where
    return "stop", visit.teller.end(decision)


async def suggest(visit: Visit) -> Response:
    """Lines of the fleet for a field of the form, while typing."""
    own = await visit.site.lines.read(visit.who, visit.query("line"))
    kind = visit.query("kind")
    page = visit.site.directory.search(
        visit.who.colleague,
        own.fleet,
        visit.query("q"),
        limit=_SUGGESTED + 1,
        fax=kind == Kind.FAX,
        names_first=True,
    )
    found = [
        {"number": visit.site.shown.number(line.number), "label": line.label}
        for line in page.lines
        if line.number != own.number
    ]
    return Response(
        orjson.dumps(found[:_SUGGESTED]),
        headers={"Cache-Control": "no-store"},
        media_type="application/json",
    )
