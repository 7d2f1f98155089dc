"""Callers that a phone transfers: the rules of the line, and the payer."""

from __future__ import annotations

import json
from urllib.parse import quote

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import part
from tests.scenarios.message import tag_of
from tests.servers.places import ENGINE, PHONE
from tests.servers.site import CALLER, Site, line_of_the_second


async def refer(side: Call, to: str) -> None:
    """The phone transfers the caller, and answers the NOTIFYs."""
    side.automatic = side.automatic | {"NOTIFY"}
    side.request("REFER", headers=[("Refer-To", to), ("Referred-By", "<sip:phone@phones.example>")])
    await side.receive(202, "REFER")


async def notified(side: Call, code: int) -> None:
    """Wait for the NOTIFY with this code."""
    while f"SIP/2.0 {code}".encode() not in (await side.receive("NOTIFY")).body:
        pass


async def test_a_blind_transfer_to_a_line_comes_back_to_its_rules_and_is_paid_for(
    site: Site,
) -> None:
    first, phone = await site.line_with_phone()
    second, other = await site.line_with_phone()
    await site.settle()
    call = await site.outside_call(first)
    ring = await phone.incoming()
    await site.talk(call, ring)
    await refer(ring, f"<sip:{second}@{ENGINE}>")
    sent_on = await other.incoming()
    assert CALLER in sent_on.first.one("From")
    voice = await site.media()
    sent_on.respond(180)
    sent_on.respond(200, body=voice.sdp)
    await sent_on.receive("ACK")
    await notified(ring, 200)
    await ring.hang_up()
    voice.speak_to(sent_on.first.body)
    await site.heard(voice)
    await call.hang_up()
    await sent_on.receive("BYE")
    assert not site.trunk.invited()
    record = await site.record_of(second)
    assert [(f["line"], f["billing"]) for f in json.loads(record["forwards"])] == [(first, "free")]


async def test_a_blind_transfer_to_a_number_outside_goes_out(site: Site) -> None:
    """The engine is asked first, and has no such line."""
    line, phone = await site.line_with_phone()
    await site.settle()
    call = await site.outside_call(line)
    ring = await phone.incoming()
    await site.talk(call, ring)
    number = numbers.outside_number()
    await refer(ring, f"<sip:0{number[3:]}@{ENGINE}>")
    out = await site.goes_out(number)
    voice = await site.media()
    out.respond(180)
    out.respond(200, body=voice.sdp)
    await out.receive("ACK")
    await notified(ring, 200)
    assert f"{number}@renvoi" in site.asterisk.log
    await call.hang_up()
    await out.receive("BYE")


async def test_an_attended_transfer_joins_the_caller_and_the_consulted_party(site: Site) -> None:
    """The phone calls a colleague directly through the engine. So Asterisk has no state of the call
    that is taken over, and sends an INVITE with Replaces (`external_replaces`)."""
    phone = await site.endpoint(PHONE)
    line = line_of_the_second()
    site.line(number=line, to=[phone.uri()])
    other, second = await site.endpoint(), line_of_the_second()
    site.line(number=second, to=[other.uri()])
    await site.settle()
    call = await site.outside_call(line)
    ring = await phone.incoming()
    await site.talk(call, ring)
    question = phone.start(
        site.second.address, second, caller=line, body=(await site.media(PHONE)).sdp
    )
    asked = await other.incoming()
    asked.respond(180)
    asked.respond(200, body=(await site.media()).sdp)
    question.ack(await question.receive(200))
    await asked.receive("ACK")
    own = quote(f"{question.call_id};to-tag={tag_of(question.remote)};from-tag={question.tag}")
    await refer(ring, f"<sip:{second}@{ENGINE}?Replaces={own}>")
    taken = await other.incoming()
    assert taken.first.one("Replaces").startswith(f"{asked.call_id};")
    voice = await site.media()
    taken.respond(200, body=voice.sdp)
    await taken.receive("ACK")
    await asked.receive("BYE")
    await question.receive("BYE")
    await notified(ring, 200)
    await ring.hang_up()
    voice.speak_to(taken.first.body)
    for heard in (voice, site.voice_of(call)):
        await site.heard(heard)
    await call.hang_up()
    await taken.receive("BYE")


async def test_the_trunk_cannot_transfer(site: Site) -> None:
    line, phone = await site.line_with_phone()
    await site.settle()
    call = await site.outside_call(line)
    ring = await phone.incoming()
    await site.talk(call, ring)
    call.request("REFER", headers=[("Refer-To", f"<sip:{numbers.outside_number()}@x.example>")])
    assert (await call.final("REFER")).code >= 400
    await part(call, ring)
