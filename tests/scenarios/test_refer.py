"""Allowed targets of a REFER, and the limits on many of them; also checked in Redis."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import OFFER_BYTES, Setup, identity
from tests.scenarios.test_transfer import own, talk
from tests.scenarios.test_transfer_payer import UNLIMITED, forwarded, paid, used

SETTINGS = {
    "numbering": {"forward_countries": ["FR", "BE"]},
    "limits": {"forwards_per_line": 3},
}


async def sends(referrer: Call, referee: Call, *fields: tuple[str, str], code: int = 202) -> str:
    """One REFER, answered with `code` by the other side; returns the Refer-To that arrives
    there."""
    referrer.request("REFER", headers=fields)
    request = await referee.receive("REFER")
    referee.respond(code, to=request)
    await referrer.receive(code, "REFER")
    values: list[str] = request.every("Refer-To") + request.every("r")
    assert len(values) == 1, values
    return values[0]


async def is_refused(setup: Setup, referrer: Call, code: int, *fields: tuple[str, str]) -> None:
    before = setup.engine.metric("renvoi_rejected_total", reason="refer")
    referrer.request("REFER", headers=fields)
    assert (await referrer.final("REFER")).code == code, fields
    if code != 400:  # an invalid header is refused earlier
        assert setup.engine.metric("renvoi_rejected_total", reason="refer") == before + 1


REFUSED = [
    "<sip:+33899123456@h>",  # premium
    "<sip:0899123456@h>",
    "sip:00338%399123456@h",
    "<sip:+33 8 99 12 34 56@h>".replace(" ", "%20"),
    "<sip:+33899123456;phone-context=x:secret@h>",
    "<sip:+33899123456%2C%2C1234@h>",  # and further digits
    "<sips:+33899123456@h;user=phone>",
    "<tel:+33-899-12-34-56>",
    "<TEL:899123456;phone-context=+33>",
    "<sip:+881623400000@h>",  # satellite
    "<sip:+14155550100@h>",  # a country that forwards may not use
    "<sip:112@h>",
    "<sip:3631@h>",
    "<sip:*21*0612345678%23@h>",  # star codes
    "<sip:%2a21%2A0612345678@h>",
    "<sip:*21*0612345678:pw@h>",
    "<sip:%20*21*0612345678@h>",
    "<sip:*21*0612345678%20;x=y@h>",
    "<sip:%252a21%252a0612345678@h>",
    "<sip:+*21*0612345678@h>",
    "<tel:*21*0612345678>",
    "<sip:**61*0612345678*11*20%23@h;user=phone>",
]
NOT_ONE = [
    [("Refer-To", "<sip:a@h>"), ("Refer-To", "<sip:b@h>")],
    [("Refer-To", "<sip:a@h>"), ("r", "<sip:b@h>")],
    [("Refer-To", "<sip:a@h>, <sip:*21*0612345678%23@h>")],
    [("Refer-To", "<sip:a@h> <sip:b@h>")],
    [("Refer-To", '"<sip:a@h>')],
    [("Refer-To", "<sip:a?b=c@h?Subject=x>")],
    [("Refer-To", "<sip:a@b@c>")],
    [("Refer-To", "")],
    [],
]


async def test_a_phone_cannot_transfer_where_its_line_could_not_forward(setup: Setup) -> None:
    _, call, ring = await talk(setup)
    for target in REFUSED:
        await is_refused(setup, ring, 403, ("Refer-To", target))
        await is_refused(setup, call, 403, ("r", target))
    for server in setup.engine.ports.values():
        for place in (f"127.0.0.1:{server}", f"h:{server};maddr=127.0.0.1", f"LOCALHOST:{server}"):
            for uri in (f"sip:{place}", f"sip:anybody@{place}", f"sip:+33140000099@{place}"):
                await is_refused(setup, ring, 403, ("Refer-To", f"<{uri}>"))
    for scheme in ("cid:list@h", "mailto:a@h", "urn:service:sos", "http://h/"):
        await is_refused(setup, ring, 416, ("Refer-To", f"<{scheme}>"))
    for fields in NOT_ONE:
        await is_refused(setup, ring, 400, *fields)
    assert not [m for m in call.received if m.method == "REFER" and not m.code]
    for target in ("+33140000099@h", "+3222345678@h", "alice@h", "*%2321%23@h", "*68%23@h"):
        assert await sends(ring, call, ("Refer-To", f"<sip:{target}>")) == f"<sip:{target}>"
    await part(call, ring)


async def test_a_refer_to_asks_for_nothing_but_a_takeover(setup: Setup) -> None:
    _, call, ring = await talk(setup)
    unknown = quote("x@y;to-tag=a;from-tag=b", safe="")
    target = "sip:+33140000099@h"
    for asked, kept in (
        ("Diversion=%3Csip%3Aboss%40h%3E", ""),
        ("P-Asserted-Identity=%3Csip%3Aboss%40h%3E&Priority=urgent", ""),
        (f"Replaces={unknown}&P-Asserted-Identity=%3Csip%3Ax%40h%3E", f"Replaces={unknown}"),
        (f"%44iversion=x&replaces={unknown}&From=%3Csip%3Ax%3E", f"replaces={unknown}"),
        ("Subject=hello&Require=replaces&body=v%3D0", "Subject=hello&Require=replaces"),
        ("Refer-To=%3Csip%3A0899123456%40h%3E", ""),
        ("Route=%3Csip%3Agateway%3Blr%3E", ""),
        ("Authorization=Digest", ""),
    ):
        got = await sends(ring, call, ("Refer-To", f'"C" <{target}?{asked}>;x=y'))
        assert got == f'"C" <{target}{"?" if kept else ""}{kept}>;x=y'
        bare = await sends(ring, call, ("Refer-To", f"<{target};p=q?{asked}>"))
        assert bare == f"<{target};p=q{'?' if kept else ''}{kept}>"
    await part(call, ring)


async def test_the_newer_refer_replaces_the_older(setup: Setup) -> None:
    """Twelve REFERs to twelve lines: calls by the older ones have no payer."""
    line, mobile, call, away = await forwarded(setup)
    targets = [await setup.line_with_phone() for _ in range(4)]
    for target, _ in targets:
        await sends(call, away, ("Refer-To", f"<sip:{target}@h>"))
    onward: list[tuple[Call, Call]] = []
    for target, phone in targets:
        begun = away.endpoint.start(
            setup.engine.address, target, caller=mobile, headers=[identity(mobile)],
            body=OFFER_BYTES,
        )  # fmt: skip
        await connect(begun, ring := await phone.incoming())
        onward.append((begun, ring))
    payers = [c["payer"] for c in setup.engine.calls() if c["caller"] == mobile]
    assert payers == ["", "", "", line]
    await asyncio.sleep(1.1)
    for begun, ring in onward:
        await part(begun, ring)
    await part(call, away)
    first, last = await setup.record(call.call_id), await setup.record(onward[-1][0].call_id)
    assert paid(last) == [(line, "none", "number", mobile, "out_of_plan")]
    assert used(setup, line) == {"out_of_plan": int(first["seconds"]) + int(last["seconds"])}
    assert not setup.redis.keys(f"transfer:{mobile}:*")


async def test_transfers_count_as_forwards_of_the_payer(setup: Setup) -> None:
    line, mobile, call, away = await forwarded(setup)
    onward: list[tuple[Call, Call]] = []
    for count in range(4):
        target, phone = await setup.line_with_phone()
        await sends(call, away, ("Refer-To", f"<sip:{target}@h>"))
        begun = away.endpoint.start(
            setup.engine.address, target, caller=mobile, headers=[identity(mobile)],
            body=OFFER_BYTES,
        )  # fmt: skip
        if count < 2:  # three with the first call itself
            await connect(begun, ring := await phone.incoming())
            onward.append((begun, ring))
        else:
            assert (await begun.final()).code == 480
            await setup.ended(begun.call_id, payer="", why="forwards_per_line")
    standing = [c for c in setup.engine.calls() if c["payer"] == line]
    assert len(standing) == 3
    for begun, ring in onward:
        await part(begun, ring)
    await part(call, away)


@pytest.mark.parametrize("stopped", ["line", "fleet"])
async def test_a_suspended_line_cannot_transfer(setup: Setup, stopped: str) -> None:
    """Neither by a new REFER nor by an earlier one."""
    setup.redis.set("fleet:stopped", json.dumps({"name": "stopped", "suspended": True}))
    await setup.know_fleet("stopped")
    line, phone = await setup.line_with_phone()
    target, other = await setup.line_with_phone()
    caller = numbers.caller_number()
    call = await setup.call(line, caller=caller)
    await connect(call, ring := await phone.incoming())
    await sends(ring, call, ("Refer-To", f"<sip:{target}@h>"))
    setup.change(line, **({"suspended": True} if stopped == "line" else {"fleet": "stopped"}))
    await setup.settle()
    onward = await setup.call(target, caller=caller)
    assert (await onward.final()).code == 403
    await setup.ended(onward.call_id, payer="")
    assert "INVITE" not in other.requests()
    await is_refused(setup, ring, 403, ("Refer-To", f"<sip:{target}@h>"))
    setup.redis.delete(f"reg:{line}")  # as it expires: what memory has is not current then
    await setup.settle()
    await is_refused(setup, ring, 403, ("Refer-To", f"<sip:{target}@h>"))
    await part(call, ring)


async def test_a_caller_of_a_suspended_fleet_that_nobody_has_called_sends_nobody_on(
    setup: Setup,
) -> None:
    setup.redis.set("fleet:quiet", json.dumps({"name": "quiet", "suspended": True}))
    caller = setup.line(fleet="quiet")
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, caller=caller)
    await connect(call, ring := await phone.incoming())
    await setup.settle(fleets=True)
    await is_refused(setup, call, 403, ("Refer-To", "<sip:+33140000099@h>"))
    await part(call, ring)


async def test_a_call_that_is_ended_for_a_cap_has_its_reason(setup: Setup) -> None:
    """Also the phone of a line of another fleet, if the transferred side pays for its call."""
    setup.redis.set("fleet:poor", json.dumps({"name": "poor", "cap_seconds": 8}))
    _, mobile, call, away = await forwarded(setup, fleet="poor", offer=UNLIMITED)
    target, phone = await setup.line_with_phone(fleet="rich")
    await sends(call, away, ("Refer-To", f"<sip:{target}@h>"))
    onward = away.endpoint.start(
        setup.engine.address, target, caller=mobile, headers=[identity(mobile)], body=OFFER_BYTES
    )
    await connect(onward, ring := await phone.incoming())
    await part(call, away)
    for side in (ring, onward):
        assert "cause=402" in (await side.receive("BYE", wait_s=10)).one("Reason")
    await setup.ended(onward.call_id, why="fleet_cap")


async def test_a_takeover_of_the_payer_s_far_end_keeps_its_own_name(setup: Setup) -> None:
    """A REFER with a Replaces of another call of the same side is translated."""
    caller = numbers.caller_number()
    _, _, call, away = await forwarded(setup, caller)
    z, _, asked, there = await forwarded(setup, caller)
    tag = asked.remote.rpartition("tag=")[2]
    name = f"{asked.call_id};to-tag={tag};from-tag={asked.tag}"
    got = await sends(
        call, away, ("Refer-To", f"<sip:{z}@h?Priority=x&Replaces={quote(name, safe='')}>")
    )
    assert got == f"<sip:{z}@h?Replaces={quote(own(there), safe='')}>"
    await part(asked, there)
    await part(call, away)
