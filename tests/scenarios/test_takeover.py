"""Who may take over a call (INVITE with Replaces), how often, and who pays; read from Redis."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.stage import Stage, to_number, to_voicemail
from tests.scenarios.test_transfer import calls, own, seen_by, talk
from tests.scenarios.test_transfer_payer import forwarded, paid, used

SETTINGS = {"limits": {"forwards_per_line": 2, "forwards_per_line_per_hour": 4}}
NOBODYS = ("Replaces", "a;to-tag=b;from-tag=c")
SATELLITE, PREMIUM, EMERGENCY = "+881623400000", "+33899123456", "112"


async def refused(stage: Stage, attempt: Call, *codes: int) -> None:
    """The call is refused with one of these codes, nobody pays, and the log says whose it was."""
    assert (await attempt.final()).code in codes
    record = await stage.ended(attempt.call_id, payer="", outcome="rejected")
    assert record["forwards"] == []
    if record["why"].startswith("takeover_"):
        told = await said(stage, record["id"])
        assert (told["caller"], told["called"]) == (record["caller"], record["called"])


async def said(stage: Stage, call: str) -> dict[str, Any]:
    """What the log says of a takeover that was refused."""
    async with asyncio.timeout(within(5)):
        while True:
            for event in stage.engine.events():
                if event["event"] == "takeover.refused" and event["call"] == call:
                    return event
            await asyncio.sleep(0.05)


def rung(stage: Stage, user: str) -> int:
    """How many INVITEs for a user part came to the gateway, repetitions left out."""
    invites = [m for m in stage.server("number").heard if m.method == "INVITE" and not m.code]
    return len({m.branch for m in invites if user in m.uri})


@pytest.mark.parametrize("user", [SATELLITE, PREMIUM, EMERGENCY])
@pytest.mark.parametrize("state", ["ringing", "answered", "updated"])
async def test_nobody_s_own_contact_is_a_way_out(stage: Stage, user: str, state: str) -> None:
    """The caller names its own dialog as it knows it itself, so that its Contact would be rung."""
    phone, caller = await stage.endpoint(), numbers.caller_number()
    line = stage.line(to=[phone.uri()])
    gateway = stage.server("number")
    thief = await stage.endpoint()
    port, host = thief.port, thief.host
    contact = f"sip:{user}@{gateway.host}:{gateway.port}"
    thief.uri = lambda user="ua": contact  # type: ignore[method-assign]
    call = thief.start(stage.engine.address, line, caller=caller, body=b"")
    thief.host, thief.port = host, port
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    if state != "ringing":
        await connect(call, ring, ring=False)
    if state == "updated":
        call.request("UPDATE")
        ring.respond(200, to=await ring.receive("UPDATE"))
        await call.receive(200, "UPDATE")
    for name in (own(call), seen_by(ring) if state != "ringing" else own(call)):
        attempt = await calls(stage, line, caller, ("Replaces", name))
        await refused(stage, attempt, 403, 481)
    assert rung(stage, user) == 0
    if state == "ringing":
        await connect(call, ring, ring=False)
    await part(call, ring)


async def test_who_called_from_outside_cannot_be_taken_over(stage: Stage) -> None:
    line, call, ring = await talk(stage)
    for called in (line, call.first.one("From").split("sip:")[1].split("@")[0]):
        attempt = await calls(stage, called, stage.line(), ("Replaces", seen_by(ring)))
        await refused(stage, attempt, 403)
    await part(call, ring)


async def test_a_forwarded_call_is_taken_over_once_and_that_ends_it(stage: Stage) -> None:
    caller = numbers.caller_number()
    line, mobile, call, away = await forwarded(stage, caller)
    first = await calls(stage, line, caller, ("Replaces", seen_by(call)))
    taken = await stage.server("number").incoming(mobile)
    taken.respond(180)
    await first.receive(180)
    again = await calls(stage, line, caller, ("Replaces", seen_by(call)))  # while it rings
    await refused(stage, again, 481)
    await connect(first, taken, ring=False)
    await call.receive("BYE")
    await away.receive("BYE")
    for name in (seen_by(call), own(away)):  # and when it is over
        late = await calls(stage, line, caller, ("Replaces", name))
        await refused(stage, late, 481)
    await asyncio.sleep(1.1)
    await part(first, taken)
    one = await stage.ended(call.call_id, payer=line, why="replaced")
    two = await stage.ended(first.call_id, payer=line, billing="out_of_plan", condition="none")
    assert used(stage, line) == {"out_of_plan": int(one["seconds"]) + int(two["seconds"])}
    assert rung(stage, mobile) == 2


async def test_takeovers_count_in_the_hour_of_who_pays(stage: Stage) -> None:
    """Each copy names the one before it."""
    caller = numbers.caller_number()
    line, mobile, call, away = await forwarded(stage, caller)
    answered = 1
    for _ in range(6):
        attempt = await calls(stage, line, caller, ("Replaces", seen_by(call)))
        if answered < 4:
            taken = await stage.server("number").incoming(mobile)
            await connect(attempt, taken, ring=False)
            await call.receive("BYE")
            call, away, answered = attempt, taken, answered + 1
        else:
            assert (await attempt.final()).code == 480
            await stage.ended(attempt.call_id, why="forwards_per_line_per_hour", payer="")
    await part(call, away)
    assert rung(stage, mobile) == answered


async def test_takeovers_count_among_the_standing_forwards_of_who_pays(stage: Stage) -> None:
    caller = numbers.caller_number()
    line, mobile, call, _ = await forwarded(stage, caller)
    other = await calls(stage, line, numbers.caller_number())
    await connect(other, there := await stage.server("number").incoming(mobile))
    attempt = await calls(stage, line, caller, ("Replaces", seen_by(call)))
    await refused(stage, attempt, 480)
    await part(other, there)
    attempt = await calls(stage, line, caller, ("Replaces", seen_by(call)))
    await connect(attempt, taken := await stage.server("number").incoming(mobile))
    await call.receive("BYE")
    await part(attempt, taken)
    assert not stage.redis.keys(f"forwards:{line}")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"suspended": True}, "suspended"),
        ({"forwards": {}}, "forward_off"),
        ({"fleet": "stopped"}, "fleet_suspended"),
        ({"fleet": "used-up"}, "fleet_cap"),
        (None, "payer_unknown"),
    ],
)
async def test_who_may_not_pay_any_more_does_not(
    stage: Stage, change: dict[str, Any] | None, why: str
) -> None:
    stage.redis.set("fleet:stopped", json.dumps({"name": "stopped", "suspended": True}))
    stage.redis.set("fleet:used-up", json.dumps({"name": "used-up", "cap_seconds": 0}))
    caller = numbers.caller_number()
    line, mobile, call, away = await forwarded(stage, caller)
    if change is None:
        stage.redis.delete(f"line:{line}")
    else:
        stage.change(line, **change)
    await stage.settle()
    attempt = await calls(stage, line, caller, ("Replaces", seen_by(call)))
    assert (await attempt.final()).code == (480 if why == "fleet_cap" else 403)
    record = await stage.ended(attempt.call_id, why=why, payer="")
    assert record["legs"] == []
    await part(call, away)
    assert rung(stage, mobile) == 1


async def test_what_a_plan_has_left_is_asked_anew(stage: Stage) -> None:
    caller, offer = numbers.caller_number(), {"mobile": "hours", "mobile_hours": 0.0005}
    line, mobile, call, _ = await forwarded(stage, caller, offer=offer)
    await asyncio.sleep(2.2)  # the plan has 1.8 s
    attempt = await calls(stage, line, caller, ("Replaces", seen_by(call)))
    await connect(attempt, taken := await stage.server("number").incoming(mobile))
    await call.receive("BYE")
    await part(attempt, taken)
    await stage.ended(call.call_id, billing="deducted")
    record = await stage.ended(attempt.call_id, billing="out_of_plan")
    assert paid(record) == [(line, "none", "number", mobile, "out_of_plan")]


async def test_a_takeover_needs_a_right_to_the_call(stage: Stage) -> None:
    caller = numbers.caller_number()
    line, call, ring = await talk(stage, caller)
    stranger, foreign = numbers.caller_number(), stage.line(fleet="globex")
    before = stage.engine.metric("renvoi_rejected_total", reason="takeover")
    cases = [
        (line, stranger, 403),
        (line, foreign, 403),
        (stage.line(), caller, 403),  # a line, but none of that call
        (numbers.outside_number(), caller, 404),
        (foreign, foreign, 403),
    ]
    for called, who, code in cases:
        for name in (own(ring), seen_by(call)):
            attempt = await calls(stage, called, who, ("Replaces", name))
            await refused(stage, attempt, code)
    counted = stage.engine.metric("renvoi_rejected_total", reason="takeover") - before
    assert counted == 2 * len(cases)
    assert [m.method for m in ring.endpoint.heard if not m.code] == ["INVITE", "ACK"]
    assert any(c["call_id"] == call.call_id for c in stage.engine.calls())
    await part(call, ring)


async def test_a_colleague_of_the_fleet_takes_a_call_over(stage: Stage) -> None:
    line, call, ring = await talk(stage)
    taking = await calls(stage, line, stage.line(), ("Replaces", own(ring)))
    await connect(taking, taken := await ring.endpoint.incoming())
    await call.receive("BYE")
    await part(taking, taken)


async def test_two_dialogs_at_once_are_refused(stage: Stage) -> None:
    caller = numbers.caller_number()
    line, call, ring = await talk(stage, caller)
    name, other = own(ring), "a@b;to-tag=c;from-tag=d"
    twice = name + ";to-tag=x"
    for fields in (
        [("Replaces", name), ("Replaces", other)],
        [("Replaces", other), ("replaces", name)],
        [("Replaces", twice)],
        [("Replaces", name), ("Join", name)],
        [("REPLACES", name), ("Replaces ", name)],
    ):
        attempt = await calls(stage, line, caller, *fields)
        await refused(stage, attempt, 400)
    await part(call, ring)


@pytest.mark.parametrize("spelling", [str.upper, str.title, lambda text: text.replace(";", " ; ")])
async def test_tags_may_be_written_in_any_way(stage: Stage, spelling: Any) -> None:
    """A thief's spelling must not lead past the rules either."""
    line, call, ring = await talk(stage)
    call_id, _, rest = own(ring).partition(";")
    for tag in ("to-tag", "from-tag"):
        rest = rest.replace(tag, spelling(tag))
    rest = rest.replace(";", " ; ") if spelling(";") != ";" else rest
    attempt = await calls(stage, line, numbers.caller_number(), ("Replaces", f"{call_id};{rest}"))
    await refused(stage, attempt, 403)
    await part(call, ring)


async def test_a_dialog_that_nobody_knows_is_no_reason_to_forward(stage: Stage) -> None:
    mobile = numbers.mobile_number()
    everything = {"unconditional": to_number(mobile)}
    line = stage.line(forwards=everything)
    attempt = await calls(stage, line, numbers.caller_number(), NOBODYS)
    await refused(stage, attempt, 481)
    phone = await stage.endpoint()
    line = stage.line(to=[phone.uri()], forwards={"unreachable": to_voicemail("+33972100000")})
    attempt = await calls(stage, line, numbers.caller_number(), NOBODYS)
    ring = await phone.incoming()
    ring.respond(481)
    await ring.receive("ACK")
    await refused(stage, attempt, 481)
    assert rung(stage, mobile) == 0


async def test_who_was_sent_by_a_side_of_the_call_may_take_it_over(stage: Stage) -> None:
    """Once, within a minute: the REFER passes here."""
    a, b = numbers.caller_number(), numbers.caller_number()
    a_line, b_to_a, a_side = await talk(stage, b)
    c_line, a_to_c, c_side = await talk(stage, a_line)
    refer_to = f"<sip:{c_line}@h?Replaces={quote(seen_by(a_to_c), safe='')}>"
    a_side.request("REFER", headers=[("Refer-To", refer_to)])
    b_to_a.respond(202, to=await b_to_a.receive("REFER"))
    await a_side.receive(202, "REFER")
    stranger = await calls(stage, c_line, a, ("Replaces", own(c_side)))
    await refused(stage, stranger, 403)
    b_to_c = await calls(stage, c_line, b, ("Replaces", own(c_side)))
    await connect(b_to_c, taken := await c_side.endpoint.incoming())
    await a_to_c.receive("BYE")
    await part(b_to_a, a_side)
    late = await calls(stage, c_line, b, ("Replaces", own(c_side)))
    ring = await c_side.endpoint.incoming()  # a dialog of nobody's is for the phone to know
    ring.respond(481)
    await refused(stage, late, 481)
    await part(b_to_c, taken)
