"""Fleets: a suspended one, a cap that is reached during calls, and the limits against fraud."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.month import this_month
from tests.scenarios import numbers
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import Setup, to_number

SETTINGS = {"limits": {"forwards_per_line_per_hour": 2}}


def fleet(setup: Setup, name: str, **fields: Any) -> None:
    setup.redis.set(f"fleet:{name}", json.dumps({"name": name, **fields}))


async def test_a_suspended_fleet_suspends_all_its_lines(setup: Setup) -> None:
    fleet(setup, "late", suspended=True)
    await setup.know_fleet("late")
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
    """Two calls at once use a cap of 12 s twice as fast; a call to a landline goes on."""
    fleet(setup, "thrifty", cap_seconds=12)
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
    for call, away in calls[1:]:
        bye = await away.receive("BYE", wait_s=15)
        assert "SIP;cause=402" in bye.one("Reason")
        await call.receive("BYE", wait_s=15)
    await part(*calls[0])
    await setup.ended(calls[0][0].call_id, why="bye", billing="standard")
    lasted = []
    for call, _ in calls[1:]:
        record = await setup.ended(call.call_id, outcome="answered", why="fleet_cap")
        assert record["out_of_plan_s"] == record["seconds"]
        lasted.append(int(record["seconds"]))
    assert sum(lasted) >= 12 > min(lasted)
    used = setup.redis.hgetall(next(iter(setup.redis.keys("usage:fleet:thrifty:*"))))
    assert int(used["out_of_plan"]) >= 12
    assert int(used["standard"]) >= 1

    await setup.settle(fleets=True)
    call = await setup.call(first)
    await call.receive(480)  # no phone is registered, and the forward counts as off
    await setup.ended(call.call_id, condition="none", outcome="unreachable")
    prevented = setup.engine.metric("renvoi_forwards_prevented_total", reason="fleet_cap")
    assert prevented == 1
    assert setup.engine.metric("renvoi_conversation_ends_total", why="fleet_cap") == 2


async def test_calls_of_another_host_use_the_cap_up_before_a_call_is_dialled(
    setup: Setup,
) -> None:
    """This worker has no call of the fleet. The other host's notes stop the next call, as long as
    its calls are in progress."""
    fleet(setup, "joint", cap_seconds=60)
    mobile = numbers.mobile_number()
    line = setup.line(fleet="joint", forwards={"unconditional": to_number(mobile)})
    month = this_month()
    key = f"standing:{{usage:fleet:joint:{month}}}"

    async def answers(since_s: float) -> int:
        now = time.time()
        note = [line, now - since_s, None, now]
        setup.redis.hset(key, "other-1-1", json.dumps(note))
        await setup.settle(fleets=True)
        call = await setup.call(line)
        if since_s < 60:
            away = await setup.server("number").incoming(mobile)
            away.respond(486)
        return (await call.final()).code

    assert await answers(10) == 486
    assert await answers(70) == 480
    assert setup.engine.metric("renvoi_forwards_prevented_total", reason="fleet_cap") >= 1
    setup.redis.delete(key)
    await setup.settle(fleets=True)
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
