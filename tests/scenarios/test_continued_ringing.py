"""A worker dies, or is replaced, while a call rings: it continues to ring in the next process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.scenarios.continued import killed, one_engine, rang
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import check_diversion, connect, part
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import (
    ANSWER_BYTES,
    OFFER_BYTES,
    Setup,
    to_number,
    to_voicemail,
)


@pytest.fixture
async def lone(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    async with one_engine(shared_redis, tmp_path) as setup:
        yield setup


async def ring(setup: Setup, **fields: object) -> tuple[str, Call, Call]:
    line, phone = await setup.line_with_phone(**fields)
    call = await setup.call(line, body=OFFER_BYTES)
    rings = await phone.incoming()
    rings.respond(180)
    await call.receive(180)
    return line, call, rings


async def dies(setup: Setup, call: Call, *, continued: int = 1) -> None:
    """The engine dies when the journal has the ringing call, and the next one is up."""
    await rang(setup, call)
    await killed(setup, continued=continued, ended=1 - continued)


async def test_a_phone_that_rings_may_answer(lone: Setup) -> None:
    _, call, phone = await ring(lone)
    await dies(lone, call)
    phone.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await phone.receive("ACK")
    await part(call, phone)
    record = await lone.ended(call.call_id, outcome="answered", takeovers="1")
    assert record["condition"] == "none"
    assert float(record["rang"]) < float(record["answered"])


async def test_a_caller_may_cancel(lone: Setup) -> None:
    _, call, phone = await ring(lone)
    await dies(lone, call)
    call.cancel()
    await phone.receive("CANCEL")
    assert (await call.final()).code == 487
    await lone.ended(call.call_id, outcome="cancelled", takeovers="1")


async def test_the_no_answer_time_runs_on_and_the_forward_happens(lone: Setup) -> None:
    mailbox = lone.server("voicemail")
    number = lone.line()
    began = asyncio.get_running_loop().time()
    line, call, phone = await ring(lone, forwards={"no_answer": to_voicemail(number, after_s=5)})
    await dies(lone, call)
    await phone.receive("CANCEL")
    deposit = await mailbox.incoming()
    assert asyncio.get_running_loop().time() - began > 4
    check_diversion(deposit.first, [(line, "no_answer")])
    await connect(call, deposit)
    await part(call, deposit)
    record = await lone.ended(call.call_id, outcome="answered", takeovers="1")
    assert (record["condition"], record["payer"]) == ("no_answer", line)


async def test_a_busy_phone_forwards_and_the_chain_has_all_diversions(lone: Setup) -> None:
    mailbox = lone.server("voicemail")
    second, phone = await lone.line_with_phone()
    lone.change(second, forwards={"busy": to_voicemail(second)})
    first = lone.line(forwards={"unconditional": to_number(second)})
    call = await lone.call(first, body=OFFER_BYTES)
    rings = await phone.incoming()
    rings.respond(180)
    await call.receive(180)
    await dies(lone, call)
    rings.respond(486)
    deposit = await mailbox.incoming()
    check_diversion(deposit.first, [(second, "busy"), (first, "unconditional")])
    await connect(call, deposit)
    await part(call, deposit)
    record = await lone.ended(call.call_id, outcome="answered", takeovers="1")
    assert [forward["line"] for forward in record["forwards"]] == [first, second]


async def test_a_target_rings_on(lone: Setup) -> None:
    gateway = lone.server("number")
    line = lone.line(forwards={"unconditional": to_number("+33140506070")})
    call = await lone.call(line, body=OFFER_BYTES)
    away = await gateway.incoming()
    away.respond(180)
    await call.receive(180)
    await dies(lone, call)
    away.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await away.receive("ACK")
    await part(away, call)
    record = await lone.ended(call.call_id, outcome="answered", takeovers="1")
    assert (record["payer"], record["billing"]) == (line, "standard")


async def test_a_call_that_rang_through_two_deaths_is_ended(lone: Setup) -> None:
    """A ringing call that crashes its process must not crash a third one."""
    _, call, phone = await ring(lone)
    await dies(lone, call)
    await dies(lone, call, continued=0)
    await phone.receive("CANCEL")
    final = await call.final()
    assert (final.code, final.one("Retry-After")) == (503, "0")
    await lone.ended(call.call_id, outcome="failed", why="worker_died", takeovers="2")


async def test_calls_of_all_stages_survive_new_code(lone: Setup) -> None:
    """SIGUSR2 during calls that have just begun, ring, or are answered."""
    _, ringing, phone = await ring(lone)
    line, other = await lone.line_with_phone()
    calls = [await lone.call(line, body=OFFER_BYTES) for _ in range(5)]
    lone.engine.signal(signal.SIGUSR2)
    calls += [await lone.call(line, body=OFFER_BYTES) for _ in range(5)]
    for call in calls:
        rings = await other.incoming()
        rings.respond(200, body=ANSWER_BYTES)
        del call
    phone.respond(200, body=ANSWER_BYTES)
    for call in (ringing, *calls):
        call.ack(await call.receive(200))
    for call in (ringing, *calls):
        await call.hang_up()
        await lone.ended(call.call_id, outcome="answered")
