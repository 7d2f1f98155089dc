"""Requests inside a dialog without a side to relay them to: the dialog exists, so no phone gets
481, after which it would hang up."""

from __future__ import annotations

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import check_one_tag, connect, part
from tests.scenarios.message import Message
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_number

TIMER = [("Session-Expires", "1800"), ("Supported", "timer")]
# The request, its headers and body, and the answers to a caller and to a phone.
ASKED = [
    ("INFO", [], b"Signal=1\r\n", 500, 500),
    ("MESSAGE", [], b"hello", 500, 500),
    ("OPTIONS", [], b"", 200, 200),
    ("UPDATE", [], b"", 200, 200),
    ("UPDATE", TIMER, b"", 200, 200),
    ("UPDATE", [("Session-Expires", "30"), ("Supported", "timer")], b"", 422, 422),
    ("UPDATE", [], OFFER_BYTES, 500, 491),
    ("INVITE", [], OFFER_BYTES, 500, 491),
    ("INVITE", [], b"", 500, 491),
    ("REFER", [("Refer-To", "<sip:+33140000009@office.example>")], b"", 500, 500),
    ("NOTIFY", [("Event", "refer"), ("Subscription-State", "active")], b"", 500, 500),
    ("SUBSCRIBE", [("Event", "dialog")], b"", 500, 500),
    ("DANCE", [], b"", 500, 500),
]


async def ask_all(side: Call, *, caller: bool) -> None:
    """One side sends all requests; each gets its own answer here, and no side loses the call."""
    for method, headers, body, heard_by_caller, heard_by_phone in ASKED:
        side.request(method, headers=headers, body=body)
        answer = await side.final(method)
        wanted = heard_by_caller if caller else heard_by_phone
        assert answer.code == wanted, (method, headers, answer.start)
        check_answer(method, headers, answer)


def check_answer(method: str, headers: list[tuple[str, str]], answer: Message) -> None:
    if answer.code == 500:
        assert 0 <= int(answer.one("Retry-After")) <= 10
    if answer.code == 422:
        assert answer.one("Min-SE") == "90"
    if method == "OPTIONS":
        assert "UPDATE" in answer.one("Allow")
        assert answer.has("Accept")
        assert answer.has("Supported")
    if headers == TIMER:
        assert answer.one("Session-Expires") == "1800;refresher=uac"
        assert "timer" in answer.one("Require")


async def test_while_two_phones_ring(setup: Setup) -> None:
    phones = [await setup.endpoint() for _ in range(2)]
    line = setup.line(to=[phone.uri() for phone in phones])
    call = await setup.call(line)
    first, second = [await phone.incoming() for phone in phones]
    for ring in (first, second):
        ring.respond(180)
    await call.receive(180)
    await ask_all(call, caller=True)
    await ask_all(first, caller=False)
    first.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await first.receive("ACK")
    await second.receive("CANCEL")
    check_one_tag([m for m in call.received if m.method == "INVITE" and m.cseq == call.first.cseq])
    assert not second.requests("INFO")
    await part(call, first)


async def test_between_a_line_and_the_first_response_of_its_target(setup: Setup) -> None:
    target = numbers.outside_number()
    line, phone = await setup.line_with_phone(forwards={"busy": to_number(target)})
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    ring.respond(486)
    await call.receive(181)
    away = await setup.server("number").incoming(target)
    await ask_all(call, caller=True)
    await connect(call, away)
    await part(call, away)


async def test_a_phone_that_is_being_cancelled(setup: Setup) -> None:
    """After the no-answer time: the phone has its CANCEL and has not ended its INVITE."""
    target = numbers.outside_number()
    forwards = {"no_answer": to_number(target, after_s=5)}
    line, phone = await setup.line_with_phone(forwards=forwards)
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.automatic.discard("CANCEL")
    ring.respond(180)
    await call.receive(180)
    away = await setup.server("number").incoming(target)
    await ring.receive("CANCEL")
    await ask_all(ring, caller=False)
    await ask_all(call, caller=True)
    # The target responds and is the peer now; then the phone wins nevertheless.
    away.respond(180)
    await call.receive(180)
    ring.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await away.receive("CANCEL")
    call.request("INFO", body=b"Signal=2\r\n")
    ring.respond(200, to=await ring.receive("INFO"))
    await call.receive(200, "INFO")
    await part(call, ring)


async def test_one_ringing_phone_gets_the_requests_that_can_be_relayed(setup: Setup) -> None:
    """INFO, UPDATE and similar requests pass; an INVITE has to wait for the answer."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    for side, code in ((call, 500), (ring, 491)):
        side.request("INVITE", body=OFFER_BYTES)
        assert (await side.final("INVITE")).code == code
    call.request("INFO", body=b"Signal=3\r\n")
    ring.respond(200, to=await ring.receive("INFO"))
    await call.receive(200, "INFO")
    ring.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await part(ring, call)


async def test_a_phone_whose_requests_overtake_its_18x(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await ask_all(ring, caller=False)
    await connect(call, ring)
    await part(ring, call)


@pytest.mark.parametrize("method", ["INFO", "UPDATE", "OPTIONS"])
async def test_a_phone_that_knows_no_such_dialog_while_it_rings_ends_nothing(
    setup: Setup, method: str
) -> None:
    """The early dialog of one phone behind a fork has ended; the caller's still exists."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    call.request(method, body=b"")
    ring.respond(481, to=await ring.receive(method))
    assert (await call.final(method)).code == (500 if method == "INFO" else 200)
    await connect(call, ring, ring=False)
    await part(call, ring)


async def test_before_the_ack(setup: Setup) -> None:
    """A re-INVITE of the phone has to wait for the caller's ACK; other requests pass."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    ring.request("INVITE", body=OFFER_BYTES)
    assert (await ring.final("INVITE")).code == 491
    ring.request("INFO", body=b"Signal=4\r\n")
    call.respond(200, to=await call.receive("INFO"))
    await ring.receive(200, "INFO")
    call.ack(answer)
    await part(call, ring)


async def test_where_there_is_no_dialog_481_is_the_answer(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered")
    call.request("INFO")
    assert (await call.final("INFO")).code == 481
