"""What happens to a call at a line: pure functions on frozen data, driven by tables.

`decide` is called when a call arrives and again each time a condition is met. `verdict`
(`rules.ringing_outcome`) returns the condition in which the ringing of a line ended. Both follow
forwarding-rules.md 1 and 2.
"""

from typing import NamedTuple

from rules.allowed import Targets, billing_of, kind_of, why_not
from rules.applies import OFF, profile_now, reason_in_words, why_not_now
from rules.decision import (
    ALSO_RING,
    BLOCKED,
    PREVENTED,
    Circumstances,
    Decision,
    Explanation,
    ForwardTo,
    Reject,
    Ring,
    Situation,
    Target,
    at_limit,
)
from rules.loops import is_too_long
from rules.model import RING_S, Billing, Condition, Destination, Forward, Line, Ringing
from rules.ringing_outcome import Failure, stops_all, target_failure, verdict

__all__ = [
    "ALSO_RING",
    "BLOCKED",
    "PREVENTED",
    "Circumstances",
    "Decision",
    "Explanation",
    "Failure",
    "ForwardTo",
    "Reject",
    "Ring",
    "Situation",
    "Target",
    "at_limit",
    "decide",
    "explain",
    "prevented",
    "stops_all",
    "target_failure",
    "verdict",
]


class _Trigger(NamedTuple):
    cause: int
    reason: str
    refusal: int
    """The code for the caller when the condition is met and its forward does not happen."""


# forwarding-rules.md 2 (cause, Diversion reason) and 1.7 (code without a forward).
_TRIGGERS = {
    Condition.UNCONDITIONAL: _Trigger(302, "unconditional", 480),
    Condition.BUSY: _Trigger(486, "user-busy", 486),
    Condition.NO_ANSWER: _Trigger(408, "no-answer", 480),
    Condition.UNREACHABLE: _Trigger(503, "unavailable", 480),
}


class _Notes:
    """Notes on the steps of a decision; `steps` is filled only for `explain`."""

    __slots__ = ("conditions", "prevented", "steps")

    def __init__(self, steps: list[str] | None) -> None:
        self.steps = steps
        self.prevented: tuple[str, ...] = ()
        self.conditions: tuple[str, ...] = ()  # of each that is prevented

    def prevent(self, condition: str, *reasons: str) -> None:
        self.prevented += reasons
        self.conditions += (condition,) * len(reasons)

    def step(self, step: str, *values: object) -> None:
        # Formatted only for `explain`, so that the call path formats no text.
        if self.steps is not None:
            self.steps.append(step.format(*values))


def decide(line: Line, situation: Situation, targets: Targets) -> Decision:
    """What to do with a call at `line` now.

    Args:
        targets: the line of each number in `line.target_numbers()`, and of the caller if
            `line.asks_for_caller`; None (or absent) when that number is not one of our lines.
    """
    return _walk(line, situation, targets, _Notes(None))


def prevented(line: Line, situation: Situation, targets: Targets) -> list[tuple[str, str]]:
    """The condition, or ALSO_RING, and the reason of each `prevented` of the same decision: asked
    for only if there are some."""
    notes = _Notes(None)
    _walk(line, situation, targets, notes)
    return list(zip(notes.conditions, notes.prevented, strict=True))


def explain(line: Line, situation: Situation, targets: Targets) -> Explanation:
    """The same decision as `decide`, by the same code, with its steps."""
    steps: list[str] = []
    decision = _walk(line, situation, targets, _Notes(steps))
    steps.append(_in_words(decision))
    return Explanation(tuple(steps), decision)


def _walk(line: Line, now: Situation, targets: Targets, notes: _Notes) -> Decision:
    """The order of forwarding-rules.md 1, top to bottom."""
    undisturbed = line.do_not_disturb
    if line.profile:
        line = _in_profile(line, now, notes)
        undisturbed = undisturbed or line.do_not_disturb
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

    if undisturbed:
        notes.step("do not disturb: on, busy without ringing")
        return _met(Condition.BUSY, line, now, targets, notes, "do_not_disturb")
    if line.max_calls is not None and now.calls_in_progress >= line.max_calls:
        notes.step("calls: {} of {} in progress, busy", now.calls_in_progress, line.max_calls)
        return _met(Condition.BUSY, line, now, targets, notes)
    notes.step("calls: {} of {} in progress", now.calls_in_progress, line.max_calls or "any")

    also = _also(line, now, targets, notes) if line.also_ring else ()
    if not now.registered and not also:
        notes.step("registration: none live, unreachable")
        return _met(Condition.UNREACHABLE, line, now, targets, notes)
    notes.step("registration: {}", "live" if now.registered else "none live")

    after_s = _no_answer_timer(line, now, targets, notes)
    return Ring(after_s, notes.prevented, also) if also else Ring(after_s, notes.prevented)


def _in_profile(line: Line, now: Situation, notes: _Notes) -> Line:
    """The line as it is in the profile that is used now."""
    use = profile_now(line, now.circumstances)
    if use is None:
        notes.step("profile: none applies now")
        return line
    # Formatted only for `explain`, as all steps.
    if notes.steps is not None:
        notes.step("profile: {}{}", use.name, "" if use.when is None else f", when {use.when}")
    return line.profiles[use.name]


def _met(
    condition: Condition,
    line: Line,
    now: Situation,
    targets: Targets,
    notes: _Notes,
    why: str | None = None,
) -> Decision:
    """The condition is met: its forward, or its code when that is off or not allowed."""
    forward = _forward(condition, line, now, targets, notes)
    if forward is not None:
        return forward
    why = why or condition.value
    return Reject(_TRIGGERS[condition].refusal, condition, why, notes.prevented)


def _forward(
    condition: Condition, line: Line, now: Situation, targets: Targets, notes: _Notes
) -> ForwardTo | Reject | None:
    """The forward of a condition; None when it is off or counts as off.

    The limit of diversions comes last: it stops forwards that would otherwise happen.
    """
    if line.rules and condition in line.rules:
        return _forward_by_rule(condition, line, now, targets, notes)
    forward = line.forwards.get(condition)
    no = OFF if forward is None or not forward.on else why_not(forward.to, line, now, targets)
    if no is not None:
        notes.step("{}: {}", condition, no.text)
        if no.reason:
            notes.prevent(condition, no.reason)
        return None
    if is_too_long(now):
        return _too_many(condition, condition, now, notes)
    assert forward is not None
    to = forward.to
    assert to is not None  # checked by why_not
    cause, reason, _ = _TRIGGERS[condition]
    kind = kind_of(to, line, targets)
    billing = billing_of(to, line, now, targets)
    notes.step("{}: on, to {} {}, billing {}", condition, kind, to.number, billing)
    return ForwardTo(condition, kind, to.number, billing, cause, reason, notes.prevented)


def _too_many(condition: Condition, label: str, now: Situation, notes: _Notes) -> Reject:
    notes.step("{}: on, but {} forwards so far are the limit", label, now.diversions)
    notes.prevent(condition, "max_diversions")
    refusal = _TRIGGERS[condition].refusal
    return Reject(refusal, condition, "max_diversions", notes.prevented)


def _no_answer_timer(line: Line, now: Situation, targets: Targets, notes: _Notes) -> int | None:
    """Seconds until no_answer. Only a forward that may happen ends the ringing early."""
    condition = Condition.NO_ANSWER
    if line.rules and condition in line.rules:
        due = _due(condition, line, now, targets, notes, prevents=False)
        if due is None:
            return None
        forward: Forward | None = due.forward
        label = due.label
    else:
        label = condition
        forward = line.forwards.get(condition)
        no = OFF if forward is None or not forward.on else why_not(forward.to, line, now, targets)
        if no is not None:
            notes.step("{}: {}", condition, no.text)
            return None
    assert forward is not None
    if forward.after_s is None:
        notes.step("{}: on, without a timer", label)
    else:
        notes.step("{}: on, after {} s of ringing", label, forward.after_s)
    return forward.after_s


# Forwards that know the hour, the caller and more than one target


class _Due(NamedTuple):
    """The forward of a condition that is taken: its place, its name in steps, and its targets, none
    for a rejection."""

    rule: int
    label: str
    forward: Forward
    targets: tuple[Target, ...]


def _due(
    condition: Condition,
    line: Line,
    now: Situation,
    targets: Targets,
    notes: _Notes,
    *,
    prevents: bool = True,
) -> _Due | None:
    """The first forward of the condition's list that is on, applies now to this caller, and may
    happen; one that is not allowed counts as off.

    Args:
        prevents: note those that are not allowed as prevented.
    """
    rules = line.rules[condition]
    for place, forward in enumerate(rules):
        # Named only for `explain`, so that the call path formats no text.
        label: str = condition
        if notes.steps is not None and len(rules) > 1:
            label = f"{condition}[{place}]"
        no = why_not_now(forward, line, now, targets)
        if no is not None:
            if notes.steps is not None:
                notes.step("{}: {}", label, reason_in_words(no, forward))
            continue
        if forward.rejects:
            return _Due(place, label, forward, ())
        chosen = tuple(
            _target(each, line, now, targets, label, notes) for each in forward.destinations
        )
        if any(target.passed_over is None for target in chosen):
            return _Due(place, label, forward, chosen)
        if prevents:
            notes.prevent(condition, *dict.fromkeys(each.passed_over or "" for each in chosen))
    return None


def _forward_by_rule(
    condition: Condition, line: Line, now: Situation, targets: Targets, notes: _Notes
) -> ForwardTo | Reject | None:
    due = _due(condition, line, now, targets, notes)
    if due is None:
        return None
    rule, label, forward, chosen = due
    if not chosen:
        notes.step("{}: on, refuses the caller", label)
        return Reject(603, condition, BLOCKED, notes.prevented)
    if is_too_long(now):
        return _too_many(condition, label, now, notes)
    first = next(target for target in chosen if target.passed_over is None)
    cause, reason, _ = _TRIGGERS[condition]
    return ForwardTo(
        condition,
        first.kind,
        first.number,
        first.billing,
        cause,
        reason,
        notes.prevented,
        chosen if forward.targets else (),
        forward.ring,
        rule,
    )


def _target(
    to: Destination, line: Line, now: Situation, targets: Targets, label: str, notes: _Notes
) -> Target:
    """A target with what a call there costs, or why it is passed over."""
    no = why_not(to, line, now, targets)
    kind, billing = kind_of(to, line, targets), billing_of(to, line, now, targets)
    if no is None:
        notes.step("{}: on, to {} {}, billing {}", label, kind, to.number, billing)
    else:
        notes.step("{}: {} {}: {}", label, kind, to.number, no.text)
    reason = None if no is None else no.reason
    return Target(kind, to.number, billing, to.ring_s or RING_S, reason)


def _also(line: Line, now: Situation, targets: Targets, notes: _Notes) -> tuple[Target, ...]:
    """What rings beside the line's phones. What may not is prevented."""
    if is_too_long(now):
        notes.step("also_ring: {} forwards so far are the limit", now.diversions)
        notes.prevent(ALSO_RING, "max_diversions")
        return ()
    all_ = [_target(to, line, now, targets, "also_ring", notes) for to in line.also_ring]
    notes.prevent(ALSO_RING, *(each.passed_over for each in all_ if each.passed_over is not None))
    return tuple(each for each in all_ if each.passed_over is None)


def _in_words(decision: Decision) -> str:
    if isinstance(decision, Ring):
        timer = "" if decision.after_s is None else f", no answer after {decision.after_s} s"
        also = "".join(f" and {target.kind} {target.number}" for target in decision.also)
        return f"ring the line{also}{timer}"
    if isinstance(decision, ForwardTo):
        called = [target for target in decision.targets if target.passed_over is None]
        if len(called) > 1:
            return f"forward {_TOGETHER[decision.ring]} {_listed(called)} ({decision.condition})"
        payer = "" if decision.billing is Billing.FREE else f", billing {decision.billing}"
        return f"forward to {decision.kind} {decision.number} ({decision.condition}){payer}"
    return f"refuse with {decision.code} ({decision.why})"


_TOGETHER = {Ringing.IN_TURN: "in turn to", Ringing.TOGETHER: "at once to"}


def _listed(called: list[Target]) -> str:
    return ", ".join(
        f"{target.kind} {target.number}"
        + ("" if target.billing is Billing.FREE else f" billing {target.billing}")
        + f" for {target.ring_s} s"
        for target in called
    )
