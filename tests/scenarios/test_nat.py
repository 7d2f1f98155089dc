"""Callers behind a NAT (RFC 3581): Via and Contact show an address that they do not send from.

A second socket has the inside address, so that messages to it are noticed.
"""

from __future__ import annotations

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.message import Message, parameters
from tests.scenarios.setup import OFFER_BYTES, Setup, to_voicemail

INSIDE = "127.0.0.5"
METHODS = ("INVITE", "ACK", "UPDATE", "BYE")


class Natted:
    """A caller behind a NAT: it sends from `port`, and its messages show `inside`."""

    def __init__(self, caller: Endpoint, inside: Endpoint) -> None:
        self.port = caller.port
        self.caller = caller
        self.inside = inside
        caller.show(inside)

    def check(self, response: Message) -> None:
        """The response has the source address of its request."""
        via = parameters(response.one("Via"))
        assert response.one("Via").startswith(f"SIP/2.0/UDP {INSIDE}:{self.inside.port};")
        assert (via["received"], via["rport"]) == ("127.0.0.1", str(self.port))


@pytest.fixture
async def natted(setup: Setup) -> Natted:
    return Natted(await setup.endpoint(), await setup.endpoint(INSIDE))


def start(setup: Setup, natted: Natted, called: str) -> Call:
    return natted.caller.start(setup.engine.address, called, body=OFFER_BYTES)


async def test_responses_come_back_to_the_port_that_asked(setup: Setup, natted: Natted) -> None:
    line, phone = await setup.line_with_phone()
    call = start(setup, natted, line)
    ring = await phone.incoming()
    await connect(call, ring)
    call.request("UPDATE", body=OFFER_BYTES)
    ring.respond(200, to=await ring.receive("UPDATE"))
    await call.receive(200, "UPDATE")
    await part(call, ring)
    responses = [message for message in natted.caller.heard if message.code]
    assert {message.code for message in responses} == {100, 180, 200}
    for message in responses:
        natted.check(message)
    assert not natted.inside.heard
    await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("way", ["busy", "unknown", "cancelled"])
async def test_refusals_come_back_to_the_port_that_asked(
    setup: Setup, natted: Natted, way: str
) -> None:
    line, phone = await setup.line_with_phone()
    call = start(setup, natted, numbers.line_number() if way == "unknown" else line)
    if way == "unknown":
        natted.check(await call.receive(404))
    else:
        ring = await phone.incoming()
        ring.respond(180)
        await call.receive(180)
        if way == "busy":
            ring.respond(486)
            natted.check(await call.receive(486))
        else:
            call.cancel()
            natted.check(await call.receive(200, "CANCEL"))
            natted.check(await call.receive(487))
    assert not natted.inside.heard


async def test_a_stranger_behind_a_nat_gets_its_403(setup: Setup) -> None:
    stranger = Natted(await setup.endpoint("127.0.0.2"), await setup.endpoint(INSIDE))
    call = start(setup, stranger, setup.line())
    answer = await call.receive(403)
    via = parameters(answer.one("Via"))
    assert (via["received"], via["rport"]) == ("127.0.0.2", str(stranger.port))
    assert not stranger.inside.heard


async def test_without_rport_responses_go_to_the_port_that_via_shows(
    setup: Setup, natted: Natted
) -> None:
    """RFC 3261 18.2.2: but to the source address."""
    shown = await setup.endpoint()
    shown.calls = natted.caller.calls
    natted.caller.port, natted.caller.rport = shown.port, False
    line, phone = await setup.line_with_phone()
    call = start(setup, natted, line)
    ring = await phone.incoming()
    ring.respond(486)
    via = parameters((await call.receive(486)).one("Via"))
    assert via["received"] == "127.0.0.1"
    assert "rport" not in via
    assert list(dict.fromkeys(message.code for message in shown.heard)) == [100, 486]
    assert not natted.caller.heard


async def test_requests_of_the_engine_ask_for_rport(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(forwards={})
    setup.change(line, forwards={"busy": to_voicemail(line)})
    call = await setup.call(line)
    refused = await phone.incoming()
    refused.respond(486)
    await refused.receive("ACK")
    away = await setup.server("voicemail").incoming(line)
    await connect(call, away)
    call.request("UPDATE", body=OFFER_BYTES)
    away.respond(200, to=await away.receive("UPDATE"))
    await call.receive(200, "UPDATE")
    await part(call, away)
    asked = [message for message in away.received + refused.received if not message.code]
    assert {message.method for message in asked} == set(METHODS)
    for message in asked:
        assert ";rport;branch=" in message.one("Via")


async def test_requests_to_a_caller_go_to_its_contact(setup: Setup, natted: Natted) -> None:
    """As in RFC 3261 12.2.1.1; a server in front of phones behind a NAT corrects the Contact."""
    line, phone = await setup.line_with_phone()
    call = start(setup, natted, line)
    ring = await phone.incoming()
    await connect(call, ring)
    await ring.hang_up()
    bye = await call.receive("BYE")
    assert bye.uri == call.first.one("Contact").strip("<>")
    assert natted.inside.requests() == ["BYE"]
    assert natted.caller.requests() == []
    await setup.ended(call.call_id, outcome="answered")


async def test_a_caller_whose_nat_gives_it_another_port_goes_on(
    setup: Setup, natted: Natted
) -> None:
    line, phone = await setup.line_with_phone()
    call = start(setup, natted, line)
    ring = await phone.incoming()
    await connect(call, ring)
    moved = Natted(await setup.endpoint(), natted.inside)
    moved.caller.calls = natted.caller.calls
    call.endpoint = moved.caller
    call.request("UPDATE", body=OFFER_BYTES)
    ring.respond(200, to=await ring.receive("UPDATE"))
    moved.check(await call.receive(200, "UPDATE"))
    await part(call, ring)
    assert not natted.inside.heard
    await setup.ended(call.call_id, outcome="answered")
