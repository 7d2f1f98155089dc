"""The headers of the new leg, and the responses to the caller of a forwarded call."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import (
    CAUSE,
    check_deposit,
    check_diversion,
    check_history,
    check_one_tag,
    connect,
    part,
    refuse,
)
from tests.scenarios.message import untagged, user_of
from tests.scenarios.setup import ANSWER_BYTES, Setup, to_number, to_voicemail

IDENTITY = "<sip:+33140777777@trusted.example>"


async def forward_outside(setup: Setup, **more: Any) -> tuple[str, str, Call, Call]:
    """A call forwarded to an outside number: line, target, the call and its new leg."""
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line, **more)
    away = await setup.server("number").incoming(target)
    return line, target, call, away


async def test_the_new_leg_names_the_forwarding_line_and_keeps_from_and_to(
    setup: Setup,
) -> None:
    headers = [("P-Asserted-Identity", IDENTITY), ("X-Unheard-Of", "kept"), ("X-Twice", "1")]
    headers.append(("X-Twice", "2"))
    line, target, call, away = await forward_outside(setup, headers=headers)
    invite, original = away.first, call.first
    check_diversion(invite, [(line, "unconditional")])
    check_history(invite, line, target, "unconditional")
    assert untagged(invite.one("From")) == untagged(original.one("From"))
    assert invite.one("To") == original.one("To")
    assert invite.one("P-Asserted-Identity") == IDENTITY
    assert invite.one("X-Unheard-Of") == "kept"
    assert invite.every("X-Twice") == ["1", "2"]
    assert invite.uri == f"sip:{target}@127.0.0.1:{setup.engine.ports['number']}"
    assert invite.call_id != original.call_id
    assert invite.from_tag not in ("", original.from_tag)
    assert invite.cseq[1] == "INVITE"
    assert len(invite.values("Via")) == 1
    await connect(call, away)
    await part(call, away)


async def test_diversion_never_carries_the_callers_number(setup: Setup) -> None:
    caller = numbers.caller_number()
    line, _, call, away = await forward_outside(setup, caller=caller)
    assert caller not in "".join(away.first.every("Diversion"))
    assert user_of(away.first.values("Diversion")[0]) == line
    await connect(call, away)
    await part(call, away)


async def test_received_diversions_stay_below_the_new_one(setup: Setup) -> None:
    before = "<sip:+33141990000@x.example>;reason=no-answer;counter=2"
    line, _, call, away = await forward_outside(setup, headers=[("Diversion", before)])
    values = away.first.values("Diversion")
    assert [user_of(value) for value in values] == [line, "+33141990000"]
    assert "reason=no-answer" in values[1]
    assert "counter=2" in values[1]
    await connect(call, away)
    await part(call, away)


async def test_received_history_is_continued(setup: Setup) -> None:
    history = "<sip:+33141990009@x>;index=1, <sip:+33141990008@x;cause=302>;index=1.1"
    _, target, call, away = await forward_outside(setup, headers=[("History-Info", history)])
    values = away.first.values("History-Info")
    assert [user_of(value) for value in values[:2]] == ["+33141990009", "+33141990008"]
    assert user_of(values[-1]) == target
    indexes = [value.rpartition("index=")[2].split(";")[0] for value in values]
    assert len(set(indexes)) == len(indexes)
    assert indexes[-1].startswith("1.1.1")
    await connect(call, away)
    await part(call, away)


@pytest.mark.parametrize("condition", ["unconditional", "busy", "unreachable"])
async def test_the_voicemail_gets_the_mailbox_and_the_cause(setup: Setup, condition: str) -> None:
    line = numbers.line_number()
    box = setup.line()
    phone = await setup.endpoint()
    to = [phone.uri()] if condition == "busy" else []
    setup.line(number=line, to=to, forwards={condition: to_voicemail(box)})
    call = await setup.call(line)
    if condition == "busy":
        await refuse(await phone.incoming(), 486)
    deposit = await setup.server("voicemail").incoming(box)
    check_deposit(deposit.first, box, condition)
    assert f"cause={CAUSE[condition]}" in deposit.first.uri
    check_history(deposit.first, line, box, condition)
    await connect(call, deposit)
    await part(call, deposit)


async def test_the_caller_of_its_own_voicemail_deposits_too(setup: Setup) -> None:
    """A caller must never get access to a mailbox, not even its owner."""
    line = numbers.line_number()
    setup.line(number=line, forwards={"unreachable": to_voicemail(line)})
    call = await setup.call(line, headers=[("P-Asserted-Identity", f"<sip:{line}@office>")])
    deposit = await setup.server("voicemail").incoming(line)
    check_deposit(deposit.first, line, "unreachable")
    await connect(call, deposit)
    await part(call, deposit)


async def test_a_withheld_number_shows_nowhere_on_the_way_to_a_phone(setup: Setup) -> None:
    secret = numbers.caller_number()
    headers = [
        ("Privacy", "id"),
        ("P-Asserted-Identity", f"<sip:{secret}@trusted.example>"),
        ("Remote-Party-ID", f"<sip:{secret}@trusted.example>;privacy=full"),
    ]
    anonymous = '"Anonymous" <sip:anonymous@anonymous.invalid>'
    line, phone = await setup.line_with_phone()
    call = await setup.call(
        line, from_=anonymous, headers=headers, caller="anonymous", asserted=False
    )
    ring = await phone.incoming()
    assert secret.encode() not in ring.first.raw
    assert untagged(ring.first.one("From")) == anonymous
    await connect(call, ring)
    await part(call, ring)


async def test_a_withheld_number_stays_out_of_what_a_forward_adds(setup: Setup) -> None:
    secret = numbers.caller_number()
    headers = [("Privacy", "id"), ("P-Asserted-Identity", f"<sip:{secret}@trusted.example>")]
    anonymous = '"Anonymous" <sip:anonymous@anonymous.invalid>'
    line, _, call, away = await forward_outside(
        setup, from_=anonymous, headers=headers, caller="anonymous", asserted=False
    )
    invite = away.first
    assert untagged(invite.one("From")) == anonymous
    assert invite.one("Privacy") == "id"
    for name, value in invite.headers:
        assert secret not in value or name == "p-asserted-identity", (name, value)
    check_diversion(invite, [(line, "unconditional")])
    await connect(call, away)
    await part(call, away)


async def test_the_caller_gets_181_then_ringing_with_one_to_tag(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    setup.change(line, forwards={"busy": to_voicemail(line)})
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    await refuse(ring, 486)
    deposit = await setup.server("voicemail").incoming(line)
    await call.receive(181)
    deposit.respond(180)
    await call.receive(180)
    deposit.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    call.ack(answer)
    await deposit.receive("ACK")
    assert call.codes() == [180, 181, 180, 200]
    check_one_tag(call.received)
    assert answer.body == ANSWER_BYTES
    await part(call, deposit)


async def test_early_media_of_the_target_reaches_the_caller(setup: Setup) -> None:
    _, _, call, away = await forward_outside(setup)
    away.respond(183, body=ANSWER_BYTES)
    early = await call.receive(183)
    assert early.body == ANSWER_BYTES
    await connect(call, away, ring=False)
    check_one_tag(call.received)
    await part(away, call)
