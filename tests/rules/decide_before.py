"""The earlier `rules.decide`, from when a condition had one forward, which always applied and had
one target. Documents without more than that must still give its decisions:
`test_decide_as_before`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from rules.billing import billing_class
from rules.model import CAPPED, FLEET_COUNTRIES, Billing, Condition, Destination, Kind, Line
from rules.numbers import REFUSALS
from rules.ringing_outcome import Failure, stops_all, target_failure, verdict

__all__ = [
    "PREVENTED",
    "Decision",
    "Explanation",
    "Failure",
    "ForwardTo",
    "Reject",
    "Ring",
    "Situation",
    "at_limit",
    "decide",
    "explain",
    "stops_all",
    "target_failure",
    "verdict",
]

PREVENTED = (
    "no_target",
    *REFUSALS,
    FLEET_COUNTRIES,
    "self",
    "not_ours",
    "other_fleet",
    "no_fax",
    "caller_is_target",
    "loop",
    "forwards_per_line",
    "forwards_per_line_per_hour",
    "fleet_cap",
    "max_diversions",
)
"""Why a forward that is on does not happen (`prevented` of a decision)."""


class Situation(msgspec.Struct):  # created in C, at each decision
    """All that a decision depends on besides the rules.

    Attributes:
        trigger: the condition that has just been met; None when the call arrives at the line.
        calls_in_progress: calls that count on this line now, without this one.
        registered: the line has a live registration.
        caller: the caller in E.164; None if it is withheld or not a number.
        visited: the lines on this call's path, including this line.
        forwarded: the lines that forwarded it before it came back from outside.
        diversions: forwards so far: the larger of Diversion and History-Info received, plus ours.
        max_diversions: how many forwards one call may have; 0 = no limit.
        forwards_in_progress: forwarded calls of this line in progress.
        forwards_per_line: how many may be in progress at once; 0 = no limit.
        forwards_last_hour: forwards of this line in the last hour.
        forwards_per_line_per_hour: how many there may be; 0 = no limit.
        plan_left_s: seconds left of the month's hours to mobiles; None = unknown or no such plan.
        cap_left_s: seconds left of what the fleet may use out of plan in the month; None = no cap.
        fleet_suspended: the line's fleet is suspended, and with it all its lines.
        fleet_countries: the countries of allowed targets of the fleet; None = it has no list.
    """

    trigger: Condition | None = None
    calls_in_progress: int = 0
    registered: bool = True
    caller: str | None = None
    visited: tuple[str, ...] = ()
    forwarded: tuple[str, ...] = ()
    diversions: int = 0
    max_diversions: int = 5
    forwards_in_progress: int = 0
    forwards_per_line: int = 0
    forwards_last_hour: int = 0
    forwards_per_line_per_hour: int = 0
    plan_left_s: float | None = None
    cap_left_s: float | None = None
    fleet_suspended: bool = False
    fleet_countries: frozenset[str] | None = None


def at_limit(situation: Situation, limit: str) -> Situation:
    """The situation when all workers together have reached a limit on a line's forwards,
    `forwards_per_line` or `forwards_per_line_per_hour`."""
    if limit == "forwards_per_line":
        return replace(situation, forwards_in_progress=situation.forwards_per_line)
    return replace(situation, forwards_last_hour=situation.forwards_per_line_per_hour)


@dataclass(frozen=True, slots=True)
class Ring:
    """Ring the line's contacts. `after_s`: seconds until no_answer; None = no such timer.
    `prevented`: of PREVENTED, for each forward that is on, was due and did not happen."""

    after_s: int | None
    prevented: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class ForwardTo:
    """Forward the call.

    Attributes:
        kind: "line" (a line of the fleet, whose own rules apply), "voicemail", "fax", "number".
        number: the target in E.164.
        cause: History-Info and RFC 4458 cause: 302, 486, 408 or 503.
        reason: Diversion reason (RFC 5806).
    """

    condition: Condition
    kind: str
    number: str
    billing: Billing
    cause: int
    reason: str
    prevented: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer the caller with `code`. `why` is one of a closed set of short words."""

    code: int
    condition: Condition | None
    why: str
    prevented: tuple[str, ...] = field(default=(), compare=False)


Decision = Ring | ForwardTo | Reject


class Explanation(NamedTuple):
    """The steps of a decision in order, as sentences, and the decision itself."""

    steps: tuple[str, ...]
    decision: Decision


class _Trigger(NamedTuple):
    cause: int
    reason: str
    refusal: int
    """The code for the caller when the condition is met and its forward does not happen."""


# forwarding-rules.md 2 (cause, Diversion reason) and 1.6 (code without a forward).
_TRIGGERS = {
    Condition.UNCONDITIONAL: _Trigger(302, "unconditional", 480),
    Condition.BUSY: _Trigger(486, "user-busy", 486),
    Condition.NO_ANSWER: _Trigger(408, "no-answer", 480),
    Condition.UNREACHABLE: _Trigger(503, "unavailable", 480),
}

_Targets = Mapping[str, Line | None]


class _No(NamedTuple):
    """Why a forward does not happen: one of PREVENTED ("" if it is off), and in words."""

    reason: str
    told: str


_OFF = _No("", "off")


class _Notes:
    """Notes on the steps of a decision; `steps` is filled only for `explain`."""

    __slots__ = ("prevented", "steps")

    def __init__(self, steps: list[str] | None) -> None:
        self.steps = steps
        self.prevented: tuple[str, ...] = ()

    def step(self, step: str, *values: object) -> None:
        # Formatted only for `explain`, so that the call path formats no text.
        if self.steps is not None:
            self.steps.append(step.format(*values))


def decide(line: Line, situation: Situation, targets: _Targets) -> Decision:
    """What to do with a call at `line` now.

    Args:
        targets: the line of each number that `line.forwards` names; None (or absent) when that
            number is not one of our lines.
    """
    return _walk(line, situation, targets, _Notes(None))


def explain(line: Line, situation: Situation, targets: _Targets) -> Explanation:
    """The same decision as `decide`, by the same code, with its steps."""
    steps: list[str] = []
    decision = _walk(line, situation, targets, _Notes(steps))
    steps.append(_told(decision))
    return Explanation(tuple(steps), decision)


def _walk(line: Line, now: Situation, targets: _Targets, notes: _Notes) -> Decision:
    """The order of forwarding-rules.md 1, top to bottom."""
    if line.suspended:
        notes.step("line: suspended")
        return Reject(403, None, "suspended")
    if now.fleet_suspended:
        notes.step("fleet: {} is suspended with all its lines", line.fleet)
        return Reject(403, None, "fleet_suspended")
    if now.trigger is not None:
        return _met(now.trigger, line, now, targets, notes)

    forward = _forward(Condition.UNCONDITIONAL, line, now, targets, notes)
    if forward is not None:
        return forward

    if line.max_calls is not None and now.calls_in_progress >= line.max_calls:
        notes.step("calls: {} of {} in progress, busy", now.calls_in_progress, line.max_calls)
        return _met(Condition.BUSY, line, now, targets, notes)
    notes.step("calls: {} of {} in progress", now.calls_in_progress, line.max_calls or "any")

    if not now.registered:
        notes.step("registration: none live, unreachable")
        return _met(Condition.UNREACHABLE, line, now, targets, notes)
    notes.step("registration: live")

    return Ring(_no_answer_timer(line, now, targets, notes), notes.prevented)


def _met(
    condition: Condition, line: Line, now: Situation, targets: _Targets, notes: _Notes
) -> Decision:
    """The condition is met: its forward, or its code when that is off or not allowed."""
    forward = _forward(condition, line, now, targets, notes)
    if forward is not None:
        return forward
    return Reject(_TRIGGERS[condition].refusal, condition, condition.value, notes.prevented)


def _forward(
    condition: Condition, line: Line, now: Situation, targets: _Targets, notes: _Notes
) -> ForwardTo | Reject | None:
    """The forward of a condition; None when it is off or counts as off.

    The limit of diversions comes last: it stops forwards that would otherwise happen.
    """
    no = _why_not(condition, line, now, targets)
    if no is not None:
        notes.step("{}: {}", condition, no.told)
        if no.reason:
            notes.prevented += (no.reason,)
        return None
    if 0 < now.max_diversions <= now.diversions:
        notes.step("{}: on, but {} forwards so far are the limit", condition, now.diversions)
        refusal, prevented = _TRIGGERS[condition].refusal, (*notes.prevented, "max_diversions")
        return Reject(refusal, condition, "max_diversions", prevented)
    to = line.forwards[condition].to
    assert to is not None  # checked by _why_not
    cause, reason, _ = _TRIGGERS[condition]
    kind = _kind(to, line, targets)
    billing = _billing(to, line, now, targets)
    notes.step("{}: on, to {} {}, billing {}", condition, kind, to.number, billing)
    return ForwardTo(condition, kind, to.number, billing, cause, reason, notes.prevented)


def _no_answer_timer(line: Line, now: Situation, targets: _Targets, notes: _Notes) -> int | None:
    """Seconds until no_answer. Only a forward that may happen ends the ringing early."""
    condition = Condition.NO_ANSWER
    no = _why_not(condition, line, now, targets)
    if no is not None:
        notes.step("{}: {}", condition, no.told)
        return None
    forward = line.forwards[condition]
    if forward.after_s is None:
        notes.step("{}: on, without a timer", condition)
    else:
        notes.step("{}: on, after {} s of ringing", condition, forward.after_s)
    return forward.after_s


def _why_not(condition: Condition, line: Line, now: Situation, targets: _Targets) -> _No | None:
    """Why a forward is off or counts as off; None when it may happen (forwarding-rules.md 2)."""
    forward = line.forwards.get(condition)
    if forward is None or not forward.on:
        return _OFF
    to = forward.to
    if to is None:
        return _No("no_target", "off, it has no target")
    if to.refused is not None or now.fleet_countries is not None:
        refused = to.why_refused(_kind(to, line, targets) != "number", now.fleet_countries)
        if refused is not None:
            return _No(refused, _told_refused(refused, to, line))
    if to.kind is Kind.VOICEMAIL and to.number == line.number:
        # Its own voicemail is always allowed, also when the line itself calls.
        return _over_limit(now)
    return (
        _wrong_target(to, line, targets)
        or _wrong_call(to, line, now)
        or _over_limit(now)
        or _over_cap(to, line, now, targets)
    )


def _told_refused(refused: str, to: Destination, line: Line) -> str:
    country = f"not allowed, {to.number} is in country {to.country}, which "
    if refused == FLEET_COUNTRIES:
        return f"{country}forward_countries of fleet {line.fleet} does not have"
    if refused == "country":
        return f"{country}numbering.forward_countries does not have"
    if refused == "invalid":
        return f"not allowed, {to.number} is no valid number (numbering.also_valid may admit it)"
    return f"not allowed, {to.number} is a number of kind {refused}"


def _wrong_target(to: Destination, line: Line, targets: _Targets) -> _No | None:
    if to.number == line.number:
        return _No("self", "not allowed, the target is the line itself")
    if to.kind is Kind.NUMBER:
        return None
    target = targets.get(to.number)
    if target is None:
        return _No("not_ours", f"not allowed, {to.number} is no line of ours")
    if target.fleet != line.fleet:
        return _No("other_fleet", f"not allowed, {to.number} is a line of another fleet")
    if to.kind is Kind.FAX and not target.offer.fax:
        return _No("no_fax", f"not allowed, {to.number} has no fax offer")
    return None


def _wrong_call(to: Destination, line: Line, now: Situation) -> _No | None:
    if to.number == now.caller:
        return _No("caller_is_target", f"skipped, the caller {now.caller} is its target")
    # A voicemail is not its line: no phone rings there, and no call can come back.
    if to.kind is Kind.VOICEMAIL:
        return None
    if to.number in now.visited or to.number in now.forwarded:
        return _No("loop", f"counts as off, the call has already met {to.number}")
    if line.number in now.forwarded:
        return _No("loop", "counts as off, the line has forwarded this call before")
    return None


def _over_limit(now: Situation) -> _No | None:
    """The limits against loops through the outside and toll fraud."""
    if 0 < now.forwards_per_line <= now.forwards_in_progress:
        told = f"counts as off, {now.forwards_in_progress} forwards of the line stand already"
        return _No("forwards_per_line", told)
    if 0 < now.forwards_per_line_per_hour <= now.forwards_last_hour:
        told = f"counts as off, the line had {now.forwards_last_hour} forwards in the last hour"
        return _No("forwards_per_line_per_hour", told)
    return None


def _over_cap(to: Destination, line: Line, now: Situation, targets: _Targets) -> _No | None:
    """Whether the fleet's monthly cap out of plan and abroad is used up (forwarding-rules.md 4)."""
    if now.cap_left_s is None or now.cap_left_s > 0:
        return None
    if _billing(to, line, now, targets) not in CAPPED:
        return None
    return _No("fleet_cap", f"not allowed, the cap of fleet {line.fleet} is used up")


def _kind(to: Destination, line: Line, targets: _Targets) -> str:
    """The kind of the target. Another fleet's line is an outside number."""
    if to.kind is not Kind.NUMBER:
        return to.kind.value
    target = targets.get(to.number)
    return "line" if target is not None and target.fleet == line.fleet else "number"


def _billing(to: Destination, line: Line, now: Situation, targets: _Targets) -> Billing:
    kind = _kind(to, line, targets)
    return billing_class(
        line, kind, to.number, to.mobile, kind != "number", now.plan_left_s, to.tariff
    )


def _told(decision: Decision) -> str:
    if isinstance(decision, Ring):
        timer = "" if decision.after_s is None else f", no answer after {decision.after_s} s"
        return f"ring the line{timer}"
    if isinstance(decision, ForwardTo):
        payer = "" if decision.billing is Billing.FREE else f", billing {decision.billing}"
        return f"forward to {decision.kind} {decision.number} ({decision.condition}){payer}"
    return f"refuse with {decision.code} ({decision.why})"
