"""Requests inside a dialog from another source change nothing, even with the right identifiers."""

from __future__ import annotations

import asyncio
import copy
import time

import pytest

from tests.patience import within
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.mailbox import Mailbox
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup

SETTINGS = {"sip": {"trusted_peers": ["127.0.0.1/32"]}}
PHONE, STRANGER = "127.0.0.3", "127.0.0.9"
METHODS = ["BYE", "INVITE", "UPDATE", "INFO", "REFER", "NOTIFY", "PRACK", "MESSAGE", "OPTIONS", "X"]
SIDES = pytest.mark.parametrize("side", ["caller", "phone"])


async def talk(setup: Setup) -> tuple[Call, Call]:
    """A call of a trusted peer to an untrusted phone."""
    phone = await setup.endpoint(PHONE)
    line = setup.line(to=[phone.uri()])
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    return call, ring


def overheard(side: Call, thief: Endpoint) -> Call:
    """The dialog of one side, copied by an attacker at another address."""
    copied = copy.copy(side)
    copied.endpoint = thief
    copied.received, copied.sent, copied._inbox = [], [], Mailbox()
    copied._answers, copied._acks = {}, {}
    thief.calls.append(copied)
    return copied


async def refused(copied: Call, method: str, code: int = 403) -> None:
    copied.request(method, headers=[("Refer-To", "<sip:+33140000099@h>"), ("RAck", "1 1 INVITE")])
    await copied.receive(code, method)


def foreign(setup: Setup) -> float:
    return setup.engine.metric("renvoi_rejected_total", reason="foreign")


@SIDES
async def test_a_request_from_elsewhere_is_refused_and_changes_nothing(
    setup: Setup, side: str
) -> None:
    call, ring = await talk(setup)
    before = foreign(setup)
    theirs, other = (call, ring) if side == "caller" else (ring, call)
    copied = overheard(theirs, await setup.endpoint(STRANGER))
    copied.cseq += 1000  # nor may it make the far end's own requests seem old
    for method in METHODS:
        await refused(copied, method)
    assert foreign(setup) >= before + len(METHODS)  # the ACK of the 403 is counted too
    passed_on = {
        m.branch: m.method for m in other.received if m.method in METHODS[:-1] and not m.code
    }
    assert list(passed_on.values()) == (["INVITE"] if side == "caller" else [])
    theirs.request("INFO")
    other.respond(200, to=await other.receive("INFO"))
    await theirs.receive(200, "INFO")
    await part(theirs, other)
    copied.state = "ended"
    await setup.ended(call.call_id, outcome="answered")


async def test_an_ack_from_elsewhere_is_dropped(setup: Setup) -> None:
    """Its body would be the answer to a late offer."""
    phone = await setup.endpoint(PHONE)
    line = setup.line(to=[phone.uri()])
    call = await setup.call(line, body=b"")
    ring = await phone.incoming()
    ring.respond(200, body=OFFER_BYTES)
    answer = await call.receive(200)
    before = foreign(setup)
    copied = overheard(call, await setup.endpoint(STRANGER))
    copied.ack(answer, body=b"v=0\r\no=thief 1 1 IN IP4 192.0.2.66\r\n")
    await refused(copied, "INFO")  # it arrives after the ACK
    assert foreign(setup) == before + 2
    call.ack(answer, body=ANSWER_BYTES)
    acked = await ring.receive("ACK")
    assert acked.body == ANSWER_BYTES
    copied.state = "ended"
    await part(call, ring)


async def test_a_cancel_from_elsewhere_cancels_nothing(setup: Setup) -> None:
    phone = await setup.endpoint(PHONE)
    line = setup.line(to=[phone.uri()])
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    before = foreign(setup)
    thief = await setup.endpoint(STRANGER)
    cancel = (
        f"CANCEL {call.first.uri} SIP/2.0\r\nVia: {call.first.one('Via')}\r\n"
        f"From: {call.first.one('From')}\r\nTo: {call.first.one('To')}\r\n"
        f"Call-ID: {call.call_id}\r\nCSeq: {call.first.cseq[0]} CANCEL\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    thief.send(cancel.encode(), setup.engine.address)
    deadline = time.monotonic() + within(10)
    while foreign(setup) != before + 1:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    await connect(call, ring, ring=False)
    await part(call, ring)


async def test_an_early_dialog_is_protected_too(setup: Setup) -> None:
    phone = await setup.endpoint(PHONE)
    line = setup.line(to=[phone.uri()])
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    thief = await setup.endpoint(STRANGER)
    for side in (call, ring):
        copied = overheard(side, thief)
        for method in ("BYE", "UPDATE", "PRACK"):
            await refused(copied, method)
        copied.state = "ended"
        thief.calls.remove(copied)
    await connect(call, ring, ring=False)
    await part(call, ring)


async def test_a_phone_may_move_to_another_port(setup: Setup) -> None:
    """Its NAT has assigned another one."""
    call, ring = await talk(setup)
    again = overheard(ring, await setup.endpoint(PHONE))
    again.request("INFO")
    call.respond(200, to=await call.receive("INFO"))
    await again.receive(200, "INFO")
    again.state, ring.cseq = "ended", again.cseq
    await part(ring, call)


async def test_requests_from_the_address_of_a_contact_are_accepted(setup: Setup) -> None:
    """The caller's server relays the caller's Contact and is not on the route."""
    caller, phone = await setup.endpoint("127.0.0.5"), await setup.endpoint(PHONE)
    line = setup.line(to=[phone.uri()])
    server = await setup.endpoint()
    server.host, server.port = caller.host, caller.port
    server.rport = True
    call = server.start(setup.engine.address, line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    direct = overheard(call, caller)
    direct.request("INFO")
    ring.respond(200, to=await ring.receive("INFO"))
    await direct.receive(200, "INFO")
    direct.state, call.cseq = "ended", direct.cseq
    await part(call, ring)


async def test_requests_from_the_route_set_of_a_phone_are_accepted(setup: Setup) -> None:
    """It registered through an edge that is not trusted, and answers through it."""
    edge = await setup.endpoint("127.0.0.7")
    route = f"<sip:127.0.0.7:{edge.port};lr>"
    line = setup.line()
    setup.register(line, f'<sip:phone@192.0.2.9:5060>;path="{route}"')
    call = await setup.call(line)
    ring = await edge.incoming()
    ring.respond(180, headers=[("Record-Route", route)])
    await call.receive(180)
    ring.respond(200, headers=[("Record-Route", route)], body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    ring.request("INFO")
    call.respond(200, to=await call.receive("INFO"))
    await ring.receive(200, "INFO")
    thief = overheard(ring, await setup.endpoint(STRANGER))
    await refused(thief, "BYE")
    thief.state = "ended"
    await part(ring, call)
