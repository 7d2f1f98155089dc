"""A call without any rule, with SIPp on both sides: it passes unchanged."""

from __future__ import annotations

import asyncio

import pytest

from tests.scenarios import numbers, script
from tests.scenarios.expect import check_one_tag
from tests.scenarios.message import untagged, user_of
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup

HEADERS = [
    "X-Unheard-Of: passes; as=it is",
    "Subject: lunch",
    "P-Asserted-Identity: <sip:+33140999999@trusted.example>",
    "User-to-User: 56a390f3d2b7310023a2;encoding=hex",
]


@pytest.mark.parametrize("ends", ["caller", "callee"])
async def test_a_plain_call_rings_talks_and_ends(setup: Setup, ends: str) -> None:
    caller = numbers.caller_number()
    line, phone = await setup.sipp_phone(
        script.answering_phone(ends=ends, headers=["X-Answered-By: phone"])
    )
    seen = await setup.sipp_call(script.answered_call(line, caller, headers=HEADERS, ends=ends))
    there = await phone.finish()

    out, arrived = seen.sent[0], there.invites()[0]
    answered, answer = there.sent, seen.answer(200)
    assert seen.codes() == [180, 200]
    check_one_tag(seen.received)
    # bodies: byte for byte
    assert arrived.body == out.body == OFFER_BYTES
    assert answer.body == ANSWER_BYTES
    assert arrived.one("Content-Type") == "application/sdp"
    # the caller's fields pass
    assert untagged(arrived.one("From")) == untagged(out.one("From"))
    assert arrived.one("To") == out.one("To")
    for header in HEADERS:
        name, _, value = header.partition(": ")
        assert arrived.one(name) == value
    assert answer.one("X-Answered-By") == "phone"
    # fields of the hop and the dialog do not
    assert arrived.call_id != out.call_id
    assert arrived.from_tag != out.from_tag
    assert answer.to_tag not in {m.to_tag for m in answered}
    assert len(arrived.values("Via")) == 1
    assert arrived.one("Max-Forwards") == "69"
    assert f":{setup.engine.address[1]}" in arrived.one("Contact")
    assert f":{setup.engine.address[1]}" in answer.one("Contact")
    assert not arrived.has("Diversion")
    assert arrived.uri == f"sip:phone@127.0.0.1:{phone.port}"
    record = await setup.ended(
        out.call_id, condition="none", destination="line", outcome="answered", code=200
    )
    assert user_of(f"sip:{record['caller']}@x") in ("+33140999999", caller)
    assert record["called"] == line
    assert not record["forwards"]


async def test_a_refused_call_has_its_reason(setup: Setup) -> None:
    line, phone = await setup.sipp_phone(
        script.refusing_phone(
            "488 Not Acceptable Here", headers=['Warning: 305 phone "no such codec"']
        )
    )
    seen = await setup.sipp_call(script.refused_call(line, numbers.caller_number(), 488))
    await phone.finish()
    assert "no such codec" in seen.answer(488).one("Warning")


async def test_a_cancelled_call_stops_the_phone(setup: Setup) -> None:
    line, phone = await setup.sipp_phone(script.cancelled_phone())
    seen = await setup.sipp_call(script.cancelled_call(line, numbers.caller_number(), after=180))
    await phone.finish()
    await setup.ended(seen.sent[0].call_id, condition="none", outcome="cancelled", code=487)


async def test_many_calls_at_once_do_not_mix(setup: Setup) -> None:
    async def one(index: int) -> None:
        body = script.OFFER + f"a=x-call:{index}\n"
        line, phone = await setup.sipp_phone(
            script.answering_phone(rings_s=0.1, body=script.ANSWER + f"a=x-call:{index}\n")
        )
        seen = await setup.sipp_call(script.answered_call(line, numbers.caller_number(), body=body))
        there = await phone.finish()
        assert f"a=x-call:{index}\r\n".encode() in there.invites()[0].body
        assert f"a=x-call:{index}\r\n".encode() in seen.answer(200).body

    await asyncio.gather(*(one(index) for index in range(12)))
