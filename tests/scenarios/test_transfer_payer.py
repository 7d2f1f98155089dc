"""Who pays for a transferred call: what the first call made a line pay for stays with that line."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.crew import Crew
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.stage import OFFER_BYTES, Stage, identity, to_number
from tests.scenarios.test_transfer import calls, own

WORKERS = 2
UNLIMITED = {"mobile": "unlimited"}


async def forwarded(
    stage: Stage, caller: str = "", **fields: Any
) -> tuple[str, str, Call, Call]:
    """A call that a line has forwarded to a mobile, which talks: line, mobile and both sides."""
    mobile = numbers.mobile_number()
    fields = {"offer": UNLIMITED, **fields}
    line = stage.line(forwards={"unconditional": to_number(mobile)}, **fields)
    call = await calls(stage, line, caller or numbers.caller_number())
    away = await stage.server("number").incoming(mobile)
    await connect(call, away)
    return line, mobile, call, away


def begin(stage: Stage, endpoint: Endpoint, caller: str, called: str, worker: int = 1) -> Call:
    """The party that was sent on calls, through that worker."""
    crew = stage.engine
    assert isinstance(crew, Crew)
    return endpoint.start(
        crew.address_of(worker),
        called,
        caller=caller,
        headers=[identity(caller)],
        body=OFFER_BYTES,
    )


async def refer(side: Call, other: Call, called: str) -> None:
    """One side sends the other on to a number, without saying who it is."""
    side.request("REFER", headers=[("Refer-To", f"<sip:{called}@office.example>")])
    other.respond(202, to=await other.receive("REFER"))
    await side.receive(202, "REFER")


async def owes(stage: Stage, call: Call, line: str) -> None:
    """Wait until a line pays for a call: the news of its transfer may come after it."""
    crew = stage.engine
    assert isinstance(crew, Crew)
    owing = (call.call_id, line)
    await crew.until(lambda: owing in {(c["call_id"], c["payer"]) for c in crew.calls()})


def paid(record: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    return [
        (f["line"], f["condition"], f["kind"], f["number"], f["billing"])
        for f in record["forwards"]
    ]


def used(stage: Stage, name: str) -> dict[str, int]:
    """The seconds of a line's, or a fleet's, only month."""
    (key,) = stage.redis.keys(f"usage:{name}:*")
    seconds: Any = stage.redis.hgetall(key)
    return {billing: int(value) for billing, value in seconds.items()}


async def test_who_takes_over_a_forwarded_call_is_paid_for_by_the_forwarding_line(
    stage: Stage,
) -> None:
    """Attended: A asked Z's line, whose forward led to a mobile; B takes A's place there."""
    colleague = stage.line()
    line, mobile, call, away = await forwarded(stage, max_calls=5)
    taking = await calls(stage, line, colleague, ("Replaces", own(away)))
    taken = await stage.server("number").incoming(mobile)
    await connect(taking, taken)
    await call.receive("BYE")
    await away.receive("BYE")
    await stage.ended(call.call_id, why="replaced")
    assert [shown["target"] for shown in stage.engine.calls()] == [mobile]
    assert not stage.redis.exists(f"live:{line}")  # it is not on the line, no more than the first
    await asyncio.sleep(1.2)
    await part(taking, taken)
    first = await stage.ended(call.call_id, payer=line, condition="unconditional")
    second = await stage.ended(
        taking.call_id, payer=line, billing="out_of_plan", condition="none",
        destination="number", target=mobile, forwarded="", outcome="answered",
    )  # fmt: skip
    assert paid(second) == [(line, "none", "number", mobile, "out_of_plan")]
    seconds = int(second["seconds"])
    assert seconds >= 1
    assert int(second["out_of_plan_s"]) == seconds
    assert used(stage, line) == {"out_of_plan": seconds + int(first["seconds"])}


async def test_a_forwarded_call_that_is_sent_on_stays_with_the_forwarding_line(
    stage: Stage,
) -> None:
    """Blind: the mobile that a forward led to is sent on to another line, by another worker; that
    its leg goes on is paid from the plan of the line whose forward it is."""
    line, mobile, call, away = await forwarded(stage, offer={"mobile": "hours", "mobile_hours": 1})
    target, phone = await stage.line_with_phone()
    await refer(call, away, target)
    onward = begin(stage, away.endpoint, mobile, target)
    ring = await phone.incoming()
    await connect(onward, ring)
    await part(call, away)
    await asyncio.sleep(1.2)
    await part(onward, ring)
    record = await stage.ended(
        onward.call_id, payer=line, billing="deducted", condition="none",
        destination="line", target=target, called=target,
    )  # fmt: skip
    assert paid(record) == [(line, "none", "number", mobile, "deducted")]
    first = await stage.record(call.call_id)
    assert used(stage, line) == {"deducted": int(record["seconds"]) + int(first["seconds"])}
    assert not stage.redis.keys("transfer:*")

    again = begin(stage, away.endpoint, mobile, target)  # one REFER, one call
    await connect(again, ring := await phone.incoming())
    await part(again, ring)
    await stage.ended(again.call_id, payer="", billing="")


@pytest.mark.parametrize(("fleet", "billing"), [("acme", "free"), ("globex", "standard")])
@pytest.mark.parametrize("worker", [0, 1])
async def test_a_line_that_sends_a_call_on_pays_for_it(
    stage: Stage, worker: int, fleet: str, billing: str
) -> None:
    line, phone = await stage.line_with_phone()
    target, other = await stage.line_with_phone(fleet=fleet)
    caller = numbers.caller_number()
    call = await calls(stage, line, caller)
    ring = await phone.incoming()
    await connect(call, ring)
    await refer(ring, call, target)
    await part(ring, call)
    onward = begin(stage, call.endpoint, caller, target, worker)
    await connect(onward, answered := await other.incoming())
    await owes(stage, onward, line)
    await part(onward, answered)
    record = await stage.ended(
        onward.call_id, payer=line, billing=billing, condition="none", destination="line"
    )
    assert paid(record) == [(line, "none", "line", target, billing)]


async def test_the_forwards_of_who_a_call_is_sent_on_to_come_on_top(stage: Stage) -> None:
    """The line that sends it on pays for its own part, the next forwarding line for its own."""
    line, phone = await stage.line_with_phone()
    mobile, caller = numbers.mobile_number(), numbers.caller_number()
    target = stage.line(offer=UNLIMITED, forwards={"unreachable": to_number(mobile)})
    call = await calls(stage, line, caller)
    await connect(call, ring := await phone.incoming())
    await refer(ring, call, target)
    await part(ring, call)
    onward = begin(stage, call.endpoint, caller, target)
    await connect(onward, away := await stage.server("number").incoming(mobile))
    await asyncio.sleep(1.2)
    await part(onward, away)
    record = await stage.ended(
        onward.call_id, payer=target, billing="out_of_plan", condition="unreachable",
        destination="number", target=mobile,
    )  # fmt: skip
    assert paid(record) == [
        (line, "none", "line", target, "free"),
        (target, "unreachable", "number", mobile, "out_of_plan"),
    ]
    assert used(stage, line) == {"free": int(record["seconds"])}
    assert used(stage, target) == {"out_of_plan": int(record["seconds"])}


async def test_who_refuses_to_be_sent_on_owes_nothing(stage: Stage) -> None:
    """It calls there all the same, by itself."""
    _, mobile, call, away = await forwarded(stage)
    target, phone = await stage.line_with_phone()
    with stage.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        call.request("REFER", headers=[("Refer-To", f"<sip:{target}@office.example>")])
        away.respond(603, to=await away.receive("REFER"))
        await call.receive(603, "REFER")
        forgotten = f"DEL transfer:{mobile}:{target}"
        async with asyncio.timeout(within(5)):
            while await asyncio.to_thread(lambda: monitor.next_command()["command"]) != forgotten:
                pass
    onward = begin(stage, away.endpoint, mobile, target)
    ring = await phone.incoming()
    await connect(onward, ring)
    await part(onward, ring)
    await part(call, away)
    record = await stage.ended(onward.call_id, payer="", condition="none", outcome="answered")
    assert not record["forwards"]


async def test_somebody_else_who_calls_there_owes_nothing(stage: Stage) -> None:
    line, phone = await stage.line_with_phone()
    target, other = await stage.line_with_phone()
    call = await calls(stage, line, numbers.caller_number())
    await connect(call, ring := await phone.incoming())
    await refer(ring, call, target)
    stranger = await stage.endpoint()
    onward = begin(stage, stranger, numbers.caller_number(), target)
    await connect(onward, answered := await other.incoming())
    await part(onward, answered)
    record = await stage.ended(onward.call_id, payer="", billing="")
    assert paid(record) == []
    await part(call, ring)


async def test_a_cap_ends_a_transferred_call_too(stage: Stage) -> None:
    stage.redis.set("fleet:thrifty", json.dumps({"name": "thrifty", "cap_seconds": 3}))
    _, mobile, call, away = await forwarded(stage, fleet="thrifty")
    target, phone = await stage.line_with_phone()
    await refer(call, away, target)
    onward = begin(stage, away.endpoint, mobile, target)
    await connect(onward, ring := await phone.incoming())
    await part(call, away)
    assert "SIP;cause=402" in (await ring.receive("BYE", wait_s=10)).one("Reason")
    await onward.receive("BYE")
    record = await stage.ended(onward.call_id, why="fleet_cap", billing="out_of_plan")
    first = await stage.record(call.call_id)
    assert 3 <= used(stage, "fleet:thrifty")["out_of_plan"] <= 8
    assert int(record["seconds"]) + int(first["seconds"]) >= 3


async def test_an_attended_transfer_of_a_forwarded_call_is_paid_on_both_sides(
    stage: Stage,
) -> None:
    """X's forward leads to a mobile. The caller asks Z's line, whose forward leads to another, and
    joins the two: each line goes on paying for its own leg."""
    caller = numbers.caller_number()
    x, mobile, call, away = await forwarded(stage, caller)
    z, other, asked, there = await forwarded(stage, caller)
    remote_tag = asked.remote.rpartition("tag=")[2]
    name = f"{asked.call_id};to-tag={remote_tag};from-tag={asked.tag}"
    refer_to = f"<sip:{z}@office.example?Replaces={quote(name, safe='')}>"
    call.request("REFER", headers=[("Refer-To", refer_to)])
    request = await away.receive("REFER")
    assert quote(own(there), safe="") in request.one("Refer-To")
    away.respond(202, to=request)
    onward = away.endpoint.start(
        stage.engine.address, z, caller=mobile, body=OFFER_BYTES,
        headers=[("Replaces", own(there)), identity(mobile)],
    )  # fmt: skip
    taken = await stage.server("number").incoming(other)
    await connect(onward, taken)
    await asked.receive("BYE")
    await part(call, away)
    await asyncio.sleep(1.2)
    await part(onward, taken)
    record = await stage.ended(onward.call_id, payer=z, target=other, destination="number")
    assert paid(record) == [
        (x, "none", "number", mobile, "out_of_plan"),
        (z, "none", "number", other, "out_of_plan"),
    ]
    for line, before in ((x, call), (z, asked)):
        first = await stage.record(before.call_id)
        assert used(stage, line)["out_of_plan"] == int(record["seconds"]) + int(first["seconds"])
