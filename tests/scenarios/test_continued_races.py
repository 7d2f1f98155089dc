"""Transactions in progress when a worker dies: ringing calls, requests without a response,
responses without an ACK."""

from __future__ import annotations

from typing import Any

import pytest

from engine.call_entry import ActiveCall
from sip.leg_state import LegState
from sip.state import CONFIRMED
from tests.scenarios import numbers
from tests.scenarios.continued import (
    back,
    die,
    ended,
    is_up,
    kept,
    killed,
    noted,
    rang,
    stand,
    talk,
    until,
)
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.message import Message
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_number
from tests.scenarios.test_reliable_provisionals import say
from tests.scenarios.test_star_codes import stored

GIVEN_UP: dict[str, Any] = {"outcome": "failed", "why": "worker_died", "takeovers": 1}
TWICE = GIVEN_UP | {"takeovers": 2}


async def ringing(setup: Setup, **more: object) -> tuple[str, Call, Call]:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, **more)  # type: ignore[arg-type]
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    await rang(setup, call)
    return line, call, ring


def leg_of(entry: ActiveCall, place: int) -> LegState:
    """The state of a leg, 0 = the caller's."""
    leg = entry.signalling[place]
    assert leg is not None
    return leg


def state_of(entry: ActiveCall, place: int) -> int:
    return leg_of(entry, place).state if place < len(entry.signalling) else -1


def is_answered(entry: ActiveCall) -> bool:
    """Whether the caller's re-INVITE has its 2xx, and not its ACK."""
    asked = leg_of(entry, 0).asked
    return asked is not None and bool(asked.answer)


async def refused(call: Call) -> None:
    """The caller gets a refusal after which its server may try again at once."""
    final = await call.final()
    assert (final.code, final.one("Retry-After")) == (503, "0")


async def killed_twice(setup: Setup, call: Call, phones: int = 1) -> None:
    """A ringing call survives the first death of its process, but not the second: the call may be
    the cause."""
    await killed(setup)
    await rang(setup, call, phones)
    await killed(setup, continued=0, ended=1)


# -- calls that rang -------------------------------------------------------------------------------


async def test_a_ringing_call_is_ended_on_both_sides(setup: Setup) -> None:
    line, call, ring = await ringing(setup)
    await killed_twice(setup, call)
    await ring.receive("CANCEL")
    await ring.receive("ACK")
    await refused(call)
    await ended(setup, call, **TWICE)
    assert not setup.redis.exists(f"live:{line}")
    again = await setup.call(line)  # as the caller's server does
    ring = await ring.endpoint.incoming()
    await connect(again, ring)
    await part(again, ring)


async def test_of_several_phones_each_gets_its_cancel(setup: Setup) -> None:
    """One has rung, one has sent 183 with early media, one has not responded."""
    phones = [await setup.endpoint() for _ in range(3)]
    line = setup.line(to=[phone.uri() for phone in phones], max_calls=1)
    call = await setup.call(line)
    rings = [await phone.incoming() for phone in phones]
    rings[0].respond(180)
    rings[1].respond(183, body=ANSWER_BYTES)
    await call.heard_above_100()
    await rang(setup, call, 3)
    await killed_twice(setup, call, 3)
    for ring in rings:
        await ring.receive("CANCEL")
    await refused(call)
    await ended(setup, call, **TWICE)
    await until(lambda: not setup.redis.exists(f"live:{line}"), "the lease is released")


async def test_a_phone_that_lost_to_another_gets_its_cancel(setup: Setup) -> None:
    """It has not responded at all, so its CANCEL has not been sent yet (RFC 3261 9.1)."""
    phones = [await setup.endpoint() for _ in range(2)]
    call = await setup.call(setup.line(to=[phone.uri() for phone in phones]))
    ring, silent = [await phone.incoming() for phone in phones]
    await connect(call, ring)
    await noted(setup, call, is_up)
    assert not silent.requests("CANCEL")
    await killed(setup)
    await silent.receive("CANCEL")
    await silent.receive("ACK")
    await talk(call, ring)
    await part(call, ring)
    await ended(setup, call)


@pytest.mark.parametrize("ring", ["in_turn", "together"])
async def test_a_list_that_rings_when_the_worker_dies(setup: Setup, ring: str) -> None:
    targets = [{"kind": "number", "number": numbers.mobile_number()} for _ in range(3)]
    line = setup.line(forwards={"unconditional": {"on": True, "ring": ring, "to": targets}})
    call = await setup.call(line)
    away = await setup.server("number").incoming(targets[0]["number"])
    away.respond(180)
    await call.receive(180)
    await rang(setup, call, 1 if ring == "in_turn" else 3)
    await killed(setup, continued=0, ended=1)
    await away.receive("CANCEL")
    await refused(call)
    record = await ended(
        setup, call, condition="unconditional", destination="number", payer="", **GIVEN_UP
    )
    assert record["forwards"] == []
    await until(lambda: not setup.redis.exists(f"forwards:{line}"), "the forward is released")


async def test_a_call_with_early_media_is_ended(setup: Setup) -> None:
    mobile = numbers.mobile_number()
    line = setup.line(forwards={"unconditional": to_number(mobile)})
    call = await setup.call(line)
    away = await setup.server("number").incoming(mobile)
    away.respond(183, body=ANSWER_BYTES)
    assert (await call.receive(183)).body == ANSWER_BYTES
    await rang(setup, call)
    await killed_twice(setup, call)
    await away.receive("CANCEL")
    await refused(call)
    await ended(setup, call, payer=line, condition="unconditional", **TWICE)


@pytest.mark.parametrize("state", ["early", "answered"])
async def test_a_call_with_reliable_responses_is_ended(setup: Setup, state: str) -> None:
    """Before its PRACK. A phone that has answered meanwhile gets a BYE."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=[("Supported", "100rel")])
    ring = await phone.incoming()
    say(ring, 183, 8711, body=ANSWER_BYTES)
    await call.receive(183)
    if state == "answered":
        ring.respond(200)
        await noted(setup, call, lambda e: state_of(e, 1) == CONFIRMED)
    else:
        await rang(setup, call)
    await killed(setup, continued=0, ended=1)
    if state == "answered":
        await ring.receive("BYE")
    else:
        await ring.receive("CANCEL")
    await refused(call)
    await ended(setup, call, **GIVEN_UP)


async def test_a_cancel_in_the_gap(setup: Setup) -> None:
    _, call, ring = await ringing(setup)
    die(setup)
    await setup.engine.exited(5)
    cancel = call.cancel()
    assert (await back(setup))["continued"] == 1
    call.repeat(cancel)
    assert (await call.final()).code == 487
    await call.receive(200, "CANCEL")
    await ring.receive("CANCEL")
    await ended(setup, call, outcome="cancelled", why="caller")


async def test_an_answer_in_the_gap_is_passed_on(setup: Setup) -> None:
    _, call, ring = await ringing(setup)
    die(setup)
    await setup.engine.exited(5)
    ring.respond(200, body=ANSWER_BYTES)  # lost: the engine is down
    assert (await back(setup))["continued"] == 1
    ring.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await part(call, ring)
    await ended(setup, call)


async def test_an_answer_that_crosses_the_cancel_of_the_next_process(setup: Setup) -> None:
    _, call, ring = await ringing(setup)
    ring.automatic = {"BYE"}
    await killed(setup)
    await rang(setup, call)
    die(setup)
    await setup.engine.exited(5)
    ring.respond(200, body=ANSWER_BYTES)  # lost: the engine is down
    assert (await back(setup))["ended"] == 1
    ring.respond(200, to=await ring.receive("CANCEL"))
    ring.respond(200, body=ANSWER_BYTES)
    await ring.receive("ACK")
    await ring.receive("BYE")
    await refused(call)
    await ended(setup, call, **TWICE)


async def test_an_invite_that_is_repeated_over_the_death_is_one_call(setup: Setup) -> None:
    """A caller without any response repeats its INVITE: no phone rings again."""
    _, call, ring = await ringing(setup)
    die(setup)
    await setup.engine.exited(5)
    call.repeat(call.first)
    assert (await back(setup))["continued"] == 1
    call.repeat(call.first)
    ring.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await part(call, ring)
    assert len(ring.endpoint.invited()) == 1
    await ended(setup, call)


# -- answers and their ACK -------------------------------------------------------------------------


async def test_an_answer_that_the_caller_never_got_is_repeated_until_its_ack(setup: Setup) -> None:
    """The process dies at the moment at which the 200 leaves: here the caller ignores it."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    first = await call.receive(200)
    die(setup)
    taken = await back(setup)
    assert taken["continued"] == 1
    again, *_ = (await call.copies(2, 200))[-1:]
    assert (again.body, again.to_tag) == (first.body, first.to_tag)
    call.ack(first)
    await noted(setup, call, is_up)
    await talk(call, ring)
    await part(ring, call)
    await ended(setup, call)


async def test_a_phone_whose_ack_was_lost_gets_it_again(setup: Setup) -> None:
    _, call, ring = await stand(setup)
    before = len(ring.requests("ACK"))
    await killed(setup)
    ring.repeat(ring.sent[-1])
    await until(lambda: len(ring.requests("ACK")) > before, "the ACK is repeated")
    first, again = ring.requests("ACK")[-2:]
    assert (again.cseq, again.uri, again.body) == (first.cseq, first.uri, first.body)
    assert setup.engine.metric("renvoi_races_total", kind="ack_lost") >= 1
    await part(call, ring)
    await ended(setup, call)


async def test_a_second_phone_behind_a_proxy_answers_after_the_death(setup: Setup) -> None:
    """The fork is decided: the other phone gets its ACK and a BYE."""
    _, call, ring = await stand(setup)
    await killed(setup)
    own, ring.tag = ring.tag, "another-phone"
    ring.automatic = set()
    ring.respond(200, body=ANSWER_BYTES)
    bye = await ring.receive("BYE")
    assert bye.to_tag == "another-phone"
    ring.respond(200, to=bye)
    ring.tag, ring.state, ring.automatic = own, "answered", {"BYE"}
    await talk(call, ring)
    await part(call, ring)
    await ended(setup, call)


@pytest.mark.parametrize("when", ["offer", "answer"])
async def test_an_offer_that_came_late_gets_its_answer(setup: Setup, when: str) -> None:
    """An INVITE without a body: the answer is in the ACK, which comes after the death, or was lost
    and must be repeated with its body."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, body=b"")
    ring = await phone.incoming()
    ring.respond(200, body=OFFER_BYTES)
    offer = await call.receive(200)
    assert offer.body == OFFER_BYTES
    if when == "answer":
        call.ack(offer, body=ANSWER_BYTES)
        await ring.receive("ACK")
        await noted(setup, call, is_up)
    await killed(setup)
    if when == "offer":
        assert not ring.requests("ACK")
        call.ack(offer, body=ANSWER_BYTES)
    else:
        ring.repeat(ring.sent[-1])
        await until(lambda: len(ring.requests("ACK")) > 1, "the ACK is repeated")
    await until(lambda: ring.requests("ACK"), "the ACK")
    assert ring.requests("ACK")[-1].body == ANSWER_BYTES
    await talk(call, ring)
    await part(call, ring)
    await ended(setup, call)


async def test_a_caller_that_hangs_up_before_its_ack(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    await call.receive(200)
    await killed(setup)
    await part(call, ring)
    await ended(setup, call)


# -- requests inside the call ----------------------------------------------------------------------


async def test_a_bye_whose_200_was_lost(setup: Setup) -> None:
    _, call, ring = await stand(setup)
    call.request("BYE")
    bye = await ring.receive("BYE")
    await call.receive(200, "BYE")
    record = await ended(setup, call, takeovers=0)
    die(setup)
    await back(setup)
    before = len([m for m in call.received if m.method == "BYE"])
    call.repeat(call.sent[-1])
    await until(lambda: len([m for m in call.received if m.method == "BYE"]) > before, "an answer")
    assert call.received[-1].code in (200, 481)
    assert len({each.branch for each in ring.requests("BYE")}) == 1
    assert bye
    assert [r["id"] for r in setup.records() if r["call_id"] == call.call_id] == [record["id"]]


async def test_a_bye_in_the_gap_ends_the_call_when_it_is_repeated(setup: Setup) -> None:
    _, call, ring = await stand(setup)
    die(setup)
    await setup.engine.exited(5)
    bye = call.request("BYE")
    assert (await back(setup))["continued"] == 1
    call.repeat(bye)
    await ring.receive("BYE")
    await call.receive(200, "BYE")
    await ended(setup, call)


async def test_both_hang_up_in_the_gap(setup: Setup) -> None:
    _, call, ring = await stand(setup)
    die(setup)
    await setup.engine.exited(5)
    byes = call.request("BYE"), ring.request("BYE")
    assert (await back(setup))["continued"] == 1
    call.repeat(byes[0])
    ring.repeat(byes[1])
    for side in (call, ring):
        assert (await side.final("BYE")).code in (200, 481)
    await ended(setup, call)


@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_an_info_in_progress_arrives_when_it_is_repeated(setup: Setup, who: str) -> None:
    _, call, ring = await stand(setup)
    one, other = (call, ring) if who == "caller" else (ring, call)
    one.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
    asked, place = one.sent[-1], 0 if who == "caller" else 1
    first = await other.receive("INFO")
    await noted(setup, call, lambda e: leg_of(e, place).seen == asked.cseq[0])
    await killed(setup)
    one.repeat(asked)
    again = await other.receive("INFO")
    assert (again.body, again.cseq[0] > first.cseq[0]) == (first.body, True)
    other.respond(200, to=again)
    await one.receive(200, "INFO")
    await part(one, other)
    await ended(setup, call)


async def hold(setup: Setup, one: Call, other: Call) -> Message:
    """A re-INVITE that has its 100 and is in the journal; returns it as the other side got it."""
    one.request("INVITE", body=OFFER_BYTES)
    request = await other.receive("INVITE")
    call, place = (one, 0) if one.is_caller else (other, 1)
    await noted(setup, call, lambda e: leg_of(e, place).asked and leg_of(e, 1 - place).asking)
    return request


@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_a_reinvite_that_waits_for_its_response_gets_it(setup: Setup, who: str) -> None:
    _, call, ring = await stand(setup)
    one, other = (call, ring) if who == "caller" else (ring, call)
    request = await hold(setup, one, other)
    await killed(setup)
    one.repeat(one.sent[-1])  # it is absorbed: no second transaction to the other side
    other.respond(200, to=request, body=ANSWER_BYTES)
    answer = await one.receive(200)
    assert (answer.body, answer.cseq) == (ANSWER_BYTES, one.sent[-1].cseq)
    one.ack(answer)
    ack = await other.receive("ACK")
    assert ack.cseq[0] == request.cseq[0]
    branches = {message.branch for message in other.requests("INVITE")}
    assert len(branches) == (2 if other is ring else 1)
    await talk(call, ring)
    await part(one, other)
    await ended(setup, call)


async def test_a_reinvite_that_is_answered_in_the_gap(setup: Setup) -> None:
    """The other side repeats its 200 until it has the ACK."""
    _, call, ring = await stand(setup)
    request = await hold(setup, call, ring)
    die(setup)
    await setup.engine.exited(5)
    answer = ring.respond(200, to=request, body=ANSWER_BYTES)
    assert (await back(setup))["continued"] == 1
    ring.repeat(answer)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await talk(call, ring)
    await part(ring, call)
    await ended(setup, call)


@pytest.mark.parametrize("body", [b"", ANSWER_BYTES], ids=["offer", "late_offer"])
async def test_the_ack_of_a_reinvite_comes_in_the_gap(setup: Setup, body: bytes) -> None:
    """The 200 is repeated to the requesting side, whose ACK is relayed with its body."""
    _, call, ring = await stand(setup)
    call.request("INVITE", body=b"" if body else OFFER_BYTES)
    request = await ring.receive("INVITE")
    said = ring.respond(200, to=request, body=ANSWER_BYTES)
    answer = await call.receive(200)
    await noted(setup, call, is_answered)
    die(setup)
    await setup.engine.exited(5)
    call.ack(answer, body=body)
    assert (await back(setup))["continued"] == 1
    ring.repeat(said)
    ack = await ring.receive("ACK")
    assert (ack.cseq[0], ack.body) == (request.cseq[0], body)
    await noted(setup, call, is_up)
    # and again, if that one was lost
    await killed(setup)
    ring.repeat(said)
    await until(lambda: len([m for m in ring.requests("ACK") if m.cseq == ack.cseq]) > 1, "ACK")
    assert ring.requests("ACK")[-1].body == body
    await part(call, ring)
    await ended(setup, call, takeovers=2)


async def test_a_reinvite_that_is_cancelled_after_the_death(setup: Setup) -> None:
    _, call, ring = await stand(setup)
    ring.automatic = {"BYE"}
    request = await hold(setup, ring, call)
    await killed(setup)
    call.respond(100, to=request)  # before that a CANCEL may not be sent (9.1)
    first, ring.first = ring.first, ring.sent[-1]
    ring.cancel()
    ring.first, ring.state = first, "answered"
    call.respond(200, to=await call.receive("CANCEL"))
    call.respond(487, to=request)
    await ring.receive(487)
    await talk(call, ring)
    await part(call, ring)
    await ended(setup, call)


async def test_a_refused_reinvite_changes_nothing(setup: Setup) -> None:
    _, call, ring = await stand(setup)
    request = await hold(setup, call, ring)
    await killed(setup)
    ring.respond(488, to=request)
    await ring.receive("ACK")
    assert (await call.final()).code == 488
    await noted(setup, call, lambda e: leg_of(e, 0).asked is None)
    await talk(call, ring)
    await part(call, ring)
    await ended(setup, call)


# -- star codes ------------------------------------------------------------------------------------


async def dialled(setup: Setup, phone: Endpoint, line: str) -> Call:
    return phone.start(setup.engine.address, "*67*888%23", caller=line, body=OFFER_BYTES)


async def test_a_star_code_that_was_confirmed_ends_properly(setup: Setup) -> None:
    """The change is in force, its 200 is repeated until the ACK, and the record shows it."""
    line, phone = await setup.line_with_phone()
    call = await dialled(setup, phone, line)
    await call.receive(200)
    assert stored(setup, line)["busy"]["on"]
    await killed(setup, continued=0, ended=1)
    call.ack((await call.copies(2, 200))[-1])
    await call.receive("BYE")
    await ended(setup, call, why="star_code")


async def test_a_star_code_in_progress_is_refused_and_may_be_dialled_again(
    setup: Setup, shared_redis: RedisServer
) -> None:
    """Redis hangs, so the change waits when the process dies."""
    line, phone = await setup.line_with_phone()
    await setup.settle()
    shared_redis.pause()
    try:
        call = await dialled(setup, phone, line)
        await until(lambda: kept(setup, call.call_id), "the call")
        die(setup)
        await setup.engine.exited(5)
    finally:
        shared_redis.resume()
    assert (await back(setup))["ended"] == 1
    await refused(call)
    await ended(setup, call, **GIVEN_UP)
    again = await dialled(setup, phone, line)
    again.ack(await again.receive(200))
    await again.receive("BYE")
