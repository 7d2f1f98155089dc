"""A smaller `limits.message_bytes`: larger messages are refused, never relayed in part."""

from __future__ import annotations

import pytest

from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup
from tests.scenarios.test_large_messages import SETTINGS as LISTEN
from tests.scenarios.test_large_messages import both, call_of, reinvite, sdp

MOST = 8_000
SETTINGS = {**LISTEN, "limits": {"message_bytes": MOST}}
LONG = [("X-Long", "y" * 200)]


@both
@pytest.mark.parametrize("size", [MOST, 30_000])
async def test_an_invite_that_is_too_large_gets_513_and_is_counted(
    setup: Setup, transport: str, size: int
) -> None:
    before = setup.engine.metric("renvoi_rejected_total", reason="too_large")
    call, phone = await call_of(setup, transport, b"v" * size)
    await call.receive(513)
    assert setup.engine.metric("renvoi_rejected_total", reason="too_large") == before + 1
    assert not phone.invited()


@both
async def test_an_invite_just_below_is_taken(setup: Setup, transport: str) -> None:
    call, phone = await call_of(setup, transport, sdp(MOST - 1000))
    ring = await phone.incoming()
    assert ring.first.body == sdp(MOST - 1000)
    await connect(call, ring)
    await part(call, ring)


async def test_an_answer_in_the_ack_that_is_too_large_is_not_passed_on(setup: Setup) -> None:
    """The side that made the offer gets no answer, instead of a part of one."""
    call, phone = await call_of(setup, "udp", b"")
    ring = await phone.incoming()
    ring.respond(200, body=sdp(1000))
    call.ack(await call.receive(200), body=sdp(MOST), headers=LONG)
    assert (await ring.receive("ACK")).body == b""
    call.request("INVITE")
    request = await ring.receive("INVITE")
    ring.respond(200, to=request, body=OFFER_BYTES)
    call.ack(await call.receive(200), body=sdp(MOST), headers=LONG)
    assert (await ring.receive("ACK")).body == b""
    await part(ring, call)


async def check_stands(call: Call, ring: Call) -> None:
    """Both sides can still send all requests, and hang up."""
    await reinvite(call, ring, OFFER_BYTES, ANSWER_BYTES)
    await reinvite(ring, call, sdp(2000), sdp(2100))
    await part(call, ring)


@both
@pytest.mark.parametrize("side", ["caller", "phone"])
async def test_a_request_within_the_call_that_is_too_large_is_refused_and_the_call_goes_on(
    setup: Setup, transport: str, side: str
) -> None:
    call, phone = await call_of(setup, transport)
    ring = await phone.incoming()
    await connect(call, ring)
    await reinvite(call, ring, OFFER_BYTES, ANSWER_BYTES)  # the caller's ACK arrived before it
    asker, asked = (call, ring) if side == "caller" else (ring, call)
    asker.request("INVITE", body=sdp(MOST), headers=LONG)
    await asker.receive(513)
    asker.request("INFO", body=b"x" * MOST, content_type="text/plain")
    await asker.receive(513, "INFO")
    assert not asked.requests("INFO")
    assert all(request.body in (b"", OFFER_BYTES) for request in asked.requests("INVITE"))
    await check_stands(call, ring)
    await setup.ended(call.call_id, outcome="answered")


@both
async def test_an_answer_that_is_too_large_fails_the_call_on_both_sides(
    setup: Setup, transport: str
) -> None:
    call, phone = await call_of(setup, transport)
    ring = await phone.incoming()
    ring.respond(183, body=sdp(MOST))
    assert (await call.receive(183)).body == b""
    ring.respond(200, headers=LONG, body=sdp(MOST))
    await call.receive(500)
    await ring.receive("ACK")
    await ring.receive("BYE")
    await setup.ended(call.call_id, outcome="failed", code=500)


@both
async def test_an_answer_within_the_call_that_is_too_large_becomes_a_refusal(
    setup: Setup, transport: str
) -> None:
    call, phone = await call_of(setup, transport)
    ring = await phone.incoming()
    await connect(call, ring)
    call.request("INVITE", body=OFFER_BYTES)
    request = await ring.receive("INVITE")
    ring.respond(200, to=request, headers=LONG, body=sdp(MOST))
    await call.receive(500)
    await ring.receive("ACK")
    await check_stands(call, ring)
