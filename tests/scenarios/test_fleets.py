"""Fleets: a suspended one, a cap that is reached during calls, and the limits against fraud."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from zoneinfo import ZoneInfo

from rules.billing import month_of
from tests.scenarios import numbers
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import Setup, to_number

SETTINGS = {"timers": {"pre_ringing_s": 1}, "limits": {"forwards_per_line_per_hour": 2}}


def fleet(setup: Setup, name: str, **fields: Any) -> None:
    setup.redis.set(f"fleet:{name}", json.dumps({"name": name, **fields}))


async def test_a_suspended_fleet_suspends_all_its_lines(setup: Setup) -> None:
    fleet(setup, "late", suspended=True)
    line, _ = await setup.line_with_phone(fleet="late")
    call = await setup.call(line)
    await call.receive(403)
    await setup.ended(call.call_id, outcome="rejected", why="fleet_suspended", code=403)
    fleet(setup, "late", suspended=False)
    await setup.settle(fleets=True)
    target = numbers.outside_number()
    setup.change(line, forwards={"unconditional": to_number(target)})
    call = await setup.call(line)
    away = await setup.server("number").incoming(target)
    await connect(call, away)
    await part(call, away)


async def test_a_cap_ends_the_calls_that_use_it_and_stops_the_next(setup: Setup) -> None:
    """Two calls at once use a cap of 3 s twice as fast; a call to a landline goes on."""
    fleet(setup, "thrifty", cap_seconds=3)
    mobile, landline = numbers.mobile_number(), numbers.outside_number()
    first, second = (
        setup.line(fleet="thrifty", forwards={"unconditional": to_number(mobile)}) for _ in range(2)
    )
    third = setup.line(fleet="thrifty", forwards={"unconditional": to_number(landline)})
    number = setup.server("number")
    calls = []
    for line, target in ((third, landline), (first, mobile), (second, mobile)):
        call = await setup.call(line)
        away = await number.incoming(target)
        await connect(call, away)
        calls.append((call, away))
    begin = time.monotonic()
    for call, away in calls[1:]:
        bye = await away.receive("BYE", wait_s=10)
        assert "SIP;cause=402" in bye.one("Reason")
        await call.receive("BYE", wait_s=10)
    assert 1.0 < time.monotonic() - begin < 7.0
    await part(*calls[0])
    await setup.ended(calls[0][0].call_id, why="bye", billing="standard")
    for call, _ in calls[1:]:
        record = await setup.ended(call.call_id, outcome="answered", why="fleet_cap")
        assert record["out_of_plan_s"] == record["seconds"]
    used = setup.redis.hgetall(next(iter(setup.redis.keys("usage:fleet:thrifty:*"))))
    assert int(used["out_of_plan"]) >= 3
    assert int(used["standard"]) >= 1

    await asyncio.sleep(0.2)
    call = await setup.call(first)
    await call.receive(480)  # nobody is registered, and the forward counts as off
    await setup.ended(call.call_id, condition="none", outcome="unreachable")
    prevented = setup.engine.metric("renvoi_forwards_prevented_total", reason="fleet_cap")
    assert prevented == 1
    assert setup.engine.metric("renvoi_conversation_ends_total", why="fleet_cap") == 2


async def test_standing_calls_of_another_host_use_the_cap_up_before_a_call_is_dialled(
    setup: Setup,
) -> None:
    """This worker has no call of the fleet; what the other notes stops the next, and no longer
    than it stands."""
    fleet(setup, "joint", cap_seconds=60)
    mobile = numbers.mobile_number()
    line = setup.line(fleet="joint", forwards={"unconditional": to_number(mobile)})
    month, _ = month_of(time.time(), ZoneInfo("Europe/Paris"))
    key = f"standing:{{usage:fleet:joint:{month}}}"

    async def answers(since_s: float) -> int:
        now = time.time()
        note = [line, now - since_s, None, now]
        setup.redis.hset(key, "other-1-1", json.dumps(note))
        await asyncio.sleep(0.3)  # news of it
        call = await setup.call(line)
        if since_s < 60:
            away = await setup.server("number").incoming(mobile)
            away.respond(486)
        return (await call.final()).code

    assert await answers(10) == 486
    assert await answers(70) == 480
    assert setup.engine.metric("renvoi_forwards_prevented_total", reason="fleet_cap") >= 1
    setup.redis.delete(key)
    await asyncio.sleep(0.3)
    call = await setup.call(line)
    (await setup.server("number").incoming(mobile)).respond(486)
    assert (await call.final()).code == 486


async def test_forwards_of_a_line_in_an_hour(setup: Setup) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    for _ in range(2):
        call = await setup.call(line)
        away = await setup.server("number").incoming(target)
        await connect(call, away)
        await part(call, away)
    call = await setup.call(line)
    await call.receive(480)
    assert setup.engine.metric(
        "renvoi_forwards_prevented_total", reason="forwards_per_line_per_hour"
    )
