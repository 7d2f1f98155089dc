"""The same forwards for several lines: chosen in the list, checked line by line, then applied."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec
from starlette.responses import Response

from engine.changes.acks import Acks
from manager import forms, kept_input, several_lines
from manager.failures import NotFound, Refused
from manager.forms import KEEP, Choice, FormError
from manager.forwards_page import labels_of, wanted_of
from manager.lines import Stored
from manager.several_lines import Edit
from manager.undo import Change
from manager.web import Visit, see
from store.keys import DONE_SEVERAL

MOST_LINES = 500
_DONE_LIFE_S = 86_400


class Kept(msgspec.Struct):
    """The result of a change of several lines: shown after it, and undone within a day."""

    changes: list[Change]
    same: list[str]
    refused: list[tuple[str, str]]


async def choose(visit: Visit) -> Response:
    """The form, for the ticked or found lines."""
    params = visit.request.query_params
    if typed := await kept_input.of(visit):
        lines = await _lines(visit, typed.get("line", [])[:MOST_LINES])
        fields = {name: values[0] for name, values in typed.items() if values}
        if not lines:
            return see("/lines")
        return _form(visit, lines, forms.of_form(fields), notice=visit.say("kept"))
    if params.get("all"):
        found = visit.site.directory.search(
            visit.who, visit.query("fleet") or None, visit.query("q"), limit=MOST_LINES
        )
        numbers, total = [line.number for line in found.lines], found.total
    else:
        numbers = params.getlist("line")[:MOST_LINES]
        total = len(params.getlist("line"))
    lines = await _lines(visit, numbers)
    if not lines:
        return see("/lines")
    choices = [Choice(condition, KEEP) for condition in forms.ORDER]
    return _form(visit, lines, choices, limited=total > MOST_LINES)


async def submit(visit: Visit) -> Response:
    """Check, then apply, each line separately. Lines that cannot be changed stay as they are."""
    lines = await _lines(visit, visit.form.get("line", [])[:MOST_LINES])
    if not lines:
        return see("/lines")
    choices = forms.of_form(visit.fields)
    if all(choice.mode == KEEP for choice in choices):
        nothing = [FormError(choices[0].named("on"), visit.say("bulk_nothing"))]
        return _form(visit, lines, choices, nothing)
    errors = await _own_errors(visit, lines[0], choices)
    if errors:
        return _form(visit, lines, choices, errors)
    step = visit.fields.get("step")
    if step == "edit":
        return _form(visit, lines, choices)
    wanted = wanted_of(visit, choices)

    def edit_of(stored: Stored) -> Edit:
        edit: Edit = wanted.edit(visit.who, stored.number, stored.fleet)[1]
        return edit

    found = await several_lines.run(visit, lines, edit_of, wanted, write=step == "apply")
    if step == "apply":
        return await _applied(visit, found)
    kept = {n: v for n, v in visit.fields.items() if n not in ("csrf", "step", "line")}
    return visit.page("bulk_confirm.html", batch=found, lines=lines, fields=kept, action="/several")


async def done(visit: Visit) -> Response:
    """The result, line by line, with an undo."""
    token = visit.query("change")
    kept = await _kept(visit, token)
    stored = await visit.site.lines.several(visit.who, [c.number for c in kept.changes])
    changes = [change for change in kept.changes if change.number in stored]
    if len(changes) < len(kept.changes):
        raise NotFound("no such change")  # it belongs to another account
    found = several_lines.Batch(changes)
    for change in changes:
        found.rows += await several_lines.rows_of(visit, stored[change.number].line, change)
    acks = await visit.site.in_force(changes[-1].number) if changes else Acks(())
    return visit.page("bulk_done.html", batch=found, kept=kept, acks=acks.plain(), token=token)


async def undo(visit: Visit) -> Response:
    """Undo a change of several lines: first show the result, then do it."""
    token = visit.fields.get("change", "")
    kept = await _kept(visit, token)
    changes = {change.number: change for change in kept.changes}
    lines = await _lines(visit, list(changes))
    step = visit.fields.get("step")
    found = await several_lines.run(
        visit,
        lines,
        lambda stored: changes[stored.number].undo,
        wanted_of(visit, ()),
        write=step == "apply",
    )
    if step == "apply":
        return await _applied(visit, found)
    fields = {"change": token}
    return visit.page(
        "bulk_confirm.html", batch=found, lines=(), fields=fields, action="/several/undo"
    )


async def _applied(visit: Visit, found: several_lines.Batch) -> Response:
    """Keep the result for its page, and redirect there."""
    refused = [(line.number, why) for line, why in found.refused]
    kept = Kept(found.changes, [line.number for line in found.same], refused)
    token, client = secrets.token_urlsafe(18), visit.redis
    await client.set(DONE_SEVERAL + token, msgspec.json.encode(kept), ex=_DONE_LIFE_S)
    return see(f"/several/done?change={token}")


async def _kept(visit: Visit, token: str) -> Kept:
    try:
        return msgspec.json.decode(await visit.redis.get(DONE_SEVERAL + token) or b"", type=Kept)
    except msgspec.DecodeError:
        raise NotFound("no such change") from None


async def _lines(visit: Visit, numbers: Sequence[str]) -> list[Stored]:
    return list((await visit.site.lines.several(visit.who, numbers)).values())


async def _own_errors(visit: Visit, first: Stored, choices: Sequence[Choice]) -> list[FormError]:
    """The faults of the input itself, for its fields."""
    wanted = wanted_of(visit, choices)
    errors, change = wanted.edit(visit.who, first.number, first.fleet)
    if errors:
        return errors
    try:
        await visit.site.lines.preview(visit.who, first.number, change)
    except Refused as refused:
        return [
            shown
            for shown, error in zip(wanted.errors_of(refused.errors), refused.errors, strict=True)
            if error.problem != "is the line itself" and shown.name
        ]
    return []


def _form(
    visit: Visit,
    lines: Sequence[Stored],
    choices: Sequence[Choice],
    errors: Sequence[FormError] = (),
    limited: bool = False,
    notice: str = "",
) -> Response:
    fleets = {stored.fleet for stored in lines}
    fax = [
        line
        for fleet in sorted(fleets)
        for line in visit.site.directory.search(visit.who, fleet, limit=50, fax=True).lines
    ]
    return visit.page(
        "bulk.html",
        422 if errors else 200,
        lines=lines,
        choices=choices,
        errors=errors,
        wrong={error.name: error.text for error in errors},
        fax=fax,
        labels=labels_of(visit, lines[0].fleet, choices),
        limited=limited,
        notice=notice,
        most=MOST_LINES,
    )
