"""The forwards of one condition in their order, each with its hours, callers and end: turned on and
off, removed, and added to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from manager import audit, done_page, kept_input
from manager.confirming import Check, Edit, checked, write
from manager.failures import FieldError, NotFound, Outdated, Refused
from manager.forms import DEFAULT_AFTER_S, Choice, FormError, Wanted, of_form
from manager.line_now import Present, present
from manager.lines import Document, Stored
from manager.rule_words import rule_in_words
from manager.switching import read_until
from manager.undo import Change
from manager.web import Visit
from rules.model import Condition, DocumentError, Line
from rules.shared_document import read_until as read_end

FIRST, LAST = "first", "last"
REJECT = "reject"
_FAX_LINES = 50
_LONGEST_TYPED = 200
_DIGITS = 9  # of the number of forwards of a condition


@dataclass(frozen=True, slots=True)
class Entry:
    """A forward of the list. `words`: where it leads, when, and for whom."""

    place: int
    words: str
    on: bool
    dropped: bool = False

    def named(self, part: str) -> str:
        """The name of one of its fields in the form."""
        return f"rule-{self.place}-{part}"


@dataclass(slots=True)
class New:
    """The forward to add, as it was typed; `choice` has its target."""

    choice: Choice
    when: str = ""
    callers: str = ""
    until: str = ""
    place: str = FIRST


@dataclass(slots=True)
class Form:
    """The form: which entries are on and which are dropped, by place, and what is added."""

    on: Mapping[int, bool]
    dropped: frozenset[int]
    new: New
    errors: list[FormError] = field(default_factory=list)


async def edit(visit: Visit) -> Response:
    """The form with the line's present values."""
    condition = _condition(visit)
    stored = await visit.site.lines.read(visit.who, visit.number)
    if typed := await kept_input.of(visit):
        fields = {name: values[0] for name, values in typed.items() if values}
        form, etag = _read(fields, condition), fields.get("etag", "")
        return await _page(visit, stored, condition, form, etag, visit.say("kept"))
    rules = stored.line.all_of(condition)
    on = {place: forward.on for place, forward in enumerate(rules)}
    form = Form(on, frozenset(), New(Choice(condition, after=str(DEFAULT_AFTER_S))))
    return await _page(visit, stored, condition, form, stored.etag)


async def submit(visit: Visit) -> Response:
    """Handle a sent form: show it again, show the check, or apply it."""
    condition, fields = _condition(visit), visit.fields
    stored = await visit.site.lines.read(visit.who, visit.number)
    form, etag = _read(fields, condition), fields.get("etag", "")
    if fields.get("step") == "edit":
        return await _page(visit, stored, condition, form, etag)
    try:
        check, change = await _check(visit, stored, condition, form, etag)
        ready = not check.errors and fields.get("seen") == check.seen
        if ready and fields.get("step") == "validate":
            return await write(visit, stored, change, etag)
    except Outdated:
        notice = visit.say("rules_changed")
        return await _page(visit, stored, condition, form, stored.etag, notice, status=409)
    except Refused as refused:  # another line was changed at this moment
        check = Check(_errors_shown(visit, condition, form, refused.errors, None))
    if check.errors:
        return await _page(visit, stored, condition, form, etag, errors=check.errors)
    typed = {n: v for n, v in fields.items() if n not in ("csrf", "step", "seen", "etag")}
    action = f"/lines/{stored.number}/rules/{condition}"
    return _confirm(visit, stored, check, etag, action, typed)


async def preview(visit: Visit) -> Response:
    """The effect of the form, as a part of the page, while it is filled in."""
    condition = _condition(visit)
    stored = await visit.site.lines.read(visit.who, visit.number)
    check, _ = await _check(visit, stored, condition, _read(visit.fields, condition), None)
    return visit.page("_preview.html", check=check, line=stored.line)


async def restore(visit: Visit) -> Response:
    """Ask before the forwards become what they were before a change, and write it: for lists, which
    no form of the four forwards shows."""
    posted = visit.request.method == "POST"
    given = visit.fields if posted else visit.request.query_params
    which = {name: str(given.get(name, ""))[:_LONGEST_TYPED] for name in ("undo", "change")}
    stored = await visit.site.lines.read(visit.who, visit.number)
    change = await _change(visit, stored, which)
    etag = str(given.get("etag", "")) or stored.etag
    try:
        try:
            check = await checked(visit, stored, change.restore, etag)
            # Only what was sent with the session's token is written: anybody can make a link.
            if posted and given.get("step") == "validate" and given.get("seen") == check.seen:
                return await write(visit, stored, change.restore, etag)
        except Outdated:
            etag = stored.etag
            check = await checked(visit, stored, change.restore, etag)
    except Refused as refused:
        problems = [visit.say("error_other", problem=e.problem) for e in refused.errors]
        check = Check([FormError("", text) for text in problems])
    return _confirm(visit, stored, check, etag, f"/lines/{stored.number}/restore", which)


async def _change(visit: Visit, stored: Stored, which: Mapping[str, str]) -> Change:
    """The change to undo. Raises NotFound."""
    change = await done_page.change_at(visit, stored, which["undo"]) if which["undo"] else None
    if change is None and which["change"]:
        found = await audit.one(visit.redis, stored.fleet, which["change"])
        if found is not None and found.line == stored.number:
            was, now = (side.get("forwards") or {} for side in (found.before, found.after))
            change = Change(stored.number, was, now)
    if change is None:
        raise NotFound("no such change")
    return change


# -- inside -----------------------------------------------------------------------------------


def _condition(visit: Visit) -> Condition:
    try:
        return Condition(visit.request.path_params["condition"])
    except ValueError:
        raise NotFound("there is no such condition") from None


def _read(fields: Mapping[str, str], condition: Condition) -> Form:
    """The form as it was sent."""

    def typed(part: str) -> str:
        return fields.get(f"{condition}-{part}", "")[:_LONGEST_TYPED].strip()

    given = fields.get("count", "")
    # Python reads no number of thousands of digits.
    count = int(given) if given.isdecimal() and len(given) <= _DIGITS else 0
    places = range(min(count, 1000))
    choice = next(each for each in of_form(fields) if each.condition is condition)
    new = New(choice, typed("when"), typed("callers"), typed("until"), typed("place"))
    return Form(
        {place: fields.get(f"rule-{place}-on") == "on" for place in places},
        frozenset(place for place in places if fields.get(f"rule-{place}-drop") == "on"),
        new,
    )


async def _check(
    visit: Visit, stored: Stored, condition: Condition, form: Form, etag: str | None
) -> tuple[Check, Edit]:
    """Raises Outdated."""
    errors, added = _added(visit, stored, condition, form)
    change = _edit(condition, form, added)
    try:
        check = await checked(visit, stored, change, etag)
    except Refused as refused:
        check = Check([])
        named = {error.name for error in errors}
        errors_here = _errors_shown(visit, condition, form, refused.errors, added)
        errors += [error for error in errors_here if error.name not in named]
    return (Check(errors) if errors else check), change


def _wanted(visit: Visit, form: Form) -> Wanted:
    site = visit.site
    return Wanted([form.new.choice], site.directory, site.numbering, site.shown, visit.say)


def _added(
    visit: Visit, stored: Stored, condition: Condition, form: Form
) -> tuple[list[FormError], Document | None]:
    """The faults of the forward to add, and the forward; None if none is added."""
    new, choice = form.new, form.new.choice
    if not choice.on:
        return [], None
    errors: list[FormError] = []
    if choice.service == REJECT:
        forward: Document = {"on": True, "to": {"kind": REJECT}}
    else:
        wanted = _wanted(visit, form)
        forward = wanted.forward(choice, visit.who, stored.number, stored.fleet, errors)
    try:
        until = read_until(visit, new.until)
        if until is not None:
            read_end("until", until)
    except DocumentError:
        errors.append(FormError(choice.named("until"), visit.say("error_until")))
        until = None
    extra = {"when": new.when or None, "callers": new.callers or None, "until": until}
    return errors, {**forward, **{name: value for name, value in extra.items() if value}}


def _edit(condition: Condition, form: Form, added: Document | None) -> Edit:
    def edit(document: Document) -> None:
        forwards = dict(document.get("forwards") or {})
        old = forwards.get(condition.value)
        rules: list[Any] = old if isinstance(old, list) else [old] if old else []
        left = [
            {**rule, "on": form.on.get(place, rule.get("on"))}
            for place, rule in enumerate(rules)
            if place not in form.dropped
        ]
        # A forward without a target cannot be turned on.
        left = [rule if rule.get("to") else {**rule, "on": False} for rule in left]
        if added is not None:
            left.insert(len(left) if form.new.place == LAST else 0, added)
        forwards.pop(condition.value, None)
        if left:
            forwards[condition.value] = left[0] if len(left) == 1 else left
        document["forwards"] = forwards

    return edit


def _errors_shown(
    visit: Visit,
    condition: Condition,
    form: Form,
    errors: Iterable[FieldError],
    added: Document | None,
) -> list[FormError]:
    """The refusals of the rules by form field: those of the forward that is added at its fields."""
    remaining = len(form.on) - len(form.dropped)
    place = remaining if form.new.place == LAST else 0
    path = f"forwards.{condition}" + (f"[{place}]" if remaining else "")
    wanted, result = _wanted(visit, form), []
    for error in errors:
        inside = error.field.removeprefix(path)
        if added is None or inside == error.field:
            result.append(FormError("", wanted.word(error, error.value)))
            continue
        part = inside.removeprefix(".").partition(".")[0].partition("[")[0]
        if part in ("when", "callers", "until"):
            text = visit.say("error_until" if part == "until" else "error_name")
            result.append(FormError(form.new.choice.named(part), text))
        else:
            named = FieldError(f"forwards.{condition}{inside}", error.value, error.problem)
            result += wanted.errors_of([named])
    return result


async def _page(
    visit: Visit,
    stored: Stored,
    condition: Condition,
    form: Form,
    etag: str,
    notice: str = "",
    errors: Sequence[FormError] = (),
    status: int = 200,
) -> Response:
    check = Check(errors)
    if not errors:
        check, _ = await _check(visit, stored, condition, form, None)
    now = await present(visit.site, stored.line)
    site, own = visit.site, stored.line
    fax = site.directory.search(visit.who, stored.fleet, limit=_FAX_LINES, fax=True)
    entries = [
        Entry(place, rule_in_words(visit, own, condition, forward),
              form.on.get(place, forward.on), place in form.dropped)
        for place, forward in enumerate(own.all_of(condition))
    ]  # fmt: skip
    return visit.page(
        "rules.html",
        422 if errors else status,
        line=own,
        condition=condition,
        entries=entries,
        new=form.new,
        c=form.new.choice,
        calendars=_names(own, now, "calendars"),
        lists=_names(own, now, "lists"),
        etag=etag,
        errors=errors,
        wrong={error.name: error.text for error in errors},
        check=check,
        notice=notice,
        used=now.profile,
        fax=[line for line in fax.lines if line.number != stored.number],
        labels={},
    )


def _names(line: Line, now: Present, what: str) -> list[str]:
    """The names of the calendars or lists that a forward of the line may have."""
    return sorted({*getattr(line, what), *getattr(now.fleet, what)})


def _confirm(
    visit: Visit,
    stored: Stored,
    check: Check,
    etag: str,
    action: str,
    fields: Mapping[str, str],
) -> Response:
    return visit.page(
        "confirm.html",
        422 if check.errors else 200,
        line=stored.line,
        check=check,
        etag=etag,
        notice="",
        fields=fields,
        action=action,
        title=visit.say("rules"),
        back=f"/lines/{stored.number}",
    )
