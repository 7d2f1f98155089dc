"""Messages larger than a frame of a network, up to the largest that a datagram or a stream may
hold, and beyond. `test_message_bytes.py` has a smaller limit."""

from __future__ import annotations

import functools
import socket

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_number, to_voicemail
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

UDP, TCP = free_port(), free_port(socket.SOCK_STREAM)
SETTINGS = {"sip": {"listen": [f"udp:127.0.0.1:{UDP}", f"tcp:127.0.0.1:{TCP}"]}}
PEERS = {"udp": ("127.0.0.1", UDP), "tcp": ("127.0.0.1", TCP)}
MANY = [(f"X-Field-{n}", f"{n}" + "abcdefghij; klmnop=q" * 3) for n in range(36)]
DATAGRAM, MOST = 65_507, 262_144
PASSPORTS = [
    ("Identity", f"{'e' * 900}.{n}==;info=<https://cert.example/{n}>;alg=ES256") for n in range(4)
]
both = pytest.mark.parametrize("transport", ["udp", "tcp"])


@functools.cache
def sdp(size: int) -> bytes:
    """A session description of `size` bytes, each line of it different."""
    lines = b"".join(b"a=x-line:%d\r\n" % n for n in range(size // 12 + 1))
    return (ANSWER_BYTES + lines)[: size - 2] + b"\r\n"


async def endpoint_on(setup: Setup, transport: str) -> Endpoint:
    if transport == "udp":
        return await setup.endpoint()
    stream = await StreamEndpoint.listen()
    setup._stack.push_async_callback(stream.finish)
    return stream


async def call_of(
    setup: Setup, transport: str, body: bytes = OFFER_BYTES, **more: object
) -> tuple[Call, Endpoint]:
    """A call to a line with one phone, over this transport on both sides; and that phone."""
    caller, phone = await endpoint_on(setup, transport), await endpoint_on(setup, transport)
    line = setup.line(to=[phone.uri()])
    return caller.start(PEERS[transport], line, body=body, **more), phone  # type: ignore[arg-type]


async def reinvite(asker: Call, asked: Call, offer: bytes, answer: bytes) -> None:
    """A re-INVITE through the engine, with unchanged bodies."""
    asker.request("INVITE", body=offer)
    request = await asked.receive("INVITE")
    assert request.body == offer
    asked.respond(200, to=request, body=answer)
    final = await asker.receive(200)
    assert final.body == answer
    asker.ack(final)
    await asked.receive("ACK")


@both
@pytest.mark.parametrize("size", [1290, 8_000, 63_000])
async def test_large_bodies_cross_byte_for_byte(setup: Setup, transport: str, size: int) -> None:
    """The engine does not switch to TCP at 1,300 bytes (RFC 3261 18.1.1): peers may not listen
    there."""
    offer, answer = sdp(size), sdp(size + 1)
    call, phone = await call_of(setup, transport, offer)
    ring = await phone.incoming()
    assert ring.first.body == offer
    ring.respond(183, body=answer)
    assert (await call.receive(183)).body == answer
    ring.respond(200, body=answer)
    final = await call.receive(200)
    assert final.body == answer
    call.ack(final)
    await ring.receive("ACK")
    await reinvite(call, ring, sdp(size + 2), sdp(size + 3))
    await reinvite(ring, call, sdp(size + 4), sdp(size + 5))
    for asker, asked in ((call, ring), (ring, call)):
        asker.request("MESSAGE", body=offer, content_type="text/plain")
        request = await asked.receive("MESSAGE")
        assert request.body == offer
        asked.respond(200, to=request)
        await asker.receive(200, "MESSAGE")
    await part(call, ring)
    assert "TCP" not in ring.first.one("Via") or transport == "tcp"


@both
async def test_a_large_answer_to_a_late_offer_crosses_in_the_ack(
    setup: Setup, transport: str
) -> None:
    call, phone = await call_of(setup, transport, b"")
    ring = await phone.incoming()
    ring.respond(200, body=sdp(60_000))
    final = await call.receive(200)
    assert final.body == sdp(60_000)
    call.ack(final, body=sdp(61_000), headers=[("Content-Type", "application/sdp")])
    assert (await ring.receive("ACK")).body == sdp(61_000)
    await part(call, ring)


@both
async def test_many_header_fields_cross(setup: Setup, transport: str) -> None:
    call, phone = await call_of(setup, transport, headers=MANY)
    ring = await phone.incoming()
    ring.respond(183, headers=MANY)
    ring.respond(200, headers=MANY, body=ANSWER_BYTES)
    answer = await call.receive(200)
    call.ack(answer)
    await ring.receive("ACK")
    early = await call.receive(183)
    call.request("INFO", headers=MANY)
    request = await ring.receive("INFO")
    ring.respond(200, to=request, headers=MANY)
    final = await call.receive(200, "INFO")
    for message in (ring.first, early, answer, request, final):
        assert len(message.raw) > 2600
        fields = [(name, value) for name, value in message.headers if name.startswith("x-field")]
        assert fields == [(name.lower(), value) for name, value in MANY]
    await part(call, ring)


async def test_a_call_with_passports_and_a_browsers_offer_crosses(setup: Setup) -> None:
    """Four PASSporTs (RFC 8224, 8946) and the session description of a browser, over UDP."""
    call, phone = await call_of(setup, "udp", sdp(8192), headers=PASSPORTS)
    ring = await phone.incoming()
    assert ring.first.body == sdp(8192)
    await connect(call, ring)
    await part(call, ring)


async def test_passports_reach_a_server(setup: Setup) -> None:
    caller = await setup.endpoint()
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = caller.start(PEERS["udp"], line, body=sdp(8192), headers=PASSPORTS)
    away = await setup.server("number").incoming(target)
    assert away.first.body == sdp(8192)
    values = [value for name, value in away.first.headers if name == "identity"]
    assert values == [value for _, value in PASSPORTS]
    await connect(call, away)
    await part(call, away)


async def test_the_largest_messages_of_a_stream_cross(setup: Setup) -> None:
    call, phone = await call_of(setup, "tcp", sdp(200_000))
    ring = await phone.incoming()
    assert ring.first.body == sdp(200_000)
    ring.respond(200, body=sdp(MOST - 2000))
    final = await call.receive(200)
    assert final.body == sdp(MOST - 2000)
    call.ack(final)
    await ring.receive("ACK")
    await reinvite(ring, call, sdp(200_001), sdp(200_002))
    await part(call, ring)


async def test_an_invite_above_the_limit_of_a_stream_gets_513_and_the_next_is_served(
    setup: Setup,
) -> None:
    before = setup.engine.metric("renvoi_rejected_total", reason="too_large")
    caller, phone = await endpoint_on(setup, "tcp"), await endpoint_on(setup, "tcp")
    line = setup.line(to=[phone.uri()])
    for size in (MOST + 1, 900_000):
        call = caller.start(PEERS["tcp"], line, body=b"v" * size)
        await call.receive(513)
    assert setup.engine.metric("renvoi_rejected_total", reason="too_large") == before + 2
    assert not phone.invited()
    call = caller.start(PEERS["tcp"], line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def over_tcp_to_udp(setup: Setup, body: bytes = OFFER_BYTES) -> tuple[Call, Endpoint, str]:
    """A call whose caller can send larger messages than its phone's datagrams."""
    caller, phone = await endpoint_on(setup, "tcp"), await endpoint_on(setup, "udp")
    line = setup.line(to=[phone.uri()])
    return caller.start(PEERS["tcp"], line, body=body), phone, line


async def test_an_invite_that_fits_no_packet_on_the_other_side_gets_513_and_a_record(
    setup: Setup,
) -> None:
    caller, phone = await endpoint_on(setup, "tcp"), await endpoint_on(setup, "udp")
    line = setup.line(to=[phone.uri()])
    setup.change(line, forwards={"unreachable": to_voicemail(line)})
    call = caller.start(PEERS["tcp"], line, body=sdp(DATAGRAM))
    await call.receive(513)
    await setup.ended(call.call_id, outcome="failed", code=513, why="too_large", condition="none")
    assert not phone.invited()
    assert not setup.server("voicemail").invited(line)


async def test_a_phone_that_can_be_called_is_not_held_up_by_one_that_cannot(setup: Setup) -> None:
    caller, phone = await endpoint_on(setup, "tcp"), await endpoint_on(setup, "tcp")
    line = setup.line(to=[phone.uri()])
    setup.register(line, "sip:ua@127.0.0.1:9")
    call = caller.start(PEERS["tcp"], line, body=sdp(DATAGRAM))
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_a_request_within_the_call_that_fits_no_packet_gets_513_and_the_call_goes_on(
    setup: Setup,
) -> None:
    call, phone, _ = await over_tcp_to_udp(setup)
    ring = await phone.incoming()
    await connect(call, ring)
    call.request("INVITE", body=sdp(DATAGRAM))
    await call.receive(513)
    call.request("INFO", body=b"x" * DATAGRAM, content_type="text/plain")
    await call.receive(513, "INFO")
    assert not ring.requests("INFO")
    await reinvite(call, ring, OFFER_BYTES, ANSWER_BYTES)
    await reinvite(ring, call, sdp(2000), sdp(2100))
    await part(call, ring)


async def test_an_answer_that_fits_no_packet_fails_the_call_on_both_sides(setup: Setup) -> None:
    caller, phone = await endpoint_on(setup, "udp"), await endpoint_on(setup, "tcp")
    line = setup.line(to=[phone.uri()])
    call = caller.start(PEERS["udp"], line)
    ring = await phone.incoming()
    ring.respond(183, body=sdp(DATAGRAM))
    assert (await call.receive(183)).body == b""
    ring.respond(200, body=sdp(DATAGRAM))
    await call.receive(500)
    await ring.receive("ACK")
    await ring.receive("BYE")
    await setup.ended(call.call_id, outcome="failed", code=500)


async def test_an_answer_within_the_call_that_fits_no_packet_becomes_a_refusal(
    setup: Setup,
) -> None:
    call, phone, _ = await over_tcp_to_udp(setup)
    ring = await phone.incoming()
    await connect(call, ring)
    call.request("INFO")  # sent after the ACK, which a re-INVITE over UDP might overtake
    ring.respond(200, to=await ring.receive("INFO"))
    await call.receive(200, "INFO")
    ring.request("INVITE", body=OFFER_BYTES)
    request = await call.receive("INVITE")
    call.respond(200, to=request, body=sdp(DATAGRAM))
    await ring.receive(500)
    await call.receive("ACK")
    ring.request("INFO", body=b"x", content_type="text/plain")
    call.respond(200, to=await call.receive("INFO"), body=b"x" * DATAGRAM)
    await ring.receive(500, "INFO")
    await reinvite(call, ring, OFFER_BYTES, ANSWER_BYTES)
    await part(call, ring)


async def test_a_bye_that_fits_no_packet_is_relayed_without_its_content(setup: Setup) -> None:
    call, phone, _ = await over_tcp_to_udp(setup)
    ring = await phone.incoming()
    await connect(call, ring)
    call.request(
        "BYE", headers=[("Reason", "Q.850;cause=16"), ("X-Long", "y" * 60_000)], body=sdp(9_000)
    )
    bye = await ring.receive("BYE")
    assert bye.one("Reason") == "Q.850;cause=16"
    assert bye.body == b""
    ring.respond(200, to=bye)
    await call.receive(200, "BYE")


@both
async def test_more_header_fields_than_are_taken_get_513(setup: Setup, transport: str) -> None:
    before = setup.engine.metric("renvoi_rejected_total", reason="too_large")
    call, phone = await call_of(setup, transport, headers=MANY * 10)
    await call.receive(513)
    assert setup.engine.metric("renvoi_rejected_total", reason="too_large") == before + 1
    assert not phone.invited()
