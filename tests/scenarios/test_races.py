"""Races between the two sides of a call (RFC 5407): each resolved one way, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part, refuse
from tests.scenarios.message import Message
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_number


@asynccontextmanager
async def counted(setup: Setup, kind: str, times: int = 1) -> AsyncIterator[None]:
    """The block must be counted as a race of this kind."""
    before = setup.engine.metric("renvoi_races_total", kind=kind)
    yield
    deadline = asyncio.get_running_loop().time() + within(3)
    while (now := setup.engine.metric("renvoi_races_total", kind=kind)) < before + times:
        assert asyncio.get_running_loop().time() < deadline, f"{kind}: {before} -> {now}"
        await asyncio.sleep(0.05)
    assert now == before + times


async def no_more_copies(call: Call, answer: Message) -> None:
    """The 200 to the re-INVITE is not sent again: it would come 0.5 s after the first one, then
    1 s after the second one, and so on."""

    def copies() -> int:
        return [m.cseq for m in call.received if m.code == 200].count(answer.cseq)

    so_far = copies()
    await asyncio.sleep(0.5 * 2 ** (so_far - 1) + 0.5)
    assert copies() == so_far


async def talk(setup: Setup) -> tuple[Call, Call]:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    return call, ring


async def test_a_cancel_that_meets_the_200_changes_nothing(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    async with counted(setup, "cancel_after_answer"):
        call.cancel()
        await call.receive(200, "CANCEL")
    call.state = "answered"
    call.ack(answer)
    await ring.receive("ACK")
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered")


async def test_an_answer_that_meets_our_cancel_is_acknowledged_and_ended(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.automatic.discard("CANCEL")
    ring.respond(180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    await ring.receive("CANCEL")
    ring.respond(200, body=ANSWER_BYTES)
    await ring.receive("ACK")
    await ring.receive("BYE")
    await setup.ended(call.call_id, outcome="cancelled")


async def test_one_of_two_phones_that_answer_at_once_is_ended(setup: Setup) -> None:
    phones = [await setup.endpoint() for _ in range(2)]
    line = setup.line(to=[phone.uri() for phone in phones])
    call = await setup.call(line)
    first, second = [await phone.incoming() for phone in phones]
    for ring in (first, second):
        ring.automatic.discard("CANCEL")
        ring.respond(180)
    await call.receive(180)
    async with counted(setup, "answer_after_cancel"):
        first.respond(200, body=ANSWER_BYTES)
        call.ack(await call.receive(200))
        await second.receive("CANCEL")
        second.respond(200, body=ANSWER_BYTES)
        await second.receive("ACK")
        await second.receive("BYE")
    await part(call, first)


async def test_a_bye_instead_of_the_ack_ends_the_call(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    await call.receive(200)
    async with counted(setup, "bye_before_ack"):
        await call.hang_up()
        await ring.receive("BYE")
    await setup.ended(call.call_id, outcome="answered")


async def test_a_bye_while_a_reinvite_is_under_way_ends_both(setup: Setup) -> None:
    call, ring = await talk(setup)
    async with counted(setup, "bye_in_reinvite"):
        call.request("INVITE", body=OFFER_BYTES)
        await ring.receive("INVITE")
        await ring.hang_up()
        await call.receive("BYE")
        assert (await call.final("INVITE")).code == 487
    await setup.ended(call.call_id, outcome="answered")


async def test_byes_that_cross_are_both_answered(setup: Setup) -> None:
    call, ring = await talk(setup)
    async with counted(setup, "byes_crossed"):
        ring.automatic.discard("BYE")
        call.request("BYE")
        bye = await ring.receive("BYE")
        ring.request("BYE")  # sent before the other arrived
        assert (await ring.final("BYE")).code == 200
        ring.respond(200, to=bye)
        await call.receive(200, "BYE")
    await setup.ended(call.call_id, outcome="answered")


async def test_reinvites_that_cross_get_491_and_both_retries_succeed(setup: Setup) -> None:
    """RFC 3261 14.1: the caller owns its dialog's Call-ID and waits 2.1 to 4 s; towards the callee
    the engine owns it, so the callee waits up to 2 s. They do not cross again."""
    call, ring = await talk(setup)
    async with counted(setup, "glare", 2):  # found by the engine, and reported by the phone
        call.request("INVITE", body=OFFER_BYTES)
        crossing = await ring.receive("INVITE")
        ring.request("INVITE", body=OFFER_BYTES)
        assert (await ring.final("INVITE")).code == 491
        ring.respond(491, to=crossing)
        await ring.receive("ACK")
        assert (await call.final("INVITE")).code == 491
    for side, other in ((ring, call), (call, ring)):
        side.request("INVITE", body=OFFER_BYTES)
        request = await other.receive("INVITE")
        other.respond(200, to=request, body=ANSWER_BYTES)
        side.ack(await side.receive(200))
        await other.receive("ACK")
    await part(call, ring)


async def test_a_second_reinvite_before_the_first_is_answered_has_to_wait(setup: Setup) -> None:
    call, ring = await talk(setup)
    async with counted(setup, "reinvite_overlap"):
        call.request("INVITE", body=OFFER_BYTES)
        first = await ring.receive("INVITE")
        call.request("INVITE", body=OFFER_BYTES)
        refused = await call.receive(500)
        assert refused.has("Retry-After")
    ring.respond(200, to=first, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await part(call, ring)


async def test_a_lost_ack_is_sent_again(setup: Setup) -> None:
    call, ring = await talk(setup)
    ok = next(m for m in ring.sent if m.code == 200)
    async with counted(setup, "ack_lost", 2):
        for _ in range(2):
            ring.repeat(ok)
            await ring.receive("ACK")
    assert len(ring.requests("ACK")) == 3
    await part(call, ring)


@pytest.mark.parametrize("asks", ["caller", "phone"])
@pytest.mark.parametrize("leaves", ["the side that asked", "the side that answered"])
async def test_a_lost_ack_of_a_reinvite_is_sent_again_after_the_call(
    setup: Setup, asks: str, leaves: str
) -> None:
    """A side repeats its 2xx until the ACK, also after a BYE (RFC 3261 13.3.1.4)."""
    call, ring = await talk(setup)
    asker, other = (call, ring) if asks == "caller" else (ring, call)
    asker.request("INVITE")
    request = await other.receive("INVITE")
    ok = other.respond(200, to=request, body=OFFER_BYTES)
    asker.ack(await asker.receive(200), body=ANSWER_BYTES)
    ack = await other.receive("ACK")
    await part(*((asker, other) if leaves == "the side that asked" else (other, asker)))
    await setup.ended(call.call_id, outcome="answered")
    async with counted(setup, "ack_lost", 2):
        for _ in range(2):
            other.repeat(ok)
            again = await other.receive("ACK")
            assert (again.cseq, again.uri, again.body) == (ack.cseq, ack.uri, ANSWER_BYTES)


async def test_a_lost_ack_of_an_earlier_reinvite_is_sent_again_during_the_next(
    setup: Setup,
) -> None:
    """It is the ACK of that INVITE, with its own body, not that of the last one."""
    call, ring = await talk(setup)
    call.request("INVITE")
    first = ring.respond(200, to=await ring.receive("INVITE"), body=OFFER_BYTES)
    call.ack(await call.receive(200), body=ANSWER_BYTES)
    ack = await ring.receive("ACK")
    call.request("INVITE", body=OFFER_BYTES)
    ring.respond(200, to=await ring.receive("INVITE"), body=ANSWER_BYTES)
    answer = await call.receive(200)
    async with counted(setup, "ack_lost", 2):
        ring.repeat(first)
        again = await ring.receive("ACK")
        assert (again.cseq, again.body) == (ack.cseq, ANSWER_BYTES)
        call.ack(answer)
        assert (await ring.receive("ACK")).body == b""
        ring.repeat(first)
        again = await ring.receive("ACK")
        assert (again.cseq, again.body) == (ack.cseq, ANSWER_BYTES)
    await part(call, ring)


async def test_a_bye_instead_of_the_ack_of_a_reinvite_ends_the_call(setup: Setup) -> None:
    """The side that answered gets its ACK, again for each copy of its 200; that to the side that
    hung up is not repeated (RFC 5407 3.2)."""
    call, ring = await talk(setup)
    call.request("INVITE", body=OFFER_BYTES)
    ok = ring.respond(200, to=await ring.receive("INVITE"), body=ANSWER_BYTES)
    answer = await call.receive(200)
    async with counted(setup, "bye_in_reinvite"):
        await part(call, ring)
    await ring.receive("ACK")
    await setup.ended(call.call_id, outcome="answered")
    ring.repeat(ok)
    await ring.receive("ACK")
    await no_more_copies(call, answer)


async def test_a_200_to_a_reinvite_is_not_repeated_after_its_ack_when_the_call_has_ended(
    setup: Setup,
) -> None:
    call, ring = await talk(setup)
    call.request("INVITE", body=OFFER_BYTES)
    ring.respond(200, to=await ring.receive("INVITE"), body=ANSWER_BYTES)
    answer = await call.receive(200)
    await part(ring, call)
    await setup.ended(call.call_id, outcome="answered")
    await call.copies(3, 200)  # and one to the INVITE that began the call
    call.ack(answer)
    asked = call.endpoint.start(setup.engine.address, numbers.line_number(), method="OPTIONS")
    await asked.receive(200, "OPTIONS")  # so the engine has the ACK
    await no_more_copies(call, answer)
    assert len(call.requests("BYE")) == 1


async def test_a_late_copy_of_an_invite_begins_no_call(setup: Setup) -> None:
    call, ring = await talk(setup)
    async with counted(setup, "invite_again"):
        call.repeat(call.first)
        await asyncio.sleep(0.1)
    assert len(ring.endpoint.invited()) == 1
    await part(call, ring)


async def test_a_caller_gone_before_the_forward_reaches_nobody(setup: Setup) -> None:
    target = numbers.outside_number()
    line, phone = await setup.line_with_phone(forwards={"busy": to_number(target)})
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    call.cancel()
    ring.respond(486)
    await call.receive(487)
    await asyncio.sleep(0.2)
    assert not setup.server("number").invited(target)
    await setup.ended(call.call_id, outcome="cancelled")


async def test_a_target_that_answers_after_the_caller_left_is_ended(setup: Setup) -> None:
    target = numbers.outside_number()
    line, phone = await setup.line_with_phone(forwards={"busy": to_number(target)})
    call = await setup.call(line)
    await refuse(await phone.incoming(), 486)
    away = await setup.server("number").incoming(target)
    away.automatic.discard("CANCEL")
    away.respond(180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    await away.receive("CANCEL")
    away.respond(200, body=ANSWER_BYTES)
    await away.receive("ACK")
    await away.receive("BYE")
    await setup.ended(call.call_id, outcome="cancelled", condition="busy")
