"""Who may take over a call (INVITE with Replaces), how often, and who pays; checked in Redis."""

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
from tests.scenarios.setup import Setup, to_number, to_voicemail
from tests.scenarios.test_transfer import calls, own, seen_by, talk
from tests.scenarios.test_transfer_payer import forwarded, paid, used

SETTINGS = {"limits": {"forwards_per_line": 2, "forwards_per_line_per_hour": 4}}
NOBODYS = ("Replaces", "a;to-tag=b;from-tag=c")
SATELLITE, PREMIUM, EMERGENCY = "+881623400000", "+33899123456", "112"


async def refused(setup: Setup, attempt: Call, *codes: int) -> None:
    """The call is refused with one of these codes, no line pays, and the log has the caller."""
    assert (await attempt.final()).code in codes
    record = await setup.ended(attempt.call_id, payer="", outcome="rejected")
    assert record["forwards"] == []
    if record["why"].startswith("takeover_"):
        event = await said(setup, record["id"])
        assert (event["caller"], event["called"]) == (record["caller"], record["called"])


async def said(setup: Setup, call: str) -> dict[str, Any]:
    """The log event of a refused takeover."""
    async with asyncio.timeout(within(5)):
        while True:
            for event in setup.engine.events():
                if event["event"] == "takeover.refused" and event["call"] == call:
                    return event
            await asyncio.sleep(0.05)


def rung(setup: Setup, user: str) -> int:
    """How many INVITEs for a user part the gateway got, without repeats."""
    invites = [m for m in setup.server("number").heard if m.method == "INVITE" and not m.code]
    return len({m.branch for m in invites if user in m.uri})


@pytest.mark.parametrize("user", [SATELLITE, PREMIUM, EMERGENCY])
@pytest.mark.parametrize("state", ["ringing", "answered", "updated"])
async def test_a_callers_own_contact_is_not_dialled(setup: Setup, user: str, state: str) -> None:
    """The caller names its own dialog, with its own tags, so that its Contact would be rung."""
    phone, caller = await setup.endpoint(), numbers.caller_number()
    line = setup.line(to=[phone.uri()])
    gateway = setup.server("number")
    thief = await setup.endpoint()
    port, host = thief.port, thief.host
    contact = f"sip:{user}@{gateway.host}:{gateway.port}"
    thief.uri = lambda user="ua": contact  # type: ignore[method-assign]
    call = thief.start(setup.engine.address, line, caller=caller, body=b"")
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
        attempt = await calls(setup, line, caller, ("Replaces", name))
        await refused(setup, attempt, 403, 481)
    assert rung(setup, user) == 0
    if state == "ringing":
        await connect(call, ring, ring=False)
    await part(call, ring)


async def test_who_called_from_outside_cannot_be_taken_over(setup: Setup) -> None:
    line, call, ring = await talk(setup)
    for called in (line, call.first.one("From").split("sip:")[1].split("@")[0]):
        attempt = await calls(setup, called, setup.line(), ("Replaces", seen_by(ring)))
        await refused(setup, attempt, 403)
    await part(call, ring)


async def test_a_forwarded_call_is_taken_over_once_and_that_ends_it(setup: Setup) -> None:
    caller = numbers.caller_number()
    line, mobile, call, away = await forwarded(setup, caller)
    first = await calls(setup, line, caller, ("Replaces", seen_by(call)))
    taken = await setup.server("number").incoming(mobile)
    taken.respond(180)
    await first.receive(180)
    again = await calls(setup, line, caller, ("Replaces", seen_by(call)))  # while it rings
    await refused(setup, again, 481)
    await connect(first, taken, ring=False)
    await call.receive("BYE")
    await away.receive("BYE")
    for name in (seen_by(call), own(away)):  # and when it is over
        late = await calls(setup, line, caller, ("Replaces", name))
        await refused(setup, late, 481)
    await asyncio.sleep(1.1)
    await part(first, taken)
    one = await setup.ended(call.call_id, payer=line, why="replaced")
    two = await setup.ended(first.call_id, payer=line, billing="out_of_plan", condition="none")
    assert used(setup, line) == {"out_of_plan": int(one["seconds"]) + int(two["seconds"])}
    assert rung(setup, mobile) == 2


async def test_takeovers_count_in_the_hour_of_the_payer(setup: Setup) -> None:
    """Each takeover names the one before it."""
    caller = numbers.caller_number()
    line, mobile, call, away = await forwarded(setup, caller)
    answered = 1
    for _ in range(6):
        attempt = await calls(setup, line, caller, ("Replaces", seen_by(call)))
        if answered < 4:
            taken = await setup.server("number").incoming(mobile)
            await connect(attempt, taken, ring=False)
            await call.receive("BYE")
            call, away, answered = attempt, taken, answered + 1
        else:
            assert (await attempt.final()).code == 480
            await setup.ended(attempt.call_id, why="forwards_per_line_per_hour", payer="")
    await part(call, away)
    assert rung(setup, mobile) == answered


async def test_takeovers_count_among_the_active_forwards_of_the_payer(setup: Setup) -> None:
    caller = numbers.caller_number()
    line, mobile, call, _ = await forwarded(setup, caller)
    other = await calls(setup, line, numbers.caller_number())
    await connect(other, there := await setup.server("number").incoming(mobile))
    attempt = await calls(setup, line, caller, ("Replaces", seen_by(call)))
    await refused(setup, attempt, 480)
    await part(other, there)
    attempt = await calls(setup, line, caller, ("Replaces", seen_by(call)))
    await connect(attempt, taken := await setup.server("number").incoming(mobile))
    await call.receive("BYE")
    await part(attempt, taken)
    assert not setup.redis.keys(f"forwards:{line}")


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
async def test_a_line_that_may_no_longer_pay_does_not(
    setup: Setup, change: dict[str, Any] | None, why: str
) -> None:
    setup.redis.set("fleet:stopped", json.dumps({"name": "stopped", "suspended": True}))
    setup.redis.set("fleet:used-up", json.dumps({"name": "used-up", "cap_seconds": 0}))
    for fleet in ("stopped", "used-up"):
        await setup.know_fleet(fleet)
    caller = numbers.caller_number()
    line, mobile, call, away = await forwarded(setup, caller)
    if change is None:
        setup.redis.delete(f"line:{line}")
    else:
        setup.change(line, **change)
    await setup.settle()
    attempt = await calls(setup, line, caller, ("Replaces", seen_by(call)))
    assert (await attempt.final()).code == (480 if why == "fleet_cap" else 403)
    record = await setup.ended(attempt.call_id, why=why, payer="")
    assert record["legs"] == []
    await part(call, away)
    assert rung(setup, mobile) == 1


async def test_the_rest_of_a_plan_is_read_again(setup: Setup) -> None:
    caller, offer = numbers.caller_number(), {"mobile": "hours", "mobile_hours": 0.0005}
    line, mobile, call, _ = await forwarded(setup, caller, offer=offer)
    await asyncio.sleep(2.2)  # the plan has 1.8 s
    attempt = await calls(setup, line, caller, ("Replaces", seen_by(call)))
    await connect(attempt, taken := await setup.server("number").incoming(mobile))
    await call.receive("BYE")
    await part(attempt, taken)
    await setup.ended(call.call_id, billing="deducted")
    record = await setup.ended(attempt.call_id, billing="out_of_plan")
    assert paid(record) == [(line, "none", "number", mobile, "out_of_plan")]


async def test_a_takeover_needs_a_right_to_the_call(setup: Setup) -> None:
    caller = numbers.caller_number()
    line, call, ring = await talk(setup, caller)
    stranger, foreign = numbers.caller_number(), setup.line(fleet="globex")
    before = setup.engine.metric("renvoi_rejected_total", reason="takeover")
    cases = [
        (line, stranger, 403),
        (line, foreign, 403),
        (setup.line(), caller, 403),  # a line, but not in that call
        (numbers.outside_number(), caller, 404),
        (foreign, foreign, 403),
    ]
    for called, who, code in cases:
        for name in (own(ring), seen_by(call)):
            attempt = await calls(setup, called, who, ("Replaces", name))
            await refused(setup, attempt, code)
    counted = setup.engine.metric("renvoi_rejected_total", reason="takeover") - before
    assert counted == 2 * len(cases)
    assert ring.endpoint.requests() == ["INVITE", "ACK"]
    assert any(c["call_id"] == call.call_id for c in setup.engine.calls())
    await part(call, ring)


async def test_a_colleague_of_the_fleet_takes_a_call_over(setup: Setup) -> None:
    line, call, ring = await talk(setup)
    taking = await calls(setup, line, setup.line(), ("Replaces", own(ring)))
    await connect(taking, taken := await ring.endpoint.incoming())
    await call.receive("BYE")
    await part(taking, taken)


async def test_two_dialogs_at_once_are_refused(setup: Setup) -> None:
    caller = numbers.caller_number()
    line, call, ring = await talk(setup, caller)
    name, other = own(ring), "a@b;to-tag=c;from-tag=d"
    twice = name + ";to-tag=x"
    for fields in (
        [("Replaces", name), ("Replaces", other)],
        [("Replaces", other), ("replaces", name)],
        [("Replaces", twice)],
        [("Replaces", name), ("Join", name)],
        [("REPLACES", name), ("Replaces ", name)],
    ):
        attempt = await calls(setup, line, caller, *fields)
        await refused(setup, attempt, 400)
    await part(call, ring)


@pytest.mark.parametrize("spelling", [str.upper, str.title, lambda text: text.replace(";", " ; ")])
async def test_tags_may_be_written_in_any_way(setup: Setup, spelling: Any) -> None:
    """No notation may bypass the rules."""
    line, call, ring = await talk(setup)
    call_id, _, rest = own(ring).partition(";")
    for tag in ("to-tag", "from-tag"):
        rest = rest.replace(tag, spelling(tag))
    rest = rest.replace(";", " ; ") if spelling(";") != ";" else rest
    attempt = await calls(setup, line, numbers.caller_number(), ("Replaces", f"{call_id};{rest}"))
    await refused(setup, attempt, 403)
    await part(call, ring)


async def test_a_dialog_that_nobody_knows_is_no_reason_to_forward(setup: Setup) -> None:
    mobile = numbers.mobile_number()
    everything = {"unconditional": to_number(mobile)}
    line = setup.line(forwards=everything)
    attempt = await calls(setup, line, numbers.caller_number(), NOBODYS)
    await refused(setup, attempt, 481)
    phone = await setup.endpoint()
    line = setup.line(to=[phone.uri()], forwards={"unreachable": to_voicemail("+33972100000")})
    attempt = await calls(setup, line, numbers.caller_number(), NOBODYS)
    ring = await phone.incoming()
    ring.respond(481)
    await ring.receive("ACK")
    await refused(setup, attempt, 481)
    assert rung(setup, mobile) == 0


async def test_a_party_referred_by_a_side_of_the_call_may_take_it_over(setup: Setup) -> None:
    """Once, within a minute: the REFER passed through this engine."""
    a, b = numbers.caller_number(), numbers.caller_number()
    a_line, b_to_a, a_side = await talk(setup, b)
    c_line, a_to_c, c_side = await talk(setup, a_line)
    refer_to = f"<sip:{c_line}@h?Replaces={quote(seen_by(a_to_c), safe='')}>"
    a_side.request("REFER", headers=[("Refer-To", refer_to)])
    b_to_a.respond(202, to=await b_to_a.receive("REFER"))
    await a_side.receive(202, "REFER")
    stranger = await calls(setup, c_line, a, ("Replaces", own(c_side)))
    await refused(setup, stranger, 403)
    b_to_c = await calls(setup, c_line, b, ("Replaces", own(c_side)))
    await connect(b_to_c, taken := await c_side.endpoint.incoming())
    await a_to_c.receive("BYE")
    await part(b_to_a, a_side)
    late = await calls(setup, c_line, b, ("Replaces", own(c_side)))
    ring = await c_side.endpoint.incoming()  # an unknown dialog is left to the phone
    ring.respond(481)
    await refused(setup, late, 481)
    await part(b_to_c, taken)


async def test_a_caller_who_withholds_the_number_is_taken_over_without_showing_it(
    setup: Setup,
) -> None:
    """Nor if that call is taken over again."""
    caller, phone = await setup.line_with_phone()
    line, desk = await setup.line_with_phone()
    call = await calls(setup, line, caller, ("Privacy", "id"))
    await connect(call, ring := await desk.incoming())
    for _ in range(2):
        taking = await calls(setup, line, setup.line(), ("Replaces", seen_by(ring)))
        await connect(taking, taken := await phone.incoming())
        await ring.receive("BYE")
        (shown,) = [each for each in setup.engine.calls() if each["call_id"] == taking.call_id]
        assert shown["destination"] == "line"
        assert caller[1:] not in json.dumps(shown)
        ring = taking
    await part(taking, taken)
    record = await setup.ended(taking.call_id, target="", destination="line", outcome="answered")
    assert caller[1:] not in json.dumps(record)
    (leg,) = record["legs"]
    assert leg["number"] == leg["uri"] == ""
