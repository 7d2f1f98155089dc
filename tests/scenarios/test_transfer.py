"""Transfers through the engine: REFER, its NOTIFYs, and dialogs named in headers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import Setup, to_number, to_voicemail

WAYS = pytest.mark.parametrize("way", ["from_the_caller", "from_the_callee"])


async def calls(setup: Setup, called: str, caller: str, *headers: tuple[str, str]) -> Call:
    """A call with an identity that a trusted peer asserts."""
    return await setup.call(called, caller=caller, headers=headers)


async def talk(setup: Setup, caller: str = "", **fields: Any) -> tuple[str, Call, Call]:
    """A call in progress: the line, the caller's side and the phone's."""
    phone = await setup.endpoint()
    line = setup.line(to=[phone.uri()], **fields)
    call = await calls(setup, line, caller or numbers.caller_number())
    ring = await phone.incoming()
    await connect(call, ring)
    return line, call, ring


def seen_by(side: Call) -> str:
    """The dialog in this side's notation for a third party: the other side's tag is the to-tag."""
    remote_tag = side.remote.rpartition("tag=")[2]
    return f"{side.call_id};to-tag={remote_tag};from-tag={side.tag}"


def own(side: Call) -> str:
    """The dialog in the notation that this side must receive."""
    remote_tag = side.remote.rpartition("tag=")[2]
    return f"{side.call_id};to-tag={side.tag};from-tag={remote_tag}"


async def notify(side: Call, other: Call, fragment: bytes, state: str) -> None:
    """One NOTIFY of a transfer, through the engine."""
    side.request(
        "NOTIFY",
        headers=[("Event", "refer"), ("Subscription-State", state)],
        body=fragment,
        content_type="message/sipfrag;version=2.0",
    )
    got = await other.receive("NOTIFY")
    assert got.body == fragment
    assert got.one("Event") == "refer"
    assert got.one("Subscription-State") == state
    assert got.one("Content-Type") == "message/sipfrag;version=2.0"
    other.respond(200, to=got)
    await side.receive(200, "NOTIFY")


@WAYS
async def test_a_blind_transfer_passes_with_its_notifications(setup: Setup, way: str) -> None:
    _, call, ring = await talk(setup)
    referrer, referee = (call, ring) if way == "from_the_caller" else (ring, call)
    target = "<sip:+33140000099@office.example>"
    headers = [("Refer-To", target), ("Referred-By", "<sip:boss@office.example>")]
    referrer.request("REFER", headers=headers)
    request = await referee.receive("REFER")
    assert request.one("Refer-To") == target
    assert request.one("Referred-By") == "<sip:boss@office.example>"
    referee.respond(202, to=request)
    await referrer.receive(202, "REFER")
    await notify(referee, referrer, b"SIP/2.0 100 Trying\r\n", "active;expires=60")
    await notify(referee, referrer, b"SIP/2.0 200 OK\r\n", "terminated;reason=noresource")
    await part(referrer, referee)
    await setup.ended(call.call_id, outcome="answered")


@WAYS
async def test_notifications_arrive_after_the_referrer_has_hung_up(setup: Setup, way: str) -> None:
    _, call, ring = await talk(setup)
    referrer, referee = (call, ring) if way == "from_the_caller" else (ring, call)
    referrer.request("REFER", headers=[("Refer-To", "<sip:+33140000099@office.example>")])
    referee.respond(202, to=await referee.receive("REFER"))
    await referrer.receive(202, "REFER")
    await part(referrer, referee)
    await setup.ended(call.call_id, outcome="answered")
    await notify(referee, referrer, b"SIP/2.0 180 Ringing\r\n", "active;expires=60")
    # Its answer matters: 481 ends the subscription.
    event = [("Event", "refer"), ("Subscription-State", "terminated;reason=noresource")]
    referee.request("NOTIFY", headers=event)
    referrer.respond(481, to=await referrer.receive("NOTIFY"))
    await referee.receive(481, "NOTIFY")
    for method in ("INFO", "MESSAGE", "INVITE"):
        referee.request(method)
        await referee.receive(481, method)
    assert not referrer.requests("INFO")


async def test_without_a_transfer_nothing_crosses_after_the_end(setup: Setup) -> None:
    _, call, ring = await talk(setup)
    await part(call, ring)
    ring.request("NOTIFY", headers=[("Event", "refer"), ("Subscription-State", "active")])
    await ring.receive(481, "NOTIFY")
    assert not call.requests("NOTIFY")


@pytest.mark.parametrize("code", [405, 603])
async def test_a_refused_transfer_does_not_end_the_call(setup: Setup, code: int) -> None:
    _, call, ring = await talk(setup)
    call.request("REFER", headers=[("Refer-To", "<sip:+33140000099@office.example>")])
    request = await ring.receive("REFER")
    ring.respond(code, to=request)
    await call.receive(code, "REFER")
    assert any(c["call_id"] == call.call_id for c in setup.engine.calls())
    await part(call, ring)


async def test_an_attended_transfer_joins_the_two_who_are_left(setup: Setup) -> None:
    """A talks to B and to C; A transfers B to C; the new call replaces A's, and A gets a BYE."""
    a = numbers.caller_number()
    b_line, a_to_b, b_side = await talk(setup, a)
    c_line, a_to_c, c_side = await talk(setup, a, max_calls=1)
    refer_to = f"<sip:{c_line}@office.example?Replaces={quote(seen_by(a_to_c), safe='')}>"
    a_to_b.request("REFER", headers=[("Refer-To", refer_to)])
    request = await b_side.receive("REFER")
    replaces = f"Replaces={quote(own(c_side), safe='')}"
    assert request.one("Refer-To") == f"<sip:{c_line}@office.example?{replaces}>"
    b_side.respond(202, to=request)
    await a_to_b.receive(202, "REFER")

    b_to_c = await calls(setup, c_line, b_line, ("Replaces", own(c_side)))
    taken = await c_side.endpoint.incoming()
    assert taken.first.one("Replaces") == own(c_side)
    await connect(b_to_c, taken)
    await a_to_c.receive("BYE")
    await c_side.receive("BYE")
    await notify(b_side, a_to_b, b"SIP/2.0 200 OK\r\n", "terminated;reason=noresource")
    await part(a_to_b, b_side)
    record = await setup.record(a_to_c.call_id)
    assert record["outcome"] == "answered"
    assert [c["called"] for c in setup.engine.calls()] == [c_line]
    busy = await setup.call(c_line)  # the transferred call is the line's one call
    await busy.receive(486)
    await part(b_to_c, taken)
    await setup.ended(b_to_c.call_id, outcome="answered", condition="none", destination="line")


async def test_a_dialog_named_as_the_caller_knows_it_is_renamed_for_the_phone(
    setup: Setup,
) -> None:
    caller = numbers.caller_number()
    line, call, ring = await talk(setup, caller)
    name = f"{seen_by(call)};early-only"
    other = await calls(setup, line, caller, ("Replaces", name))
    taken = await ring.endpoint.incoming()
    assert taken.first.one("Replaces") == f"{own(ring)};early-only"
    await connect(other, taken)
    await call.receive("BYE")
    await part(other, taken)


async def test_a_line_that_called_is_taken_over_at_its_registered_phone(setup: Setup) -> None:
    """Not at its Contact, which any caller may forge."""
    caller, phone = await setup.line_with_phone()
    colleague = setup.line()
    _, call, ring = await talk(setup, caller)
    taking = await calls(setup, caller, colleague, ("Replaces", seen_by(ring)))
    taken = await phone.incoming()
    assert taken.first.one("Replaces") == own(call)
    await connect(taking, taken)
    await ring.receive("BYE")
    await part(taking, taken)
    assert not call.endpoint.requests() or "INVITE" not in call.endpoint.requests()
    await setup.ended(taking.call_id, target=caller, destination="line", outcome="answered")


async def test_a_transfer_bypasses_the_rules_of_the_line(setup: Setup) -> None:
    caller = numbers.caller_number()
    line, call, ring = await talk(setup, caller)
    forwards = {
        "unconditional": to_number(numbers.outside_number()),
        "busy": to_voicemail(line),
    }
    setup.change(line, forwards=forwards, max_calls=1)
    await setup.settle()
    other = await calls(setup, line, caller, ("Replaces", own(ring)))
    taken = await ring.endpoint.incoming()
    await connect(other, taken)
    await call.receive("BYE")
    await part(taken, other)
    await setup.ended(other.call_id, outcome="answered", condition="none")


async def test_a_transfer_that_the_phone_refuses_gets_its_code(setup: Setup) -> None:
    caller = numbers.caller_number()
    line, call, ring = await talk(setup, caller)
    other = await calls(setup, line, caller, ("Replaces", own(ring)))
    taken = await ring.endpoint.incoming()
    taken.respond(486)
    await taken.receive("ACK")
    await other.receive(486)
    await setup.ended(other.call_id, outcome="busy", condition="none")
    await part(call, ring)


@pytest.mark.parametrize(
    "value",
    [
        "nobody@knows;to-tag=a;from-tag=b",
        "nobody@knows;to-tag=a",
        "x;from-tag=" + "9" * 600 + ";to-tag=1",
        'y;to-tag="quoted";from-tag=%00%ff',
    ],
)
async def test_a_dialog_nobody_knows_is_left_to_the_phone(setup: Setup, value: str) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=[("Replaces", value)])
    ring = await phone.incoming()
    assert ring.first.one("Replaces") == value
    ring.respond(481)
    await ring.receive("ACK")
    await call.receive(481)


@pytest.mark.parametrize("name", ["Join", "Target-Dialog"])
async def test_join_and_target_dialog_are_renamed_too(setup: Setup, name: str) -> None:
    _, call, ring = await talk(setup)
    words = ("to-tag", "from-tag") if name == "Join" else ("local-tag", "remote-tag")

    def spelt(value: str) -> str:
        return value.replace("to-tag", words[0]).replace("from-tag", words[1])

    call.request("INFO", headers=[(name, spelt(seen_by(call)))])
    request = await ring.receive("INFO")
    assert request.one(name) == spelt(own(ring))
    ring.respond(200, to=request)
    await call.receive(200, "INFO")
    await part(call, ring)


async def test_a_refer_to_without_a_dialog_passes_byte_for_byte(setup: Setup) -> None:
    _, call, ring = await talk(setup)
    odd = '"C; to-tag=x" <sip:c@h;x=y?Replaces=a%3Bto-tag%3Db%3Bfrom-tag%3Dc&Subject=%22q%22>;k=v'
    call.request("REFER", headers=[("r", odd)])
    request = await ring.receive("REFER")
    assert odd in request.raw.decode()
    ring.respond(202, to=request)
    await call.receive(202, "REFER")
    await part(call, ring)
