"""What happens to a call: the order and the rules of forwarding-rules.md 1 and 2.

Each table is read from top to bottom; its rows document the precedence.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from rules.decide import (
    Decision,
    ForwardTo,
    Reject,
    Ring,
    Situation,
    decide,
    explain,
)
from rules.model import Billing, Condition, Destination, Forward, Kind, Line, Offer

UNCONDITIONAL, BUSY = Condition.UNCONDITIONAL, Condition.BUSY
NO_ANSWER, UNREACHABLE = Condition.NO_ANSWER, Condition.UNREACHABLE

LINE, PEER, FAX, FOREIGN = (f"+3397210100{n}" for n in (1, 2, 3, 9))
MOBILE, OUTSIDE, CALLER = "+33612345678", "+33123456789", "+33198765432"
TARGETS: dict[str, Line | None] = {
    PEER: Line(PEER, "acme"),
    FAX: Line(FAX, "acme", offer=Offer(fax=True)),
    FOREIGN: Line(FOREIGN, "globex", offer=Offer(fax=True)),
    MOBILE: None,
}
CODES = {
    UNCONDITIONAL: (302, "unconditional"),
    BUSY: (486, "user-busy"),
    NO_ANSWER: (408, "no-answer"),
    UNREACHABLE: (503, "unavailable"),
}


def to(kind: str, number: str, **fields: Any) -> Destination:
    return Destination(Kind(kind), number, **fields)


OWN_VOICEMAIL = to("voicemail", LINE)


def on(destination: Destination = OWN_VOICEMAIL, after_s: int | None = None) -> Forward:
    return Forward(True, destination, after_s)


def line(**fields: Any) -> Line:
    """A line of fleet acme; conditions are given by name: `line(busy=on())`."""
    forwards = {c: fields.pop(c) for c in Condition if c in fields}
    return Line(LINE, "acme", forwards=forwards, **fields)


def check(called: Line, situation: Situation, expected: Decision) -> None:
    """Check `decide` and `explain`, which must give the same decision."""
    assert decide(called, situation, TARGETS) == expected
    explanation = explain(called, situation, TARGETS)
    assert explanation.decision == expected
    assert explanation.steps


def forwarded(
    condition: Condition, kind: str = "voicemail", number: str = LINE, billing: str = "free"
) -> ForwardTo:
    return ForwardTo(condition, kind, number, Billing(billing), *CODES[condition])


ALL_ON = {c: on() for c in Condition}
BUSY_NOW = Situation(calls_in_progress=1, visited=(LINE,))
AWAY = Situation(registered=False, visited=(LINE,))
BUSY_AND_AWAY = replace(BUSY_NOW, registered=False)
FREE = Situation(visited=(LINE,))

ORDER: list[tuple[Line, Situation, Decision]] = [
    # suspended comes before everything
    (line(suspended=True, max_calls=1, **ALL_ON), BUSY_AND_AWAY, Reject(403, None, "suspended")),
    # then unconditional, busy, unreachable, ringing
    (line(max_calls=1, **ALL_ON), BUSY_AND_AWAY, forwarded(UNCONDITIONAL)),
    (line(max_calls=1, **ALL_ON), FREE, forwarded(UNCONDITIONAL)),
    (line(max_calls=1, busy=on(), unreachable=on()), BUSY_AND_AWAY, forwarded(BUSY)),
    (line(max_calls=1, busy=on(), unreachable=on()), BUSY_NOW, forwarded(BUSY)),
    (line(max_calls=1, busy=on(), unreachable=on()), AWAY, forwarded(UNREACHABLE)),
    (line(max_calls=1, busy=on(), unreachable=on()), FREE, Ring(None)),
    # a condition that is met is not skipped when its forward is off
    (line(max_calls=1, unreachable=on()), BUSY_AND_AWAY, Reject(486, BUSY, "busy")),
    (line(max_calls=1), BUSY_NOW, Reject(486, BUSY, "busy")),
    (line(busy=on()), AWAY, Reject(480, UNREACHABLE, "unreachable")),
    # the limit of calls: reached, exceeded, not reached, none
    (line(max_calls=2), replace(FREE, calls_in_progress=2), Reject(486, BUSY, "busy")),
    (line(max_calls=2), replace(FREE, calls_in_progress=7), Reject(486, BUSY, "busy")),
    (line(max_calls=2), replace(FREE, calls_in_progress=1), Ring(None)),
    (line(), replace(FREE, calls_in_progress=99), Ring(None)),
    # a forward that is not on is off
    (line(unconditional=Forward(False, OWN_VOICEMAIL)), FREE, Ring(None)),
    # the no-answer timer
    (line(no_answer=on(after_s=20)), FREE, Ring(20)),
    (line(no_answer=on()), FREE, Ring(None)),
    (line(no_answer=Forward(False, OWN_VOICEMAIL, 20)), FREE, Ring(None)),
    (line(no_answer=on(to("fax", PEER), 20)), FREE, Ring(None)),  # not allowed: no timer
    (line(no_answer=on(to("number", CALLER), 20)), replace(FREE, caller=CALLER), Ring(None)),
    # an unconditional forward that is not allowed changes nothing else
    (line(unconditional=on(to("number", LINE)), max_calls=1), FREE, Ring(None)),
    (
        line(unconditional=on(to("number", LINE)), busy=on(), max_calls=1),
        BUSY_NOW,
        forwarded(BUSY),
    ),
    (
        line(unconditional=on(to("number", LINE)), unreachable=on()),
        AWAY,
        forwarded(UNREACHABLE),
    ),
]


@pytest.mark.parametrize(("called", "situation", "expected"), ORDER)
def test_order(called: Line, situation: Situation, expected: Decision) -> None:
    check(called, situation, expected)


@pytest.mark.parametrize(
    ("trigger", "code"),
    [(BUSY, 486), (NO_ANSWER, 480), (UNREACHABLE, 480)],
)
def test_a_condition_met_while_ringing(trigger: Condition, code: int) -> None:
    met = replace(FREE, trigger=trigger)
    check(line(**ALL_ON), met, forwarded(trigger))
    check(line(), met, Reject(code, trigger, trigger.value))
    only_others = {c: f for c, f in ALL_ON.items() if c is not trigger}
    check(line(**only_others), met, Reject(code, trigger, trigger.value))


def test_a_line_suspended_while_it_rang_forwards_nothing() -> None:
    suspended = line(suspended=True, **ALL_ON)
    check(suspended, replace(FREE, trigger=NO_ANSWER), Reject(403, None, "suspended"))


@pytest.mark.parametrize("condition", list(Condition))
@pytest.mark.parametrize(
    ("destination", "kind", "billing"),
    [
        # the target of each destination, and the class
        (to("voicemail", LINE), "voicemail", "free"),
        (to("voicemail", PEER), "voicemail", "free"),
        (to("fax", FAX), "fax", "free"),
        (to("number", PEER), "line", "free"),
        (to("number", OUTSIDE), "number", "standard"),
        (to("number", MOBILE, mobile=True), "number", "out_of_plan"),
        (to("number", FOREIGN), "number", "standard"),  # a line of another fleet counts as outside
    ],
)
def test_destinations(
    condition: Condition, destination: Destination, kind: str, billing: str
) -> None:
    called = line(max_calls=1, **{condition: on(destination)})
    situation = {
        UNCONDITIONAL: FREE,
        BUSY: BUSY_NOW,
        NO_ANSWER: replace(FREE, trigger=NO_ANSWER),
        UNREACHABLE: AWAY,
    }[condition]
    check(called, situation, forwarded(condition, kind, destination.number, billing))


@pytest.mark.parametrize(
    ("destination", "situation", "why"),
    [
        # checked again when the call arrives
        (to("fax", PEER), FREE, "no fax offer"),
        (to("fax", FOREIGN), FREE, "another fleet"),
        (to("fax", OUTSIDE), FREE, "no line of ours"),
        (to("fax", LINE), FREE, "the line itself"),
        (to("voicemail", FOREIGN), FREE, "another fleet"),
        (to("voicemail", OUTSIDE), FREE, "no line of ours"),
        (to("voicemail", MOBILE), FREE, "no line of ours"),
        (to("number", LINE), FREE, "the line itself"),
        (to("number", "+33899123456", refused="premium"), FREE, "premium"),
        (to("number", "112", refused="emergency"), FREE, "emergency"),
        (to("number", "3900", refused="short"), FREE, "short"),
        # the caller is the target: a secretary must reach the boss
        (to("number", PEER), replace(FREE, caller=PEER), "the caller"),
        (to("number", OUTSIDE), replace(FREE, caller=OUTSIDE), "the caller"),
        (to("voicemail", PEER), replace(FREE, caller=PEER), "the caller"),
        (to("fax", FAX), replace(FREE, caller=FAX), "the caller"),
        # no line twice in one call
        (to("number", PEER), replace(FREE, visited=(PEER, LINE)), "already met"),
        (to("fax", FAX), replace(FREE, visited=(FAX, LINE)), "already met"),
        (to("number", OUTSIDE), replace(FREE, forwarded=(LINE,)), "has forwarded this call"),
        (to("fax", FAX), replace(FREE, forwarded=(LINE,)), "has forwarded this call"),
        (to("number", PEER), replace(FREE, forwarded=(PEER,)), "already met"),
        # loops through the outside: a limit on forwards in progress
        (
            to("number", OUTSIDE),
            replace(FREE, forwards_in_progress=50, forwards_per_line=50),
            "50 forwards",
        ),
        (
            OWN_VOICEMAIL,
            replace(FREE, forwards_in_progress=51, forwards_per_line=50),
            "51 forwards",
        ),
    ],
)
def test_a_forward_that_is_not_allowed_counts_as_off(
    destination: Destination, situation: Situation, why: str
) -> None:
    every = {c: on(destination, 20) for c in Condition}
    called = line(max_calls=1, **every)
    check(called, situation, Ring(None))
    check(called, replace(situation, calls_in_progress=1), Reject(486, BUSY, "busy"))
    check(called, replace(situation, registered=False), Reject(480, UNREACHABLE, "unreachable"))
    met = replace(situation, trigger=NO_ANSWER)
    check(called, met, Reject(480, NO_ANSWER, "no_answer"))
    steps = explain(called, situation, TARGETS).steps
    assert steps[0].startswith("unconditional: ")
    assert why in steps[0]


@pytest.mark.parametrize(
    ("destination", "situation"),
    [
        # similar to the above, but allowed
        (OWN_VOICEMAIL, replace(FREE, caller=LINE)),
        (to("voicemail", PEER), replace(FREE, visited=(PEER, LINE))),  # no phone rings there again
        (to("voicemail", PEER), replace(FREE, forwarded=(PEER, LINE))),
        (OWN_VOICEMAIL, replace(FREE, forwarded=(LINE,))),
        (to("number", OUTSIDE), replace(FREE, forwarded=(PEER,))),
        (to("number", PEER), replace(FREE, caller=OUTSIDE, visited=(FAX, LINE))),
        (to("number", OUTSIDE), replace(FREE, caller=None)),
        (to("number", PEER), replace(FREE, forwards_in_progress=49, forwards_per_line=50)),
        (to("number", PEER), replace(FREE, forwards_in_progress=999, forwards_per_line=0)),
    ],
)
def test_forwards_that_are_allowed(destination: Destination, situation: Situation) -> None:
    decision = decide(line(unconditional=on(destination)), situation, TARGETS)
    assert isinstance(decision, ForwardTo)
    assert decision.number == destination.number


def test_a_target_that_was_not_looked_up_is_no_line_of_ours() -> None:
    called = line(unconditional=on(to("number", PEER)))
    decision = decide(called, FREE, {})
    assert decision == forwarded(UNCONDITIONAL, "number", PEER, "standard")


@pytest.mark.parametrize(
    ("condition", "situation", "code"),
    [
        (UNCONDITIONAL, FREE, 480),
        (BUSY, BUSY_NOW, 486),
        (BUSY, replace(FREE, trigger=BUSY), 486),
        (NO_ANSWER, replace(FREE, trigger=NO_ANSWER), 480),
        (UNREACHABLE, AWAY, 480),
        (UNREACHABLE, replace(FREE, trigger=UNREACHABLE), 480),
    ],
)
def test_the_fifth_forward_happens_and_the_sixth_does_not(
    condition: Condition, situation: Situation, code: int
) -> None:
    called = line(max_calls=1, **{condition: on()})
    limit = Reject(code, condition, "max_diversions")
    check(called, replace(situation, diversions=0), forwarded(condition))
    check(called, replace(situation, diversions=4), forwarded(condition))
    check(called, replace(situation, diversions=5), limit)
    check(called, replace(situation, diversions=6), limit)
    check(called, replace(situation, diversions=1, max_diversions=1), limit)
    check(called, replace(situation, diversions=99, max_diversions=0), forwarded(condition))


def test_at_the_limit_a_forward_that_is_off_or_not_allowed_changes_nothing() -> None:
    at_limit = replace(FREE, diversions=5)
    check(line(), at_limit, Ring(None))
    check(line(unconditional=on(to("number", LINE))), at_limit, Ring(None))
    check(line(no_answer=on(after_s=20)), at_limit, Ring(20))


@pytest.mark.parametrize(
    ("offer", "left_s", "billing"),
    [
        (Offer(mobile="hours", mobile_hours=2), 7200.0, "deducted"),
        (Offer(mobile="hours", mobile_hours=2), 0.0, "out_of_plan"),
        (Offer(mobile="hours", mobile_hours=2), None, "deducted"),
        (Offer(mobile="unlimited"), None, "out_of_plan"),
        (Offer(), None, "out_of_plan"),
    ],
)
def test_the_forwarding_line_pays_by_its_own_offer(
    offer: Offer, left_s: float | None, billing: str
) -> None:
    called = line(offer=offer, unconditional=on(to("number", MOBILE, mobile=True)))
    situation = replace(FREE, plan_left_s=left_s)
    check(called, situation, forwarded(UNCONDITIONAL, "number", MOBILE, billing))


def test_explain_has_every_step() -> None:
    called = line(max_calls=2, no_answer=on(after_s=20), unreachable=on(to("fax", FAX)))
    assert explain(called, replace(AWAY, calls_in_progress=1), TARGETS).steps == (
        "unconditional: off",
        "calls: 1 of 2 in progress",
        "registration: none live, unreachable",
        f"unreachable: on, to fax {FAX}, billing free",
        f"forward to fax {FAX} (unreachable)",
    )
    assert explain(called, FREE, TARGETS).steps == (
        "unconditional: off",
        "calls: 0 of 2 in progress",
        "registration: live",
        "no_answer: on, after 20 s of ringing",
        "ring the line, no answer after 20 s",
    )
