"""The same forwards for several lines: chosen in the list, checked line by line, then applied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.responses import Response

from manager import forms, kept
from manager.around import around
from manager.costs import Cost
from manager.editing import wanted_of
from manager.forms import KEEP, ON, Choice, FormError
from manager.lines import Stored
from manager.web import Visit, see
from manager.who import Failure, Refused
from rules.model import Line

MOST_LINES = 500


@dataclass(slots=True)
class Batch:
    """What the same forwards come to on several lines. `refused`: line, and why it stays."""

    ready: list[Line] = field(default_factory=list)
    refused: list[tuple[Line, str]] = field(default_factory=list)
    costs: Counter[tuple[str, str]] = field(default_factory=Counter)
    changed: int = 0


async def choose(visit: Visit) -> Response:
    """The form, for the lines that were ticked or found."""
    params = visit.request.query_params
    if typed := await kept.of(visit):
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
    """Check, then apply: each line by itself, those that cannot stay as they are."""
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
    batch = await _run(visit, lines, choices, write=step == "apply")
    kept = {n: v for n, v in visit.fields.items() if n not in ("csrf", "step", "line")}
    if step != "apply":
        return visit.page("bulk_confirm.html", batch=batch, lines=lines, fields=kept)
    acks = await visit.site.in_force(lines[-1].number)
    return visit.page("bulk_done.html", batch=batch, lines=lines, acks=acks.plain())


async def _lines(visit: Visit, numbers: Sequence[str]) -> list[Stored]:
    return list((await visit.site.lines.several(visit.who, numbers)).values())


async def _own_errors(visit: Visit, first: Stored, choices: Sequence[Choice]) -> list[FormError]:
    """What is wrong with what was typed, whatever the line: told at its field."""
    wanted = wanted_of(visit, choices)
    errors, change = wanted.edit(visit.who, first.number, first.fleet)
    if errors:
        return errors
    try:
        await visit.site.lines.preview(visit.who, first.number, change)
    except Refused as refused:
        return [
            told
            for told, error in zip(wanted.told(refused.errors), refused.errors, strict=True)
            if error.problem != "is the line itself" and told.name
        ]
    return []


async def _run(
    visit: Visit, lines: Sequence[Stored], choices: Sequence[Choice], write: bool
) -> Batch:
    batch, site = Batch(), visit.site
    wanted = wanted_of(visit, choices)
    for stored in lines:
        _, change = wanted.edit(visit.who, stored.number, stored.fleet)
        try:
            if write:
                written = await site.lines.change(visit.who, stored.number, change)
                batch.changed += written.changed
                batch.ready.append(written.stored.line)
                continue
            result = await site.lines.preview(visit.who, stored.number, change)
        except Refused as refused:
            told = " ".join(error.text for error in wanted.told(refused.errors))
            batch.refused.append((stored.line, told))
            continue
        except Failure as failure:
            batch.refused.append((stored.line, failure.detail))
            continue
        batch.ready.append(result.line)
        for cost in await _costs(visit, result.line, choices):
            batch.costs[cost.level, cost.text] += 1
    return batch


async def _costs(visit: Visit, line: Line, choices: Sequence[Choice]) -> list[Cost]:
    costs = visit.teller.costs.of(line, await around(visit.site, line))
    on = {choice.condition for choice in choices if choice.mode == ON}
    return [cost for cost in costs if cost.condition in on]


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
        own="",
        limited=limited,
        notice=notice,
        most=MOST_LINES,
    )
