"""With several workers a takeover works also if it reaches another worker than its dialog's."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import OFFER_BYTES, Setup, identity
from tests.scenarios.test_transfer import own, seen_by, talk
from tests.scenarios.test_transfer_payer import forwarded, paid, used
from tests.scenarios.worker_pool import WorkerPool

WORKERS = 3


async def through(
    setup: Setup, worker: int, called: str, caller: str, *headers: tuple[str, str]
) -> Call:
    """A call through that worker."""
    assert isinstance(setup.engine, WorkerPool)
    endpoint = await setup.endpoint()
    return endpoint.start(
        setup.engine.address_of(worker), called, caller=caller,
        headers=[identity(caller), *headers], body=OFFER_BYTES,
    )  # fmt: skip


@pytest.mark.parametrize("worker", [1, 2])
async def test_the_worker_that_holds_the_dialog_answers(setup: Setup, worker: int) -> None:
    caller = numbers.caller_number()
    line, call, ring = await talk(setup, caller)
    for name in (own(ring), None):
        taking = await through(setup, worker, line, caller, ("Replaces", name or seen_by(call)))
        taken = await ring.endpoint.incoming()
        await connect(taking, taken)
        await call.receive("BYE")
        await ring.receive("BYE")
        taking.request("INFO")
        taken.respond(200, to=await taken.receive("INFO"))
        await taking.receive(200, "INFO")
        await setup.ended(call.call_id, why="replaced")
        call, ring = taking, taken
    assert len(setup.engine.calls()) == 1
    await part(ring, call)
    await setup.ended(call.call_id, outcome="answered", condition="none", destination="line")


async def test_a_caller_may_give_up_there(setup: Setup) -> None:
    caller = numbers.caller_number()
    line, call, ring = await talk(setup, caller)
    taking = await through(setup, 1, line, caller, ("Replaces", own(ring)))
    taken = await ring.endpoint.incoming()
    taken.respond(180)
    await taking.receive(180)
    taking.repeat(taking.first)  # a late copy
    taking.cancel()
    await taking.receive(487)
    await taken.receive("CANCEL")
    await setup.ended(taking.call_id, outcome="cancelled")
    again = await through(setup, 1, line, caller, ("Replaces", own(ring)))
    taken = await ring.endpoint.incoming()
    taken.respond(486)
    await taken.receive("ACK")
    await again.receive(486)
    await part(call, ring)
    assert setup.engine.calls() == []


async def test_the_rules_are_those_of_one_worker(setup: Setup) -> None:
    caller = numbers.caller_number()
    line, mobile, call, away = await forwarded(setup, caller)
    thief = await through(setup, 2, line, numbers.caller_number(), ("Replaces", own(away)))
    assert (await thief.final()).code == 403
    taking = await through(setup, 2, line, caller, ("Replaces", seen_by(call)))
    await connect(taking, taken := await setup.server("number").incoming(mobile))
    await call.receive("BYE")
    await asyncio.sleep(1.1)
    await part(taking, taken)
    one, two = await setup.record(call.call_id), await setup.record(taking.call_id)
    assert paid(two) == [(line, "none", "number", mobile, "out_of_plan")]
    assert used(setup, line) == {"out_of_plan": int(one["seconds"]) + int(two["seconds"])}


async def test_an_attended_transfer_between_calls_of_two_workers(setup: Setup) -> None:
    """The worker through which the REFER goes does not have the dialog that it names."""
    b = numbers.caller_number()
    a_line, b_to_a, a_side = await talk(setup, b)
    phone = await setup.endpoint()
    c_line = setup.line(to=[phone.uri()])
    a_to_c = await through(setup, 1, c_line, a_line)
    await connect(a_to_c, c_side := await phone.incoming())
    name = seen_by(a_to_c)
    refer_to = f"<sip:{c_line}@h?Replaces={quote(name, safe='')}>"
    a_side.request("REFER", headers=[("Refer-To", refer_to)])
    request = await b_to_a.receive("REFER")
    assert request.one("Refer-To") == refer_to
    b_to_a.respond(202, to=request)
    await a_side.receive(202, "REFER")
    # The other workers get it from Redis after a moment; on a busy machine that may take longer
    # than a call waits (0.1 s).
    async with asyncio.timeout(within(5.0)):
        while not setup.redis.exists(f"transfer:{b}:{c_line}"):
            await asyncio.sleep(0.01)
    b_to_c = await through(setup, 2, c_line, b, ("Replaces", name))
    taken = await phone.incoming()
    assert taken.first.one("Replaces") == own(c_side)
    await connect(b_to_c, taken)
    await a_to_c.receive("BYE")
    await part(b_to_a, a_side)
    await part(taken, b_to_c)
    record = await setup.ended(b_to_c.call_id, payer=a_line, billing="free")
    assert paid(record) == [(a_line, "none", "line", c_line, "free")]


async def test_a_dialog_that_no_worker_has_is_left_to_the_phone(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    name = "nobody@knows;to-tag=a;from-tag=b"
    call = await through(setup, 1, line, numbers.caller_number(), ("Replaces", name))
    ring = await phone.incoming()
    assert ring.first.one("Replaces") == name
    ring.respond(481)
    await ring.receive("ACK")
    await call.receive(481)
