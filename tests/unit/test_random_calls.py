"""Random calls on fakes: lists in turn and together, targets that ring beside a line, lines in
lists, forwards after them. Phones, targets, caller and clock act in any order.

In every case: one end, one final response, at most one conversation, counts that return to zero,
and the payer is the line of the leg that answered.
"""

from __future__ import annotations

import math
import random

import pytest

from rules.contact import Contact
from rules.model import Condition, Destination, Forward, Kind, Line, Ringing
from sip.state import ANSWERED, CALLING, CONFIRMED, EARLY
from tests.unit.calls_on_fakes import LINE, OTHER, FakeCallee, OneCall, settle

LINES = (LINE, OTHER, "+33972101003")
OUTSIDE = ("+33612345678", "+33611111111", "+33140000009", "+33140000010")
CODES = (404, 408, 480, 486, 487, 500, 503, 603, 604, 606, 403, 415)
CALLS = 400


def line_at_random(pick: random.Random, number: str) -> Line:
    def target() -> Destination:
        ring_s = pick.choice((5, 10, 20, 60))
        if pick.random() < 0.2:
            return Destination(Kind.VOICEMAIL, number, ring_s=ring_s)
        to = pick.choice((*OUTSIDE, *LINES))
        return Destination(Kind.NUMBER, to, mobile=to.startswith("+336"), ring_s=ring_s)

    forwards, rules = {}, {}
    for condition in Condition:
        if pick.random() < (0.3 if condition is Condition.UNCONDITIONAL else 0.6):
            targets = tuple(target() for _ in range(pick.choice((1, 1, 2, 3, 5))))
            several = targets if len(targets) > 1 else ()
            ring = pick.choice(list(Ringing))
            after_s = pick.choice((5, 20)) if condition is Condition.NO_ANSWER else None
            forward = forwards[condition] = Forward(True, targets[0], after_s, several, ring)
            if several:
                rules[condition] = (forward,)
    return Line(
        number,
        "acme",
        forwards=forwards,
        rules=rules,
        also_ring=tuple(target() for _ in range(pick.choice((0, 0, 1, 2)))),
        do_not_disturb=pick.random() < 0.1,
        max_calls=pick.choice((None, 1)),
    )


def phone(pick: random.Random, number: str, place: int) -> Contact:
    uri = f"sip:{number[-1]}{place}@127.0.0.1:5090"
    return Contact(uri, None, math.inf, q=pick.choice((1.0, 0.5)))


async def act(pick: random.Random, one: OneCall) -> None:
    """One random event."""
    open_ = [leg for leg in one.legs if leg.listener and leg.state not in (CONFIRMED,)]
    waiting = [leg for leg in open_ if leg.state in (CALLING, EARLY)]
    deed = pick.random()
    if deed < 0.3:
        await one.clock.advance(pick.choice((0.1, 1, 5, 11, 30)))
    elif deed < 0.5 and waiting:
        pick.choice(waiting).rings(pick.choice((180, 183, 181)))
    elif deed < 0.75 and waiting:
        pick.choice(waiting).fails(pick.choice(CODES))
    elif deed < 0.85 and open_:
        late = [leg for leg in open_ if leg.state is not ANSWERED and leg.state.name != "ENDED"]
        if late:
            pick.choice(late).answers()  # possibly a cancelled one
    elif deed < 0.87 and one.caller.state <= EARLY:
        one.caller.cancels()
    if pick.random() < 0.7:  # otherwise the next event happens at the same moment
        await settle()


@pytest.mark.parametrize("seed", range(8))
async def test_calls_at_random(seed: int) -> None:
    pick = random.Random(seed)
    answered = 0
    for _ in range(CALLS):
        lines = [line_at_random(pick, number) for number in LINES]
        registered = {
            number: tuple(phone(pick, number, n) for n in range(pick.choice((0, 1, 1, 2, 3))))
            for number in LINES
        }
        one = OneCall(*lines, registered=registered)
        one.cap_left_s = pick.choice((None, None, 0.0))
        await settle()
        for _ in range(60):
            if one.ended or one.caller.state is ANSWERED:
                break
            await act(pick, one)
        await settle()
        if not one.ended and one.caller.state is not ANSWERED:
            await one.clock.advance(2000)
        answered += one.caller.state is ANSWERED
        await check(one)
    assert answered > CALLS // 5  # both ends are common
    assert answered < CALLS


async def check(one: OneCall) -> None:
    facts = one.call.facts
    if one.caller.state is ANSWERED:
        talking = [leg for leg in one.legs if leg.state is CONFIRMED]
        assert len(talking) == 1, one.legs
        (winner,) = talking
        check_winner(one, winner)
        one.caller.acks()
        one.caller.hangs_up()
    await one.end()
    assert not one.crashes, one.crashes
    finals = [code for code in one.caller.heard if isinstance(code, int) and code >= 200]
    assert len(finals) == 1, one.caller.heard
    for leg in one.legs:
        assert leg.said[-1] in ("invite", "cancel", "bye"), leg.said
        assert leg.said.count("ack") == leg.said.count("bye") <= 1
        assert leg.said != ["invite"] or leg.state.name == "ENDED", leg  # no leg is left ringing
    assert one.counted == []
    assert len(one.forwards) == 0
    record = facts.record(one.ended[0])
    assert (record.code == 200) == (record.outcome == "answered")
    if finals != [200]:
        assert all(forward.seconds == 0 for forward in record.forwards)


def check_winner(one: OneCall, winner: FakeCallee) -> None:
    """The line of the leg that answered pays, and counts."""
    facts = one.call.facts
    leg = facts.legs[winner]
    counted = {leg.number} if leg.role == "line" else set()
    if facts.is_beside(winner):
        paid = facts.forwards[-1]
        assert (paid.condition, paid.number) == ("none", leg.number)
        assert facts.destination == "line"
        counted.add(paid.line)
    elif leg.role == "line":
        assert facts.destination == "line"
        assert facts.target == leg.number
    else:
        paid = facts.forwards[-1]
        assert (paid.kind, paid.number) == (leg.role, leg.number)
        assert paid.condition == leg.condition
    assert set(one.counted) == counted
    held = {forward.line for forward in facts.forwards}
    assert {line for line in LINES if one.forwards.standing(line)} == held
    lines = [forward.line for forward in facts.forwards]
    assert len(set(lines)) == len(lines)
