"""What happens to a call at a line: pure functions on frozen data, driven by tables.

`decide` answers when a call arrives and again each time a condition is met; `verdict`
(`rules.outcome`) says which condition the ringing of a line ended in. Both are domain.md 1 and 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rules.billing import billing_class
from rules.model import Billing, Condition, Destination, Kind, Line
from rules.outcome import Failure, stops_all, target_failure, verdict

__all__ = [
    "Decision",
    "Explanation",
    "Failure",
    "ForwardTo",
    "Reject",
    "Ring",
    "Situation",
    "decide",
    "explain",
    "stops_all",
    "target_failure",
    "verdict",
]


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision depends on besides the rules.

    Attributes:
        trigger: the condition that has just been met; None when the call arrives at the line.
        calls_in_progress: other calls that count on this line now, this one not included.
        registered: the line has a live registration.
        caller: the caller in E.164; None when it is withheld or no number.
        visited: the lines this call has met, this line included.
        diversions: forwards so far: the larger of Diversion and History-Info received, plus ours.
        max_diversions: how many forwards one call may have; 0 = no limit.
        forwards_in_progress: forwarded calls of this line that stand now.
        forwards_per_line: how many may stand at once; 0 = no limit.
        plan_left_s: seconds left of the month's hours to mobiles; None = unknown or no such plan.
    """

    trigger: Condition | None = None
    calls_in_progress: int = 0
    registered: bool = True
    caller: str | None = None
    visited: tuple[str, ...] = ()
    diversions: int = 0
    max_diversions: int = 5
    forwards_in_progress: int = 0
    forwards_per_line: int = 0
    plan_left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ring:
    """Ring the line's contacts. `after_s`: seconds until no_answer; None = no such timer."""

    after_s: int | None


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


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer the caller with `code`. `why` is one of a closed set of short words."""

    code: int
    condition: Condition | None
    why: str


Decision = Ring | ForwardTo | Reject


class Explanation(NamedTuple):
    """How a decision came about: the steps in order, as sentences, and the decision itself."""

    steps: tuple[str, ...]
    decision: Decision


class _Trigger(NamedTuple):
    cause: int
    reason: str
    refusal: int
    """The code for the caller when the condition is met and its forward does not happen."""


# domain.md 2 (cause, Diversion reason) and 1.6 (code without a forward).
_TRIGGERS = {
    Condition.UNCONDITIONAL: _Trigger(302, "unconditional", 480),
    Condition.BUSY: _Trigger(486, "user-busy", 486),
    Condition.NO_ANSWER: _Trigger(408, "no-answer", 480),
    Condition.UNREACHABLE: _Trigger(503, "unavailable", 480),
}

_Targets = Mapping[str, Line | None]
_Steps = list[str] | None


def decide(line: Line, situation: Situation, targets: _Targets) -> Decision:
    """What to do with a call at `line` now.

    Args:
        targets: the line of each number that `line.forwards` names; None (or absent) when that
            number is no line of ours.
    """
    return _walk(line, situation, targets, None)


def explain(line: Line, situation: Situation, targets: _Targets) -> Explanation:
    """The same decision as `decide`, by the same code, with the steps that led to it."""
    steps: list[str] = []
    decision = _walk(line, situation, targets, steps)
    steps.append(_told(decision))
    return Explanation(tuple(steps), decision)


def _walk(line: Line, now: Situation, targets: _Targets, steps: _Steps) -> Decision:
    """The order of domain.md 1, top to bottom."""
    if line.suspended:
        _note(steps, "line: suspended")
        return Reject(403, None, "suspended")
    if now.trigger is not None:
        return _met(now.trigger, line, now, targets, steps)

    forward = _forward(Condition.UNCONDITIONAL, line, now, targets, steps)
    if forward is not None:
        return forward

    if line.max_calls is not None and now.calls_in_progress >= line.max_calls:
        _note(steps, "calls: {} of {} in progress, busy", now.calls_in_progress, line.max_calls)
        return _met(Condition.BUSY, line, now, targets, steps)
    _note(steps, "calls: {} of {} in progress", now.calls_in_progress, line.max_calls or "any")

    if not now.registered:
        _note(steps, "registration: none live, unreachable")
        return _met(Condition.UNREACHABLE, line, now, targets, steps)
    _note(steps, "registration: live")

    return Ring(_no_answer_timer(line, now, targets, steps))


def _met(
    condition: Condition, line: Line, now: Situation, targets: _Targets, steps: _Steps
) -> Decision:
    """The condition is met: its forward, or its code when that is off or not allowed."""
    forward = _forward(condition, line, now, targets, steps)
    if forward is not None:
        return forward
    return Reject(_TRIGGERS[condition].refusal, condition, condition.value)


def _forward(
    condition: Condition, line: Line, now: Situation, targets: _Targets, steps: _Steps
) -> ForwardTo | Reject | None:
    """The forward of a condition; None when it is off or counts as off.

    The limit of diversions comes last: it stops forwards that would otherwise happen.
    """
    why_not = _why_not(condition, line, now, targets)
    if why_not is not None:
        _note(steps, "{}: {}", condition, why_not)
        return None
    if 0 < now.max_diversions <= now.diversions:
        _note(steps, "{}: on, but {} forwards so far are the limit", condition, now.diversions)
        return Reject(_TRIGGERS[condition].refusal, condition, "max_diversions")
    to = line.forwards[condition].to
    assert to is not None  # _why_not has seen it
    trigger = _TRIGGERS[condition]
    kind, inside = _where(to, line, targets)
    billing = billing_class(line, kind, to.number, to.mobile, inside, now.plan_left_s)
    _note(steps, "{}: on, to {} {}, billing {}", condition, kind, to.number, billing)
    return ForwardTo(condition, kind, to.number, billing, trigger.cause, trigger.reason)


def _no_answer_timer(line: Line, now: Situation, targets: _Targets, steps: _Steps) -> int | None:
    """Seconds until no_answer: only a forward that may happen cuts the ringing short."""
    condition = Condition.NO_ANSWER
    why_not = _why_not(condition, line, now, targets)
    if why_not is not None:
        _note(steps, "{}: {}", condition, why_not)
        return None
    forward = line.forwards[condition]
    if forward.after_s is None:
        _note(steps, "{}: on, without a timer", condition)
    else:
        _note(steps, "{}: on, after {} s of ringing", condition, forward.after_s)
    return forward.after_s


def _why_not(condition: Condition, line: Line, now: Situation, targets: _Targets) -> str | None:
    """Why a forward is off or counts as off; None when it may happen (domain.md 1.6 and 2)."""
    forward = line.forwards.get(condition)
    if forward is None or not forward.on:
        return "off"
    to = forward.to
    if to is None:
        return "off, it has no target"
    if to.refused is not None:
        return f"not allowed, {to.number} is a number of kind {to.refused}"
    if to.kind is Kind.VOICEMAIL and to.number == line.number:
        # Its own voicemail is always right, also for the line itself when it calls in.
        return _over_limit(now)
    return _wrong_target(to, line, targets) or _wrong_call(to, now) or _over_limit(now)


def _wrong_target(to: Destination, line: Line, targets: _Targets) -> str | None:
    if to.number == line.number:
        return "not allowed, the target is the line itself"
    if to.kind is Kind.NUMBER:
        return None
    target = targets.get(to.number)
    if target is None:
        return f"not allowed, {to.number} is no line of ours"
    if target.fleet != line.fleet:
        return f"not allowed, {to.number} is a line of another fleet"
    if to.kind is Kind.FAX and not target.offer.fax:
        return f"not allowed, {to.number} has no fax offer"
    return None


def _wrong_call(to: Destination, now: Situation) -> str | None:
    if to.number == now.caller:
        return f"skipped, the caller {now.caller} is its target"
    # A voicemail is not its line: nothing rings there, and nothing can come back.
    if to.kind is not Kind.VOICEMAIL and to.number in now.visited:
        return f"counts as off, the call has already met {to.number}"
    return None


def _over_limit(now: Situation) -> str | None:
    if 0 < now.forwards_per_line <= now.forwards_in_progress:
        return f"counts as off, {now.forwards_in_progress} forwards of the line stand already"
    return None


def _where(to: Destination, line: Line, targets: _Targets) -> tuple[str, bool]:
    """What the target is, and whether it is in the fleet. Another fleet's line is outside."""
    if to.kind is not Kind.NUMBER:
        return to.kind.value, True
    target = targets.get(to.number)
    if target is not None and target.fleet == line.fleet:
        return "line", True
    return "number", False


def _note(steps: _Steps, step: str, *values: object) -> None:
    # Formatted only for `explain`: the call path pays for no text.
    if steps is not None:
        steps.append(step.format(*values))


def _told(decision: Decision) -> str:
    if isinstance(decision, Ring):
        timer = "" if decision.after_s is None else f", no answer after {decision.after_s} s"
        return f"ring the line{timer}"
    if isinstance(decision, ForwardTo):
        return f"forward to {decision.kind} {decision.number} ({decision.condition})"
    return f"refuse with {decision.code} ({decision.why})"
