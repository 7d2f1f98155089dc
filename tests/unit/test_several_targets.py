"""A forward to several targets, and what rings beside a line's phones, on fakes."""

from __future__ import annotations

from typing import Any

import pytest

from rules.contact import Contact
from rules.model import Condition, Destination, Forward, Kind, Line, Ringing
from tests.unit.calls_on_fakes import (
    LINE,
    MOBILE,
    OTHER,
    PHONE,
    FakeCallee,
    OneCall,
    line,
    phones,
    settle,
)

SECOND, THIRD = "+33611111111", "+33140000009"
THEIRS = "sip:theirs@127.0.0.1:5091"
TOGETHER = Ringing.TOGETHER
BOTH = {LINE: phones(PHONE), OTHER: phones(THEIRS)}


def to(number: str, ring_s: int = 20) -> Destination:
    """A target: a number, or the voicemail of LINE."""
    if number == "voicemail":
        return Destination(Kind.VOICEMAIL, LINE, ring_s=ring_s)
    return Destination(Kind.NUMBER, number, mobile=number.startswith("+336"), ring_s=ring_s)


def listed(
    *targets: Destination,
    condition: Condition = Condition.UNCONDITIONAL,
    ring: Ringing = Ringing.IN_TURN,
    number: str = LINE,
    **more: Any,
) -> Line:
    """A line with one forward, to several targets."""
    after_s = 20 if condition is Condition.NO_ANSWER else None
    forward = Forward(True, targets[0], after_s, targets, ring)
    return Line(
        number, "acme", forwards={condition: forward}, rules={condition: (forward,)}, **more
    )


def beside(*targets: Destination, **more: Any) -> Line:
    """LINE with targets that ring beside its phones."""
    return Line(LINE, "acme", also_ring=targets, **more)


def gone_to(one: OneCall) -> list[str]:
    """The numbers and phones that were dialled."""
    return [leg.uri.partition("@")[0].removeprefix("sip:") for leg in one.legs]


def paid(one: OneCall) -> list[tuple[str, str, str, str]]:
    """Who pays: line, condition, target, class."""
    return [(f.line, str(f.condition), f.number, str(f.billing)) for f in one.call.facts.forwards]


async def talks(one: OneCall, leg: FakeCallee) -> None:
    leg.answers()
    await settle()
    one.caller.acks()
    await settle()


async def ends(one: OneCall) -> Any:
    """The caller hangs up; returns the record. Afterwards nothing is counted."""
    one.caller.hangs_up()
    await one.end()
    assert not one.crashes
    check_counts(one)
    return one.call.facts.record(one.ended[0])


def check_counts(one: OneCall) -> None:
    assert one.counted == []
    assert len(one.forwards) == 0


# -- in turn --------------------------------------------------------------------------------------


async def test_in_turn_the_busy_and_the_silent_are_passed_over_and_the_third_pays() -> None:
    one = OneCall(listed(to(MOBILE), to(SECOND, 5), to(THIRD)))
    await settle()
    assert gone_to(one) == [MOBILE]
    one.legs[0].fails(486)
    await settle()
    assert gone_to(one) == [MOBILE, SECOND]
    await one.clock.advance(4.9)
    assert len(one.legs) == 2
    await one.clock.advance(0.2)
    assert one.legs[1].said == ["invite", "cancel"]
    assert gone_to(one) == [MOBILE, SECOND, THIRD]
    one.legs[2].rings()
    await talks(one, one.legs[2])
    assert one.caller.heard == [181, 180, 200]
    assert one.forwards.standing(LINE) == 1
    assert [f.number for f in one.metered] == []  # no plan or cap counts a fixed number
    record = await ends(one)
    assert paid(one) == [(LINE, "unconditional", THIRD, "standard")]
    assert (record.condition, record.destination, record.target) == (
        "unconditional",
        "number",
        THIRD,
    )
    assert (record.payer, record.billing) == (LINE, "standard")
    assert [(leg.number, leg.code) for leg in record.legs] == [
        (MOBILE, 486),
        (SECOND, 0),
        (THIRD, 200),
    ]
    assert {leg.condition for leg in record.legs} == {"unconditional"}


async def test_a_target_has_its_time_from_its_first_ringing() -> None:
    one = OneCall(listed(to(MOBILE, 5), to(SECOND)))
    await settle()
    await one.clock.advance(4)
    one.legs[0].rings()
    await one.clock.advance(4.9)
    assert len(one.legs) == 1
    one.legs[0].rings(183)  # does not extend the time
    await one.clock.advance(0.2)
    assert gone_to(one) == [MOBILE, SECOND]


async def test_one_that_was_given_up_may_still_win() -> None:
    one = OneCall(listed(to(MOBILE, 5), to("voicemail"), to(THIRD)))
    await settle()
    one.legs[0].rings()
    await one.clock.advance(5.1)
    one.legs[1].rings()
    await one.clock.advance(20.1)
    assert gone_to(one) == [MOBILE, LINE, THIRD]
    await talks(one, one.legs[1])  # the line's own voicemail is not the line itself
    assert one.legs[2].said == ["invite", "cancel"]
    record = await ends(one)
    assert paid(one) == [(LINE, "unconditional", LINE, "free")]
    assert record.destination == "voicemail"


async def test_all_fail_and_the_last_one_decides() -> None:
    one = OneCall(listed(to(MOBILE), to(SECOND), to(THIRD)))
    await settle()
    for code in (486, 404, 403):
        one.legs[-1].fails(code)
        await settle()
    assert await one.end() == ("rejected", 403, "target_failed")
    check_counts(one)
    record = one.call.facts.record(one.ended[0])
    assert record.forwards == []
    assert record.payer == record.billing == ""
    assert (record.condition, record.destination, record.target) == (
        "unconditional",
        "number",
        THIRD,
    )
    assert [leg.code for leg in record.legs] == [486, 404, 403]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(486, ("busy", 486, "target_failed")), (503, ("unreachable", 480, "target_failed")),
     (408, ("unreachable", 480, "target_failed")), (603, ("busy", 603, "target_failed"))],
)  # fmt: skip
async def test_the_code_of_the_last(code: int, expected: tuple[str, int, str]) -> None:
    one = OneCall(listed(to(MOBILE), to(SECOND)))
    await settle()
    one.legs[0].fails(603)
    await settle()
    one.legs[1].fails(code)
    assert await one.end() == expected


async def test_the_last_one_does_not_answer() -> None:
    one = OneCall(listed(to(MOBILE), to(SECOND, 7)))
    await settle()
    one.legs[0].fails(486)
    await settle()
    one.legs[1].rings()
    await one.clock.advance(7.1)
    assert await one.end() == ("no_answer", 480, "target_no_answer")


@pytest.mark.parametrize("ring", list(Ringing))
async def test_the_whole_list_is_bounded(ring: Ringing) -> None:
    one = OneCall(listed(*(to(f"+3361234560{n}", 60) for n in range(10)), ring=ring))
    await settle()
    for _ in range(190):
        for leg in one.legs:
            leg.rings(183)
        await settle()
        await one.clock.advance(1)
    assert await one.end() == ("no_answer", 480, "target_no_answer")
    assert len(one.legs) == (3 if ring is Ringing.IN_TURN else 10)  # max_ring_s is 180
    assert all("cancel" in leg.said for leg in one.legs)


@pytest.mark.parametrize("ring", list(Ringing))
async def test_the_caller_gives_up_in_the_middle(ring: Ringing) -> None:
    one = OneCall(listed(to(MOBILE, 5), to(SECOND), to(THIRD), ring=ring))
    await settle()
    await one.clock.advance(6)
    one.legs[-1].rings()
    one.caller.cancels()
    assert await one.end() == ("cancelled", 487, "caller")
    assert all(leg.said == ["invite", "cancel"] for leg in one.legs)
    check_counts(one)
    record = one.call.facts.record(one.ended[0])
    assert record.forwards == []
    assert record.condition == "unconditional"


async def test_a_cancel_between_two_targets() -> None:
    one = OneCall(listed(to(MOBILE), to(SECOND)))
    await settle()
    one.legs[0].fails(486)
    one.caller.cancels()
    assert await one.end() == ("cancelled", 487, "caller")
    assert gone_to(one) == [MOBILE]


async def test_a_target_that_cannot_be_dialled_is_passed_over() -> None:
    one = OneCall(listed(to(MOBILE), to(SECOND)))
    one.undialled.add(f"sip:{MOBILE}@127.0.0.1:5082")
    await settle()
    assert gone_to(one) == [SECOND]


async def test_a_server_that_is_down_is_passed_over() -> None:
    one = OneCall(listed(to(MOBILE), to("voicemail"), to(SECOND)))
    one.call._services.probing.is_down = lambda kind: kind == "number"  # type: ignore[method-assign]
    await settle()
    assert gone_to(one) == [LINE]
    one.legs[0].fails(480)
    assert await one.end() == ("unreachable", 480, "target_failed")


async def test_the_fleets_cap_passes_over_what_counts_against_it() -> None:
    one = OneCall(listed(to(MOBILE), to(THIRD)))
    one.cap_left_s = 0.0
    await settle()
    assert gone_to(one) == [THIRD]
    assert one.metrics._prevented.counts["fleet_cap"] == 1


async def test_a_cap_that_is_used_up_meanwhile_passes_over_the_next() -> None:
    one = OneCall(listed(to(THIRD), to(MOBILE), to("voicemail")))
    one.cap_left_s = 100.0
    await settle()
    one.cap_left_s = 0.0
    one.legs[0].fails(486)
    await settle()
    assert gone_to(one) == [THIRD, LINE]


async def test_a_list_is_one_forward_for_the_limits() -> None:
    one = OneCall(listed(to(MOBILE), to(SECOND), to(THIRD), ring=TOGETHER))
    await settle()
    assert one.forwards.standing(LINE) == 1


# -- together -------------------------------------------------------------------------------------


async def test_together_the_first_answer_wins_and_the_late_one_is_ended() -> None:
    one = OneCall(listed(to(MOBILE), to(SECOND), to(THIRD), ring=TOGETHER))
    await settle()
    assert gone_to(one) == [MOBILE, SECOND, THIRD]
    for leg in one.legs:
        leg.rings()
    one.legs[0].fails(603)  # one declines: the others continue to ring
    await settle()
    await talks(one, one.legs[1])
    assert one.legs[2].said == ["invite", "cancel"]
    one.legs[2].answers()  # crosses the CANCEL
    await settle()
    assert one.legs[2].said == ["invite", "cancel", "ack", "bye"]
    assert [f.number for f in one.metered] == [SECOND]
    record = await ends(one)
    assert paid(one) == [(LINE, "unconditional", SECOND, "out_of_plan")]
    assert record.target == SECOND


async def test_each_has_its_own_time() -> None:
    one = OneCall(listed(to(MOBILE, 5), to(SECOND, 15), ring=TOGETHER))
    await settle()
    for leg in one.legs:
        leg.rings()
    await one.clock.advance(5.1)
    assert [leg.said[-1] for leg in one.legs] == ["cancel", "invite"]
    one.legs[0].answers()  # it can still answer
    await settle()
    assert one.legs[1].said == ["invite", "cancel"]
    assert paid(one) == [(LINE, "unconditional", MOBILE, "out_of_plan")]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((404, 486, 503), ("busy", 486)), ((486, 603, 404), ("busy", 603)),
     ((486, 415, 404), ("rejected", 415)), ((404, 503, 408), ("unreachable", 480))],
)  # fmt: skip
async def test_all_fail_and_the_best_decides(
    codes: tuple[int, ...], expected: tuple[str, int]
) -> None:
    one = OneCall(listed(to(MOBILE), to(SECOND), to(THIRD), ring=TOGETHER))
    await settle()
    for leg, code in zip(one.legs, codes, strict=True):
        leg.fails(code)
    assert await one.end() == (*expected, "target_failed")


async def test_one_rang_unanswered_and_one_was_busy() -> None:
    one = OneCall(listed(to(MOBILE, 5), to(SECOND), ring=TOGETHER))
    await settle()
    one.legs[0].rings()
    one.legs[1].fails(486)
    await one.clock.advance(5.1)
    assert await one.end() == ("no_answer", 480, "target_no_answer")


async def test_the_lines_own_phone_wins_while_the_list_rings() -> None:
    one = OneCall(
        listed(to(MOBILE), to(SECOND), condition=Condition.NO_ANSWER, ring=TOGETHER, max_calls=1)
    )
    await settle()
    one.legs[0].rings()
    await one.clock.advance(20.1)
    assert gone_to(one)[1:] == [MOBILE, SECOND]
    await talks(one, one.legs[0])
    assert one.counted == [LINE]
    assert [leg.said[-1] for leg in one.legs[1:]] == ["cancel", "cancel"]
    record = await ends(one)
    assert record.forwards == []
    assert (record.condition, record.destination) == ("none", "line")


async def test_how_long_a_target_rang_is_its_own_time() -> None:
    one = OneCall(listed(to(MOBILE, 5), to(SECOND)))
    await settle()
    one.legs[0].rings()
    await one.clock.advance(5.1)
    assert one.legs[0].said == ["invite", "cancel"]
    metrics = one.metrics
    assert sum(metrics.ring_no_answer.counts) == sum(metrics.ring_overrun.counts) == 1
    assert 5 <= metrics.ring_no_answer.total <= 5.1
    one = OneCall(listed(to(MOBILE), to(SECOND), ring=TOGETHER))
    await settle()
    one.legs[0].rings()
    await one.clock.advance(10)
    one.legs[1].rings()
    one.legs[1].answers()
    await settle()
    assert sum(one.metrics.ring_answered.counts) == 1
    assert one.metrics.ring_answered.total < 5
    one.caller.acks()
    await ends(one)


# -- lines of the fleet in a list -----------------------------------------------------------------


async def test_a_line_in_a_list_rings_at_its_phones_and_its_forwards_are_not_followed() -> None:
    other = line(OTHER, unconditional=MOBILE, busy="voicemail")
    one = OneCall(listed(to(OTHER), to(THIRD)), other, registered=BOTH)
    await settle()
    assert [leg.uri for leg in one.legs] == [THEIRS]
    assert one.counted == [OTHER]
    one.legs[0].fails(486)
    await settle()
    assert gone_to(one)[1:] == [THIRD]
    assert one.counted == []


async def test_a_line_in_a_list_answers() -> None:
    one = OneCall(listed(to(OTHER), to(MOBILE), ring=TOGETHER), line(OTHER), registered=BOTH)
    await settle()
    await talks(one, one.legs[0])
    assert one.counted == [OTHER]
    record = await ends(one)
    assert paid(one) == [(LINE, "unconditional", OTHER, "free")]
    assert (record.destination, record.target) == ("line", OTHER)


async def test_a_line_in_a_list_that_was_given_up_counts_again_when_it_answers() -> None:
    one = OneCall(listed(to(OTHER, 5), to(MOBILE)), line(OTHER), registered=BOTH)
    await settle()
    one.legs[0].rings()
    await one.clock.advance(5.1)
    assert one.counted == []
    await talks(one, one.legs[0])
    assert one.counted == [OTHER]
    await ends(one)


@pytest.mark.parametrize(
    ("other", "contacts"),
    [(Line(OTHER, "acme", do_not_disturb=True), phones(THEIRS)),
     (Line(OTHER, "acme", suspended=True), phones(THEIRS)),
     (Line(OTHER, "acme", max_calls=1), phones(THEIRS)),
     (Line(OTHER, "acme"), ())],
)  # fmt: skip
async def test_a_line_in_a_list_is_passed_over(other: Line, contacts: tuple[Contact, ...]) -> None:
    one = OneCall(listed(to(OTHER), to(MOBILE)), other, registered={LINE: (), OTHER: contacts})
    one.full.add(OTHER)
    await settle()
    assert gone_to(one) == [MOBILE]
    assert one.counted == []


async def test_one_phone_of_a_line_in_a_list_declines_for_all_of_them() -> None:
    at = {LINE: (), OTHER: phones(THEIRS, "sip:desk@127.0.0.1:5092")}
    one = OneCall(listed(to(OTHER), to(MOBILE), ring=TOGETHER), line(OTHER), registered=at)
    await settle()
    for leg in one.legs:
        leg.rings()
    one.legs[0].fails(603)
    await settle()
    assert [leg.said[-1] for leg in one.legs[1:]] == ["cancel", "invite"]


async def test_a_list_of_one_line_goes_by_that_lines_rules() -> None:
    one = OneCall(listed(to(OTHER)), line(OTHER, unconditional=MOBILE), registered=BOTH)
    await settle()
    assert gone_to(one) == [MOBILE]
    assert [f.line for f in one.call.facts.forwards] == [LINE, OTHER]


async def test_a_single_target_has_its_time_too() -> None:
    one = OneCall(listed(to(MOBILE, 8)))
    await settle()
    one.legs[0].rings()
    await one.clock.advance(8.1)
    assert await one.end() == ("no_answer", 480, "target_no_answer")


async def test_headers_of_each_target() -> None:
    one = OneCall(listed(to(MOBILE), to("voicemail"), ring=TOGETHER))
    await settle()
    for place, leg in enumerate(one.legs, 1):
        assert leg.block.count("Diversion: ") == 1
        assert f"<sip:{LINE}@renvoi.test>;reason=unconditional" in leg.block
        assert f"cause=302>;index=1.{place}" in leg.block
    assert MOBILE not in one.legs[1].block


# -- beside the line's phones ---------------------------------------------------------------------


async def test_the_mobile_beside_the_phone_answers_as_the_line() -> None:
    one = OneCall(beside(to(MOBILE), max_calls=1))
    await settle()
    assert sorted(gone_to(one)) == [MOBILE, "phone"]
    mobile, phone = one.legs
    assert "follow-me" in mobile.block
    assert "Diversion" not in phone.block
    assert not phone.alone
    phone.rings()
    await talks(one, mobile)
    assert one.caller.heard == [180, 200]  # no 181: the call is not forwarded
    assert phone.said == ["invite", "cancel"]
    assert one.counted == [LINE]
    assert one.forwards.standing(LINE) == 1
    assert [f.number for f in one.metered] == [MOBILE]
    record = await ends(one)
    assert paid(one) == [(LINE, "none", MOBILE, "out_of_plan")]
    assert (record.condition, record.destination, record.target) == ("none", "line", LINE)
    assert (record.payer, record.billing, record.forwarded) == (LINE, "out_of_plan", None)


async def test_the_phone_answers_and_the_mobile_costs_nothing() -> None:
    one = OneCall(beside(to(MOBILE)))
    await settle()
    mobile, phone = one.legs
    mobile.rings()
    await talks(one, phone)
    assert mobile.said == ["invite", "cancel"]
    assert len(one.forwards) == 0  # no forward is in progress
    record = await ends(one)
    assert record.forwards == []
    assert (record.destination, record.payer) == ("line", "")


async def test_a_line_without_a_phone_is_reached_at_the_mobile() -> None:
    one = OneCall(beside(to(MOBILE)), contacts=())
    await settle()
    assert gone_to(one) == [MOBILE]
    await talks(one, one.legs[0])
    assert (await ends(one)).destination == "line"


@pytest.mark.parametrize(
    ("code", "expected"),
    [(486, ("busy", 486, "busy")), (404, ("unreachable", 480, "unreachable")),
     (403, ("unreachable", 480, "unreachable")), (500, ("unreachable", 480, "unreachable"))],
)  # fmt: skip
async def test_the_mobile_alone_fails(code: int, expected: tuple[str, int, str]) -> None:
    one = OneCall(beside(to(MOBILE)), contacts=())
    await settle()
    one.legs[0].fails(code)
    assert await one.end() == expected
    assert one.call.facts.record(one.ended[0]).destination == "line"
    check_counts(one)


async def test_a_failure_at_the_gateway_does_not_stop_the_lines_forward() -> None:
    forward = {Condition.BUSY: Forward(True, Destination(Kind.VOICEMAIL, LINE))}
    one = OneCall(beside(to(MOBILE), forwards=forward))
    await settle()
    one.legs[0].fails(403)
    one.legs[1].fails(486)
    await settle()
    assert gone_to(one)[2:] == [LINE]
    await talks(one, one.legs[2])
    assert paid(one) == [(LINE, "busy", LINE, "free")]
    assert one.forwards.standing(LINE) == 1  # counted once
    await ends(one)


async def test_nobody_answers_and_the_mobile_picks_up_late() -> None:
    forward = {Condition.NO_ANSWER: Forward(True, Destination(Kind.VOICEMAIL, LINE), 10)}
    one = OneCall(beside(to(MOBILE), forwards=forward))
    await settle()
    one.legs[0].rings()
    await settle()
    await one.clock.advance(10.1)
    assert [leg.said[-1] for leg in one.legs[:2]] == ["cancel", "cancel"]
    await talks(one, one.legs[0])
    assert one.legs[2].said == ["invite", "cancel"]
    assert one.counted == [LINE]
    assert one.forwards.standing(LINE) == 1
    record = await ends(one)
    assert paid(one) == [(LINE, "none", MOBILE, "out_of_plan")]
    assert (record.condition, record.destination) == ("none", "line")


async def test_declined_at_one_place_is_declined_at_all() -> None:
    one = OneCall(beside(to(MOBILE)))
    await settle()
    one.legs[1].fails(603)
    assert await one.end() == ("busy", 603, "busy")
    assert one.legs[0].said == ["invite", "cancel"]


async def test_the_mobile_rings_on_while_groups_of_phones_take_turns() -> None:
    first = Contact(PHONE, None, float("inf"), q=1.0)
    second = Contact(THEIRS, None, float("inf"), q=0.5)
    one = OneCall(beside(to(MOBILE)), contacts=(first, second))
    await settle()
    mobile, phone = one.legs
    mobile.rings()
    phone.rings()
    await one.clock.advance(10.1)  # group_ring_s
    assert [leg.said[-1] for leg in one.legs] == ["invite", "cancel", "invite"]
    one.legs[2].fails(480)
    await one.clock.advance(60)
    assert mobile.said == ["invite"]
    await talks(one, mobile)
    await ends(one)


async def test_the_next_group_follows_at_once_when_the_phones_of_one_have_failed() -> None:
    first = Contact(PHONE, None, float("inf"), q=1.0)
    second = Contact(THEIRS, None, float("inf"), q=0.5)
    one = OneCall(beside(to(MOBILE)), contacts=(first, second))
    await settle()
    one.legs[0].rings()
    one.legs[1].fails(480)
    await settle()
    assert one.legs[2].uri == THEIRS
    await talks(one, one.legs[2])
    assert one.legs[0].said == ["invite", "cancel"]
    await ends(one)


async def test_a_silent_group_of_phones_does_not_end_the_mobile() -> None:
    first = Contact(PHONE, None, float("inf"), q=1.0)
    second = Contact(THEIRS, None, float("inf"), q=0.5)
    one = OneCall(beside(to(MOBILE)), contacts=(first, second))
    await settle()
    await one.clock.advance(one.call._services.config.timers.pre_ringing_s + 0.1)
    assert [leg.said[-1] for leg in one.legs] == ["invite", "cancel", "invite"]
    await one.clock.advance(9)
    one.legs[0].rings()
    await one.clock.advance(100)
    await talks(one, one.legs[0])
    await ends(one)


async def test_another_line_rings_beside() -> None:
    one = OneCall(beside(to(OTHER)), line(OTHER), registered=BOTH)
    await settle()
    assert sorted(leg.uri for leg in one.legs) == sorted([PHONE, THEIRS])
    assert sorted(one.counted) == [LINE, OTHER]
    await talks(one, next(leg for leg in one.legs if leg.uri == THEIRS))
    assert sorted(one.counted) == [LINE, OTHER]
    record = await ends(one)
    assert paid(one) == [(LINE, "none", OTHER, "free")]
    assert (record.destination, record.target) == ("line", LINE)


async def test_a_line_reached_by_a_forward_has_its_mobile_beside() -> None:
    other = Line(OTHER, "acme", also_ring=(to(MOBILE),))
    one = OneCall(line(unconditional=OTHER), other, registered={LINE: (), OTHER: ()})
    await settle()
    await talks(one, one.legs[0])
    record = await ends(one)
    assert paid(one) == [
        (LINE, "unconditional", OTHER, "free"), (OTHER, "none", MOBILE, "out_of_plan"),
    ]  # fmt: skip
    assert (record.condition, record.destination, record.target) == ("unconditional", "line", OTHER)
    assert record.payer == OTHER


async def test_the_limit_on_forwards_keeps_the_mobile_silent() -> None:
    one = OneCall(beside(to(MOBILE)))
    limits = one.call._services.config.limits
    for _ in range(limits.forwards_per_line):
        one.forwards.begin(LINE, limits)
    await settle()
    assert gone_to(one) == ["phone"]
    assert one.metrics._prevented.counts["forwards_per_line"] == 1


async def test_the_limit_that_other_calls_reach_meanwhile_keeps_the_mobile_silent() -> None:
    """Between the decision and the mobile Redis is asked whether the line is free."""
    one = OneCall(beside(to(MOBILE), max_calls=5))
    limits = one.call._services.config.limits

    async def admit(number: str, _call: str, _most: int) -> None:
        for _ in range(limits.forwards_per_line):
            one.forwards.begin(number, limits)

    live: Any = one.call._services.live
    live.admit = admit
    await settle()
    assert gone_to(one) == ["phone"]
    assert one.forwards.standing(LINE) == limits.forwards_per_line
    assert one.metrics._prevented.counts["forwards_per_line"] == 1


# -- busy without ringing, and refused callers ----------------------------------------------------


async def test_do_not_disturb() -> None:
    one = OneCall(Line(LINE, "acme", do_not_disturb=True, max_calls=1))
    assert await one.end() == ("busy", 486, "do_not_disturb")
    assert one.legs == []


async def test_do_not_disturb_with_a_busy_forward() -> None:
    forward = {Condition.BUSY: Forward(True, Destination(Kind.VOICEMAIL, LINE))}
    one = OneCall(Line(LINE, "acme", do_not_disturb=True, forwards=forward, max_calls=1))
    await settle()
    assert gone_to(one) == [LINE]
    assert one.counted == []
    assert "user-busy" in one.legs[0].block


@pytest.mark.parametrize("condition", list(Condition))
async def test_a_blocked_caller(condition: Condition) -> None:
    after_s = 10 if condition is Condition.NO_ANSWER else None
    forward = Forward(True, None, after_s, rejects=True)
    contacts = () if condition is Condition.UNREACHABLE else phones(PHONE)
    one = OneCall(
        Line(
            LINE,
            "acme",
            forwards={condition: forward},
            rules={condition: (forward,)},
            max_calls=1,
        ),
        contacts=contacts,
    )
    await settle()
    if condition is Condition.BUSY:
        one.legs[0].fails(600)
    elif condition is Condition.NO_ANSWER:
        one.legs[0].rings()
        await one.clock.advance(10.1)
    assert await one.end() == ("rejected", 603, "blocked")
    assert one.caller.heard[-1] == 603
    check_counts(one)
    record = one.call.facts.record(one.ended[0])
    assert (record.condition, record.forwards) == ("none", [])


async def test_a_6xx_of_a_gateway_declines_only_if_it_means_busy() -> None:
    one = OneCall(beside(to(MOBILE)))
    await settle()
    one.legs[0].fails(606)
    await settle()
    assert one.legs[1].said == ["invite"]
    await talks(one, one.legs[1])
    assert len(one.forwards) == 0
    await ends(one)


async def test_a_line_beside_that_was_given_up_counts_again_when_it_answers() -> None:
    forward = {Condition.NO_ANSWER: Forward(True, Destination(Kind.VOICEMAIL, LINE), 10)}
    one = OneCall(beside(to(OTHER), forwards=forward), line(OTHER), registered=BOTH)
    await settle()
    theirs = next(leg for leg in one.legs if leg.uri == THEIRS)
    theirs.rings()
    await settle()
    await one.clock.advance(10.1)
    assert one.counted == []
    await talks(one, theirs)
    assert sorted(one.counted) == [LINE, OTHER]
    assert paid(one) == [(LINE, "none", OTHER, "free")]
    await ends(one)
