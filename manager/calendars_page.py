"""The calendars of a fleet: hours of each weekday, public holidays, closed and opened days. Its
administrators change them, others see them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from manager import kept_input
from manager.failures import FieldError, NotFound, Outdated, Refused
from manager.fleet_settings import change_fleet, read_fleet, still_named
from manager.models import StillNamed
from manager.web import Visit, see

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TAKEN = "taken"
_PERIODS = ("closed", "open")

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Typed:
    """A calendar as its form shows it: texts by field. `wrong`: the field that is refused, or
    TAKEN; `is_new`: it is in the form for a new one."""

    name: str
    fields: Mapping[str, str]
    wrong: str = ""
    is_new: bool = False


async def show(visit: Visit) -> Response:
    if typed := await kept_input.of(visit):
        visit.form = typed
        notice = visit.say("kept")
        return await _page(visit, await _fleet(visit), _typed(visit.fields), notice=notice)
    return await _page(visit, await _fleet(visit))


async def act(visit: Visit) -> Response:
    """Write a calendar, or delete it."""
    fleet, fields = await _fleet(visit), visit.fields
    sent = _typed(fields)
    name, is_new = sent.name, sent.is_new
    before, _ = await read_fleet(visit.site, visit.who, fleet)
    calendar = None if fields.get("step") == "delete" else _calendar(fields)

    def edit(document: Document) -> Document:
        calendars = dict(document.get("calendars") or {})
        if is_new and name in calendars:
            raise Refused([FieldError(TAKEN, name, "is there already")])
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
        after, _ = await change_fleet(visit.site, visit.who, fleet, edit, etag)
    except Refused as refused:
        typed = replace(sent, wrong=_wrong(name, refused.errors))
        return await _page(visit, fleet, typed, 422)
    except Outdated:
        return await _page(visit, fleet, sent, 409, notice=visit.say("calendars_changed"))
    named = await still_named(visit.site, visit.who, fleet, before, after)
    if named:
        return await _page(visit, fleet, named=named)
    return see("/calendars?" + urlencode({"fleet": fleet}) if visit.who.operator else "/calendars")


def _typed(fields: Mapping[str, str]) -> Typed:
    """A calendar as its form was sent."""
    return Typed(fields.get("name", "").strip()[:200], fields, is_new=fields.get("new") == "1")


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
        calendar["holidays"] = holidays
    for name in _PERIODS:
        if periods := _items(fields.get(name, ""), "\n"):
            calendar[name] = periods
    return calendar


def _items(typed: str, between: str) -> list[str]:
    return [item for each in typed.split(between) if (item := each.strip())]


def _wrong(name: str, errors: Sequence[FieldError]) -> str:
    """The field that is refused, or TAKEN."""
    path = errors[0].field.removeprefix(f"calendars.{name}").removeprefix(".")
    words = re.split(r"[.\[]", path.removeprefix("weekly."))
    return words[0] if words[0] in (*DAYS, "holidays", *_PERIODS, TAKEN) else "name"


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
        if typed.name in calendars and not typed.is_new:
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
