"""Do not disturb by one tap, and the choice of a profile, whose cost is shown first."""

from __future__ import annotations

import time
from datetime import datetime

from starlette.responses import Response

from manager import kept_input, line_page
from manager.confirming import Check, Edit, checked, write
from manager.failures import BadRequest, Outdated, Refused
from manager.forms import FormError
from manager.lines import Document, Stored
from manager.web import Visit, see
from rules.model import DocumentError
from rules.switches import switch_do_not_disturb, switch_profile

_LONGEST_TYPED = 80


async def show(visit: Visit) -> Response:
    """Only forms are sent here. The choice of a profile comes back after the log-in, if the session
    had ended; everything else leads to the line."""
    stored = await visit.site.lines.read(visit.who, visit.number)
    if typed := await kept_input.of(visit):
        visit.form = typed
        return await _choose(visit, stored, "check", visit.say("kept"))
    return see(f"/lines/{stored.number}")


async def act(visit: Visit) -> Response:
    """Handle a sent switch."""
    stored = await visit.site.lines.read(visit.who, visit.number)
    step = visit.fields.get("step", "")
    if step in ("on", "off"):
        return await write(
            visit, stored, lambda given: switch_do_not_disturb(given, step == "on"), None
        )
    if step == "edit":
        return await line_page.line(visit)  # with the profile and the end as they were typed
    if step not in ("check", "validate"):
        raise BadRequest("the form cannot be read: step")
    return await _choose(visit, stored, step)


async def _choose(visit: Visit, stored: Stored, step: str, notice: str = "") -> Response:
    """Show what the profile will do and cost, then write it."""
    etag = visit.fields.get("etag") or stored.etag
    try:
        edit = _edit(visit)
        try:
            check = await checked(visit, stored, edit, etag)
            if step == "validate" and visit.fields.get("seen") == check.seen:
                return await write(visit, stored, edit, etag)
        except Outdated:
            etag = stored.etag
            check = await checked(visit, stored, edit, etag)
    except DocumentError as error:
        return _page(visit, stored, Check([FormError("", _word(visit, error))]), etag, notice)
    except Refused as refused:
        errors = [
            FormError("", visit.say("error_other", problem=str(e.problem))) for e in refused.errors
        ]
        return _page(visit, stored, Check(errors), etag, notice)
    return _page(visit, stored, check, etag, notice)


def _edit(visit: Visit) -> Edit:
    """The edit that the form asks for. Raises DocumentError."""
    name = visit.fields.get("profile", "")[:_LONGEST_TYPED]
    until = read_until(visit, visit.fields.get("until", ""))
    now = time.time()

    def edit(document: Document) -> None:
        switch_profile(document, name or None, until, now)

    return edit


def read_until(visit: Visit, typed: str) -> str | None:
    """A moment in the engine's time zone, as forms have it, with its offset; None if it is empty.
    Raises DocumentError."""
    text = typed.strip()[:_LONGEST_TYPED]
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise DocumentError("until", text, "expected a moment") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=visit.site.zone)
    return moment.isoformat()


def _word(visit: Visit, error: DocumentError) -> str:
    if error.field == "until" and not visit.fields.get("profile"):
        return visit.say("error_until_none")
    return visit.say("error_until" if error.field == "until" else "error_profile")


def _page(visit: Visit, stored: Stored, check: Check, etag: str, notice: str) -> Response:
    return visit.page(
        "confirm.html",
        422 if check.errors else 200,
        line=stored.line,
        check=check,
        etag=etag,
        notice=notice,
        fields={name: visit.fields.get(name, "")[:_LONGEST_TYPED] for name in ("profile", "until")},
        action=f"/lines/{stored.number}/switch",
        title=visit.say("profile"),
        back=f"/lines/{stored.number}",
    )
