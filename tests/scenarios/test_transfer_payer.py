"""Who pays for a transferred call: the line that paid for the first call continues to pay."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import OFFER_BYTES, Setup, identity, to_number
from tests.scenarios.test_transfer import calls, own
from tests.scenarios.worker_pool import WorkerPool

WORKERS = 2
UNLIMITED = {"mobile": "unlimited"}


async def forwarded(setup: Setup, caller: str = "", **fields: Any) -> tuple[str, str, Call, Call]:
    """An answered call that a line has forwarded to a mobile: line, mobile and both sides."""
    mobile = numbers.mobile_number()
    fields = {"offer": UNLIMITED, **fields}
    line = setup.line(forwards={"unconditional": to_number(mobile)}, **fields)
    call = await calls(setup, line, caller or numbers.caller_number())
    away = await setup.server("number").incoming(mobile)
    await connect(call, away)
    return line, mobile, call, away


def begin(setup: Setup, endpoint: Endpoint, caller: str, called: str, worker: int = 1) -> Call:
    """The transferred party places its call, through that worker."""
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    return endpoint.start(
        pool.address_of(worker),
        called,
        caller=caller,
        headers=[identity(caller)],
        body=OFFER_BYTES,
    )


async def refer(side: Call, other: Call, called: str) -> None:
    """One side transfers the other to a number, without Referred-By."""
    side.request("REFER", headers=[("Refer-To", f"<sip:{called}@office.example>")])
    other.respond(202, to=await other.receive("REFER"))
    await side.receive(202, "REFER")


async def owes(setup: Setup, call: Call, line: str) -> None:
    """Wait until a line pays for a call: the transfer may be reported after the call began."""
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    owing = (call.call_id, line)
    await pool.until(lambda: owing in {(c["call_id"], c["payer"]) for c in pool.calls()})


def paid(record: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    return [
        (f["line"], f["condition"], f["kind"], f["number"], f["billing"])
        for f in record["forwards"]
    ]


def used(setup: Setup, name: str) -> dict[str, int]:
    """The seconds used by a line or a fleet, which have only one month."""
    (key,) = setup.redis.keys(f"usage:{name}:*")
    seconds: Any = setup.redis.hgetall(key)
    return {billing: int(value) for billing, value in seconds.items()}


async def test_who_takes_over_a_forwarded_call_is_paid_for_by_the_forwarding_line(
    setup: Setup,
) -> None:
    """Attended: A asked Z's line, whose forward led to a mobile; B takes A's place there."""
    colleague = setup.line()
    line, mobile, call, away = await forwarded(setup, max_calls=5)
    taking = await calls(setup, line, colleague, ("Replaces", own(away)))
    taken = await setup.server("number").incoming(mobile)
    await connect(taking, taken)
    await call.receive("BYE")
    await away.receive("BYE")
    await setup.ended(call.call_id, why="replaced")
    assert [shown["target"] for shown in setup.engine.calls()] == [mobile]
    assert not setup.redis.exists(f"live:{line}")  # neither call counts on the line
    await asyncio.sleep(1.2)
    await part(taking, taken)
    first = await setup.ended(call.call_id, payer=line, condition="unconditional")
    second = await setup.ended(
        taking.call_id, payer=line, billing="out_of_plan", condition="none",
        destination="number", target=mobile, forwarded="", outcome="answered",
    )  # fmt: skip
    assert paid(second) == [(line, "none", "number", mobile, "out_of_plan")]
    seconds = int(second["seconds"])
    assert seconds >= 1
    assert int(second["out_of_plan_s"]) == seconds
    assert used(setup, line) == {"out_of_plan": seconds + int(first["seconds"])}


async def test_a_forwarded_call_that_is_sent_on_stays_with_the_forwarding_line(
    setup: Setup,
) -> None:
    """Blind: the mobile that a forward reached is transferred to another line, through another
    worker. The line of the forward continues to pay for the mobile's leg, from its plan."""
    line, mobile, call, away = await forwarded(setup, offer={"mobile": "hours", "mobile_hours": 1})
    target, phone = await setup.line_with_phone()
    await refer(call, away, target)
    onward = begin(setup, away.endpoint, mobile, target)
    ring = await phone.incoming()
    await connect(onward, ring)
    await part(call, away)
    await asyncio.sleep(1.2)
    await part(onward, ring)
    record = await setup.ended(
        onward.call_id, payer=line, billing="deducted", condition="none",
        destination="line", target=target, called=target,
    )  # fmt: skip
    assert paid(record) == [(line, "none", "number", mobile, "deducted")]
    first = await setup.record(call.call_id)
    assert used(setup, line) == {"deducted": int(record["seconds"]) + int(first["seconds"])}
    assert not setup.redis.keys("transfer:*")

    again = begin(setup, away.endpoint, mobile, target)  # one REFER, one call
    await connect(again, ring := await phone.incoming())
    await part(again, ring)
    await setup.ended(again.call_id, payer="", billing="")


@pytest.mark.parametrize("how", ["list", "also_ring"])
@pytest.mark.parametrize("still", [True, False])
async def test_a_target_of_several_that_is_sent_on_stays_with_its_line(
    setup: Setup, how: str, still: bool
) -> None:
    """The same for a target of a list, and for a mobile that rings beside a line; but not if the
    line no longer has that target."""
    mobile, landline = numbers.mobile_number(), numbers.outside_number()
    targets = [{"kind": "number", "number": number} for number in (landline, mobile)]
    forwards = {"unconditional": {"on": True, "ring": "together", "to": targets}}
    fields = {"forwards": forwards} if how == "list" else {"also_ring": targets}
    line = setup.line(offer=UNLIMITED, **fields)
    call = await calls(setup, line, numbers.caller_number())
    away = await setup.server("number").incoming(mobile)
    await connect(call, away)
    target, phone = await setup.line_with_phone()
    if not still:
        setup.line(number=line, offer=UNLIMITED)
        await setup.settle()
    await refer(call, away, target)
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    # The other worker gets it from Redis; that may take longer than a call waits (0.1 s).
    await pool.until(lambda: setup.redis.exists(f"transfer:{mobile}:{target}"))
    onward = begin(setup, away.endpoint, mobile, target)
    if not still:
        await onward.receive(403)
        await part(call, away)
        await setup.ended(onward.call_id, why="forward_off")
        return
    ring = await phone.incoming()
    await connect(onward, ring)
    await owes(setup, onward, line)
    await part(call, away)
    await part(onward, ring)
    record = await setup.ended(onward.call_id, payer=line, condition="none", destination="line")
    assert paid(record) == [(line, "none", "number", mobile, "out_of_plan")]
    assert not setup.redis.zcard(f"forwards:{line}")


@pytest.mark.parametrize("how", ["list", "also_ring"])
async def test_who_takes_over_one_of_several_targets(setup: Setup, how: str) -> None:
    mobile, colleague = numbers.mobile_number(), setup.line()
    targets = [{"kind": "number", "number": mobile}, {"kind": "number", "number": setup.line()}]
    forwards = {"unconditional": {"on": True, "ring": "together", "to": targets}}
    fields = {"forwards": forwards} if how == "list" else {"also_ring": targets}
    line = setup.line(offer=UNLIMITED, **fields)
    call = await calls(setup, line, numbers.caller_number())
    away = await setup.server("number").incoming(mobile)
    await connect(call, away)
    taking = await calls(setup, line, colleague, ("Replaces", own(away)))
    taken = await setup.server("number").incoming(mobile)
    await connect(taking, taken)
    await call.receive("BYE")
    await away.receive("BYE")
    await part(taking, taken)
    second = await setup.ended(taking.call_id, payer=line, condition="none", target=mobile)
    assert paid(second) == [(line, "none", "number", mobile, "out_of_plan")]


@pytest.mark.parametrize(("fleet", "billing"), [("acme", "free"), ("globex", "standard")])
@pytest.mark.parametrize("worker", [0, 1])
async def test_a_line_that_sends_a_call_on_pays_for_it(
    setup: Setup, worker: int, fleet: str, billing: str
) -> None:
    line, phone = await setup.line_with_phone()
    target, other = await setup.line_with_phone(fleet=fleet)
    caller = numbers.caller_number()
    call = await calls(setup, line, caller)
    ring = await phone.incoming()
    await connect(call, ring)
    await refer(ring, call, target)
    await part(ring, call)
    onward = begin(setup, call.endpoint, caller, target, worker)
    await connect(onward, answered := await other.incoming())
    await owes(setup, onward, line)
    await part(onward, answered)
    record = await setup.ended(
        onward.call_id, payer=line, billing=billing, condition="none", destination="line"
    )
    assert paid(record) == [(line, "none", "line", target, billing)]


async def test_a_line_that_has_registered_again_pays_for_what_it_sends_on(setup: Setup) -> None:
    """What memory has of the line is not current then."""
    line, phone = await setup.line_with_phone()
    target, other = await setup.line_with_phone()
    caller = numbers.caller_number()
    call = await calls(setup, line, caller)
    await connect(call, ring := await phone.incoming())
    setup.register(line, phone.uri(), 1200)
    await setup.settle()
    await refer(ring, call, target)
    await part(ring, call)
    onward = begin(setup, call.endpoint, caller, target)
    await connect(onward, answered := await other.incoming())
    await owes(setup, onward, line)
    await part(onward, answered)
    record = await setup.ended(onward.call_id, payer=line, billing="free", condition="none")
    assert paid(record) == [(line, "none", "line", target, "free")]


async def test_the_forwards_of_the_transfer_target_are_paid_in_addition(setup: Setup) -> None:
    """The transferring line pays for its part, the next forwarding line for its own."""
    line, phone = await setup.line_with_phone()
    mobile, caller = numbers.mobile_number(), numbers.caller_number()
    target = setup.line(offer=UNLIMITED, forwards={"unreachable": to_number(mobile)})
    call = await calls(setup, line, caller)
    await connect(call, ring := await phone.incoming())
    await refer(ring, call, target)
    await part(ring, call)
    onward = begin(setup, call.endpoint, caller, target)
    await connect(onward, away := await setup.server("number").incoming(mobile))
    await asyncio.sleep(1.2)
    await part(onward, away)
    record = await setup.ended(
        onward.call_id, payer=target, billing="out_of_plan", condition="unreachable",
        destination="number", target=mobile,
    )  # fmt: skip
    assert paid(record) == [
        (line, "none", "line", target, "free"),
        (target, "unreachable", "number", mobile, "out_of_plan"),
    ]
    assert used(setup, line) == {"free": int(record["seconds"])}
    assert used(setup, target) == {"out_of_plan": int(record["seconds"])}


async def test_a_side_that_refuses_the_transfer_owes_nothing(setup: Setup) -> None:
    """It places the call nevertheless, as its own call."""
    _, mobile, call, away = await forwarded(setup)
    target, phone = await setup.line_with_phone()
    with setup.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        call.request("REFER", headers=[("Refer-To", f"<sip:{target}@office.example>")])
        away.respond(603, to=await away.receive("REFER"))
        await call.receive(603, "REFER")
        forgotten = f"DEL transfer:{mobile}:{target}"
        async with asyncio.timeout(within(5)):
            while await asyncio.to_thread(lambda: monitor.next_command()["command"]) != forgotten:
                pass
    onward = begin(setup, away.endpoint, mobile, target)
    ring = await phone.incoming()
    await connect(onward, ring)
    await part(onward, ring)
    await part(call, away)
    record = await setup.ended(onward.call_id, payer="", condition="none", outcome="answered")
    assert not record["forwards"]


async def test_another_caller_of_that_target_owes_nothing(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    target, other = await setup.line_with_phone()
    call = await calls(setup, line, numbers.caller_number())
    await connect(call, ring := await phone.incoming())
    await refer(ring, call, target)
    stranger = await setup.endpoint()
    onward = begin(setup, stranger, numbers.caller_number(), target)
    await connect(onward, answered := await other.incoming())
    await part(onward, answered)
    record = await setup.ended(onward.call_id, payer="", billing="")
    assert paid(record) == []
    await part(call, ring)


async def test_a_cap_ends_a_transferred_call_too(setup: Setup) -> None:
    setup.redis.set("fleet:thrifty", json.dumps({"name": "thrifty", "cap_seconds": 10}))
    _, mobile, call, away = await forwarded(setup, fleet="thrifty")
    target, phone = await setup.line_with_phone()
    await refer(call, away, target)
    onward = begin(setup, away.endpoint, mobile, target)
    await connect(onward, ring := await phone.incoming())
    await part(call, away)
    assert "SIP;cause=402" in (await ring.receive("BYE", wait_s=10)).one("Reason")
    await onward.receive("BYE")
    record = await setup.ended(onward.call_id, why="fleet_cap", billing="out_of_plan")
    first = await setup.record(call.call_id)
    assert 10 <= used(setup, "fleet:thrifty")["out_of_plan"] <= 20
    assert int(record["seconds"]) + int(first["seconds"]) >= 10


async def test_an_attended_transfer_of_a_forwarded_call_is_paid_on_both_sides(
    setup: Setup,
) -> None:
    """X's forward leads to a mobile. The caller calls Z's line, whose forward leads to another
    mobile, and joins the two: each line continues to pay for its own leg."""
    caller = numbers.caller_number()
    x, mobile, call, away = await forwarded(setup, caller)
    z, other, asked, there = await forwarded(setup, caller)
    remote_tag = asked.remote.rpartition("tag=")[2]
    name = f"{asked.call_id};to-tag={remote_tag};from-tag={asked.tag}"
    refer_to = f"<sip:{z}@office.example?Replaces={quote(name, safe='')}>"
    call.request("REFER", headers=[("Refer-To", refer_to)])
    request = await away.receive("REFER")
    assert quote(own(there), safe="") in request.one("Refer-To")
    away.respond(202, to=request)
    onward = away.endpoint.start(
        setup.engine.address, z, caller=mobile, body=OFFER_BYTES,
        headers=[("Replaces", own(there)), identity(mobile)],
    )  # fmt: skip
    taken = await setup.server("number").incoming(other)
    await connect(onward, taken)
    await asked.receive("BYE")
    await part(call, away)
    await asyncio.sleep(1.2)
    await part(onward, taken)
    record = await setup.ended(onward.call_id, payer=z, target=other, destination="number")
    assert paid(record) == [
        (x, "none", "number", mobile, "out_of_plan"),
        (z, "none", "number", other, "out_of_plan"),
    ]
    for line, before in ((x, call), (z, asked)):
        first = await setup.record(before.call_id)
        assert used(setup, line)["out_of_plan"] == int(record["seconds"]) + int(first["seconds"])
