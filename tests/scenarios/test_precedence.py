"""Which rule wins, what counts as a call in progress, and what a forward that is off gives."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import check_diversion, connect, part, refuse
from tests.scenarios.stage import Forward, Stage, to_fax, to_number, to_voicemail


async def occupy(stage: Stage, line: str, call: Call, ring: Call) -> None:
    await connect(call, ring)
    assert stage.redis.zcard(f"live:{line}") == 1


async def reach_voicemail(stage: Stage, call: Call, line: str) -> Call:
    deposit = await stage.server("voicemail").incoming(line)
    await connect(call, deposit)
    return deposit


async def test_unconditional_beats_all_and_never_rings_the_line(stage: Stage) -> None:
    line, phone = await stage.line_with_phone(max_calls=1)
    target = numbers.outside_number()
    others = {"busy": to_voicemail(line), "unreachable": to_voicemail(line)}
    stage.redis.zadd(f"live:{line}", {"another": time.time() + 60})
    stage.change(line, forwards={"unconditional": to_number(target), **others})
    call = await stage.call(line)
    away = await stage.server("number").incoming(target)
    await connect(call, away)
    await part(call, away)
    stage.redis.delete(f"live:{line}")
    assert not phone.invited()
    assert not stage.server("voicemail").invited(line)
    check_diversion(away.first, [(line, "unconditional")])
    await stage.ended(call.call_id, condition="unconditional", destination="number")


async def test_unconditional_beats_unreachable(stage: Stage) -> None:
    target = numbers.outside_number()
    line = numbers.line_number()
    forwards = {"unconditional": to_number(target), "unreachable": to_voicemail(line)}
    stage.line(number=line, forwards=forwards)
    call = await stage.call(line)
    away = await stage.server("number").incoming(target)
    await connect(call, away)
    await part(away, call)


async def test_a_forward_that_is_off_does_nothing(stage: Stage) -> None:
    line, phone = await stage.line_with_phone()
    stage.change(line, forwards={"unconditional": {**to_voicemail(line), "on": False}})
    call = await stage.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_max_calls_is_busy_without_ringing(stage: Stage) -> None:
    line, phone = await stage.line_with_phone(max_calls=1)
    stage.change(line, forwards={"busy": to_voicemail(line)})
    first = await stage.call(line)
    ring = await phone.incoming()
    await occupy(stage, line, first, ring)
    second = await stage.call(line)
    deposit = await reach_voicemail(stage, second, line)
    check_diversion(deposit.first, [(line, "busy")])
    assert len(phone.invited()) == 1
    await part(second, deposit)
    await part(first, ring)
    await stage.ended(second.call_id, condition="busy", destination="voicemail")
    # and the line is free again
    third = await stage.call(line)
    ring = await phone.incoming()
    await connect(third, ring)
    await part(ring, third)


async def test_a_ringing_call_counts(stage: Stage) -> None:
    line, phone = await stage.line_with_phone(max_calls=1)
    first = await stage.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await first.receive(180)
    second = await stage.call(line)
    assert (await second.final()).code == 486
    first.cancel()
    await first.receive(487)


async def test_busy_beats_unreachable(stage: Stage) -> None:
    line = stage.line(max_calls=1)
    target = numbers.outside_number()
    forwards = {"busy": to_number(target), "unreachable": to_voicemail(line)}
    stage.change(line, forwards=forwards)
    stage.redis.zadd(f"live:{line}", {"another": time.time() + 60})
    call = await stage.call(line)
    away = await stage.server("number").incoming(target)
    await connect(call, away)
    stage.redis.delete(f"live:{line}")
    await part(call, away)


async def test_busy_off_is_486(stage: Stage) -> None:
    line, phone = await stage.line_with_phone(max_calls=1)
    first = await stage.call(line)
    ring = await phone.incoming()
    await occupy(stage, line, first, ring)
    second = await stage.call(line)
    assert (await second.final()).code == 486
    assert len(phone.invited()) == 1
    await part(first, ring)
    await stage.ended(second.call_id, condition="none", outcome="busy", code=486)


async def test_a_call_of_another_worker_counts_and_an_expired_lease_does_not(
    stage: Stage,
) -> None:
    line, phone = await stage.line_with_phone(max_calls=1)
    stage.redis.zadd(f"live:{line}", {"another": time.time() + 60})
    call = await stage.call(line)
    assert (await call.final()).code == 486
    stage.redis.zadd(f"live:{line}", {"another": time.time() - 1})
    call = await stage.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    stage.redis.zrem(f"live:{line}", "another")


async def test_a_call_the_line_makes_counts(stage: Stage) -> None:
    line, phone = await stage.line_with_phone(max_calls=1)
    other, other_phone = await stage.line_with_phone()
    out = await stage.call(other, caller=line)
    ring = await other_phone.incoming()
    await connect(out, ring)
    deadline = time.monotonic() + within(5)
    while not stage.redis.zcard(f"live:{line}"):  # who calls is asked beside the call
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    call = await stage.call(line)
    assert (await call.final()).code == 486
    await part(out, ring)
    call = await stage.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


@pytest.mark.parametrize("known", ["never_met", "registered_again", "changed"])
async def test_a_call_the_line_makes_counts_at_once(stage: Stage, known: str) -> None:
    """Also while the line is not in memory: a call to it that comes right behind finds it busy."""
    line, phone = await stage.line_with_phone(max_calls=1)
    other, other_phone = await stage.line_with_phone()
    if known != "never_met":
        call = await stage.call(line)
        ring = await phone.incoming()
        await connect(call, ring)
        await part(call, ring)
    if known == "registered_again":
        stage.register(line, phone.uri(), expires_s=900)
    elif known == "changed":
        stage.change(line, label="changed")
    out = await stage.call(other, caller=line)
    call = await stage.call(line)
    assert (await call.final()).code == 486
    ring = await other_phone.incoming()
    await connect(out, ring)
    await part(out, ring)
    call = await stage.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_an_unconditionally_forwarded_call_never_counts(stage: Stage) -> None:
    line, phone = await stage.line_with_phone(max_calls=1)
    stage.change(line, forwards={"unconditional": to_voicemail(line)})
    away = await stage.call(line)
    deposit = await reach_voicemail(stage, away, line)
    assert stage.redis.zcard(f"live:{line}") == 0
    stage.change(line, forwards={})
    await stage.settle()
    call = await stage.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    await part(away, deposit)


async def test_a_call_forwarded_away_leaves_the_line(stage: Stage) -> None:
    line, phone = await stage.line_with_phone(max_calls=1)
    stage.change(line, forwards={"busy": to_voicemail(line)})
    away = await stage.call(line)
    await refuse(await phone.incoming(), 486)
    deposit = await reach_voicemail(stage, away, line)
    call = await stage.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    await part(deposit, away)


async def test_unreachable_off_is_480(stage: Stage) -> None:
    line = stage.line()
    call = await stage.call(line)
    assert (await call.final()).code == 480
    await stage.ended(call.call_id, condition="none", outcome="unreachable", code=480)


async def test_two_calls_at_once_share_one_place(stage: Stage) -> None:
    """Exact inside one worker: of ten calls in one burst, max_calls are rung."""
    line, phone = await stage.line_with_phone(max_calls=3)
    calls = [await stage.call(line) for _ in range(10)]
    rings = [await phone.incoming() for _ in range(3)]
    for ring in rings:
        ring.respond(180)
    for call in calls:
        await call.heard_above_100()
    assert sorted(call.codes() for call in calls) == [[180]] * 3 + [[486]] * 7
    assert len(phone.invited()) == 3
    for ring in rings:
        await refuse(ring, 403)


def _foreign_voicemail(stage: Stage) -> tuple[Forward, str]:
    other = stage.line(fleet="globex")
    return to_voicemail(other), other


def _unknown_voicemail(stage: Stage) -> tuple[Forward, str]:
    other = numbers.line_number()
    return to_voicemail(other), other


def _fax_without_offer(stage: Stage) -> tuple[Forward, str]:
    other = stage.line()
    return to_fax(other), other


def _premium(stage: Stage) -> tuple[Forward, str]:
    return to_number("+33899123456"), "+33899123456"


def _emergency(stage: Stage) -> tuple[Forward, str]:
    return to_number("112"), "112"


@pytest.mark.parametrize(
    "make", [_foreign_voicemail, _unknown_voicemail, _fax_without_offer, _premium, _emergency]
)
async def test_a_forward_that_is_not_allowed_counts_as_off(stage: Stage, make: object) -> None:
    assert callable(make)
    forward, target = make(stage)
    line, phone = await stage.line_with_phone(forwards={"busy": forward})
    call = await stage.call(line)
    await refuse(await phone.incoming(), 486)
    assert (await call.final()).code == 486
    for kind in ("voicemail", "fax", "number"):
        assert not stage.server(kind).invited(target)
    await stage.ended(call.call_id, condition="none", outcome="busy")


async def test_a_line_that_forwards_to_itself_rings(stage: Stage) -> None:
    line, phone = await stage.line_with_phone()
    stage.change(line, forwards={"unconditional": to_number(line)})
    call = await stage.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_a_line_of_another_fleet_is_an_outside_number(stage: Stage) -> None:
    stranger, phone = await stage.line_with_phone(fleet="globex")
    line = stage.line(forwards={"unreachable": to_number(stranger)})
    call = await stage.call(line)
    away = await stage.server("number").incoming(stranger)
    await connect(call, away)
    await part(call, away)
    assert not phone.invited()
    await stage.ended(call.call_id, condition="unreachable", destination="number")
