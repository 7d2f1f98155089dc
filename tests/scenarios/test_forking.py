"""One contact that forks: several phones answer the same INVITE, each with its own To tag."""

from __future__ import annotations

import pytest

from tests.scenarios.endpoint import Call
from tests.scenarios.expect import check_one_tag, part
from tests.scenarios.message import Message
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup


def say(ring: Call, tag: str, code: int, body: bytes = b"") -> Message:
    """One of the phones behind the contact answers."""
    ring.tag = tag
    return ring.respond(code, body=body)


async def test_the_phone_that_answers_need_not_be_the_one_that_rang_first(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    say(ring, "one", 180)
    say(ring, "two", 180)
    say(ring, "one", 183, ANSWER_BYTES)
    say(ring, "two", 183, ANSWER_BYTES + b"a=two\r\n")
    say(ring, "one", 200, ANSWER_BYTES + b"a=one\r\n")
    answer = await call.receive(200)
    assert answer.body == ANSWER_BYTES + b"a=one\r\n"
    call.ack(answer)
    ack = await ring.receive("ACK")
    assert ack.to_tag == "one"
    check_one_tag(call.received)
    for method, body in (("INFO", b""), ("INVITE", OFFER_BYTES)):
        call.request(method, body=body)
        request = await ring.receive(method)
        assert request.to_tag == "one"
        ring.respond(200, to=request, body=body)
        answered = await call.receive(200, method)
        if method == "INVITE":
            call.ack(answered)
            await ring.receive("ACK")
    call.request("BYE")
    assert (await ring.receive("BYE")).to_tag == "one"
    await call.receive(200, "BYE")


async def test_a_second_answer_of_the_same_invite_is_acknowledged_and_ended(setup: Setup) -> None:
    before = setup.engine.metric("renvoi_races_total", kind="fork_answered_late")
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    say(ring, "one", 180)
    say(ring, "one", 200, ANSWER_BYTES)
    call.ack(await call.receive(200))
    assert (await ring.receive("ACK")).to_tag == "one"
    second = say(ring, "two", 200, ANSWER_BYTES)
    assert (await ring.receive("ACK")).to_tag == "two"
    assert (await ring.receive("BYE")).to_tag == "two"
    ring.repeat(second)  # repeated until its ACK comes
    ring.tag = "one"
    ring.remote = ring.first.one("From")
    ring.local = f"{ring.first.one('To')};tag=one"
    ring.state = "answered"
    assert [c["call_id"] for c in setup.engine.calls()] == [call.call_id]
    await part(ring, call)
    assert call.codes() == [180, 200]
    assert setup.engine.metric("renvoi_races_total", kind="fork_answered_late") > before
    await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("code", [486, 603])
async def test_what_the_forking_proxy_decides_is_what_counts(setup: Setup, code: int) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    say(ring, "one", 180)
    say(ring, "two", 183, ANSWER_BYTES)
    say(ring, "three", code)
    await ring.receive("ACK")
    await call.receive(code)
    check_one_tag(call.received)
    await setup.ended(call.call_id, outcome="busy")


async def test_an_early_dialog_that_ends_does_not_affect_the_caller(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    say(ring, "one", 180)
    say(ring, "two", 180)
    say(ring, "one", 199)
    say(ring, "two", 200, ANSWER_BYTES)
    call.ack(await call.receive(200))
    assert (await ring.receive("ACK")).to_tag == "two"
    assert call.codes() == [180, 200]
    await part(call, ring)


async def test_a_phone_that_another_has_overtaken_gets_no_481(
    setup: Setup,
) -> None:
    """Its requests must wait; those of the phone that responded last pass."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    for tag in ("one", "two", "three"):
        say(ring, tag, 180)
    await call.receive(180)
    for tag in ("one", "two"):
        ring.local = f"{ring.first.one('To')};tag={tag}"
        for method, body, code in (
            ("INFO", b"Signal=1\r\n", 500),
            ("UPDATE", b"", 500),
            ("UPDATE", OFFER_BYTES, 491),
            ("OPTIONS", b"", 200),
        ):
            ring.request(method, body=body)
            answer = await ring.final(method)
            assert answer.code == code, (tag, method)
            assert answer.has("Retry-After") == (code == 500)
    ring.local = f"{ring.first.one('To')};tag=three"
    ring.request("INFO", body=b"Signal=3\r\n")
    call.respond(200, to=await call.receive("INFO"))
    await ring.receive(200, "INFO")
    ring.local = f"{ring.first.one('To')};tag=nobody"
    ring.request("INFO")
    assert (await ring.final("INFO")).code == 481
    ring.local = f"{ring.first.one('To')};tag=one"
    say(ring, "one", 200, ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await part(ring, call)
