"""Races between the two sides of a call (RFC 5407): each resolved one way, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part, refuse
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_number


@asynccontextmanager
async def counted(setup: Setup, kind: str, times: int = 1) -> AsyncIterator[None]:
    """What happens inside is counted as a race of this kind."""
    before = setup.engine.metric("renvoi_races_total", kind=kind)
    yield
    deadline = asyncio.get_running_loop().time() + 3
    while (now := setup.engine.metric("renvoi_races_total", kind=kind)) < before + times:
        assert asyncio.get_running_loop().time() < deadline, f"{kind}: {before} -> {now}"
        await asyncio.sleep(0.05)
    assert now == before + times


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


async def test_one_of_two_phones_that_answer_at_once_is_let_go(setup: Setup) -> None:
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
    """RFC 3261 14.1: the caller owns its dialog's Call-ID and waits 2.1 to 4 s; towards the
    callee the engine owns it, so the callee waits up to 2 s. They do not meet again."""
    call, ring = await talk(setup)
    async with counted(setup, "glare", 2):  # found out by the engine, and told by the phone
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
            await asyncio.sleep(0.1)
    assert len(ring.requests("ACK")) == 3
    await part(call, ring)


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


async def test_a_target_that_answers_after_the_caller_left_is_let_go(setup: Setup) -> None:
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
