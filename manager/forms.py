"""The form of the four forwards: the input as typed, and its faults."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from manager.access import Who
from manager.directory import Directory
from manager.failures import FieldError, Refused
from manager.formats import Shown
from manager.lines import Document
from manager.undo import has_rules
from manager.words import Say
from rules.model import Condition, Forward, Kind, Line
from rules.numbers import Numbering

# The guide's order; that of precedence is Condition's own.
ORDER = (Condition.UNCONDITIONAL, Condition.NO_ANSWER, Condition.BUSY, Condition.UNREACHABLE)
KINDS = (Kind.VOICEMAIL, Kind.FAX, Kind.NUMBER)
KEEP, ON, OFF = "keep", "on", "off"
OWN, OTHER = "own", "other"
DEFAULT_AFTER_S = 20
_LONGEST_TYPED = 80
_LIKE = 3  # names that are offered

# Problems that `rules` reports of a field, and their texts.
_PROBLEMS = (
    (r"is the line itself", "error_self"),
    (r"(premium|emergency|short) numbers cannot be targets", "error_{0}"),
    (r"shared-cost numbers cannot be targets", "error_shared_cost"),
    (r"is no valid number of its country, .*", "error_invalid"),
    (r".* is not in numbering\.forward_countries", "error_country_refused"),
    (r".* is not in forward_countries of fleet .*", "error_fleet_countries"),
    (r"has an extension, .*", "error_extension"),
    (r"is no line of ours.*|is not a line of fleet .*", "error_not_fleet"),
    (r"is a line without the fax offer", "error_no_fax"),
    (r"is needed .*", "error_needed"),
    (r"was changed since", "error_changed_since"),
    (r"has forwards that only the API changes", "error_by_api"),
    (r"is no telephone number", "error_no_number"),
    (r"is too short to be a number|is a local number without its area code", "error_too_short"),
    (r"is too long to be a number|does not have the length of a number", "error_too_long"),
    (r"has no known country code", "error_country"),
)


@dataclass(slots=True)
class Choice:
    """One of the four. `mode`: on, off, or keep (several lines, or rules); the rest as typed."""

    condition: Condition
    mode: str = OFF
    service: str = Kind.VOICEMAIL
    typed: dict[str, str] = field(default_factory=dict)
    after: str = str(DEFAULT_AFTER_S)
    box: str = OWN  # whose voicemail

    @property
    def on(self) -> bool:
        return self.mode == ON

    def named(self, part: str) -> str:
        """The name of one of its fields in the form."""
        return f"{self.condition}-{part}"

    @property
    def target(self) -> str:
        if self.service == Kind.VOICEMAIL and self.box == OWN:
            return ""
        return self.typed.get(self.service, "")


def of_line(line: Line, shown: Shown, by_rules: Container[Condition]) -> list[Choice]:
    """The form with the values of the line's document.

    Args:
        by_rules: conditions whose rules have a page of their own; the form keeps them as they are.
    """
    return [
        Choice(c, KEEP)
        if c in by_rules
        else _of_forward(c, line.number, line.forwards.get(c), shown)
        for c in ORDER
    ]


def _of_forward(condition: Condition, own: str, forward: Forward | None, shown: Shown) -> Choice:
    choice = Choice(condition)
    if forward is None:
        return choice
    choice.mode = ON if forward.on else OFF
    if forward.to is not None:
        choice.service = forward.to.kind
        choice.typed = {forward.to.kind.value: shown.number(forward.to.number)}
        choice.box = OWN if forward.to.number == own else OTHER
    if forward.after_s is not None:
        choice.after = str(forward.after_s)
    return choice


def of_form(fields: Mapping[str, str]) -> list[Choice]:
    """The form as it was sent."""
    choices = []
    for condition in ORDER:
        typed = {k.value: fields.get(f"{condition}-{k}", "")[:_LONGEST_TYPED] for k in KINDS}
        mode = fields.get(f"{condition}-on", OFF)
        choices.append(
            Choice(
                condition,
                mode if mode in (KEEP, ON) else OFF,
                fields.get(f"{condition}-service", "")[:_LONGEST_TYPED],
                {kind: text.strip() for kind, text in typed.items()},
                fields.get(f"{condition}-after", "").strip()[:_LONGEST_TYPED],
                OTHER if fields.get(f"{condition}-box") == OTHER else OWN,
            )
        )
    return choices


@dataclass(frozen=True, slots=True)
class FormError:
    """A fault of a field of the form, in the reader's language."""

    name: str
    text: str


class Wanted:
    """The request of a form, as an edit of a line's document."""

    def __init__(
        self,
        choices: Iterable[Choice],
        directory: Directory,
        numbering: Numbering,
        shown: Shown,
        say: Say,
    ) -> None:
        self.choices = list(choices)
        self._directory = directory
        self._numbering = numbering
        self._shown = shown
        self._say = say

    def edit(self, who: Who, own: str, fleet: str) -> tuple[list[FormError], Any]:
        """(faults of the form itself, the function that edits the document of line `own`)."""
        errors: list[FormError] = []
        forwards: dict[str, Document] = {}
        for choice in self.choices:
            if choice.mode == KEEP:
                continue
            if not choice.on:
                forwards[choice.condition.value] = {"on": False}
                continue
            forwards[choice.condition.value] = self.forward(choice, who, own, fleet, errors)

        def edit(document: Document) -> None:
            stored = dict(document.get("forwards") or {})
            for condition, wanted in forwards.items():
                old = stored.get(condition)
                if old is None and not wanted["on"]:
                    continue
                if isinstance(old, list) and not wanted["on"]:
                    stored[condition] = [{**each, "on": False} for each in old]
                    continue
                if has_rules(old) and wanted["on"]:
                    problem = "has forwards that only the API changes"
                    raise Refused([FieldError(f"forwards.{condition}", None, problem)])
                kept = (old or {}).get("to") if self._leads_there(own, old, wanted) else None
                stored[condition] = {**(old or {}), **wanted, **({"to": kept} if kept else {})}
            if stored:
                document["forwards"] = stored

        return errors, edit

    def _leads_there(self, own: str, old: Document | None, wanted: Document) -> bool:
        """Whether a forward has the same target as the stored one, in any notation."""
        if not old or "to" not in wanted or not isinstance(old.get("to"), dict):
            return False
        was, to = old["to"], wanted["to"]
        number = to["number"] and self._numbering.quick(to["number"])
        return was.get("kind") == to["kind"] and (was.get("number") or own) == number

    def forward(
        self, choice: Choice, who: Who, own: str, fleet: str, errors: list[FormError]
    ) -> Document:
        """A choice that is on as the document's forward; its faults are added to `errors`."""
        if choice.service not in set(Kind):
            errors.append(FormError(choice.named("service"), self._say("error_service")))
            return {"on": False}
        number: str | None = choice.target
        if not number:
            is_own = choice.service == Kind.VOICEMAIL and choice.box == OWN
            number = own if is_own else None
            if choice.service == Kind.VOICEMAIL and not is_own:
                name = choice.named(choice.service)
                errors.append(FormError(name, self._say("error_needed")))
                number = own
        elif not _looks_like_number(number):
            number = self._by_name(choice, number, who, fleet, errors)
        forward: Document = {"on": True, "to": {"kind": choice.service, "number": number}}
        if choice.condition is Condition.NO_ANSWER:
            if choice.after.isascii() and choice.after.isdigit() and 5 <= int(choice.after) <= 60:
                forward["after_s"] = int(choice.after)
            else:
                errors.append(FormError(choice.named("after"), self._say("error_after")))
        return forward

    def _by_name(
        self, choice: Choice, text: str, who: Who, fleet: str, errors: list[FormError]
    ) -> str:
        """The number of the line with exactly this name; lines are never guessed."""
        named = self._directory.named(fleet, text)
        if len(named) == 1:
            return named[0].number
        like = named or self._directory.search(who.colleague, fleet, text, limit=_LIKE).lines
        if like:
            names = ", ".join(
                f"{line.label} ({self._shown.number(line.number)})" for line in like[:_LIKE]
            )
            key = "error_ambiguous" if named else "error_partial"
            problem = self._say(key, value=text, names=names)
            errors.append(FormError(choice.named(choice.service), problem))
        return text

    def errors_of(self, errors: Iterable[FieldError]) -> list[FormError]:
        """The refusals of the rules, in the reader's language, by form field."""
        result = []
        for error in errors:
            path = error.field.split(".")
            choice = next(
                (c for c in self.choices if len(path) > 1 and c.condition == path[1]), None
            )
            name = ""
            if choice is not None:
                name = choice.named("after" if path[-1] == "after_s" else choice.service)
            value = choice.target if choice else error.value
            result.append(FormError(name, self.word(error, value)))
        return result

    def word(self, error: FieldError, value: object) -> str:
        """A refusal of the rules for a field, in the reader's language."""
        if error.field.endswith("after_s"):
            return self._say("error_after")
        for pattern, key in _PROBLEMS:
            found = re.fullmatch(pattern, error.problem)
            if found:
                key = key.format(*found.groups())
                if key == "error_short" and self._numbering.begins_whole(str(value)):
                    key = "error_too_short"
                if key == "error_no_number":
                    return self._say(key, value=value)
                return self._say(key)
        return self._say("error_other", problem=f"{error.field} {error.problem}")


def _looks_like_number(text: str) -> bool:
    return sum(c.isdigit() for c in text) >= 2 and not any(c.isalpha() for c in text)
