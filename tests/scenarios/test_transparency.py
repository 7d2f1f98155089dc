"""In an answered call every request of one side reaches the other, and so does the answer."""

from __future__ import annotations

import asyncio

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import check_one_tag, connect, part
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_number

T38 = (
    b"v=0\r\no=- 1 2 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n"
    b"m=audio 0 RTP/AVP 8\r\nm=image 40010 udptl t38\r\na=T38FaxVersion:0\r\n"
    b"a=T38MaxBitRate:14400\r\na=T38FaxUdpEC:t38UDPRedundancy\r\n"
)
HOLD = OFFER_BYTES + b"a=sendonly\r\n"
DTMF = b"Signal=5\r\nDuration=160\r\n"
MULTIPART = (
    b"--b1\r\nContent-Type: application/sdp\r\n\r\n" + OFFER_BYTES + b"\r\n--b1\r\n"
    b"Content-Type: application/isup;version=itu-t92+\r\nContent-Disposition: signal\r\n\r\n"
    b"\x01\x11\x48\x00\x0a\x03\x02\x0b\x04\x81\x90\xff\x00\r\n--b1--\r\n"
)
WAYS = pytest.mark.parametrize("way", ["from_the_caller", "from_the_callee"])


async def talk(setup: Setup) -> tuple[Call, Call]:
    """A call in progress: the caller's side and the phone's."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    return call, ring


async def talk_towards(setup: Setup, way: str) -> tuple[Call, Call]:
    """A call in progress: the side that sends first, and the other."""
    call, ring = await talk(setup)
    return (call, ring) if way == "from_the_caller" else (ring, call)


async def test_from_and_to_keep_their_ports(setup: Setup) -> None:
    """Answers have the From and To of the request (RFC 3261 8.2.6.2): some phones compare them
    completely."""
    line, phone = await setup.line_with_phone()
    endpoint = await setup.endpoint()
    from_, to = "<sip:boss@office.example:5070>", f"<sip:{line}@office.example:5080>"
    call = endpoint.start(setup.engine.address, line, from_=from_, to=to, body=OFFER_BYTES)
    ring = await phone.incoming()
    assert ring.first.one("From").startswith(from_ + ";tag=")
    assert ring.first.one("To") == to
    answer = await connect(call, ring)
    assert answer.one("From") == call.first.one("From")
    assert answer.one("To").startswith(to + ";tag=")
    await part(call, ring)


@WAYS
@pytest.mark.parametrize("offer", [HOLD, T38], ids=["hold", "t38"])
async def test_a_reinvite_passes_with_its_answer(setup: Setup, way: str, offer: bytes) -> None:
    speaker, listener = await talk_towards(setup, way)
    speaker.request("INVITE", body=offer, headers=[("X-Why", "because")])
    request = await listener.receive("INVITE")
    assert request.body == offer
    assert request.one("X-Why") == "because"
    assert request.one("Content-Type") == "application/sdp"
    listener.respond(200, to=request, body=ANSWER_BYTES + b"a=changed\r\n")
    answer = await speaker.receive(200)
    assert answer.body == ANSWER_BYTES + b"a=changed\r\n"
    speaker.ack(answer)
    await listener.receive("ACK")
    await part(speaker, listener)


@WAYS
@pytest.mark.parametrize("code", [488, 491, 606])
async def test_a_refused_reinvite_does_not_end_the_call(setup: Setup, way: str, code: int) -> None:
    speaker, listener = await talk_towards(setup, way)
    speaker.request("INVITE", body=T38)
    request = await listener.receive("INVITE")
    listener.respond(code, to=request, headers=[("Warning", '304 x "no fax here"')])
    await listener.receive("ACK")
    answer = await speaker.receive(code)
    assert answer.one("Warning") == '304 x "no fax here"'
    assert len(setup.engine.calls()) == 1
    await part(listener, speaker)


@WAYS
async def test_a_reinvite_without_an_offer_is_answered_in_the_ack(setup: Setup, way: str) -> None:
    speaker, listener = await talk_towards(setup, way)
    speaker.request("INVITE")
    request = await listener.receive("INVITE")
    assert request.body == b""
    listener.respond(200, to=request, body=OFFER_BYTES)
    answer = await speaker.receive(200)
    assert answer.body == OFFER_BYTES
    speaker.ack(answer, body=ANSWER_BYTES)
    assert (await listener.receive("ACK")).body == ANSWER_BYTES
    await part(speaker, listener)


@WAYS
@pytest.mark.parametrize("method", ["UPDATE", "INFO", "MESSAGE", "OPTIONS", "DANCE"])
async def test_a_request_passes_with_its_answer(setup: Setup, way: str, method: str) -> None:
    speaker, listener = await talk_towards(setup, way)
    body, kind = (
        (HOLD, "application/sdp") if method == "UPDATE" else (DTMF, "application/dtmf-relay")
    )
    sent = speaker.request(method, body=body, content_type=kind, headers=[("Info-Package", "x")])
    request = await listener.receive(method)
    assert request.body == body
    assert request.one("Content-Type") == kind
    assert request.one("Info-Package") == "x"
    assert request.call_id != sent.call_id
    listener.respond(200, to=request, body=b"v=0\r\n" if method == "UPDATE" else b"")
    answer = await speaker.receive(200, method)
    assert answer.body == (b"v=0\r\n" if method == "UPDATE" else b"")
    await part(speaker, listener)


@WAYS
@pytest.mark.parametrize(
    ("method", "code"),
    [("UPDATE", 488), ("INFO", 469), ("INFO", 415), ("DANCE", 501), ("MESSAGE", 405),
     ("INFO", 408), ("UPDATE", 481)],
)  # fmt: skip
async def test_a_refused_request_gives_its_code(
    setup: Setup, way: str, method: str, code: int
) -> None:
    speaker, listener = await talk_towards(setup, way)
    speaker.request(method, body=DTMF, content_type="application/dtmf-relay")
    request = await listener.receive(method)
    listener.respond(code, to=request)
    assert (await speaker.final(method)).code == code
    await part(speaker, listener)


@WAYS
async def test_requests_in_a_row_stay_in_order(setup: Setup, way: str) -> None:
    speaker, listener = await talk_towards(setup, way)
    for digit in b"0123456789":
        body = b"Signal=%c\r\n" % digit
        speaker.request("INFO", body=body, content_type="application/dtmf-relay")
        request = await listener.receive("INFO")
        assert request.body == body
        listener.respond(200, to=request)
        await speaker.receive(200, "INFO")
    requests = {m.raw: m.cseq[0] for m in listener.requests("INFO")}  # without repeats
    numbers_seen = list(requests.values())
    assert numbers_seen == sorted(set(numbers_seen))
    await part(speaker, listener)


@WAYS
async def test_bye_passes_with_its_reason(setup: Setup, way: str) -> None:
    speaker, listener = await talk_towards(setup, way)
    speaker.request("BYE", headers=[("Reason", 'Q.850;cause=16;text="done"')])
    await speaker.receive(200, "BYE")
    assert (await listener.receive("BYE")).one("Reason").startswith("Q.850;cause=16")


async def test_byes_that_cross_end_cleanly(setup: Setup) -> None:
    call, ring = await talk(setup)
    ring.automatic.discard("BYE")
    call.automatic.discard("BYE")
    call.request("BYE")
    ring.request("BYE")
    for side in (call, ring):
        assert (await side.final("BYE")).code in (200, 481)
        for bye in side.requests("BYE"):
            side.respond(200, to=bye)
    await setup.ended(call.call_id, outcome="answered")


async def test_a_bye_during_a_reinvite_ends_the_call(setup: Setup) -> None:
    call, ring = await talk(setup)
    call.request("INVITE", body=HOLD)
    await ring.receive("INVITE")
    await ring.hang_up()
    await call.receive("BYE")
    await setup.ended(call.call_id, outcome="answered")


async def test_a_bye_before_the_ack_ends_the_call(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    call.request("BYE")
    await call.receive(200, "BYE")
    await ring.receive("BYE")
    call.ack(answer)


async def test_a_late_offer_is_answered_in_the_ack(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, body=b"")
    ring = await phone.incoming()
    assert ring.first.body == b""
    assert not ring.first.has("Content-Type")
    ring.respond(180)
    await call.receive(180)
    ring.respond(200, body=OFFER_BYTES)
    answer = await call.receive(200)
    assert answer.body == OFFER_BYTES
    call.ack(answer, body=ANSWER_BYTES)
    ack = await ring.receive("ACK")
    assert ack.body == ANSWER_BYTES
    assert ack.one("Content-Type") == "application/sdp"
    await part(call, ring)


async def test_a_multipart_body_passes_byte_for_byte(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    kind = "multipart/mixed;boundary=b1"
    call = await setup.call(line, body=MULTIPART, content_type=kind)
    ring = await phone.incoming()
    assert ring.first.body == MULTIPART
    assert ring.first.one("Content-Type").replace('"', "").replace(" ", "") == kind
    ring.respond(200, body=MULTIPART, content_type=kind)
    answer = await call.receive(200)
    assert answer.body == MULTIPART
    call.ack(answer)
    await ring.receive("ACK")
    await part(call, ring)


async def test_headers_about_a_body_go_with_it(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    headers = [("Content-Disposition", "session;handling=required"), ("MIME-Version", "1.0")]
    call = await setup.call(line, headers=headers)
    ring = await phone.incoming()
    for name, value in headers:
        assert ring.first.one(name) == value
    await connect(call, ring)
    await part(call, ring)


async def test_early_media_passes_and_the_tag_stays(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(183, body=ANSWER_BYTES, headers=[("P-Early-Media", "sendonly")])
    early = await call.receive(183)
    assert early.body == ANSWER_BYTES
    assert early.one("P-Early-Media") == "sendonly"
    await connect(call, ring)
    check_one_tag(call.received)
    await part(call, ring)


async def test_a_phone_that_answers_at_once_is_connected(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring, ring=False)
    assert call.codes() == [200]
    await part(ring, call)


async def test_the_200_is_repeated_until_the_ack(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    copies = await call.copies(3, 200)  # RFC 3261 13.3.1.4: after 0.5 s, then 1 s
    assert len({m.raw for m in copies}) == 1
    call.ack(answer)
    await ring.receive("ACK")
    seen = len(call.received)
    await asyncio.sleep(2.3)  # the next would have come 2 s after the last
    assert len(call.received) == seen
    await part(call, ring)


async def test_a_200_that_the_phone_repeats_is_acknowledged_each_time(setup: Setup) -> None:
    call, ring = await talk(setup)
    ok = next(m for m in ring.sent if m.code == 200)
    for _ in range(3):
        ring.repeat(ok)
    for _ in range(3):
        await ring.receive("ACK")
    acks = ring.requests("ACK")
    assert len(acks) == 4
    assert {m.cseq for m in acks} == {(ok.cseq[0], "ACK")}
    await part(call, ring)


async def test_a_repeated_invite_is_one_call(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    call.repeat(call.first)
    ring = await phone.incoming()
    call.repeat(call.first)
    await connect(call, ring)
    assert len(phone.invited()) == 1
    await part(call, ring)


async def test_a_forwarded_call_is_transparent_too(setup: Setup) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line, body=OFFER_BYTES)
    away = await setup.server("number").incoming(target)
    assert away.first.body == OFFER_BYTES
    answer = await connect(call, away)
    assert answer.body == ANSWER_BYTES
    away.request("INVITE", body=T38)
    request = await call.receive("INVITE")
    assert request.body == T38
    call.respond(200, to=request, body=T38)
    ok = await away.receive(200)
    assert ok.body == T38
    away.ack(ok)
    await call.receive("ACK")
    await part(away, call)


async def test_options_from_a_peer_is_answered(setup: Setup) -> None:
    call = await setup.call("ping", method="OPTIONS", body=b"")
    answer = await call.final("OPTIONS")
    assert answer.code in (200, 405)
    assert answer.has("Allow")
