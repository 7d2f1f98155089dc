"""Reliable provisional responses and PRACK (RFC 3262), from end to end and on the caller's side."""

from __future__ import annotations

import asyncio

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import check_one_tag, part, refuse
from tests.scenarios.message import Message
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_number, to_voicemail

SUPPORTED = [("Supported", "timer, 100rel")]
REQUIRED = [("Require", "100rel")]
KNOWS = pytest.mark.parametrize("knows", [SUPPORTED, REQUIRED], ids=["supported", "required"])


def say(ring: Call, code: int, rseq: int, **more: object) -> Message:
    """The phone sends a reliable provisional response."""
    return ring.respond(
        code,
        headers=[("Require", "100rel"), ("RSeq", str(rseq))],
        **more,  # type: ignore[arg-type]
    )


def prack(call: Call, early: Message, **more: object) -> Message:
    """The caller sends its PRACK."""
    rack = f"{early.one('RSeq')} {early.cseq[0]} INVITE"
    return call.request("PRACK", headers=[("RAck", rack)], **more)  # type: ignore[arg-type]


async def received(call: Call, code: int) -> Message:
    """A reliable provisional response that the caller got."""
    early = await call.receive(code)
    assert early.one("Require") == "100rel", early
    assert 1 <= int(early.one("RSeq")) < 2**31
    return early


async def acknowledged(ring: Call, rseq: int, *, body: bytes = b"") -> None:
    """The phone gets the PRACK and answers it."""
    request = await ring.receive("PRACK")
    assert request.one("RAck") == f"{rseq} {ring.first.cseq[0]} INVITE"
    ring.respond(200, to=request, body=body)


async def connect(call: Call, ring: Call, body: bytes = b"") -> Message:
    """The phone answers."""
    ring.respond(200, body=body)
    answer = await call.receive(200)
    call.ack(answer)
    await ring.receive("ACK")
    return answer


@KNOWS
async def test_a_reliable_183_and_its_prack_pass_from_end_to_end(
    setup: Setup, knows: list[tuple[str, str]]
) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=knows)
    ring = await phone.incoming()
    assert "100rel" in ring.first.values("Supported")
    assert not ring.first.has("Require")
    say(ring, 183, 8711, body=ANSWER_BYTES)
    early = await received(call, 183)
    assert early.body == ANSWER_BYTES
    prack(call, early)
    await acknowledged(ring, 8711)
    await call.receive(200, "PRACK")
    answer = await connect(call, ring)
    assert answer.body == b""  # the answer was given in the 183
    assert not answer.has("RSeq")
    check_one_tag(call.received)
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered", condition="none")


async def test_the_phone_is_not_acknowledged_before_the_caller_did(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=SUPPORTED)
    ring = await phone.incoming()
    said = say(ring, 180, 1)
    early = await received(call, 180)
    ring.repeat(said)  # the phone repeats it, as required
    copies = await call.copies(3, 180)  # the engine repeats its own: after 0.5 s and 1 s
    assert ring.requests("PRACK") == []
    assert {m.one("RSeq") for m in copies} == {early.one("RSeq")}
    prack(call, early)
    await acknowledged(ring, 1)
    await call.receive(200, "PRACK")
    seen = len(call.received)
    await asyncio.sleep(2.3)  # the next copy would have come
    assert len(call.received) == seen
    await connect(call, ring, ANSWER_BYTES)
    await part(ring, call)


async def test_several_reliable_responses_come_one_after_the_other(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=SUPPORTED)
    ring = await phone.incoming()
    say(ring, 180, 5)
    first = await received(call, 180)
    say(ring, 183, 6, body=ANSWER_BYTES)
    say(ring, 183, 8, body=ANSWER_BYTES)  # out of order: dropped until 7 has come
    prack(call, first)
    await acknowledged(ring, 5)
    second = await received(call, 183)
    assert int(second.one("RSeq")) == int(first.one("RSeq")) + 1
    prack(call, second)
    await acknowledged(ring, 6)
    await connect(call, ring)
    assert call.codes() == [180, 183, 200]
    await part(call, ring)


async def test_offers_and_answers_pass_in_prack_and_update_before_the_answer(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=SUPPORTED)
    ring = await phone.incoming()
    say(ring, 183, 1, body=ANSWER_BYTES)
    early = await received(call, 183)
    prack(call, early, body=OFFER_BYTES + b"a=again\r\n")
    request = await ring.receive("PRACK")
    assert request.body == OFFER_BYTES + b"a=again\r\n"
    ring.respond(200, to=request, body=ANSWER_BYTES + b"a=again\r\n")
    assert (await call.receive(200, "PRACK")).body == ANSWER_BYTES + b"a=again\r\n"
    for speaker, listener in ((call, ring), (ring, call)):
        speaker.request("UPDATE", body=OFFER_BYTES)
        update = await listener.receive("UPDATE")
        assert update.body == OFFER_BYTES
        listener.respond(200, to=update, body=ANSWER_BYTES)
        assert (await speaker.receive(200, "UPDATE")).body == ANSWER_BYTES
    await connect(call, ring)
    await part(call, ring)


async def test_a_late_offer_is_answered_in_the_prack(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=SUPPORTED, body=b"")
    ring = await phone.incoming()
    say(ring, 183, 3, body=OFFER_BYTES)
    early = await received(call, 183)
    assert early.body == OFFER_BYTES
    prack(call, early, body=ANSWER_BYTES)
    request = await ring.receive("PRACK")
    assert request.body == ANSWER_BYTES
    ring.respond(200, to=request)
    await call.receive(200, "PRACK")
    await connect(call, ring)
    await part(call, ring)


async def test_a_prack_for_no_response_is_refused(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=SUPPORTED)
    ring = await phone.incoming()
    say(ring, 180, 1)
    early = await received(call, 180)
    for rack in ("99 1 INVITE", f"{early.one('RSeq')} 1 INVITE", "x", "", "1 2", "9" * 40 + " 1 A"):
        call.request("PRACK", headers=[("RAck", rack)] if rack else [])
        await call.receive(481, "PRACK")
    prack(call, early)
    await acknowledged(ring, 1)
    await call.receive(200, "PRACK")
    prack(call, early)  # a second one for the same response
    await call.receive(481, "PRACK")
    assert len({each.branch for each in ring.requests("PRACK")}) == 1
    await connect(call, ring, ANSWER_BYTES)
    await part(call, ring)


async def test_the_answer_waits_for_the_prack_of_an_early_answer(setup: Setup) -> None:
    """RFC 3262 3: no 2xx while a session description is not acknowledged."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=REQUIRED)
    ring = await phone.incoming()
    ring.respond(183, body=ANSWER_BYTES)  # this phone does not support 100rel
    early = await received(call, 183)
    assert early.body == ANSWER_BYTES
    ring.respond(200, body=ANSWER_BYTES)
    await ring.receive("ACK")
    await asyncio.sleep(0.3)
    assert 200 not in call.codes()
    prack(call, early)
    await call.receive(200, "PRACK")
    answer = await call.receive(200)
    call.ack(answer)
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_a_call_that_ends_while_its_answer_waits(setup: Setup, who: str) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=REQUIRED)
    ring = await phone.incoming()
    ring.respond(183, body=ANSWER_BYTES)
    await received(call, 183)
    ring.respond(200, body=ANSWER_BYTES)
    await ring.receive("ACK")
    if who == "caller":
        call.cancel()
        await call.receive(487)
        await ring.receive("BYE")
        await setup.ended(call.call_id, outcome="cancelled", seconds=0)
    else:
        await ring.hang_up()
        await call.receive(480)
        await setup.ended(call.call_id, outcome="failed", seconds=0)


async def test_a_forward_is_paid_for_from_its_answer_though_the_caller_keeps_back_its_prack(
    setup: Setup,
) -> None:
    """The mobile has answered and is billed, and media may pass, while the 2xx waits."""
    mobile = numbers.mobile_number()
    forwards = {"unconditional": to_number(mobile)}
    line = setup.line(forwards=forwards, offer={"mobile": "unlimited"})
    call = await setup.call(line, headers=REQUIRED)
    away = await setup.server("number").incoming(mobile)
    prack(call, await received(call, 181))
    away.respond(183, body=ANSWER_BYTES)
    await received(call, 183)
    away.respond(200, body=ANSWER_BYTES)
    await away.receive("ACK")
    await asyncio.sleep(1.2)
    call.cancel()
    await call.receive(487)
    await away.receive("BYE")
    record = await setup.ended(
        call.call_id, outcome="cancelled", seconds=0, payer=line, billing="out_of_plan"
    )
    assert record["answered"] == ""
    (forward,) = record["forwards"]
    assert 1 <= forward["seconds"] <= 10
    assert int(record["out_of_plan_s"]) == forward["seconds"]


@KNOWS
async def test_a_cancelled_call_ends_as_usual(setup: Setup, knows: list[tuple[str, str]]) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=knows)
    ring = await phone.incoming()
    say(ring, 180, 1)
    await received(call, 180)
    call.cancel()
    await call.receive(487)
    await ring.receive("CANCEL")
    await setup.ended(call.call_id, outcome="cancelled")


async def test_a_caller_that_requires_it_gets_a_forward_reliably(setup: Setup) -> None:
    """The line may still forward: its phone is not asked for reliability, the engine itself is
    reliable."""
    target = numbers.outside_number()
    line, phone = await setup.line_with_phone(forwards={"busy": to_number(target)})
    call = await setup.call(line, headers=REQUIRED)
    ring = await phone.incoming()
    assert not ring.first.has("Require")
    assert not ring.first.has("Supported")
    ring.respond(183, body=ANSWER_BYTES)
    ringing = await received(call, 183)
    assert ringing.body == b""  # another answer may follow
    await refuse(ring, 486)
    away = await setup.server("number").incoming(target)
    prack(call, ringing)
    await call.receive(200, "PRACK")
    early_181 = await received(call, 181)
    prack(call, early_181)
    await call.receive(200, "PRACK")
    say(away, 183, 700, body=ANSWER_BYTES)
    early = await received(call, 183)
    assert early.body == ANSWER_BYTES
    prack(call, early)
    await acknowledged(away, 700)
    await call.receive(200, "PRACK")
    await connect(call, away)
    assert call.codes() == [183, 181, 183, 200]
    check_one_tag(call.received)
    assert ring.requests("PRACK") == []
    await part(away, call)
    await setup.ended(call.call_id, outcome="answered", condition="busy")


async def test_early_media_of_a_line_that_may_forward_passes_to_a_caller_that_supports_it(
    setup: Setup,
) -> None:
    line = ""
    phone = await setup.endpoint()
    line = setup.line(to=[phone.uri()])
    setup.change(line, forwards={"no_answer": to_voicemail(line, after_s=20)})
    await setup.settle()
    call = await setup.call(line, headers=SUPPORTED)
    ring = await phone.incoming()
    ring.respond(183, body=ANSWER_BYTES)
    early = await call.receive(183)
    assert early.body == ANSWER_BYTES
    assert not early.has("RSeq")
    await connect(call, ring, ANSWER_BYTES)
    await part(call, ring)


async def test_each_fork_of_a_target_gets_its_own_prack(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=SUPPORTED)
    ring = await phone.incoming()
    first_tag = ring.tag
    say(ring, 180, 1)
    first = await received(call, 180)
    ring.tag = "other-fork"
    say(ring, 183, 40)
    prack(call, first)
    request = await ring.receive("PRACK")
    assert request.to_tag == first_tag
    assert request.one("RAck").startswith("1 ")
    ring.respond(200, to=request)
    second = await received(call, 183)
    prack(call, second)
    request = await ring.receive("PRACK")
    assert request.to_tag == "other-fork"
    assert request.one("RAck").startswith("40 ")
    ring.respond(200, to=request)
    await connect(call, ring, ANSWER_BYTES)
    check_one_tag(call.received)
    await part(call, ring)


async def test_a_callee_that_was_not_asked_for_it_is_treated_as_usual(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    say(ring, 183, 1, body=ANSWER_BYTES)
    early = await call.receive(183)
    assert not early.has("Require")
    assert not early.has("RSeq")
    await connect(call, ring, ANSWER_BYTES)
    await part(call, ring)
