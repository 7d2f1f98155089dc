"""Targets abroad: their class, caps, countries, and refused targets."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine
from tests.scenarios.setup import OFFER_BYTES, Setup, identity, to_number
from tests.scenarios.test_transfer import own

COUNTRIES = ["FR", "GB", "DE", "RE", "BE", "001"]
SETTINGS = {"numbering": {"forward_countries": COUNTRIES}}
BRITISH, BRITISH_MOBILE, REUNION = "+442079460123", "+447400123456", "+262262123456"
SWISS, BELGIAN_LINE, BELGIAN_MOBILE = "+41446681800", "+3227901234", "+32460123456"


def fleet(setup: Setup, name: str, **fields: Any) -> None:
    setup.redis.set(f"fleet:{name}", json.dumps({"name": name, **fields}))


def used(setup: Setup, owner: str) -> dict[str, int]:
    """The seconds used by a line or a fleet, which have only one month."""
    (key,) = setup.redis.keys(f"usage:{owner}:*")
    seconds: Any = setup.redis.hgetall(key)
    return {billing: int(value) for billing, value in seconds.items()}


async def through(setup: Setup, line: str, target: str) -> tuple[Call, Call]:
    """A call to the line, which the target answers."""
    call = await setup.call(line)
    away = await setup.server("number").incoming(target)
    await connect(call, away)
    return call, away


async def stays(setup: Setup, line: str) -> dict[str, Any]:
    """The record of a call to a line without phones, whose forward counts as off."""
    call = await setup.call(line)
    assert (await call.final()).code == 480
    return await setup.ended(call.call_id, condition="none", outcome="unreachable", billing="")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(within(10)):
        while not condition():
            await asyncio.sleep(0.02)


async def test_what_is_abroad_has_a_class_of_its_own(setup: Setup) -> None:
    """In the record, in the usage of line and fleet, and in the metric."""
    cases = [
        ("", BRITISH, "international"),
        ("", BRITISH_MOBILE, "international"),  # no plan includes it
        ("", REUNION, "international"),
        ("", "+8816123456789", "satellite"),
        ("", "+870773111632", "satellite"),
        ("", "+8821612345678", "satellite"),
        ("", "+447012345678", "personal"),
        ("", "+80012345678", "international_network"),
        ("", numbers.mobile_number(), "deducted"),
        ("", numbers.outside_number(), "standard"),
        # Abroad is relative to the line's own number.
        (BELGIAN_LINE, BELGIAN_MOBILE, "deducted"),
        ("+3227901235", numbers.mobile_number(), "international"),
    ]
    calls = []
    for number, target, billing in cases:
        offer = {"mobile": "hours", "mobile_hours": 2}
        forwards = {"unconditional": to_number(target)}
        line = setup.line(number=number, fleet="travel", offer=offer, forwards=forwards)
        calls.append((line, billing, await through(setup, line, target)))
    await asyncio.sleep(1.0)  # billed seconds
    sums: dict[str, int] = {}
    for line, billing, (call, away) in calls:
        await part(call, away)
        record = await setup.ended(call.call_id, billing=billing, payer=line)
        assert record["forwards"][0]["billing"] == billing
        seconds = int(record["seconds"])
        assert seconds >= 1
        assert used(setup, line) == {billing: seconds}
        assert record["out_of_plan_s"] == "0"
        sums[billing] = sums.get(billing, 0) + seconds
    assert used(setup, "fleet:travel") == sums
    for billing, seconds in sums.items():
        assert setup.engine.metric("renvoi_billed_seconds_total", billing=billing) == seconds


@pytest.mark.parametrize(
    ("target", "billing"), [(BRITISH, "international"), ("+8816123456789", "satellite")]
)
async def test_a_cap_ends_calls_abroad_and_stops_the_next(
    setup: Setup, target: str, billing: str
) -> None:
    name = f"thrifty-{billing}"
    fleet(setup, name, cap_seconds=3)
    forwards = {"unconditional": to_number(target)}
    offer = {"mobile": "unlimited"}
    line = setup.line(fleet=name, offer=offer, forwards=forwards)
    call, away = await through(setup, line, target)
    bye = await away.receive("BYE", wait_s=10)
    assert "SIP;cause=402" in bye.one("Reason")
    await call.receive("BYE", wait_s=10)
    await setup.ended(call.call_id, outcome="answered", why="fleet_cap", billing=billing)
    await until(lambda: used(setup, f"fleet:{name}").get(billing, 0) >= 3)
    await setup.settle(fleets=True)
    before = setup.engine.metric("renvoi_forwards_prevented_total", reason="fleet_cap")
    await stays(setup, line)
    after = setup.engine.metric("renvoi_forwards_prevented_total", reason="fleet_cap")
    assert after == before + 1


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("+4990012345670", "premium"),  # one digit too many
        ("+33899123456", "premium"),
        ("+979123456789", "premium"),
        ("+491805123456", "shared_cost"),
        ("+33811123456", "shared_cost"),
        ("+4911833", "short"),
        ("+33118218", "short"),
        ("+33112", "emergency"),
        ("+33700000001", "invalid"),
        ("+19762345678", "invalid"),
        (SWISS, "country"),
        ("+12845412345", "country"),
    ],
)
async def test_a_stored_target_that_is_refused_counts_as_off(
    setup: Setup, target: str, reason: str
) -> None:
    """Written by any program: the forward does not happen, and metrics show the reason."""
    names = ("renvoi_forwards_prevented_total", "renvoi_targets_refused_total")
    before = [setup.engine.metric(name, reason=reason) for name in names]
    line = setup.line(forwards={"unconditional": to_number(target)})
    record = await stays(setup, line)
    assert record["prevented"] == [{"line": line, "condition": "unconditional", "reason": reason}]
    after = [setup.engine.metric(name, reason=reason) for name in names]
    assert after[0] == before[0] + 1
    assert after[1] == before[1] + 1


async def test_a_fleets_list_narrows_and_never_widens(setup: Setup) -> None:
    """In force within a second of its write, and not applied to lines of the fleet."""
    fleet(setup, "home", forward_countries=["FR", "CH"])
    await setup.know_fleet("home")
    abroad, phone = await setup.line_with_phone(number=BRITISH, fleet="home")
    mobile = numbers.mobile_number()
    british, swiss, french, inside = (
        setup.line(fleet="home", forwards={"unconditional": to_number(target)})
        for target in (BRITISH_MOBILE, SWISS, mobile, abroad)
    )
    await stays(setup, british)
    await stays(setup, swiss)
    count = setup.engine.metric
    assert count("renvoi_forwards_prevented_total", reason="fleet_countries") == 1
    await part(*await through(setup, french, mobile))
    call = await setup.call(inside)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    await setup.ended(call.call_id, billing="free")

    fleet(setup, "home", forward_countries=["FR", "GB"])
    await setup.settle(fleets=True)
    await part(*await through(setup, british, BRITISH_MOBILE))
    setup.redis.delete("fleet:home")
    await setup.settle(fleets=True)
    await stays(setup, swiss)  # the engine's own list still applies


async def test_a_transfer_to_a_line_abroad_is_international(setup: Setup) -> None:
    """A line that transfers a call to another fleet's line pays for it as for a forward there."""
    line, phone = await setup.line_with_phone()
    target, other = await setup.line_with_phone(number="+442079460124", fleet="globex")
    caller = numbers.caller_number()
    call = await setup.call(line, caller=caller)
    await connect(call, ring := await phone.incoming())
    ring.request("REFER", headers=[("Refer-To", f"<sip:{target}@office.example>")])
    call.respond(202, to=await call.receive("REFER"))
    await ring.receive(202, "REFER")
    party = await setup.endpoint()
    onward = party.start(
        setup.engine.address, target, caller=caller, headers=[identity(caller)], body=OFFER_BYTES
    )
    await connect(onward, answered := await other.incoming())
    await part(onward, answered)
    await setup.ended(onward.call_id, payer=line, billing="international")
    await part(call, ring)


async def test_a_forward_abroad_that_is_taken_over_stays_international(setup: Setup) -> None:
    """It is refused where a forward could not begin: the cap is used up, or the country refused."""
    fleet(setup, "moving", cap_seconds=100)
    colleague = setup.line(fleet="moving")
    line = setup.line(
        fleet="moving",
        offer={"mobile": "unlimited"},
        forwards={"unconditional": to_number(BRITISH_MOBILE)},
    )

    async def takes_over(away: Call) -> Call:
        headers = [("Replaces", own(away)), identity(colleague)]
        return await setup.call(line, caller=colleague, headers=headers)

    call, away = await through(setup, line, BRITISH_MOBILE)
    taking = await takes_over(away)
    taken = await setup.server("number").incoming(BRITISH_MOBILE)
    await connect(taking, taken)
    await call.receive("BYE")
    await away.receive("BYE")
    await part(taking, taken)
    await setup.ended(taking.call_id, payer=line, condition="none", billing="international")

    async def refused(**fields: Any) -> int:
        """The code that a takeover gets when the fleet has changed during the call."""
        fleet(setup, "moving")
        await setup.settle(fleets=True)
        call, away = await through(setup, line, BRITISH_MOBILE)
        fleet(setup, "moving", **fields)
        await setup.settle(fleets=True)
        attempt = await takes_over(away)
        code = (await attempt.final()).code
        if "cap_seconds" not in fields:
            await part(call, away)
            return code
        was_up = not away.requests("BYE")
        for side in (away, call):
            await side.receive("BYE", wait_s=10)
        # On a busy machine the meter may have ended the call before.
        return code if was_up else await refused(**fields)

    assert await refused(cap_seconds=0) == 480
    assert await refused(forward_countries=["FR"]) == 403


async def test_a_phone_cannot_transfer_where_its_line_could_not_forward(setup: Setup) -> None:
    fleet(setup, "near", forward_countries=["FR", "BE"])
    line, phone = await setup.line_with_phone(fleet="near")
    inside = setup.line(number="+41446681801", fleet="near")
    await (await setup.call(inside)).final()  # it is in memory
    await setup.know_fleet("near")
    call = await setup.call(line)
    await connect(call, ring := await phone.incoming())
    for target, code in (
        ("+4990012345670", 403),
        ("+33700000003", 403),
        (SWISS, 403),
        (BRITISH, 403),
        (BELGIAN_MOBILE, 202),
        (inside, 202),
    ):
        ring.request("REFER", headers=[("Refer-To", f"<sip:{target}@office.example>")])
        if code == 202:
            call.respond(202, to=await call.receive("REFER"))
        await ring.receive(code, "REFER")
    await part(call, ring)


async def test_lists_of_the_configuration_change_live(setup: Setup) -> None:
    """A line in memory is read again: allowed targets become refused, and refused ones allowed."""
    german, new = "+4930901820", "+33700000002"
    open_line = setup.line(forwards={"unconditional": to_number(german)})
    new_line = setup.line(forwards={"unconditional": to_number(new)})
    await part(*await through(setup, open_line, german))
    await stays(setup, new_line)
    _reload(setup.engine, forward_countries=["FR"], also_valid=["+33700"])
    await until(lambda: _reloads(setup.engine) == 1)
    await stays(setup, open_line)
    call, away = await through(setup, new_line, new)
    await part(call, away)
    await setup.ended(call.call_id, billing="out_of_plan")  # 07 is a mobile
    _reload(setup.engine, forward_countries=COUNTRIES, also_valid=[])
    await until(lambda: _reloads(setup.engine) == 2)
    await part(*await through(setup, open_line, german))


def _reload(engine: Engine, **keys: Any) -> None:
    config = json.loads(engine._config.read_text("utf-8"))
    config.setdefault("numbering", {}).update(keys)
    engine._config.write_text(json.dumps(config), "utf-8")
    engine.signal(signal.SIGHUP)


def _reloads(engine: Engine) -> int:
    return sum(event["event"] == "reload.done" for event in engine.events())
