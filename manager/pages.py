"""Call management of one line, and descriptions of forwards."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from manager import audit, records, state
from manager.around import around
from manager.web import Visit
from rules.model import Condition, Destination, Kind, Line

_CALLS_SHOWN = 10
_CHANGES_SHOWN = 10


async def line(visit: Visit) -> Response:
    """Call management of one line: its state, its forwards, the next call, its history."""
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
        changes=[
            (change, who_did(visit, change), change_rows(visit, own, change)) for change in changes
        ],
        forwards=summary(visit, own),
        outlook=visit.teller.outlook(own, known, way),
        called=lambda call: told(visit, own, destination_of(call)),
    )


def destination_of(met: records.Met) -> Destination:
    """Where a call of the past was forwarded."""
    forward = met.forward
    assert forward is not None
    kind = Kind.NUMBER if forward.kind == "line" else Kind(forward.kind)
    return Destination(kind, forward.number)


def summary(visit: Visit, own: Line) -> dict[Condition, str]:
    """A description of each of the four forwards; "" if it is off."""
    words = {}
    for condition in Condition:
        rules = own.all_of(condition)
        first = next((each for each in rules if each.on), None)
        words[condition] = ""
        if first is not None and first.rejects:
            words[condition] = visit.say("by_api_blocked")
        elif first is not None and first.to is not None:
            words[condition] = told(visit, own, first.to)
        if words[condition] and condition in own.rules:
            words[condition] = visit.say("by_api_first", where=words[condition])
    return words


def told(visit: Visit, own: Line, to: Destination) -> str:
    """The target of a forward of the line, as text."""
    return visit.places.destination(own, to, visit.site.directory.has(own.fleet, to.number))


def who_did(visit: Visit, change: audit.Change) -> str:
    """Who changed something. Customers do not see the user names on our machines."""
    if change.how == "cli" and not visit.who.operator:
        return visit.say("by_operator")
    return change.who


def change_rows(visit: Visit, own: Line, change: audit.Change) -> list[tuple[str, str, str]]:
    """(what, before, after) of a change, as text."""
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
    """A forward of a document, as text."""
    if isinstance(forward, list):
        forward = next(
            (each for each in forward if isinstance(each, dict) and each.get("on")), None
        )
        first = forward_told(visit, own, forward)
        return first if forward is None else visit.say("by_api_first", where=first)
    if not isinstance(forward, dict) or not forward.get("on"):
        return visit.say("off")
    to = forward.get("to")
    if isinstance(to, list):
        first = forward_told(visit, own, {**forward, "to": to[0] if to else None})
        return visit.say("by_api_first", where=first)
    if isinstance(to, dict) and to.get("kind") == "reject":
        return visit.say("by_api_blocked")
    try:
        assert isinstance(to, dict)
        kind = Kind(to["kind"])
    except (KeyError, ValueError, AssertionError):
        return "?"
    where = told(visit, own, Destination(kind, str(to.get("number") or own.number)))
    after_s = forward.get("after_s")
    return where if after_s is None else f"{where}, {after_s} s"
