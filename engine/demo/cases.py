"""The calls of `renvoi demo`: each with its lines, the behaviour of their phones, and the expected
result. Data and pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rules.model import Condition, Kind
from sip.fake import ANSWERS, IS_BUSY, IS_SILENT, ONLY_RINGS, Script

CALLER = "+33199000001"
AFTER_S = 5  # the shortest no-answer time that a line may have
FLEET = "demo"

# forwarding-rules.md 2: the condition in the headers of the new leg.
REASONS = {
    Condition.UNCONDITIONAL: "unconditional",
    Condition.BUSY: "user-busy",
    Condition.NO_ANSWER: "no-answer",
    Condition.UNREACHABLE: "unavailable",
}
CAUSES = {"unconditional": 302, "user-busy": 486, "no-answer": 408, "unavailable": 503}
ROLES = {Kind.VOICEMAIL: "voicemail", Kind.FAX: "fax", Kind.NUMBER: "gateway"}
Place = tuple[str, str]  # (role, number) of an invited party


@dataclass(frozen=True, slots=True)
class Result:
    """The actual or expected result of a call.

    Attributes:
        invited: all parties that the engine invited, in order.
        code: the final code that the caller got; 0 = none.
        diversions: (forwarding line, reason) from the Diversion headers of the INVITE that was
            answered, newest first.
    """

    invited: tuple[Place, ...]
    code: int
    diversions: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        reached = " ".join(self.invited[-1]) if self.code == 200 and self.invited else "nobody"
        newest = self.diversions[0][1] if self.diversions else ""
        earlier = f" +{len(self.diversions) - 1}" if len(self.diversions) > 1 else ""
        return f"{reached} {self.code or 'no answer'} {newest}{earlier}".rstrip()


@dataclass(frozen=True, slots=True)
class Case:
    """One call.

    Attributes:
        name: the displayed name.
        lines: its documents; the first is the called line.
        phones: the registered phones, by the number of their line.
        expected: the expected result.
        occupied: the line's phone is in an earlier call meanwhile.
    """

    name: str
    lines: tuple[Mapping[str, Any], ...]
    phones: Mapping[str, Script]
    expected: Result
    occupied: bool = False

    @property
    def called(self) -> str:
        return str(self.lines[0]["number"])


@dataclass(frozen=True, slots=True)
class Played:
    """A played call: its result, and its set-up time from INVITE to final response."""

    case: Case
    got: Result
    faults: tuple[str, ...]
    setup_s: float

    @property
    def differences(self) -> list[str]:
        """The differences from the expected result, as text; empty if there are none."""
        found, expected, got = list(self.faults), self.case.expected, self.got
        for name in ("invited", "code", "diversions"):
            wanted, seen = getattr(expected, name), getattr(got, name)
            if wanted != seen:
                found.append(f"{name}: expected {_in_words(wanted)}, got {_in_words(seen)}")
        return found


def _in_words(value: object) -> str:
    """A part of a result as text."""
    if isinstance(value, tuple):
        return ", ".join(" ".join(item) for item in value) or "none"
    return str(value or "none")


FICTION = "+3363998"
"""The French range for fiction, which is not assigned and therefore not in the numbering data."""


@dataclass(slots=True)
class _Numbers:
    """Numbers that no other case uses. Outside numbers are from the French range for fiction."""

    case: int = 0
    _next: Iterator[int] = field(default_factory=lambda: iter(range(10)))

    def line(self) -> str:
        return f"+33972101{self.case:02d}{next(self._next)}"

    def outside(self) -> str:
        return f"{FICTION}00{self.case:02d}"


def all_cases() -> list[Case]:
    """Every condition with every destination, and calls that test the order of the rules."""
    makers = [_plain, _busy_line, _unregistered, _chain, _loop]
    pairs = [(condition, kind) for condition in Condition for kind in Kind]
    forwards = [_forwarded(_Numbers(i), *pair) for i, pair in enumerate(pairs)]
    return forwards + [make(_Numbers(i)) for i, make in enumerate(makers, len(pairs))]


def _forwarded(numbers: _Numbers, condition: Condition, kind: Kind) -> Case:
    """`condition` is met at a line that forwards it to a target of `kind`."""
    line = numbers.line()
    lines = [_line(line)]
    to = line  # its own voicemail
    if kind is Kind.FAX:
        to = numbers.line()
        lines.append(_line(to, offer={"fax": True}))
    elif kind is Kind.NUMBER:
        to = numbers.outside()
    lines[0]["forwards"] = {condition.value: _forward(condition, kind, to)}

    phone: Script | None = {
        Condition.UNCONDITIONAL: ANSWERS,  # and must not ring
        Condition.BUSY: IS_BUSY,
        Condition.NO_ANSWER: ONLY_RINGS,
        # Once a stale registration, where nobody responds; otherwise none at all.
        Condition.UNREACHABLE: IS_SILENT if kind is Kind.FAX else None,
    }[condition]
    rung = phone is not None and condition is not Condition.UNCONDITIONAL
    first: tuple[Place, ...] = (("phone", line),) if rung else ()
    return Case(
        f"{condition.replace('_', ' ')} -> {kind}",
        tuple(lines),
        {} if phone is None else {line: phone},
        Result((*first, (ROLES[kind], to)), 200, ((line, REASONS[condition]),)),
    )


def _plain(numbers: _Numbers) -> Case:
    line = numbers.line()
    expected = Result((("phone", line),), 200)
    return Case("plain call", (_line(line),), {line: ANSWERS}, expected)


def _busy_line(numbers: _Numbers) -> Case:
    """The phone would take a second call; the line may not."""
    line = numbers.line()
    forwards = {"busy": _forward(Condition.BUSY, Kind.VOICEMAIL, line)}
    return Case(
        "second call, max_calls 1",
        (_line(line, max_calls=1, forwards=forwards),),
        {line: ANSWERS},
        Result((("voicemail", line),), 200, ((line, "user-busy"),)),
        occupied=True,
    )


def _unregistered(numbers: _Numbers) -> Case:
    return Case("unregistered, no forward", (_line(numbers.line()),), {}, Result((), 480))


def _chain(numbers: _Numbers) -> Case:
    """A forwards the call to B, whose own rules then apply: its phone is busy."""
    first, second = numbers.line(), numbers.line()
    forward = _forward(Condition.UNCONDITIONAL, Kind.NUMBER, second)
    busy = _forward(Condition.BUSY, Kind.VOICEMAIL, second)
    return Case(
        "chain A -> B -> voicemail",
        (_line(first, forwards={"unconditional": forward}), _line(second, forwards={"busy": busy})),
        {first: ANSWERS, second: IS_BUSY},
        Result(
            (("phone", second), ("voicemail", second)),
            200,
            ((second, "user-busy"), (first, "unconditional")),
        ),
    )


def _loop(numbers: _Numbers) -> Case:
    """A and B forward everything to one another: B's forward back counts as off, so B rings."""
    first, second = numbers.line(), numbers.line()
    there = _forward(Condition.UNCONDITIONAL, Kind.NUMBER, second)
    back = _forward(Condition.UNCONDITIONAL, Kind.NUMBER, first)
    return Case(
        "loop A -> B -> A, B rings",
        (
            _line(first, forwards={"unconditional": there}),
            _line(second, forwards={"unconditional": back}),
        ),
        {first: ANSWERS, second: ANSWERS},
        Result((("phone", second),), 200, ((first, "unconditional"),)),
    )


def _line(number: str, **fields: Any) -> dict[str, Any]:
    return {"number": number, "fleet": FLEET, **fields}


def _forward(condition: Condition, kind: Kind, to: str) -> dict[str, Any]:
    forward: dict[str, Any] = {"on": True, "to": {"kind": kind, "number": to}}
    if condition is Condition.NO_ANSWER:
        forward["after_s"] = AFTER_S
    return forward
