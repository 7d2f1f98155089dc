"""Renvoi d'appels > Gérer: the form of one line's forwards, its check, the proof of the change."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from starlette.responses import Response

from engine.changes.acks import Acks
from engine.changes.audit import differing
from manager import audit, forms, kept
from manager.around import around
from manager.forms import Choice, FormError, Wanted
from manager.lines import Stored
from manager.outlook import Outlook
from manager.pages import forward_told, summary
from manager.web import Visit, see
from manager.who import NotFound, Outdated, Refused
from rules.model import Condition, Line

_DONE = "manager:done:"
_DONE_LIFE_S = 3600
_FAX_LINES = 50


class Done(msgspec.Struct):
    """What came of a change: shown after it, to be seen again for an hour."""

    number: str
    changed: bool
    workers: int
    said: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Check:
    """A form that was looked at: what is wrong with it, or what it will do."""

    errors: Sequence[FormError]
    line: Line | None = None
    outlook: Outlook | None = None
    seen: str = ""
    same: bool = False


async def edit(visit: Visit) -> Response:
    """The form as the line has it."""
    stored = await visit.site.lines.read(visit.who, visit.number)
    if typed := await kept.of(visit):
        fields = {name: values[0] for name, values in typed.items() if values}
        etag = fields.get("etag", "")
        return await _form(visit, stored, forms.of_form(fields), etag, notice=visit.say("kept"))
    choices = forms.of_line(stored.line, visit.site.shown)
    return await _form(visit, stored, choices, stored.etag)


async def submit(visit: Visit) -> Response:
    """The form as it was sent: back to it, on to the check, or into force."""
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
    """What the form would do, as a part of the page, while it is filled in."""
    choices = forms.of_form(visit.fields)
    stored = await visit.site.lines.read(visit.who, visit.number)
    check = await _check(visit, stored, choices, None)
    return visit.page("_preview.html", check=check, line=stored.line)


async def done(visit: Visit) -> Response:
    """That it is in force, as the engine's workers have said; asked again until they all have."""
    key = _DONE + visit.query("change")
    client: Any = visit.site.redis
    try:
        kept = msgspec.json.decode(await client.get(key) or b"", type=Done)
    except msgspec.DecodeError:
        raise NotFound("no such change") from None
    stored = await visit.site.lines.read(visit.who, visit.number)
    if kept.number != stored.number:
        raise NotFound("no such change")
    if kept.changed and (kept.said < kept.workers or not kept.workers):
        acks = await visit.site.in_force(stored.number)
        if acks.complete:
            kept = _done(stored.number, acks, True)
            await client.set(key, msgspec.json.encode(kept), keepttl=True)
    known = await around(visit.site, stored.line)
    told = await visit.site.explain(stored)
    return visit.page(
        "done.html",
        line=stored.line,
        done=kept,
        seconds=_seconds(visit, kept.seconds),
        forwards=summary(visit, stored.line),
        outlook=visit.teller.outlook(stored.line, known, told),
    )


def wanted_of(visit: Visit, choices: Sequence[Choice]) -> Wanted:
    """What a form asks for, in the reader's words."""
    site = visit.site
    return Wanted(choices, site.directory, site.numbering, site.shown, visit.say)


# -- inside -----------------------------------------------------------------------------------


async def _check(
    visit: Visit, stored: Stored, choices: Sequence[Choice], etag: str | None
) -> Check:
    site, who = visit.site, visit.who
    wanted = wanted_of(visit, choices)
    errors, change = wanted.edit(who, stored.number, stored.fleet)
    try:
        result = await site.lines.preview(who, stored.number, change, etag)
    except Refused as refused:
        named = {error.name for error in errors}
        errors += [e for e in wanted.told(refused.errors) if e.name not in named]
    if errors:
        places = [f"{c}-" for c in forms.ORDER]
        errors.sort(
            key=lambda e: next((i for i, p in enumerate(places) if e.name.startswith(p)), 9)
        )
        return Check(errors)
    line = result.line
    told = await site.explain(stored, instead=line)
    outlook = visit.teller.outlook(line, await around(site, line), told)
    same = result.document == stored.document
    return Check((), line, outlook, _seen(stored, result, outlook), same)


def _seen(stored: Stored, result: Stored, outlook: Outlook) -> str:
    """Stands for what the customer was shown: another cost or another rule is another text."""
    shown = [
        stored.etag,
        result.document.get("forwards"),
        [(cost.condition, cost.text, cost.where, *cost.warnings) for cost in outlook.costs],
        list(outlook.conflicts),
    ]
    return hashlib.sha256(orjson.dumps(shown)).hexdigest()[:24]


async def _write(visit: Visit, stored: Stored, choices: Sequence[Choice], etag: str) -> Response:
    site = visit.site
    wanted = wanted_of(visit, choices)
    _, change = wanted.edit(visit.who, stored.number, stored.fleet)
    try:
        written = await site.lines.change(visit.who, stored.number, change, etag)
    except Refused as refused:  # another line changed within this moment
        return await _form(visit, stored, choices, etag, wanted.told(refused.errors))
    acks = await site.in_force(stored.number)
    token = secrets.token_urlsafe(12)
    kept = msgspec.json.encode(_done(stored.number, acks, written.changed))
    client: Any = site.redis
    await client.set(_DONE + token, kept, ex=_DONE_LIFE_S)
    return see(f"/lines/{stored.number}/forwards/done?change={token}")


def _done(number: str, acks: Acks, changed: bool) -> Done:
    told = acks.plain()
    return Done(number, changed, told["workers"], told["acknowledged"], told["ms"] / 1000)


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
        own=visit.site.shown.number(stored.number),
        **{"theirs": None, "change": None, "notice": "", **more},
    )


def _confirm(
    visit: Visit, stored: Stored, choices: Sequence[Choice], etag: str, check: Check
) -> Response:
    fields = {n: v for n, v in visit.fields.items() if n not in ("csrf", "step", "seen", "etag")}
    return visit.page(
        "confirm.html", line=stored.line, check=check, etag=etag, fields=fields, choices=choices
    )


async def _conflict(visit: Visit, choices: Sequence[Choice]) -> Response:
    """Somebody else was quicker: both are shown, and nothing is written before a new Valider."""
    stored = await visit.site.lines.read(visit.who, visit.number)
    changes = await audit.read(visit.site.redis, stored.fleet, stored.number, 1)
    errors, change = wanted_of(visit, choices).edit(visit.who, stored.number, stored.fleet)
    try:
        document = (await visit.site.lines.preview(visit.who, stored.number, change)).document
    except Refused:
        document = dict(stored.document)
        change(document)
    was, now = differing(stored.document, document)
    own = stored.line
    rows = []
    for condition in forms.ORDER:
        before = (was.get("forwards") or {}).get(condition.value)
        after = (now.get("forwards") or {}).get(condition.value)
        theirs, yours = forward_told(visit, own, before), forward_told(visit, own, after)
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
    )


def _seconds(visit: Visit, seconds: float) -> str:
    text = f"{max(seconds, 0.01):.2f}"
    return text.replace(".", ",") if visit.language == "fr" else text
