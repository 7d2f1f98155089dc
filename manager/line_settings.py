"""The API's operations on what a line has besides its four forwards: do not disturb, profiles, what
rings beside it, its calendars and lists of callers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from manager import models, preconditions
from manager.failures import FieldError, Refused
from manager.line_now import circumstances, fleet_at
from manager.lines import Document, Stored
from manager.operation import Call, answer, tagged
from manager.site import Site
from rules.applies import is_undisturbed, profile_now
from rules.decision import Circumstances
from rules.model import DocumentError, Line
from rules.switches import switch_do_not_disturb, switch_profile
from store.audit import without_secrets

CUSTOMERS = (
    "forwards", "also_ring", "do_not_disturb", "calendars", "lists", "profiles", "profile",
)  # fmt: skip
"""The fields of a line's document that its customer may write."""


async def circumstances_of(site: Site, line: Line) -> Circumstances | None:
    """What decides now which profile of a line is used; None for a line without profiles."""
    if not line.profile:
        return None
    return circumstances(await fleet_at(site, line.fleet), time.time())


async def profile_used(site: Site, line: Line) -> str | None:
    """The name of the profile that is used now."""
    use = profile_now(line, await circumstances_of(site, line))
    return None if use is None else use.name


async def in_force(call: Call) -> models.InForce:
    """Wait until a change of the line is in force; how it became so."""
    acks = (await call.site.in_force(call.number)).plain()
    return models.InForce(acks["complete"], acks["workers"], acks["acknowledged"], acks["ms"])


async def patch_line(call: Call) -> Response:
    await call.line()  # first of all, whether this token may see it
    given = await call.body()
    wrong = [FieldError(k, v, "is not known here") for k, v in given.items() if k not in CUSTOMERS]
    if wrong:
        raise Refused(wrong)

    def edit(document: Document) -> None:
        for name, value in given.items():
            if value is None:
                document.pop(name, None)
            elif name == "forwards" and isinstance(value, dict):
                document[name] = {**(document.get(name) or {}), **value}
            else:
                document[name] = value

    stored, force = await _change(call, edit)
    return answer(without_secrets(stored.document) | {"in_force": force}, stored.etag)


async def get_do_not_disturb(call: Call) -> Response:
    stored = await call.line()
    return tagged(call, await _do_not_disturb(call, stored), stored.etag)


async def put_do_not_disturb(call: Call) -> Response:
    await call.line()
    given = await call.body()
    _only(given, {"on"})
    on = given.get("on")
    if not isinstance(on, bool):
        problem = "is required" if "on" not in given else "expected true or false"
        raise Refused([FieldError("on", on, problem)])
    stored, force = await _change(call, lambda document: switch_do_not_disturb(document, on))
    shown = await _do_not_disturb(call, stored)
    return answer({**shown, "in_force": force}, stored.etag)


async def _do_not_disturb(call: Call, stored: Stored) -> dict[str, Any]:
    found = await circumstances_of(call.site, stored.line)
    return {"on": stored.line.do_not_disturb, "now": is_undisturbed(stored.line, found)}


async def get_profile(call: Call) -> Response:
    stored = await call.line()
    return tagged(call, await _profile(call, stored), stored.etag)


async def put_profile(call: Call) -> Response:
    await call.line()
    given = await call.body()
    _only(given, {"use", "until"})
    if "use" not in given:
        raise Refused([FieldError("use", None, "is required")])
    for name in ("use", "until"):
        if not isinstance(given.get(name), str | None):
            raise Refused([FieldError(name, given[name], "expected a text or null")])

    def edit(document: Document) -> None:
        try:
            switch_profile(document, given["use"], given.get("until"), time.time())
        except DocumentError as error:
            raise Refused([FieldError(error.field, error.value, error.problem)]) from None

    stored, force = await _change(call, edit)
    return answer(await _profile(call, stored) | {"in_force": force}, stored.etag)


async def _profile(call: Call, stored: Stored) -> dict[str, Any]:
    return {
        "now": await profile_used(call.site, stored.line),
        "profiles": sorted(stored.line.profiles),
        "profile": stored.document.get("profile"),
    }


def _only(given: Document, names: set[str]) -> None:
    """Refuse unknown fields, so that a typo cannot silently change what is meant."""
    wrong = [FieldError(k, v, "is not known here") for k, v in given.items() if k not in names]
    if wrong:
        raise Refused(wrong)


async def _change(call: Call, edit: Callable[[Document], None]) -> tuple[Stored, models.InForce]:
    """Change the line, and wait until it is in force."""
    written = await call.site.lines.change(
        call.who, call.number, edit, preconditions.unchanged(call.request.headers)
    )
    return written.stored, await in_force(call)
