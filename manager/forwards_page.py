"""Renvoi d'appels > Gérer: the form of one line's forwards, and its check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.responses import Response

from manager import audit, done_page, forms, kept_input
from manager.confirming import Check, checked, write
from manager.failures import Outdated, Refused
from manager.forms import Choice, FormError, Wanted
from manager.line_now import present
from manager.line_page import forward_in_words, rule_list, who_did
from manager.lines import Stored
from manager.undo import Change
from manager.web import Visit
from rules.line_document import load_line
from rules.model import Condition, DocumentError, Line
from store.audit import differing

_FAX_LINES = 50


async def edit(visit: Visit) -> Response:
    """The form with the line's present values."""
    stored = await visit.site.lines.read(visit.who, visit.number)
    if typed := await kept_input.of(visit):
        fields = {name: values[0] for name, values in typed.items() if values}
        etag = fields.get("etag", "")
        return await _form(visit, stored, forms.of_form(fields), etag, notice=visit.say("kept"))
    line, notice = stored.line, ""
    if before := await _before(visit, stored):
        line, notice = before, visit.say("restoring")
    choices = forms.of_line(line, visit.site.shown, stored.line.rules)
    return await _form(visit, stored, choices, stored.etag, notice=notice)


async def submit(visit: Visit) -> Response:
    """Handle a sent form: show it again, show the check, or apply it."""
    fields = visit.fields
    choices = forms.of_form(fields)
    etag = fields.get("etag", "")
    stored = await visit.site.lines.read(visit.who, visit.number)
    if fields.get("step") == "edit":
        return await _form(visit, stored, choices, etag)
    try:
        check = await _check(visit, stored, choices, etag)
        if check.errors:
            return await _form(visit, stored, choices, etag, check.errors)
        if fields.get("step") != "validate" or fields.get("seen") != check.seen:
            return _confirm(visit, stored, choices, etag, check)
        return await _write(visit, stored, choices, etag)
    except Outdated:
        return await _conflict(visit, choices)


async def preview(visit: Visit) -> Response:
    """The effect of the form, as a part of the page, while it is filled in."""
    choices = forms.of_form(visit.fields)
    stored = await visit.site.lines.read(visit.who, visit.number)
    check = await _check(visit, stored, choices, None)
    return visit.page("_preview.html", check=check, line=stored.line)


def labels_of(visit: Visit, fleet: str, choices: Sequence[Choice]) -> dict[str, str]:
    """The names of the lines whose numbers are in a form, by field."""
    found = {}
    for choice in choices:
        for kind, typed in choice.typed.items():
            number = visit.site.numbering.quick(typed) if typed else None
            if number is not None and (label := visit.site.directory.label(fleet, number)):
                found[choice.named(kind)] = label
    return found


def wanted_of(visit: Visit, choices: Sequence[Choice]) -> Wanted:
    """The request of a form, with texts in the reader's language."""
    site = visit.site
    return Wanted(choices, site.directory, site.numbering, site.shown, visit.say)


async def _before(visit: Visit, stored: Stored) -> Line | None:
    """The line as it was before the change to undo; None without one."""
    change = await done_page.undone(visit, stored) or await _from_history(visit, stored)
    if change is None:
        return None
    document = dict(stored.document)
    change.restore(document)
    try:
        return load_line(orjson.dumps(document), stored.number, visit.site.numbering)
    except DocumentError:
        return None  # written by other programs


async def _from_history(visit: Visit, stored: Stored) -> Change | None:
    found = await audit.one(visit.redis, stored.fleet, visit.query("restore"))
    if found is None or found.line != stored.number:
        return None
    was, now = (side.get("forwards") or {} for side in (found.before, found.after))
    return Change(stored.number, was, now)


# -- inside -----------------------------------------------------------------------------------


async def _check(
    visit: Visit, stored: Stored, choices: Sequence[Choice], etag: str | None
) -> Check:
    wanted = wanted_of(visit, choices)
    errors, change = wanted.edit(visit.who, stored.number, stored.fleet)
    check = Check(())
    try:
        check = await checked(visit, stored, change, etag)
    except Refused as refused:
        named = {error.name for error in errors}
        errors += [e for e in wanted.errors_of(refused.errors) if e.name not in named]
    if errors:
        places = [f"{c}-" for c in forms.ORDER]
        errors.sort(
            key=lambda e: next((i for i, p in enumerate(places) if e.name.startswith(p)), 9)
        )
        return Check(errors)
    return check


async def _write(visit: Visit, stored: Stored, choices: Sequence[Choice], etag: str) -> Response:
    wanted = wanted_of(visit, choices)
    _, change = wanted.edit(visit.who, stored.number, stored.fleet)
    try:
        return await write(visit, stored, change, etag)
    except Refused as refused:  # another line was changed at this moment
        return await _form(visit, stored, choices, etag, wanted.errors_of(refused.errors))


async def _form(
    visit: Visit,
    stored: Stored,
    choices: Sequence[Choice],
    etag: str,
    errors: Sequence[FormError] = (),
    **more: Any,
) -> Response:
    check = Check(errors)
    if not errors:
        check = await _check(visit, stored, choices, None)
    fax = visit.site.directory.search(visit.who, stored.fleet, limit=_FAX_LINES, fax=True)
    status = 422 if errors else 409 if more.get("theirs") else 200
    return visit.page(
        "forwards.html",
        status,
        line=stored.line,
        choices=choices,
        etag=etag,
        errors=errors,
        wrong={error.name: error.text for error in errors},
        check=check,
        fax=[line for line in fax.lines if line.number != stored.number],
        labels=labels_of(visit, stored.fleet, choices),
        by_api={c: rule_list(visit, stored.line, c) for c in stored.line.rules},
        used=(await present(visit.site, stored.line)).profile,
        **{"theirs": None, "change": None, "by": "", "notice": "", **more},
    )


def _confirm(
    visit: Visit, stored: Stored, choices: Sequence[Choice], etag: str, check: Check
) -> Response:
    fields = {n: v for n, v in visit.fields.items() if n not in ("csrf", "step", "seen", "etag")}
    return visit.page(
        "confirm.html",
        line=stored.line,
        check=check,
        etag=etag,
        notice="",
        fields=fields,
        action=f"/lines/{stored.number}/forwards",
        title=visit.say("forwarding"),
        back=f"/lines/{stored.number}/forwards",
    )


async def _conflict(visit: Visit, choices: Sequence[Choice]) -> Response:
    """Somebody else was faster: show both versions, and write nothing before a new Valider."""
    stored = await visit.site.lines.read(visit.who, visit.number)
    changes = await audit.read(visit.site.redis, stored.fleet, stored.number, 1)
    wanted = wanted_of(visit, choices)
    errors, change = wanted.edit(visit.who, stored.number, stored.fleet)
    try:
        document = (await visit.site.lines.preview(visit.who, stored.number, change)).document
    except Refused:
        document = dict(stored.document)
        try:
            change(document)
        except Refused as refused:  # they have made rules of what is one forward in this form
            errors += wanted.errors_of(refused.errors)
    was, now = differing(stored.document, document)
    own = stored.line
    rows = []
    for condition in forms.ORDER:
        before = (was.get("forwards") or {}).get(condition.value)
        after = (now.get("forwards") or {}).get(condition.value)
        theirs, yours = (
            forward_in_words(visit, own, condition, before),
            forward_in_words(visit, own, condition, after),
        )
        if theirs != yours:
            rows.append((condition, theirs, yours))
    return await _form(
        visit,
        stored,
        choices,
        stored.etag,
        errors,
        theirs=rows or [(Condition.UNCONDITIONAL, visit.say("no_change"), visit.say("no_change"))],
        change=changes[0] if changes else None,
        by=who_did(visit, changes[0]) if changes else "",
    )
