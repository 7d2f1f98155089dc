"""The pages to choose a line, and to see what it does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from starlette.responses import Response

from manager import audit, records, state
from manager.around import around
from manager.lines import Stored
from manager.web import Visit
from rules.model import Condition, Destination, Kind, Line

LINES_A_PAGE = 50
_SUGGESTED = 20
_CALLS_SHOWN = 10
_CHANGES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Row:
    """A line in the list. `forwards`: condition and where it leads, of those that are on."""

    line: Line
    connected: bool
    forwards: Sequence[tuple[Condition, str]]


async def lines(visit: Visit) -> Response:
    """Choose the line. With `part=list` only the list, for the search while typing."""
    site, words = visit.site, visit.query("q")
    fleet = visit.query("fleet") or None
    page = site.directory.search(visit.who, fleet, words, visit.query("after"), LINES_A_PAGE)
    numbers = [line.number for line in page.lines]
    stored, there = await asyncio.gather(
        site.lines.several(visit.who, numbers), state.registered(site.redis, numbers)
    )
    rows = [_row(visit, found, found.number in there) for found in stored.values()]
    template = "_lines.html" if visit.query("part") == "list" else "lines.html"
    return visit.page(
        template,
        rows=rows,
        found=page,
        words=words,
        after=visit.query("after"),
        fleet=fleet or "",
        fleets=site.directory.fleets() if visit.who.operator else [],
    )


def _row(visit: Visit, stored: Stored, connected: bool) -> Row:
    line = stored.line
    on = [
        (c, told(visit, line, f.to)) for c, f in line.forwards.items() if f.on and f.to is not None
    ]
    return Row(line, connected, on)


async def suggest(visit: Visit) -> Response:
    """Lines of the fleet for a field of the form, while typing."""
    own = await visit.site.lines.read(visit.who, visit.query("line"))
    page = visit.site.directory.search(
        visit.who,
        own.fleet,
        visit.query("q"),
        limit=_SUGGESTED + 1,
        fax=visit.query("kind") == Kind.FAX,
    )
    shown = visit.site.shown
    found = [
        {"number": shown.number(line.number), "label": line.label}
        for line in page.lines
        if line.number != own.number or visit.query("kind") == Kind.VOICEMAIL
    ]
    return Response(
        orjson.dumps(found[:_SUGGESTED]),
        headers={"Cache-Control": "no-store"},
        media_type="application/json",
    )


async def line(visit: Visit) -> Response:
    """Call management of one line: how it is now, its forwards, the next call, what was."""
    site = visit.site
    stored = await site.lines.read(visit.who, visit.number)
    own = stored.line
    now, known, calls, changes, way = await asyncio.gather(
        state.of_line(site.redis, own),
        around(site, own),
        site.calls.forwarded(own, _CALLS_SHOWN),
        audit.read(site.redis, own.fleet, own.number, _CHANGES_SHOWN),
        site.explain(stored),
    )
    return visit.page(
        "line.html",
        line=own,
        state=now,
        month=known.months[own.number],
        purse=known.purse,
        calls=calls,
        changes=[(change, change_rows(visit, own, change)) for change in changes],
        forwards=summary(visit, own),
        outlook=visit.teller.outlook(own, known, way),
        called=lambda call: told(visit, own, _destination(call)),
    )


def _destination(met: records.Met) -> Destination:
    """Where a call of the past was forwarded."""
    forward = met.forward
    assert forward is not None
    kind = Kind.NUMBER if forward.kind == "line" else Kind(forward.kind)
    return Destination(kind, forward.number)


def summary(visit: Visit, own: Line) -> dict[Condition, str]:
    """What each of the four does, in words; "" when it is off."""
    words = {}
    for condition in Condition:
        forward = own.forwards.get(condition)
        on = forward is not None and forward.on and forward.to is not None
        words[condition] = ""
        if on and forward is not None and forward.to is not None:
            words[condition] = told(visit, own, forward.to)
    return words


def told(visit: Visit, own: Line, to: Destination) -> str:
    """Where a forward of the line leads, in words."""
    return visit.places.destination(own, to, visit.site.directory.has(own.fleet, to.number))


def change_rows(visit: Visit, own: Line, change: audit.Change) -> list[tuple[str, str, str]]:
    """(what, before, after) of a change, for people."""
    rows = []
    for condition in Condition:
        before = (change.before.get("forwards") or {}).get(condition.value)
        after = (change.after.get("forwards") or {}).get(condition.value)
        was, now = forward_told(visit, own, before), forward_told(visit, own, after)
        if was != now:
            rows.append((visit.say(condition.value), was, now))
    if (change.before.keys() | change.after.keys()) - {"forwards"}:
        rows.append((visit.say("other_fields"), "", ""))
    return rows


def forward_told(visit: Visit, own: Line, forward: object) -> str:
    """A forward as a document has it, in words."""
    if not isinstance(forward, dict) or not forward.get("on"):
        return visit.say("off")
    to = forward.get("to")
    try:
        assert isinstance(to, dict)
        kind = Kind(to["kind"])
    except (KeyError, ValueError, AssertionError):
        return "?"
    where = told(visit, own, Destination(kind, str(to.get("number") or own.number)))
    after_s = forward.get("after_s")
    return where if after_s is None else f"{where}, {after_s} s"
