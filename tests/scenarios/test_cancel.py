"""The caller cancels: at any moment everything stops and nothing is forwarded."""

from __future__ import annotations

import asyncio

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import refuse
from tests.scenarios.setup import ANSWER_BYTES, Setup, all_to_numbers, to_number


async def give_up(call: Call) -> None:
    call.cancel()
    await call.receive(200, "CANCEL")
    await call.receive(487)


async def test_cancel_before_ringing_waits_for_the_first_answer_of_the_phone(
    setup: Setup,
) -> None:
    """A CANCEL may only follow a provisional response (RFC 3261 9.1)."""
    targets, forwards = all_to_numbers()
    line, phone = await setup.line_with_phone(forwards=forwards)
    call = await setup.call(line)
    ring = await phone.incoming()
    await give_up(call)
    await asyncio.sleep(0.2)
    assert not ring.requests("CANCEL")
    ring.respond(180)
    await ring.receive("CANCEL")
    await ring.receive("ACK")
    assert not setup.server("number").invited(targets["unreachable"])
    await setup.ended(call.call_id, condition="none", outcome="cancelled", code=487)


async def test_cancel_right_behind_the_invite(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    await give_up(call)
    await asyncio.sleep(0.1)
    for ring in phone.invited():
        ring.respond(180)
        await ring.receive("CANCEL")
        await ring.receive("ACK")
    await setup.ended(call.call_id, outcome="cancelled")


async def test_cancel_while_ringing_stops_the_phone(setup: Setup) -> None:
    targets, forwards = all_to_numbers()
    line, phone = await setup.line_with_phone(forwards=forwards)
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    call.cancel(headers=[("Reason", 'SIP;cause=200;text="Call completed elsewhere"')])
    await call.receive(200, "CANCEL")
    await call.receive(487)
    cancel = await ring.receive("CANCEL")
    assert "cause=200" in cancel.one("Reason")
    await ring.receive("ACK")
    for target in targets.values():
        assert not setup.server("number").invited(target)
    await setup.ended(call.call_id, condition="none", outcome="cancelled", code=487)


async def test_cancel_during_the_forward_stops_the_target(setup: Setup) -> None:
    targets, forwards = all_to_numbers()
    line, phone = await setup.line_with_phone(forwards=forwards)
    call = await setup.call(line)
    await refuse(await phone.incoming(), 486)
    away = await setup.server("number").incoming(targets["busy"])
    away.respond(180)
    await call.receive(181)
    await call.receive(180)
    await give_up(call)
    await away.receive("CANCEL")
    await away.receive("ACK")
    await setup.ended(
        call.call_id, condition="busy", destination="number", outcome="cancelled", code=487
    )


async def test_cancel_before_the_first_response_of_the_target(setup: Setup) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line)
    away = await setup.server("number").incoming(target)
    await give_up(call)
    away.respond(180)
    await away.receive("CANCEL")
    await away.receive("ACK")
    await setup.ended(call.call_id, outcome="cancelled")


async def test_a_200_that_crosses_the_cancel_is_acknowledged_and_ended(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.automatic.discard("CANCEL")
    ring.respond(180)
    await call.receive(180)
    await give_up(call)
    cancel = await ring.receive("CANCEL")
    ring.respond(200, body=ANSWER_BYTES)  # it answered before the CANCEL arrived
    ring.respond(200, to=cancel)
    await ring.receive("ACK")
    await ring.receive("BYE")
    assert 200 not in call.codes()
    await setup.ended(call.call_id, outcome="cancelled")


async def test_a_200_before_any_18x_that_crosses_the_cancel_is_ended(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await give_up(call)
    ring.respond(200, body=ANSWER_BYTES)
    await ring.receive("ACK")
    await ring.receive("BYE")
    await setup.ended(call.call_id, outcome="cancelled")


async def test_a_cancel_that_comes_after_the_200_changes_nothing(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    call.cancel()
    assert (await call.final("CANCEL")).code in (200, 481)
    call.ack(answer)
    await ring.receive("ACK")
    assert 487 not in call.codes()
    await call.hang_up()
    await ring.receive("BYE")
    await setup.ended(call.call_id, outcome="answered")


async def test_a_cancel_for_no_call_is_481(setup: Setup) -> None:
    call = await setup.call(setup.line(), method="CANCEL", body=b"")
    assert (await call.final("CANCEL")).code == 481
