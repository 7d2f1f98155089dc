"""A forward to several targets, targets that ring beside a line's phones, do not disturb, and
refused callers. Most scenarios wait for a timer, so they run together."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.patience import Stalls, within
from tests.scenarios import numbers
from tests.scenarios.batch import Batch, Outcomes, names_in
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import check_one_tag, connect, part, refuse
from tests.scenarios.message import Message, parameters, user_of
from tests.scenarios.setup import (
    ANSWER_BYTES,
    Forward,
    RunningEngine,
    Setup,
    identity,
    to_number,
    to_voicemail,
)

batch = Batch(together=40)
RING_S = 5
MAX_RING_S = 12
PRE_S = 6
SETTINGS = {
    "timers": {"pre_ringing_s": PRE_S, "max_ring_s": MAX_RING_S},
    "limits": {"forwards_per_line": 2},
}


def number(target: str, ring_s: int = RING_S) -> dict[str, Any]:
    return {"kind": "number", "number": target, "ring_s": ring_s}


def in_turn(*targets: dict[str, Any], **more: Any) -> Forward:
    return {"on": True, "to": list(targets), **more}


def together(*targets: dict[str, Any], **more: Any) -> Forward:
    return {"on": True, "ring": "together", "to": list(targets), **more}


def outside(count: int) -> list[str]:
    return [numbers.outside_number() for _ in range(count)]


async def reached(setup: Setup, *targets: str, wait_s: float = 3.0) -> list[Call]:
    """The legs to outside numbers."""
    return [await setup.server("number").incoming(each, wait_s=wait_s) for each in targets]


def check_headers(invite: Message, line: str, target: str, place: int, others: list[str]) -> None:
    """One Diversion of the line, and a History-Info that ends with this target alone."""
    assert [user_of(v) for v in invite.values("Diversion")] == [line]
    history = invite.values("History-Info")
    assert user_of(history[-2]) == line
    assert user_of(history[-1]) == target
    assert parameters(history[-1])["index"] == f"{parameters(history[-2])['index']}.{place}"
    for other in others:
        assert other.encode() not in invite.raw


async def answered_by(
    setup: Setup, call: Call, target: str, billing: str, **more: object
) -> dict[str, Any]:
    """Check the record of a call that a target of a list has answered."""
    record = await setup.ended(
        call.call_id, outcome="answered", target=target, billing=billing, **more
    )
    assert [(f["number"], f["billing"]) for f in record["forwards"]] == [(target, billing)]
    return record


async def nothing_counts(setup: Setup, *lines: str) -> None:
    """Check that the lines are free: Redis counts no call and no forward of them."""
    keys = [f"{kind}:{line}" for kind in ("live", "forwards") for line in lines]
    until = time.monotonic() + within(2)
    while left := [key for key in keys if setup.redis.zcard(key)]:
        assert time.monotonic() < until, left
        await asyncio.sleep(0.05)


# -- in turn --------------------------------------------------------------------------------------


@batch
async def the_first_is_busy_the_second_silent_and_the_third_answers(setup: Setup) -> None:
    busy, silent, last = targets = outside(3)
    line = setup.line(forwards={"unconditional": in_turn(*map(number, targets))})
    call = await setup.call(line)
    (first,) = await reached(setup, busy)
    check_headers(first.first, line, busy, 1, [silent, last])
    with Stalls() as stalls:
        stalls.watch(setup.engine.pid)
        began = time.monotonic()
        await refuse(first, 486)
        (second,) = await reached(setup, silent)
        second.automatic.discard("CANCEL")
        (third,) = await reached(setup, last, wait_s=RING_S + 3)
        assert RING_S - 0.1 < time.monotonic() - began < RING_S + 2.5 + stalls.total_s
    check_headers(third.first, line, last, 3, [busy, silent])
    await connect(call, third)
    assert call.codes() == [181, 180, 200]
    check_one_tag(call.received)
    await part(call, third)
    record = await answered_by(
        setup, call, last, "standard", condition="unconditional", destination="number"
    )
    assert [leg["number"] for leg in record["legs"]] == targets
    assert record["payer"] == line
    assert record["forwards"][0]["rule"] == 0
    await nothing_counts(setup, line)


@batch
async def one_that_was_given_up_answers_after_all(setup: Setup) -> None:
    first, second = outside(2)
    line = setup.line(forwards={"unconditional": in_turn(number(first), number(second))})
    call = await setup.call(line)
    (away,) = await reached(setup, first)
    away.automatic.discard("CANCEL")
    away.respond(180)
    (later,) = await reached(setup, second, wait_s=RING_S + 3)
    cancel = await away.receive("CANCEL")
    assert cancel.one("Reason").startswith("Q.850;cause=19")
    later.respond(180)
    away.respond(200, body=ANSWER_BYTES)
    away.respond(200, to=cancel)
    call.ack(await call.receive(200))
    lost = await later.receive("CANCEL")
    assert "completed elsewhere" in lost.one("Reason")
    await part(call, away)
    await answered_by(setup, call, first, "standard")


@batch
async def all_fail_in_turn_and_the_last_decides(setup: Setup) -> None:
    first, second = outside(2)
    line = setup.line(forwards={"unconditional": in_turn(number(first), number(second))})
    call = await setup.call(line)
    await refuse((await reached(setup, first))[0], 600)
    await refuse((await reached(setup, second))[0], 486)
    await call.receive(486)
    record = await setup.ended(
        call.call_id, outcome="busy", why="target_failed", condition="unconditional",
        destination="number", target=second, payer="", billing="",
    )  # fmt: skip
    assert record["forwards"] == []
    assert [leg["code"] for leg in record["legs"]] == [600, 486]
    await nothing_counts(setup, line)


@batch
async def the_caller_gives_up_in_the_middle(setup: Setup) -> None:
    first, second, third = outside(3)
    line = setup.line(forwards={"unconditional": in_turn(*map(number, (first, second, third)))})
    call = await setup.call(line)
    await refuse((await reached(setup, first))[0], 480)
    (away,) = await reached(setup, second)
    away.respond(180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    await away.receive("CANCEL")
    await asyncio.sleep(0.5)
    assert not setup.server("number").invited(third)
    record = await setup.ended(call.call_id, outcome="cancelled", condition="unconditional")
    assert record["forwards"] == []
    await nothing_counts(setup, line)


@batch
async def the_whole_list_ends_after_max_ring_s(setup: Setup) -> None:
    targets = outside(3)
    line = setup.line(forwards={"unconditional": in_turn(*(number(t, 60) for t in targets))})
    with Stalls() as stalls:
        stalls.watch(setup.engine.pid)
        began = time.monotonic()
        call = await setup.call(line)
        (away,) = await reached(setup, targets[0])
        away.respond(180)
        await call.receive(480, wait_s=MAX_RING_S + 5)
        assert MAX_RING_S - 1 < time.monotonic() - began < MAX_RING_S + 4 + stalls.total_s
    await away.receive("CANCEL")
    await setup.ended(call.call_id, outcome="no_answer", why="target_no_answer")


@batch
async def a_line_of_the_fleet_rings_at_its_phones_alone(setup: Setup) -> None:
    elsewhere, last = outside(2)
    member, phone = await setup.line_with_phone(
        forwards={"busy": to_number(elsewhere), "unconditional": to_number(elsewhere)}, max_calls=1
    )
    line = setup.line(forwards={"unconditional": in_turn(number(member), number(last))})
    call = await setup.call(line)
    ring = await phone.incoming()
    assert [user_of(v) for v in ring.first.values("Diversion")] == [line]
    second = await setup.call(line)  # the member has a call: it is skipped
    (away,) = await reached(setup, last)
    await connect(second, away)
    await part(second, away)
    await connect(call, ring)
    await part(call, ring)
    record = await answered_by(setup, call, member, "free", destination="line")
    assert record["forwards"][0]["kind"] == "line"
    await setup.ended(second.call_id, target=last)
    await nothing_counts(setup, line, member)


@batch
async def nobody_is_registered_and_the_own_voicemail_is_last(setup: Setup) -> None:
    member = setup.line()
    line = setup.line()
    mailbox = {"kind": "voicemail", "number": line}
    setup.change(line, forwards={"unreachable": in_turn(number(member), mailbox)})
    call = await setup.call(line)
    away = await setup.server("voicemail").incoming(line)
    assert "cause=503" in away.first.uri
    await connect(call, away)
    await part(call, away)
    await answered_by(setup, call, line, "free", condition="unreachable", destination="voicemail")


@batch
async def one_target_has_its_time(setup: Setup) -> None:
    (target,) = outside(1)
    line = setup.line(forwards={"unconditional": {"on": True, "to": number(target)}})
    call = await setup.call(line)
    (away,) = await reached(setup, target)
    away.respond(180)
    await away.receive("CANCEL", wait_s=RING_S + 3)
    await call.receive(480)


# -- together -------------------------------------------------------------------------------------


@batch
async def together_one_wins_and_the_late_one_is_ended(setup: Setup) -> None:
    first, second, third = targets = outside(3)
    line = setup.line(forwards={"unconditional": together(*map(number, targets))})
    call = await setup.call(line)
    legs = await reached(setup, *targets)
    for place, leg in enumerate(legs, 1):
        own = targets[place - 1]
        check_headers(leg.first, line, own, place, [t for t in targets if t != own])
        leg.respond(180)
    await refuse(legs[0], 603)
    legs[2].automatic.discard("CANCEL")
    legs[1].respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    cancel = await legs[2].receive("CANCEL")
    assert "completed elsewhere" in cancel.one("Reason")
    legs[2].respond(200, body=ANSWER_BYTES)  # it crosses the CANCEL
    await legs[2].receive("ACK")
    await legs[2].receive("BYE")
    await part(call, legs[1])
    record = await answered_by(setup, call, second, "standard")
    assert {leg["number"] for leg in record["legs"]} == {first, second, third}
    await nothing_counts(setup, line)


@batch
async def together_all_fail_and_the_best_decides(setup: Setup) -> None:
    targets = outside(3)
    line = setup.line(forwards={"unconditional": together(*map(number, targets))})
    call = await setup.call(line)
    for leg, code in zip(await reached(setup, *targets), (404, 486, 503), strict=True):
        await refuse(leg, code)
    await call.receive(486)
    await setup.ended(call.call_id, outcome="busy", why="target_failed")


@batch
async def a_withheld_number_stays_withheld_on_every_leg(setup: Setup) -> None:
    caller = numbers.caller_number()
    (target,) = outside(1)
    member, phone = await setup.line_with_phone()
    line = setup.line(forwards={"unconditional": together(number(member), number(target))})
    call = await setup.call(line, headers=[identity(caller), ("Privacy", "id")])
    ring = await phone.incoming()
    (away,) = await reached(setup, target)
    digits = caller[-8:].encode()
    assert digits not in ring.first.raw
    assert "anonymous.invalid" in ring.first.one("From")
    assert digits in away.first.raw  # a server of the network gets it, with its mark
    assert away.first.one("Privacy") == "id"
    await connect(call, away)
    await part(call, away)
    record = await setup.ended(call.call_id, caller="", caller_withheld=caller)
    assert record["target"] == target


@batch
async def a_mobile_of_a_list_uses_the_plan_and_its_fleet_pays(setup: Setup) -> None:
    mobile, landline = numbers.mobile_number(), numbers.outside_number()
    offer = {"mobile": "hours", "mobile_hours": 1}
    forwards = {"unconditional": together(number(landline), number(mobile))}
    line = setup.line(fleet="several", offer=offer, forwards=forwards)
    call = await setup.call(line)
    _, away = await reached(setup, landline, mobile)
    await connect(call, away)
    await asyncio.sleep(1.2)
    await part(call, away)
    record = await answered_by(setup, call, mobile, "deducted")
    (key,) = setup.redis.keys(f"usage:{line}:*")
    assert setup.redis.hgetall(key) == {"deducted": str(record["seconds"])}
    assert int(record["seconds"]) >= 1


@batch
async def the_cap_passes_over_one_target(setup: Setup) -> None:
    fleet = {"name": "capped", "cap_seconds": 0}
    setup.redis.set("fleet:capped", json.dumps(fleet))
    await setup.know_fleet("capped")
    mobile, landline = numbers.mobile_number(), numbers.outside_number()
    forwards = {"unconditional": in_turn(number(mobile), number(landline))}
    line = setup.line(fleet="capped", forwards=forwards)
    call = await setup.call(line)
    (away,) = await reached(setup, landline)
    await connect(call, away)
    await part(call, away)
    record = await answered_by(setup, call, landline, "standard")
    assert [leg["number"] for leg in record["legs"]] == [landline]
    assert not setup.server("number").invited(mobile)


@batch
async def the_lines_phone_wins_while_the_list_rings(setup: Setup) -> None:
    targets = outside(2)
    line, phone = await setup.line_with_phone(
        forwards={"no_answer": together(*map(number, targets), after_s=5)}
    )
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.automatic.discard("CANCEL")
    ring.respond(180)
    legs = await reached(setup, *targets, wait_s=8)
    cancel = await ring.receive("CANCEL")
    for leg in legs:
        leg.respond(180)
    ring.respond(200, body=ANSWER_BYTES)
    ring.respond(200, to=cancel)
    call.ack(await call.receive(200))
    for leg in legs:
        await leg.receive("CANCEL")
    await part(call, ring)
    record = await setup.ended(call.call_id, condition="none", destination="line", payer="")
    assert record["forwards"] == []


# -- beside the line ------------------------------------------------------------------------------


async def two_ring(setup: Setup, **fields: Any) -> tuple[str, str, Call, Call, Call]:
    """A line whose phone and mobile ring: line, mobile, caller, both legs."""
    mobile = numbers.mobile_number()
    line, phone = await setup.line_with_phone(
        also_ring=[{"kind": "number", "number": mobile}], **fields
    )
    call = await setup.call(line)
    ring = await phone.incoming()
    (away,) = await reached(setup, mobile)
    return line, mobile, call, ring, away


@batch
async def the_mobile_answers_beside_the_phone(setup: Setup) -> None:
    line, mobile, call, ring, away = await two_ring(setup, max_calls=1)
    assert not ring.first.values("Diversion")
    (diversion,) = away.first.values("Diversion")
    assert user_of(diversion) == line
    assert parameters(diversion)["reason"] == "follow-me"
    assert user_of(away.first.values("History-Info")[-1]) == mobile
    ring.respond(180)
    await call.receive(180)
    away.respond(180)
    away.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    assert 181 not in call.codes()
    lost = await ring.receive("CANCEL")
    assert "completed elsewhere" in lost.one("Reason")
    second = await setup.call(line)
    await second.receive(486)  # the line has its one call
    await asyncio.sleep(1.2)
    await part(call, away)
    record = await setup.ended(
        call.call_id, condition="none", destination="line", target=line, payer=line,
        billing="out_of_plan", forwarded="",
    )  # fmt: skip
    (paid,) = record["forwards"]
    assert (paid["condition"], paid["number"], paid["line"]) == ("none", mobile, line)
    assert paid["seconds"] == int(record["seconds"]) >= 1
    (key,) = setup.redis.keys(f"usage:{line}:*")
    assert setup.redis.hgetall(key) == {"out_of_plan": str(paid["seconds"])}
    await nothing_counts(setup, line)


@batch
async def the_phone_answers_beside_the_mobile(setup: Setup) -> None:
    line, _, call, ring, away = await two_ring(setup)
    away.respond(180)
    await connect(call, ring)
    await away.receive("CANCEL")
    await part(call, ring)
    record = await setup.ended(call.call_id, condition="none", destination="line", payer="")
    assert record["forwards"] == []
    assert {leg["role"] for leg in record["legs"]} == {"line", "number"}
    assert not setup.redis.keys(f"usage:{line}:*")


@batch
async def a_line_without_a_phone_is_reached_at_its_mobile(setup: Setup) -> None:
    mobile = numbers.mobile_number()
    line = setup.line(
        also_ring=[{"kind": "number", "number": mobile}],
        forwards={"unreachable": to_number(numbers.outside_number())},
    )
    call = await setup.call(line)
    (away,) = await reached(setup, mobile)
    await asyncio.sleep(PRE_S + 1)  # a mobile takes longer than a phone
    await connect(call, away)
    await part(call, away)
    await setup.ended(call.call_id, condition="none", destination="line", payer=line)


@batch
async def a_mobile_that_forwards_back_to_the_line_is_not_rung_again(setup: Setup) -> None:
    line, mobile, call, ring, away = await two_ring(setup)
    (diversion,) = away.first.values("Diversion")
    back = await setup.call(line, headers=[("Diversion", diversion)])
    again = await ring.endpoint.incoming()
    await connect(back, again)
    assert len(setup.server("number").invited(mobile)) == 1
    await part(back, again)
    record = await setup.ended(back.call_id, destination="line", payer="")
    assert record["prevented"] == [{"line": line, "condition": "also_ring", "reason": "loop"}]
    ring.respond(180)
    await connect(call, away, ring=False)
    await part(call, away)


@batch
async def neither_answers_and_the_line_forwards(setup: Setup) -> None:
    line, _, call, ring, away = await two_ring(
        setup, forwards={"no_answer": {"on": True, "after_s": 5, "to": {"kind": "voicemail"}}}
    )
    ring.respond(180)
    away.respond(180)
    mailbox = await setup.server("voicemail").incoming(line, wait_s=8)
    for leg in (ring, away):
        await leg.receive("CANCEL")
    assert len(mailbox.first.values("Diversion")) == 1
    await connect(call, mailbox)
    await part(call, mailbox)
    record = await setup.ended(call.call_id, condition="no_answer", destination="voicemail")
    assert [f["kind"] for f in record["forwards"]] == ["voicemail"]
    await nothing_counts(setup, line)


@batch
async def the_limit_on_forwards_counts_what_rings_beside(setup: Setup) -> None:
    mobile = numbers.mobile_number()
    line, phone = await setup.line_with_phone(also_ring=[{"kind": "number", "number": mobile}])
    calls = []
    for _ in range(2):
        call = await setup.call(line)
        await phone.incoming()
        (away,) = await reached(setup, mobile)
        await connect(call, away)
        calls.append((call, away))
    third = await setup.call(line)
    ring = await phone.incoming()
    await connect(third, ring)
    assert len(setup.server("number").invited(mobile)) == 2
    await part(third, ring)
    for pair in calls:
        await part(*pair)
    record = await setup.ended(third.call_id, destination="line", payer="")
    assert record["prevented"] == [
        {"line": line, "condition": "also_ring", "reason": "forwards_per_line"}
    ]
    await nothing_counts(setup, line)


@batch
async def a_cap_ends_what_the_mobile_uses_and_then_the_phone_rings_alone(setup: Setup) -> None:
    setup.redis.set("fleet:sparing", json.dumps({"name": "sparing", "cap_seconds": 5}))
    line, mobile, call, ring, away = await two_ring(setup, fleet="sparing")
    ring.respond(180)
    await call.receive(180)
    await connect(call, away, ring=False)
    await ring.receive("CANCEL")
    for side in (call, away):
        bye = await side.receive("BYE", wait_s=10)
        assert "SIP;cause=402" in bye.one("Reason")
    record = await setup.ended(call.call_id, why="fleet_cap", destination="line", payer=line)
    assert record["out_of_plan_s"] == record["seconds"]
    phone = ring.endpoint
    await setup.settle(fleets=True)
    second = await setup.call(line)
    await connect(second, again := await phone.incoming())
    await part(second, again)
    record = await setup.ended(second.call_id, destination="line", payer="")
    assert [leg["role"] for leg in record["legs"]] == ["line"]
    assert [p["condition"] for p in record["prevented"]] == ["also_ring"]
    assert len(setup.server("number").invited(mobile)) == 1
    await nothing_counts(setup, line)


@batch
async def a_phone_and_a_mobile_of_which_neither_can_be_reached(setup: Setup) -> None:
    target = numbers.outside_number()
    line, _, call, ring, away = await two_ring(setup, forwards={"unreachable": to_number(target)})
    await refuse(away, 403)  # a failure at the gateway
    await refuse(ring, 480)
    (onward,) = await reached(setup, target)
    assert [user_of(v) for v in onward.first.values("Diversion")] == [line]
    await connect(call, onward)
    await part(call, onward)
    await setup.ended(call.call_id, condition="unreachable", destination="number", target=target)


@batch
async def declined_at_the_mobile_is_declined_at_the_phone(setup: Setup) -> None:
    line, _, call, ring, away = await two_ring(setup)
    ring.respond(180)
    await refuse(away, 603)
    await ring.receive("CANCEL")
    await call.receive(603)
    await setup.ended(call.call_id, outcome="busy", destination="line", payer="")
    await nothing_counts(setup, line)


@batch
async def the_caller_gives_up_while_both_ring(setup: Setup) -> None:
    line, _, call, ring, away = await two_ring(setup, max_calls=1)
    ring.respond(180)
    away.respond(180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    for leg in (ring, away):
        await leg.receive("CANCEL")
    record = await setup.ended(call.call_id, outcome="cancelled", condition="none", payer="")
    assert record["forwards"] == []
    await nothing_counts(setup, line)


@batch
async def the_second_of_several_rules_names_its_place(setup: Setup) -> None:
    first, second = outside(2)
    off = {"on": False, "to": number(numbers.outside_number())}
    line = setup.line(forwards={"unconditional": [off, in_turn(number(first), number(second))]})
    call = await setup.call(line)
    await refuse((await reached(setup, first))[0], 486)
    (away,) = await reached(setup, second)
    await connect(call, away)
    shown = next(c for c in setup.engine.calls() if c["call_id"] == call.call_id)
    assert (shown["condition"], shown["target"], shown["payer"]) == ("unconditional", second, line)
    await part(call, away)
    record = await answered_by(setup, call, second, "standard")
    assert record["forwards"][0]["rule"] == 1


@batch
async def the_live_view_shows_the_target_that_is_tried(setup: Setup) -> None:
    first, second = outside(2)
    line = setup.line(forwards={"unconditional": in_turn(number(first), number(second))})
    call = await setup.call(line)
    await refuse((await reached(setup, first))[0], 486)
    (away,) = await reached(setup, second)
    shown = next(c for c in setup.engine.calls() if c["call_id"] == call.call_id)
    assert (shown["condition"], shown["destination"], shown["target"]) == (
        "unconditional", "number", second,
    )  # fmt: skip
    assert [leg["number"] for leg in shown["legs"]] == [second]
    await refuse(away, 404)
    await call.receive(480)


# -- do not disturb, refused callers --------------------------------------------------------------


@batch
async def do_not_disturb_is_busy_without_ringing(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(do_not_disturb=True, max_calls=1)
    call = await setup.call(line)
    await call.receive(486)
    await setup.ended(call.call_id, outcome="busy", why="do_not_disturb", condition="none")
    setup.change(line, forwards={"busy": to_voicemail(line)})
    await setup.settle()
    call = await setup.call(line)
    away = await setup.server("voicemail").incoming(line)
    await connect(call, away)
    await part(call, away)
    await setup.ended(call.call_id, condition="busy", destination="voicemail")
    assert not phone.invited()
    await nothing_counts(setup, line)


@batch
async def a_target_that_does_not_want_to_be_disturbed_is_passed_over(setup: Setup) -> None:
    (last,) = outside(1)
    quiet = {"calme": {"do_not_disturb": True}, "bureau": {}}
    for fields, rings in (
        ({"do_not_disturb": True}, False),
        ({"profiles": quiet, "profile": "calme"}, False),
        ({"profiles": quiet, "profile": "bureau"}, True),
        ({"profiles": quiet, "profile": "bureau", "do_not_disturb": True}, False),
    ):
        member, phone = await setup.line_with_phone(**fields)
        line = setup.line(forwards={"unconditional": in_turn(number(member), number(last))})
        call = await setup.call(line)
        if rings:
            answering = await phone.incoming()
        else:
            (answering,) = await reached(setup, last)
            assert not phone.invited()
        await connect(call, answering)
        await part(call, answering)


@batch
async def a_profile_rings_beside_the_phone_and_is_paid(setup: Setup) -> None:
    mobile = numbers.mobile_number()
    profiles = {"bureau": {"also_ring": [number(mobile)]}}
    line, phone = await setup.line_with_phone(profiles=profiles, profile="bureau")
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    (away,) = await reached(setup, mobile)
    await connect(call, away)
    await ring.receive("CANCEL")
    await part(call, away)
    record = await setup.ended(call.call_id, outcome="answered", condition="none")
    assert [(f["number"], f["line"]) for f in record["forwards"]] == [(mobile, line)]
    await nothing_counts(setup, line)


@batch
async def a_blocked_caller_gets_603_in_every_condition(setup: Setup) -> None:
    reject: Forward = {"on": True, "to": {"kind": "reject"}}
    for condition in ("unconditional", "busy", "no_answer", "unreachable"):
        forward = {**reject, "after_s": 5} if condition == "no_answer" else reject
        line, phone = await setup.line_with_phone(forwards={condition: forward}, max_calls=3)
        if condition == "unreachable":
            setup.redis.delete(f"reg:{line}")
            await setup.settle()
        call = await setup.call(line)
        if condition == "busy":
            await refuse(await phone.incoming(), 486)
        elif condition == "no_answer":
            (await phone.incoming()).respond(180)
        refused = await call.receive(603, wait_s=8)
        assert refused.raw.startswith(b"SIP/2.0 603 Decline")
        record = await setup.ended(
            call.call_id, outcome="rejected", why="blocked", code=603, condition="none"
        )
        assert record["forwards"] == []
        await nothing_counts(setup, line)


@pytest.fixture(scope="module")
def outcomes(running_engine: RunningEngine, request: pytest.FixtureRequest) -> Outcomes:
    @asynccontextmanager
    async def open_set() -> AsyncIterator[Callable[[], Setup]]:
        async with running_engine.endpoints() as servers:
            yield lambda: Setup(running_engine, servers)

    return batch.play(open_set, names_in(request))


@pytest.mark.parametrize("name", batch.names)
def test_several_targets(outcomes: Outcomes, name: str) -> None:
    outcomes.check(name)
