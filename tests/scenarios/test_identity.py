"""The calling line: asserted by a trusted peer, or known by its registered phone; never by From
alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint, Headers
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, Setup, identity, started_engine, to_number
from tests.scenarios.sipp import HOST, free_port
from tests.scenarios.test_own_phone import phone_over, registered

PORT = free_port()
SETTINGS = {"sip": {"listen": [f"udp:{HOST}:{PORT}", f"tcp:{HOST}:{PORT}"]}}
FORGED: dict[str, Callable[[str], Headers]] = {
    "from": lambda line: (),
    "preferred": lambda line: [("P-Preferred-Identity", f"<sip:{line}@office.example>")],
    "remote_party": lambda line: [("Remote-Party-ID", f"<sip:{line}@h>;party=calling;screen=yes")],
    "asserted_another": lambda line: [identity(numbers.caller_number())],
    "asserted_no_number": lambda line: [("P-Asserted-Identity", "<sip:reception@office.example>")],
}


def place(setup: Setup, phone: Endpoint, called: str, caller: str) -> Call:
    """A call from this phone, with `caller` in From."""
    return phone.start(setup.engine.address, called, caller=caller, body=OFFER_BYTES)


async def is_busy(setup: Setup, line: str, phone: Endpoint) -> bool:
    """Whether a call to the line finds it busy."""
    call = await setup.call(line)
    ring = asyncio.ensure_future(phone.incoming())
    final = asyncio.ensure_future(call.final())
    done, left = await asyncio.wait({ring, final}, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    if final in done:
        assert final.result().code == 486
        return True
    ring.result().respond(180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    return False


@pytest.mark.parametrize("how", FORGED)
async def test_a_from_that_anybody_may_write_makes_no_line_busy(setup: Setup, how: str) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    other, other_phone = await setup.line_with_phone()
    forged = await setup.call(other, caller=line, asserted=False, headers=FORGED[how](line))
    await connect(forged, there := await other_phone.incoming())
    assert not await is_busy(setup, line, phone)
    counted = setup.redis.zrange(f"live:{line}", 0, -1)
    assert not [one for one in counted if "caller" in str(one)]
    await part(forged, there)
    record = await setup.record(forged.call_id)
    asserted = how == "asserted_another"
    assert record["caller_by"] == ("asserted" if asserted else "from")
    assert (record["caller"] == line) is not asserted


async def test_what_a_trusted_peer_asserts_counts(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    other, other_phone = await setup.line_with_phone()
    call = await setup.call(other, caller=line)
    await connect(call, there := await other_phone.incoming())
    assert await is_busy(setup, line, phone)
    await part(call, there)
    await setup.ended(call.call_id, caller=line, caller_by="asserted")


@pytest.mark.parametrize("known", [True, False])
async def test_a_registered_phone_is_known_by_its_address(setup: Setup, known: bool) -> None:
    """Also if its line is not in memory yet."""
    line, phone = await setup.line_with_phone(max_calls=1)
    other, other_phone = await setup.line_with_phone()
    if known:
        assert not await is_busy(setup, line, phone)
    call = place(setup, phone, other, line)
    assert await is_busy(setup, line, phone)
    await connect(call, there := await other_phone.incoming())
    await part(call, there)
    await setup.ended(call.call_id, caller=line, caller_by="registered")
    assert not await is_busy(setup, line, phone)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_registered_phone_is_known_by_its_flow(setup: Setup, transport: str) -> None:
    phone = await phone_over(setup, transport)
    line = await registered(setup, phone)
    desk = await setup.endpoint()
    setup.register(line, desk.uri())
    setup.change(line, max_calls=1)
    other, other_phone = await setup.line_with_phone()
    call = place(setup, phone, other, line)
    assert await is_busy(setup, line, desk)
    await connect(call, there := await other_phone.incoming())
    await part(call, there)
    await setup.ended(call.call_id, caller=line, caller_by="registered")


async def test_only_a_verified_target_is_not_forwarded_to_itself(setup: Setup) -> None:
    """The secretary must reach the boss; a caller with a false From gets the secretary."""
    secretary, desk = await setup.line_with_phone()
    boss, phone = await setup.line_with_phone(forwards={"unconditional": to_number(secretary)})
    forged = await setup.call(boss, caller=secretary, asserted=False)
    await connect(forged, there := await desk.incoming())
    await part(forged, there)
    assert not phone.invited()
    asserted = await setup.call(boss, caller=secretary)
    for call in (asserted, place(setup, desk, boss, secretary)):
        await connect(call, there := await phone.incoming())
        await part(call, there)


async def test_the_first_call_of_a_phone_is_not_forwarded_to_its_own_line(setup: Setup) -> None:
    """Her line is not in memory yet when the secretary calls the boss."""
    secretary, desk = await setup.line_with_phone()
    boss, phone = await setup.line_with_phone(forwards={"unconditional": to_number(secretary)})
    call = place(setup, desk, boss, secretary)
    await connect(call, there := await phone.incoming())
    await part(call, there)
    await setup.ended(call.call_id, condition="none", caller_by="registered")


async def test_a_from_does_not_make_a_line_pay_for_a_transfer(setup: Setup) -> None:
    """A forwarded call is transferred; another caller calls its target with the same From."""
    mobile = numbers.mobile_number()
    line = setup.line(forwards={"unconditional": to_number(mobile)})
    target, phone = await setup.line_with_phone()
    call = await setup.call(line)
    await connect(call, away := await setup.server("number").incoming(mobile))
    call.request("REFER", headers=[("Refer-To", f"<sip:{target}@office.example>")])
    away.respond(202, to=await away.receive("REFER"))
    await call.receive(202, "REFER")
    forged = await setup.call(target, caller=mobile, asserted=False)
    await connect(forged, there := await phone.incoming())
    await part(forged, there)
    await setup.ended(forged.call_id, payer="", caller=mobile, caller_by="from")
    real = await setup.call(target, caller=mobile)
    await connect(real, there := await phone.incoming())
    await part(real, there)
    await setup.ended(real.call_id, payer=line, caller_by="asserted")
    await part(call, away)


async def test_from_counts_if_the_configuration_trusts_it(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    engine = Engine(tmp_path, shared_redis.url, {"numbering": {"identity": "from"}})
    with started_engine(engine, shared_redis.client, tmp_path) as running_engine:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            line, phone = await setup.line_with_phone(max_calls=1)
            other, other_phone = await setup.line_with_phone()
            call = await setup.call(other, caller=line, asserted=False)
            assert await is_busy(setup, line, phone)
            await connect(call, there := await other_phone.incoming())
            await part(call, there)
            await setup.ended(call.call_id, caller=line, caller_by="from")
