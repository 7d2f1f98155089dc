"""The calendars of a fleet: hours of each weekday, public holidays, closed and opened days. Its
administrators change them, others see them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from manager.fleet_settings import change_fleet, read_fleet, still_named
from manager.models import StillNamed
from manager.web import Visit, see
from manager.who import FieldError, NotFound, Outdated, Refused

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_PERIODS = ("closed", "open")
_LONGEST_TYPED = 4_000

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Typed:
    """A calendar as its form shows it: texts by field. `wrong`: the field that is refused."""

    name: str
    fields: Mapping[str, str]
    wrong: str = ""


async def show(visit: Visit) -> Response:
    return await _page(visit, await _fleet(visit))


async def act(visit: Visit) -> Response:
    """Write a calendar, or delete it."""
    fleet, fields = await _fleet(visit), visit.fields
    name = fields.get("name", "").strip()[:200]
    before, _ = await read_fleet(visit.site, visit.who, fleet)
    calendar = None if fields.get("step") == "delete" else _calendar(fields)

    def edit(document: Document) -> Document:
        calendars = dict(document.get("calendars") or {})
        known = calendars.pop(name, None)
        if calendar is not None:
            kept = known if isinstance(known, dict) else {}
            calendars[name] = {
                **{k: v for k, v in kept.items() if k not in ("weekly", "holidays", *_PERIODS)},
                **calendar,
            }
        return {**document, "calendars": calendars}

    try:
        etag = fields.get("etag") or None
        after = await change_fleet(visit.site, visit.who, fleet, edit, etag)
    except Refused as refused:
        return await _page(visit, fleet, _wrong(visit, name, fields, refused.errors), 422)
    except Outdated:
        notice = visit.say("calendars_changed")
        return await _page(visit, fleet, Typed(name, fields), 409, notice=notice)
    named = await still_named(visit.site, visit.who, fleet, before, after)
    if named:
        return await _page(visit, fleet, named=named)
    return see("/calendars?" + urlencode({"fleet": fleet}) if visit.who.operator else "/calendars")


async def _fleet(visit: Visit) -> str:
    """The fleet whose calendars are asked for. Raises NotFound."""
    asked = visit.fields.get("fleet") or visit.query("fleet")
    fleet = asked if visit.who.operator else visit.who.fleet
    if not fleet:
        raise NotFound("no such fleet")
    return fleet


def _calendar(fields: Mapping[str, str]) -> Document:
    """A calendar from its form. What is wrong in it the rules find."""
    weekly = {day: _items(fields.get(day, ""), ",") for day in DAYS}
    calendar: Document = {"weekly": {day: hours for day, hours in weekly.items() if hours}}
    if holidays := fields.get("holidays", "").strip():
        calendar["holidays"] = holidays[:_LONGEST_TYPED]
    for name in _PERIODS:
        if periods := _items(fields.get(name, ""), "\n"):
            calendar[name] = periods
    return calendar


def _items(typed: str, between: str) -> list[str]:
    return [item for each in typed[:_LONGEST_TYPED].split(between) if (item := each.strip())]


def _wrong(
    visit: Visit, name: str, fields: Mapping[str, str], errors: Sequence[FieldError]
) -> Typed:
    """The form as it was sent, with the field that is refused."""
    path = errors[0].field.removeprefix(f"calendars.{name}").removeprefix(".")
    words = re.split(r"[.\[]", path.removeprefix("weekly."))
    known = words[0] if words[0] in (*DAYS, "holidays", *_PERIODS) else "name"
    return Typed(name, fields, known)


async def _page(
    visit: Visit,
    fleet: str,
    typed: Typed | None = None,
    status: int = 200,
    named: Sequence[StillNamed] = (),
    notice: str = "",
) -> Response:
    document, etag = await read_fleet(visit.site, visit.who, fleet)
    calendars: Mapping[str, Document] = document.get("calendars") or {}
    forms = [Typed(name, _fields(calendar)) for name, calendar in sorted(calendars.items())]
    fresh = Typed("", {})
    if typed is not None:
        if typed.name in calendars:
            forms = [typed if form.name == typed.name else form for form in forms]
        else:
            fresh = typed
    return visit.page(
        "calendars.html",
        status,
        fleet=fleet,
        forms=forms,
        fresh=fresh,
        etag=etag,
        days=DAYS,
        names=visit.say("weekdays").split(","),
        named=named,
        notice=notice,
        writes=visit.who.line is None and not visit.who.read_only,
    )


def _fields(calendar: Document) -> dict[str, str]:
    """A stored calendar as its form shows it."""
    weekly = calendar.get("weekly") or {}
    fields = {day: ", ".join(weekly.get(day) or ()) for day in DAYS}
    fields["holidays"] = calendar.get("holidays") or ""
    return fields | {name: "\n".join(calendar.get(name) or ()) for name in _PERIODS}
