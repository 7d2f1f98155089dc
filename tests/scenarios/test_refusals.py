"""Calls and requests that are refused before anything rings."""

from __future__ import annotations

import asyncio

import pytest

from tests.scenarios import numbers
from tests.scenarios.expect import connect, part
from tests.scenarios.message import build, split_commas
from tests.scenarios.setup import Setup, to_voicemail


async def test_an_unknown_number_is_404(setup: Setup) -> None:
    call = await setup.call(numbers.line_number())
    assert (await call.final()).code == 404
    await setup.ended(call.call_id, condition="none", destination="none", code=404)


async def test_a_suspended_line_is_403_even_with_unconditional_on(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(suspended=True)
    setup.change(line, forwards={"unconditional": to_voicemail(line)})
    call = await setup.call(line)
    assert (await call.final()).code == 403
    assert not phone.invited()
    assert not setup.server("voicemail").invited(line)
    await setup.ended(call.call_id, condition="none", outcome="rejected", code=403)


async def test_a_stranger_gets_403_and_leaves_no_record(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    before = setup.engine.metric("renvoi_rejected_total", reason="stranger")
    stranger = await setup.endpoint("127.0.0.9")
    call = stranger.start(setup.engine.address, line)
    assert (await call.final()).code == 403
    assert not phone.invited()
    assert setup.engine.metric("renvoi_rejected_total", reason="stranger") == before + 1
    await asyncio.sleep(0.3)
    assert call.call_id not in str(setup.redis.xrange("cdr"))


@pytest.mark.parametrize(
    ("method", "code"), [("DANCE", 501), ("PUBLISH", 405), ("SUBSCRIBE", 405), ("MESSAGE", 405)]
)
async def test_a_method_that_begins_no_call_is_refused_with_allow(
    setup: Setup, method: str, code: int
) -> None:
    call = await setup.call(setup.line(), method=method, body=b"")
    answer = await call.final(method)
    assert answer.code == code
    assert {"INVITE", "ACK", "CANCEL", "BYE"} <= set(split_commas(answer.one("Allow")))


async def test_an_invite_with_a_to_tag_of_no_dialog_is_481(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, to=f"<sip:{line}@office.example>;tag=old")
    assert (await call.final()).code == 481
    assert not phone.invited()


@pytest.mark.parametrize("method", ["BYE", "INFO", "UPDATE"])
async def test_a_request_of_no_dialog_is_481(setup: Setup, method: str) -> None:
    call = await setup.call("+33972100000", method=method, to="<sip:a@b>;tag=old", body=b"")
    assert (await call.final(method)).code == 481


async def test_max_forwards_0_is_483(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, max_forwards=0)
    assert (await call.final()).code == 483
    assert not phone.invited()
    assert setup.engine.metric("renvoi_rejected_total", reason="loop_detected") >= 1


async def test_an_invite_without_contact_is_refused(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, contact=False)
    assert (await call.final()).code == 400
    assert not phone.invited()
    assert setup.engine.metric("renvoi_rejected_total", reason="no_contact") >= 1


async def test_a_called_name_that_is_no_number_is_refused(setup: Setup) -> None:
    call = await setup.call("reception")
    assert (await call.final()).code in (404, 484)


@pytest.mark.parametrize("form", ["national", "double_zero", "parameters", "escaped"])
async def test_a_number_is_known_in_every_form(setup: Setup, form: str) -> None:
    line, phone = await setup.line_with_phone()
    called = {
        "national": "0" + line[3:],
        "double_zero": "00" + line[1:],
        "parameters": line + ";npdi;rn=+33999",
        "escaped": "%2B" + line[1:],
    }[form]
    call = await setup.call(called)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_garbage_does_not_disturb_a_call(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    noise = await setup.endpoint()
    junk = [
        b"\x00\xff" * 200,
        b"\r\n\r\n",
        b"INVITE\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"SIP/2.0 abc OK\r\nVia: x\r\n\r\n",
        b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n\r\n",
        b"INVITE sip:a SIP/2.0\r\n" + b"X: y\r\n" * 600 + b"\r\n",
        build("INVITE sip:a@b SIP/2.0", [("Via", "SIP/2.0/UDP h"), ("CSeq", "x INVITE")]),
        build("ACK sip:a@b SIP/2.0", [("Via", "SIP/2.0/UDP h;branch=z9hG4bK2"), ("To", "<<>")]),
    ]
    call = await setup.call(line)
    ring = await phone.incoming()
    for datagram in junk:
        noise.send(datagram, setup.engine.address)
    await connect(call, ring)
    for datagram in junk:
        noise.send(datagram, setup.engine.address)
    await part(call, ring)


async def test_a_large_sdp_is_relayed(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    body = b"v=0\r\n" + b"a=candidate:1 1 UDP 2130706431 192.0.2.1 3478 typ host\r\n" * 50
    call = await setup.call(line, body=body)
    ring = await phone.incoming()
    assert ring.first.body == body
    await connect(call, ring)
    await part(call, ring)


async def test_what_a_proxy_would_have_to_understand_is_refused(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    asked = [("Proxy-Require", "privacy, sec-agree"), ("Proxy-Require", "gin")]
    call = await setup.call(line, headers=asked)
    refusal = await call.receive(420)
    assert split_commas(refusal.one("Unsupported")) == ["sec-agree", "gin"]
    assert not phone.invited()


async def test_options_that_requires_the_unknown_is_refused(setup: Setup) -> None:
    call = await setup.call("x", method="OPTIONS", headers=[("Require", "timer, foo")], body=b"")
    assert (await call.receive(420, "OPTIONS")).one("Unsupported") == "foo"


async def test_what_the_caller_requires_of_the_phone_is_the_phones_to_judge(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=[("Require", "foo")])
    ring = await phone.incoming()
    assert ring.first.one("Require") == "foo"
    ring.respond(420, headers=[("Unsupported", "foo")])
    assert (await call.receive(420)).one("Unsupported") == "foo"
    await setup.ended(call.call_id, outcome="rejected", code=420)


async def test_what_the_phone_requires_of_the_caller_reaches_it(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    (await phone.incoming()).respond(421, headers=[("Require", "bar")])
    assert (await call.receive(421)).one("Require") == "bar"
