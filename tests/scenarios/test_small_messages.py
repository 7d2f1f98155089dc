"""Messages larger than a frame of a network, up to the 4,000 bytes that are taken, and beyond."""

from __future__ import annotations

import socket

import pytest

from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.sipp import free_port
from tests.scenarios.stage import ANSWER_BYTES, OFFER_BYTES, Stage, to_voicemail
from tests.scenarios.stream import StreamEndpoint

UDP, TCP = free_port(), free_port(socket.SOCK_STREAM)
SETTINGS = {"sip": {"listen": [f"udp:127.0.0.1:{UDP}", f"tcp:127.0.0.1:{TCP}"]}}
PEERS = {"udp": ("127.0.0.1", UDP), "tcp": ("127.0.0.1", TCP)}
MANY = [(f"X-Field-{n}", f"{n}" + "abcdefghij; klmnop=q" * 3) for n in range(36)]
# Stays on its hop: what is left of a message that was cut off in a datagram would fit without it.
STAYS = ("Path", f"<sip:{'y' * 800}@edge.example;lr>")
both = pytest.mark.parametrize("transport", ["udp", "tcp"])


def sdp(size: int) -> bytes:
    """A session description of so many bytes, each line of it different."""
    lines, n = ANSWER_BYTES, 0
    while len(lines) < size:
        n += 1
        lines += f"a=x-line:{n}\r\n".encode()
    return lines[: size - 2] + b"\r\n"


async def endpoint_on(stage: Stage, transport: str) -> Endpoint:
    if transport == "udp":
        return await stage.endpoint()
    stream = await StreamEndpoint.listen()
    stage._stack.push_async_callback(stream.finish)
    return stream


async def call_of(
    stage: Stage, transport: str, body: bytes = OFFER_BYTES, **more: object
) -> tuple[Call, Endpoint]:
    """A call to a line with one phone, over this transport on both sides; and that phone."""
    caller, phone = await endpoint_on(stage, transport), await endpoint_on(stage, transport)
    line = stage.line(to=[phone.uri()])
    return caller.start(PEERS[transport], line, body=body, **more), phone  # type: ignore[arg-type]


async def reinvite(asker: Call, asked: Call, offer: bytes, answer: bytes) -> None:
    """A re-INVITE through the engine, its bodies unharmed."""
    asker.request("INVITE", body=offer)
    request = await asked.receive("INVITE")
    assert request.body == offer
    asked.respond(200, to=request, body=answer)
    final = await asker.receive(200)
    assert final.body == answer
    asker.ack(final)
    await asked.receive("ACK")


@both
@pytest.mark.parametrize("size", [1290, 1800, 2600, 3200])
async def test_large_bodies_cross_byte_for_byte(stage: Stage, transport: str, size: int) -> None:
    """PJSIP would turn to TCP at 1,300 bytes (RFC 3261 18.1.1), where nobody may listen."""
    offer, answer = sdp(size), sdp(size + 1)
    call, phone = await call_of(stage, transport, offer)
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
    stage: Stage, transport: str
) -> None:
    call, phone = await call_of(stage, transport, b"")
    ring = await phone.incoming()
    ring.respond(200, body=sdp(3000))
    final = await call.receive(200)
    assert final.body == sdp(3000)
    call.ack(final, body=sdp(3100), headers=[("Content-Type", "application/sdp")])
    assert (await ring.receive("ACK")).body == sdp(3100)
    await part(call, ring)


async def test_an_answer_in_the_ack_that_was_cut_off_is_not_passed_on(stage: Stage) -> None:
    """Whoever made the offer sees that there is no answer, instead of half of one."""
    call, phone = await call_of(stage, "udp", b"")
    ring = await phone.incoming()
    ring.respond(200, body=sdp(1000))
    call.ack(await call.receive(200), body=sdp(5000), headers=longer(5000))
    assert (await ring.receive("ACK")).body == b""
    await reinvite(call, ring, b"", ANSWER_BYTES)
    call.request("INVITE")
    request = await ring.receive("INVITE")
    ring.respond(200, to=request, body=OFFER_BYTES)
    call.ack(await call.receive(200), body=sdp(5000), headers=longer(5000))
    assert (await ring.receive("ACK")).body == b""
    await part(ring, call)


@both
async def test_many_header_fields_cross(stage: Stage, transport: str) -> None:
    call, phone = await call_of(stage, transport, headers=MANY)
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
    told = await call.receive(200, "INFO")
    for message in (ring.first, early, answer, request, told):
        assert len(message.raw) > 2600
        fields = [(name, value) for name, value in message.headers if name.startswith("x-field")]
        assert fields == [(name.lower(), value) for name, value in MANY]
    await part(call, ring)


@both
async def test_an_invite_of_3900_bytes_crosses(stage: Stage, transport: str) -> None:
    probe, phone = await call_of(stage, transport, sdp(1000))
    head = max(len(probe.first.raw), len((await phone.incoming()).first.raw)) - 1000
    probe.cancel()
    await probe.receive(487)
    offer = sdp(3890 - head)
    call, phone = await call_of(stage, transport, offer)
    ring = await phone.incoming()
    assert ring.first.body == offer
    assert max(len(call.first.raw), len(ring.first.raw)) in range(3880, 3900)
    await connect(call, ring)
    await part(call, ring)


@both
@pytest.mark.parametrize("size", [4001, 6000, 30_000])
async def test_an_invite_that_cannot_be_taken_gets_513_and_is_counted(
    stage: Stage, transport: str, size: int
) -> None:
    before = stage.engine.metric("renvoi_rejected_total", reason="too_large")
    call, phone = await call_of(stage, transport, b"v" * size)
    await call.receive(513)
    assert stage.engine.metric("renvoi_rejected_total", reason="too_large") == before + 1
    assert not phone.invited()


@both
async def test_an_invite_whose_header_fields_cannot_be_taken_gets_513(
    stage: Stage, transport: str
) -> None:
    call, phone = await call_of(stage, transport, headers=MANY * 2)
    await call.receive(513)
    assert not phone.invited()


async def test_an_invite_that_fits_no_packet_on_the_other_side_gets_513_and_a_record(
    stage: Stage,
) -> None:
    """It came whole; a long Contact of the phone makes it too large for the way there."""
    phone = await stage.endpoint()
    line = stage.line(to=[f"{phone.uri()};x={'y' * 700}"])
    stage.change(line, forwards={"unreachable": to_voicemail(line)})
    call = await stage.call(line, body=sdp(3000))
    await call.receive(513)
    await stage.ended(call.call_id, outcome="failed", code=513, why="too_large", condition="none")
    assert not phone.invited()
    assert not stage.server("voicemail").invited(line)


async def test_a_phone_that_can_be_called_is_not_held_up_by_one_that_cannot(stage: Stage) -> None:
    line, phone = await stage.line_with_phone()
    stage.register(line, f"sip:ua@127.0.0.1:9;x={'y' * 700}")
    call = await stage.call(line, body=sdp(3000))
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_a_forward_that_makes_the_invite_too_large_gets_513_and_a_record(
    stage: Stage,
) -> None:
    line, phone = await stage.line_with_phone()
    stage.change(line, forwards={"busy": to_voicemail(line)})
    probe = await stage.call(line, body=sdp(1000))
    ring = await phone.incoming()
    head = len(ring.first.raw) - 1000
    ring.respond(480)
    await probe.receive(480)
    # Diversion, History-Info and the voicemail's parameters come on top of what just fits.
    call = await stage.call(line, body=sdp(3800 - head))
    (await phone.incoming()).respond(486)
    await call.receive(181)
    await call.receive(513)
    await stage.ended(call.call_id, outcome="failed", code=513, condition="busy")


def longer(size: int) -> list[tuple[str, str]]:
    return [STAYS] if size > 4000 else [("X-Long", "y" * 200)]


async def check_stands(call: Call, ring: Call) -> None:
    """Both sides can still do everything, and hang up."""
    await reinvite(call, ring, OFFER_BYTES, ANSWER_BYTES)
    await reinvite(ring, call, sdp(2000), sdp(2100))
    await part(call, ring)


@both
@pytest.mark.parametrize("side", ["caller", "phone"])
@pytest.mark.parametrize("size", [3990, 5000, 30_000])
async def test_a_request_within_the_call_that_is_too_large_is_refused_and_the_call_stands(
    stage: Stage, transport: str, side: str, size: int
) -> None:
    call, phone = await call_of(stage, transport)
    ring = await phone.incoming()
    await connect(call, ring)
    await reinvite(call, ring, OFFER_BYTES, ANSWER_BYTES)  # the caller's ACK was there before it
    asker, asked = (call, ring) if side == "caller" else (ring, call)
    head = len(asker.request("INVITE", body=OFFER_BYTES).raw) - len(OFFER_BYTES)
    asked.respond(488, to=await asked.receive("INVITE"))
    await asker.receive(488)
    await asked.receive("ACK")
    asker.request("INVITE", body=sdp(size - head), headers=longer(size))
    await asker.receive(513)
    asker.request("INFO", body=b"x" * (size - head + 200), content_type="text/plain")
    await asker.receive(513, "INFO")
    assert not asked.requests("INFO")
    assert all(request.body in (b"", OFFER_BYTES) for request in asked.requests("INVITE"))
    await check_stands(call, ring)
    await stage.ended(call.call_id, outcome="answered")


@both
@pytest.mark.parametrize("size", [3990, 5000])
async def test_an_answer_that_is_too_large_fails_the_call_on_both_sides(
    stage: Stage, transport: str, size: int
) -> None:
    call, phone = await call_of(stage, transport)
    ring = await phone.incoming()
    ring.respond(200, headers=longer(size), body=sdp(size))
    await call.receive(500)
    await ring.receive("ACK")
    await ring.receive("BYE")
    await stage.ended(call.call_id, outcome="failed", code=500)


@both
@pytest.mark.parametrize("size", [3990, 5000])
async def test_an_answer_within_the_call_that_is_too_large_becomes_a_refusal(
    stage: Stage, transport: str, size: int
) -> None:
    call, phone = await call_of(stage, transport)
    ring = await phone.incoming()
    await connect(call, ring)
    call.request("INVITE", body=OFFER_BYTES)
    request = await ring.receive("INVITE")
    ring.respond(200, to=request, headers=longer(size), body=sdp(size))
    await call.receive(500)
    await ring.receive("ACK")
    await check_stands(call, ring)


@both
@pytest.mark.parametrize("size", [3990, 5000])
async def test_ringing_with_a_body_too_large_is_heard_without_it(
    stage: Stage, transport: str, size: int
) -> None:
    call, phone = await call_of(stage, transport)
    ring = await phone.incoming()
    ring.respond(183, body=sdp(size))
    assert (await call.receive(183)).body == b""
    await connect(call, ring)
    await part(call, ring)
