"""Fleets for operators: their lines, caps, suspension and use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from manager import kept_input, records
from manager.failures import BadRequest, NotFound, Outdated, Refused
from manager.fleet_settings import change_fleet
from manager.records import Purse
from manager.search import fold
from manager.web import Visit, see
from rules.fleet import Fleet, is_name, load_fleet
from rules.model import DocumentError
from store.keys import FLEET, fleet_key

_MOST = 200
_LONGEST_CAP_H = 250_000
_LONGEST_TYPED = 80


@dataclass(frozen=True, slots=True)
class Row:
    """A fleet. `broken`: why its document is refused, "" if it is valid."""

    name: str
    label: str
    lines: int
    purse: Purse
    broken: str


async def show(visit: Visit) -> Response:
    if typed := await kept_input.of(visit):
        visit.form = typed
        return await _page(visit, visit.fields.get("fleet", ""), is_kept=True)
    return await _page(visit)


async def act(visit: Visit) -> Response:
    """Suspend a fleet, end the suspension, or set its cap."""
    name, step = visit.fields.get("fleet", ""), visit.fields.get("step")
    if name not in visit.site.directory.fleets() and not await visit.redis.exists(fleet_key(name)):
        raise NotFound("no such fleet")
    if not is_name(name):
        raise BadRequest("a fleet of this name can have no document")
    if step in ("suspend", "resume"):
        await _change(visit, name, lambda document: document | {"suspended": step == "suspend"})
    elif step == "cap":
        typed = visit.fields.get("cap", "").strip().replace(",", ".")
        try:
            hours = float(typed) if typed else None
            if hours is not None and not 0 <= hours <= _LONGEST_CAP_H:
                raise ValueError
        except ValueError:
            return await _page(visit, name, status=422)
        seconds = None if hours is None else round(hours * 3600)
        try:
            await _change(visit, name, _cap(seconds, visit.fields.get("was")))
        except Outdated:
            return await _page(visit, name, status=409)
    return see("/fleets")


def _cap(seconds: int | None, was: str | None) -> Callable[[Any], Any]:
    """The edit that sets the cap. `was`: the cap that the form showed ("" = none), None = any. The
    edit raises Outdated if it is another one by now."""

    def edit(document: Any) -> Any:
        now = document.get("cap_seconds")
        if was is not None and now != seconds and was != ("" if now is None else str(now)):
            raise Outdated("the cap was changed since it was read")
        return document | {"cap_seconds": seconds}

    return edit


async def _change(visit: Visit, name: str, edit: Callable[[Any], Any]) -> None:
    """Raises BadRequest if its document is invalid, and does not overwrite it."""
    try:
        await change_fleet(visit.site, visit.who, name, edit)
    except Refused as refused:
        raise BadRequest(f"fleet {name}: its document is refused: {refused.detail}") from None


async def _page(
    visit: Visit, retyped: str = "", is_kept: bool = False, status: int = 200
) -> Response:
    """`retyped`: the fleet whose cap is shown as it was typed."""
    names = set(visit.site.directory.fleets())
    async for key in visit.redis.scan_iter(match=FLEET + "*", count=1000):
        names.add(key.decode("utf-8", "replace").removeprefix(FLEET))
    words = visit.query("q")
    found = sorted(name for name in names if fold(words) in fold(name))
    shown = found[:_MOST]
    if retyped in names and retyped not in shown:
        shown.insert(0, retyped)
    rows = await asyncio.gather(*(_row(visit, name) for name in shown))
    return visit.page(
        "fleets.html",
        status,
        rows=rows,
        words=words,
        total=len(found),
        most=_MOST,
        retyped=retyped,
        cap=visit.fields.get("cap", "")[:_LONGEST_TYPED],
        was=None if status == 409 else visit.fields.get("was"),
        wrong=retyped if status != 200 else "",
        is_outdated=status == 409,
        is_kept=is_kept,
    )


async def _row(visit: Visit, name: str) -> Row:
    raw, purse = await asyncio.gather(
        visit.redis.get(fleet_key(name)), records.purse(visit.redis, name, visit.site.zone)
    )
    fleet, broken = Fleet(name), ""
    try:
        fleet = load_fleet(raw, name, visit.site.numbering) if raw else fleet
    except DocumentError as error:
        broken = str(error)
    lines = visit.site.directory.count(name)
    return Row(name, fleet.label, lines, purse, broken)
