"""Star codes: what a phone dials to change its line's forwards. Pure.

The grammar is that of 3GPP TS 22.030 6.5.2 (registration `**SC*N#`, activation `*SC#`, deactivation
`#SC#`, erasure `##SC#`, interrogation `*#SC#`), with the service codes of its annex B and those of
the French fixed network, where busy is 69. docs/star-codes.md has the whole table.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rules.model import Condition, Kind, Line
from rules.numbers import NumberError, Numbering
from rules.shared_document import has_ended
from rules.switches import switch_do_not_disturb

DEFAULT_AFTER_S = 20
ALL = tuple(Condition)
CONDITIONAL = tuple(c for c in Condition if c is not Condition.UNCONDITIONAL)
SERVICES: Mapping[str, tuple[Condition, ...]] = {
    "21": (Condition.UNCONDITIONAL,),
    "61": (Condition.NO_ANSWER,),
    "62": (Condition.UNREACHABLE,),
    "67": (Condition.BUSY,),
    "69": (Condition.BUSY,),  # the French fixed network's
    "002": ALL,
    "004": CONDITIONAL,
}
DO_NOT_DISTURB = "26"
"""Not in TS 22.030: OVHcloud and the fixed network of Switzerland have it."""
# Basic service groups that a telephone line has (TS 22.030 annex C): all, telephony, all but SMS.
_VOICE = frozenset(("", "10", "11", "19"))
_LONGEST = 64
_CODE = re.compile(r"\+?(\*\*|\*#|##|\*|#)([0-9]{2,3})((?:\*[0-9+. ()/-]*)*)#?")

Document = dict[str, Any]


class Action(StrEnum):
    """What a code asks for."""

    REGISTER = "register"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    ERASE = "erase"
    STATUS = "status"
    TOGGLE = "toggle"


_ACTIONS = {
    "**": Action.REGISTER,
    "*": Action.ACTIVATE,
    "#": Action.DEACTIVATE,
    "##": Action.ERASE,
    "*#": Action.STATUS,
}
# Of a service that has nothing to register and nothing to forget.
_SWITCHES = {"**": Action.TOGGLE, "##": Action.DEACTIVATE}


@dataclass(frozen=True, slots=True)
class StarCode:
    """A valid code.

    Attributes:
        text: as dialled.
        number: the target, as dialled; None without one.
        after_s: seconds of ringing before no_answer; None if not given.

    Without any condition it is about do not disturb.
    """

    text: str
    action: Action
    conditions: tuple[Condition, ...]
    number: str | None = None
    after_s: int | None = None


class StarCodeError(ValueError):
    """A code that cannot be carried out.

    Attributes:
        code: the final SIP response: 484 something is missing, 404 no such code or target, 403 it
            may not be changed by a code.
        why: a short word for the record.
        problem: the same for people.
    """

    def __init__(self, code: int, why: str, problem: str) -> None:
        super().__init__(problem)
        self.code = code
        self.why = why
        self.problem = problem


def looks_like_code(user: str) -> bool:
    """Whether a user part is meant as a code: it begins with `*` or `#`, after an optional `+` (TS
    24.238 4.2, with user=phone).
    """
    return user[:1] in ("*", "#") or user[:2] in ("+*", "+#")


def read_code(user: str) -> StarCode:
    """Parse the unescaped user part of a Request-URI. The last `#` may be missing, because many
    phones take it for the end of dialling.

    Raises:
        StarCodeError: 404 no such code, 484 the target is missing or incomplete.
    """
    found = _CODE.fullmatch(user) if len(user) <= _LONGEST else None
    if found is not None and found[2] == DO_NOT_DISTURB:
        if found[3]:
            raise StarCodeError(404, "unknown_code", "this code takes no number")
        return StarCode(user, _SWITCHES.get(found[1], _ACTIONS[found[1]]), ())
    conditions = SERVICES.get(found[2]) if found is not None else None
    if found is None or conditions is None:
        raise StarCodeError(404, "unknown_code", "no such service code")
    action, fields = _ACTIONS[found[1]], found[3].split("*")[1:]
    number = fields[0].strip() if fields else ""
    after_s = _after_s(conditions, fields[1:])
    if action is Action.REGISTER and not number:
        raise StarCodeError(484, "incomplete", "a number is needed")
    if action is Action.ACTIVATE and number:
        action = Action.REGISTER  # TS 22.030 6.5.2: one star with a number registers
    elif action is Action.ACTIVATE and len(fields) == 1:
        raise StarCodeError(484, "incomplete", "the number is missing")
    if action in (Action.DEACTIVATE, Action.ERASE) and number:
        raise StarCodeError(404, "unknown_code", "this code takes no number")
    return StarCode(user, action, conditions, number or None, after_s)


def _after_s(conditions: tuple[Condition, ...], fields: list[str]) -> int | None:
    """Parse what follows the number: `*T`, or a basic service and `*T` (TS 22.030 annex B).

    A single field means seconds if the code has a no-answer forward, because lines have no other
    service.
    """
    waits = Condition.NO_ANSWER in conditions
    if len(fields) == 1 and waits:
        fields = ["", *fields]
    if len(fields) > 2 or (fields and fields[0].strip() not in _VOICE):
        raise StarCodeError(404, "unknown_code", "no such service")
    seconds = fields[1].strip() if len(fields) == 2 else ""
    if not seconds:
        return None
    if not waits or not seconds.isdigit() or len(seconds) > 3:
        raise StarCodeError(404, "unknown_code", "no seconds are taken here")
    return int(seconds)


def apply(
    code: StarCode,
    document: Document,
    number: str,
    numbering: Numbering,
    mailbox: Collection[str],
    now: float,
) -> None:
    """Change the forwards of a document, or do not disturb, as the code asks, and keep the rest.

    `rules.validate.check_write` checks the result.

    Args:
        number: the line's own, E.164.
        mailbox: short numbers that mean the line's voicemail.
        now: unix seconds. An end that has passed is forgotten when a forward is turned on.

    A condition with several forwards is turned off as a whole, and neither replaced nor erased.

    Raises:
        StarCodeError: the target is not a number, there is none to activate, or the condition has
            several forwards (403).
    """
    if not code.conditions:
        on = code.action is Action.ACTIVATE
        if code.action is Action.TOGGLE:
            on = not document.get("do_not_disturb")
        switch_do_not_disturb(document, on)
        return
    forwards = document.get("forwards")
    document["forwards"] = forwards = dict(forwards) if isinstance(forwards, dict) else {}
    to = None
    if code.action is Action.REGISTER:
        to = target(code.number or "", number, numbering, mailbox)
    turns_off = code.action in (Action.DEACTIVATE, Action.ERASE)
    touched = 0
    for condition in code.conditions:
        forward = forwards.get(condition.value)
        if isinstance(forward, list):
            if not turns_off:
                raise StarCodeError(403, "several_forwards", "has several forwards")
            forwards[condition.value] = [{**each, "on": False} for each in forward]
            continue
        known = isinstance(forward, dict)
        forward = dict(forward) if isinstance(forward, dict) else {}
        if code.action is Action.ERASE:
            forwards.pop(condition.value, None)
            continue
        if code.action is Action.DEACTIVATE:
            if known:
                forwards[condition.value] = forward | {"on": False}
            continue
        if to is not None:
            before = forward.get("to")
            forward["to"] = (before if isinstance(before, dict) else {}) | to
            for name in ("when", "callers", "until"):
                forward.pop(name, None)  # the code's forward applies always and to everybody
        elif not forward.get("to"):
            continue
        elif has_ended(forward, now):
            forward.pop("until")
        forward["on"] = True
        if condition is Condition.NO_ANSWER:
            if code.after_s is not None:
                forward["after_s"] = code.after_s
            elif forward.get("after_s") is None:
                forward["after_s"] = DEFAULT_AFTER_S
        forwards[condition.value] = forward
        touched += 1
    if code.action in (Action.REGISTER, Action.ACTIVATE) and not touched:
        raise StarCodeError(404, "no_target", "no number is stored for it")


def target(
    dialled: str, number: str, numbering: Numbering, mailbox: Collection[str]
) -> dict[str, str]:
    """The `to` of a document for a dialled target. The line's own number and the short numbers of
    its voicemail mean the voicemail, everything else a number.

    Raises:
        StarCodeError: 484 it is too short, 404 it is not a number.
    """
    if dialled in mailbox:
        return {"kind": Kind.VOICEMAIL.value, "number": number}
    try:
        found = numbering.recognise(dialled).number
    except NumberError as error:
        short = "too short" in error.problem
        code, why = (484, "incomplete") if short else (404, "bad_target")
        raise StarCodeError(code, why, f"the number {error.problem}") from None
    kind = Kind.VOICEMAIL if found == number else Kind.NUMBER
    return {"kind": kind.value, "number": found}


def is_on(
    code: StarCode, line: Line, numbering: Numbering, mailbox: Collection[str], now: float
) -> bool:
    """The answer to a status code: whether one of its forwards is on (to its number, if given), and
    has not ended by `now`, in unix seconds; or do not disturb."""
    if not code.conditions:
        return line.do_not_disturb
    for condition in code.conditions:
        for forward in line.all_of(condition):
            if not forward.is_on_at(now):
                continue
            if code.number is None:
                return True
            wanted = target(code.number, line.number, numbering, mailbox)
            named = {(to.kind.value, to.number) for to in forward.destinations}
            if (wanted["kind"], wanted["number"]) in named:
                return True
    return False
