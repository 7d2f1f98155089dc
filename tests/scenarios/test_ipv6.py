"""Calls over IPv6, and from one address family to the other."""

from __future__ import annotations

import socket

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.message import Message
from tests.scenarios.setup import ANSWER_BYTES, Setup, to_number
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

UDP4, UDP6, GATEWAY = (free_port() for _ in range(3))
TCP4, TCP6 = (free_port(socket.SOCK_STREAM) for _ in range(2))
SETTINGS = {
    "sip": {
        "listen": [
            f"udp:127.0.0.1:{UDP4}",
            f"udp:[::1]:{UDP6}",
            f"tcp:127.0.0.1:{TCP4}",
            f"tcp:[::1]:{TCP6}",
        ],
        "trusted_peers": ["127.0.0.1/32", "::1/128"],
    },
    "destinations": {"number": f"sip:{{number}}@[::1]:{GATEWAY}"},
}
# The engine's address in its messages, by host and transport of the other side.
SHOWN = {
    ("127.0.0.1", "udp"): f"127.0.0.1:{UDP4}",
    ("::1", "udp"): f"[::1]:{UDP6}",
    ("127.0.0.1", "tcp"): f"127.0.0.1:{TCP4}",
    ("::1", "tcp"): f"[::1]:{TCP6}",
}
OFFER6 = (
    b"v=0\r\no=- 1 1 IN IP6 2001:db8::7\r\ns=-\r\nc=IN IP6 2001:db8::7\r\nt=0 0\r\n"
    b"m=audio 40000 RTP/AVP 0\r\n"
)


def peer_of(endpoint: Endpoint) -> tuple[str, int]:
    """The engine's address of this endpoint's family and transport."""
    transport = "tcp" if isinstance(endpoint, StreamEndpoint) else "udp"
    ports = {("127.0.0.1", "udp"): UDP4, ("::1", "udp"): UDP6}
    ports |= {("127.0.0.1", "tcp"): TCP4, ("::1", "tcp"): TCP6}
    return endpoint.host, ports[endpoint.host, transport]


def contact_for(endpoint: Endpoint) -> str:
    """The engine's Contact towards this endpoint."""
    transport = "tcp" if isinstance(endpoint, StreamEndpoint) else "udp"
    suffix = ";transport=tcp" if transport == "tcp" else ""
    return f"<sip:renvoi@{SHOWN[endpoint.host, transport]}{suffix}>"


def check_request(message: Message, receiver: Endpoint) -> None:
    """The Via of an engine's request has its source address, and nothing else."""
    transport = "tcp" if isinstance(receiver, StreamEndpoint) else "udp"
    shown = SHOWN[receiver.host, transport]
    assert message.one("Via").startswith(f"SIP/2.0/{transport.upper()} {shown};rport;branch=")
    assert len(message.values("Via")) == 1


async def converse(setup: Setup, call: Call, ring: Call) -> None:
    """A whole call: every message shows the address of its own side."""
    caller, phone = call.endpoint, ring.endpoint
    assert ring.first.one("Contact") == contact_for(phone)
    assert ring.first.body == OFFER6
    check_request(ring.first, phone)
    answer = await connect(call, ring)
    assert answer.one("Contact") == contact_for(caller)
    assert answer.body == ANSWER_BYTES
    for asker, asked in ((call, ring), (ring, call)):
        asker.request("INVITE", body=OFFER6)
        request = await asked.receive("INVITE")
        check_request(request, asked.endpoint)
        assert request.one("Contact") == contact_for(asked.endpoint)
        assert request.body == OFFER6
        asked.respond(200, to=request, body=ANSWER_BYTES)
        asker.ack(await asker.receive(200))
        check_request(await asked.receive("ACK"), asked.endpoint)
    await part(ring, call)
    check_request(call.requests("BYE")[0], caller)
    await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("callee", ["::1", "127.0.0.1"])
@pytest.mark.parametrize("caller", ["::1", "127.0.0.1"])
async def test_a_call_over_udp_from_each_family_to_each(
    setup: Setup, caller: str, callee: str
) -> None:
    here, phone = await setup.endpoint(caller), await setup.endpoint(callee)
    call = here.start(peer_of(here), setup.line(to=[phone.uri()]), body=OFFER6)
    await converse(setup, call, await phone.incoming())


@pytest.mark.parametrize(("caller", "callee"), [("::1", "::1"), ("::1", "127.0.0.1")])
async def test_a_call_over_tcp_from_ipv6(setup: Setup, caller: str, callee: str) -> None:
    ends = [await StreamEndpoint.listen(host) for host in (caller, callee)]
    for end in ends:
        setup._stack.push_async_callback(end.finish)
    here, phone = ends
    call = here.start(peer_of(here), setup.line(to=[phone.uri()]), body=OFFER6)
    await converse(setup, call, await phone.incoming())
    assert here.made == 1  # for the engine's requests; its answers use the caller's own
    assert phone.made == 1


async def test_a_call_from_tcp_over_ipv6_to_udp_over_ipv4(setup: Setup) -> None:
    here = await StreamEndpoint.listen("::1")
    setup._stack.push_async_callback(here.finish)
    phone = await setup.endpoint()
    call = here.start(peer_of(here), setup.line(to=[phone.uri()]), body=OFFER6)
    await converse(setup, call, await phone.incoming())


@pytest.mark.parametrize("caller", ["::1", "127.0.0.1"])
async def test_a_forward_to_a_destination_at_an_ipv6_address(setup: Setup, caller: str) -> None:
    gateway = await Endpoint.open("::1", GATEWAY)
    setup._stack.callback(gateway.close)
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    here = await setup.endpoint(caller)
    call = here.start(peer_of(here), line, body=OFFER6)
    away = await gateway.incoming(target)
    assert away.first.uri == f"sip:{target}@[::1]:{GATEWAY}"
    assert f"<sip:{line}@127.0.0.1>" in away.first.values("Diversion")[0]
    await call.receive(181)
    await converse(setup, call, away)


async def test_a_cancel_crosses_from_ipv6_to_ipv4(setup: Setup) -> None:
    here, phone = await setup.endpoint("::1"), await setup.endpoint()
    call = here.start(peer_of(here), setup.line(to=[phone.uri()]))
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    cancel = await ring.receive("CANCEL")
    assert cancel.one("Via") == ring.first.one("Via")
    await setup.ended(call.call_id, outcome="cancelled")


async def test_contacts_of_both_families_ring_together(setup: Setup) -> None:
    phones = [await setup.endpoint(host) for host in ("::1", "127.0.0.1")]
    here = await setup.endpoint("::1")
    line = setup.line(to=[phone.uri() for phone in phones])
    call = here.start(peer_of(here), line, body=OFFER6)
    rings = [await phone.incoming() for phone in phones]
    for ring in rings:
        check_request(ring.first, ring.endpoint)
    rings[0].respond(180)
    await connect(call, rings[1])
    await rings[0].receive("CANCEL")
    await part(call, rings[1])


async def test_the_answer_goes_to_the_address_in_via_without_rport(setup: Setup) -> None:
    """RFC 3261 18.2.2: to the source address and the port of sent-by, also over IPv6."""
    here, listener = await setup.endpoint("::1"), await setup.endpoint("::1")
    line, phone = await setup.line_with_phone()
    here.rport, here.port = False, listener.port
    call = here.start(peer_of(here), line)
    listener.calls.append(call)
    ring = await phone.incoming()
    ring.respond(486)
    answer = await call.receive(486)
    assert ";received=::1;" in answer.one("Via")
