"""The precedence of rules, what counts as a call in progress, and the codes without a forward."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import check_diversion, connect, part, refuse
from tests.scenarios.setup import Forward, Setup, to_fax, to_number, to_voicemail


async def occupy(setup: Setup, line: str, call: Call, ring: Call) -> None:
    await connect(call, ring)
    await until(lambda: setup.redis.zcard(f"live:{line}") == 1, "it counts")


async def reach_voicemail(setup: Setup, call: Call, line: str) -> Call:
    deposit = await setup.server("voicemail").incoming(line)
    await connect(call, deposit)
    return deposit


async def test_unconditional_comes_before_all_and_never_rings_the_line(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    target = numbers.outside_number()
    others = {"busy": to_voicemail(line), "unreachable": to_voicemail(line)}
    setup.redis.zadd(f"live:{line}", {"another": time.time() + 60})
    setup.change(line, forwards={"unconditional": to_number(target), **others})
    call = await setup.call(line)
    away = await setup.server("number").incoming(target)
    await connect(call, away)
    await part(call, away)
    setup.redis.delete(f"live:{line}")
    assert not phone.invited()
    assert not setup.server("voicemail").invited(line)
    check_diversion(away.first, [(line, "unconditional")])
    await setup.ended(call.call_id, condition="unconditional", destination="number")


async def test_unconditional_comes_before_unreachable(setup: Setup) -> None:
    target = numbers.outside_number()
    line = numbers.line_number()
    forwards = {"unconditional": to_number(target), "unreachable": to_voicemail(line)}
    setup.line(number=line, forwards=forwards)
    call = await setup.call(line)
    away = await setup.server("number").incoming(target)
    await connect(call, away)
    await part(away, call)


async def test_a_forward_that_is_off_does_nothing(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    setup.change(line, forwards={"unconditional": {**to_voicemail(line), "on": False}})
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_max_calls_is_busy_without_ringing(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    setup.change(line, forwards={"busy": to_voicemail(line)})
    first = await setup.call(line)
    ring = await phone.incoming()
    await occupy(setup, line, first, ring)
    second = await setup.call(line)
    deposit = await reach_voicemail(setup, second, line)
    check_diversion(deposit.first, [(line, "busy")])
    assert len(phone.invited()) == 1
    await part(second, deposit)
    await part(first, ring)
    await setup.ended(second.call_id, condition="busy", destination="voicemail")
    # and the line is free again
    third = await setup.call(line)
    ring = await phone.incoming()
    await connect(third, ring)
    await part(ring, third)


async def test_a_ringing_call_counts(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    first = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await first.receive(180)
    second = await setup.call(line)
    assert (await second.final()).code == 486
    first.cancel()
    await first.receive(487)


async def test_busy_comes_before_unreachable(setup: Setup) -> None:
    line = setup.line(max_calls=1)
    target = numbers.outside_number()
    forwards = {"busy": to_number(target), "unreachable": to_voicemail(line)}
    setup.change(line, forwards=forwards)
    setup.redis.zadd(f"live:{line}", {"another": time.time() + 60})
    call = await setup.call(line)
    away = await setup.server("number").incoming(target)
    await connect(call, away)
    setup.redis.delete(f"live:{line}")
    await part(call, away)


async def test_busy_off_is_486(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    first = await setup.call(line)
    ring = await phone.incoming()
    await occupy(setup, line, first, ring)
    second = await setup.call(line)
    assert (await second.final()).code == 486
    assert len(phone.invited()) == 1
    await part(first, ring)
    await setup.ended(second.call_id, condition="none", outcome="busy", code=486)


async def test_a_call_of_another_worker_counts_and_an_expired_lease_does_not(
    setup: Setup,
) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    setup.redis.zadd(f"live:{line}", {"another": time.time() + 60})
    call = await setup.call(line)
    assert (await call.final()).code == 486
    setup.redis.zadd(f"live:{line}", {"another": time.time() - 1})
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    setup.redis.zrem(f"live:{line}", "another")


async def test_a_call_the_line_makes_counts(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    other, other_phone = await setup.line_with_phone()
    out = await setup.call(other, caller=line)
    ring = await other_phone.incoming()
    await connect(out, ring)
    deadline = time.monotonic() + within(5)
    while not setup.redis.zcard(f"live:{line}"):  # the caller is looked up in the background
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    call = await setup.call(line)
    assert (await call.final()).code == 486
    await part(out, ring)
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


@pytest.mark.parametrize("known", ["never_met", "registered_again", "changed"])
async def test_a_call_the_line_makes_counts_at_once(setup: Setup, known: str) -> None:
    """Also while the line is not in memory: a call to it immediately afterwards finds it busy."""
    line, phone = await setup.line_with_phone(max_calls=1)
    other, other_phone = await setup.line_with_phone()
    if known != "never_met":
        call = await setup.call(line)
        ring = await phone.incoming()
        await connect(call, ring)
        await part(call, ring)
    if known == "registered_again":
        setup.register(line, phone.uri(), expires_s=900)
    elif known == "changed":
        setup.change(line, label="changed")
    out = await setup.call(other, caller=line)
    call = await setup.call(line)
    assert (await call.final()).code == 486
    ring = await other_phone.incoming()
    await connect(out, ring)
    await part(out, ring)
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_an_unconditionally_forwarded_call_never_counts(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    setup.change(line, forwards={"unconditional": to_voicemail(line)})
    away = await setup.call(line)
    deposit = await reach_voicemail(setup, away, line)
    assert setup.redis.zcard(f"live:{line}") == 0
    setup.change(line, forwards={})
    await setup.settle()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    await part(away, deposit)


async def test_a_call_forwarded_away_leaves_the_line(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    setup.change(line, forwards={"busy": to_voicemail(line)})
    away = await setup.call(line)
    await refuse(await phone.incoming(), 486)
    deposit = await reach_voicemail(setup, away, line)
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    await part(deposit, away)


async def test_unreachable_off_is_480(setup: Setup) -> None:
    line = setup.line()
    call = await setup.call(line)
    assert (await call.final()).code == 480
    await setup.ended(call.call_id, condition="none", outcome="unreachable", code=480)


async def test_two_calls_at_once_share_one_place(setup: Setup) -> None:
    """Exact inside one worker: of ten calls in one burst, max_calls are rung."""
    line, phone = await setup.line_with_phone(max_calls=3)
    calls = [await setup.call(line) for _ in range(10)]
    rings = [await phone.incoming() for _ in range(3)]
    for ring in rings:
        ring.respond(180)
    for call in calls:
        await call.heard_above_100()
    assert sorted(call.codes() for call in calls) == [[180]] * 3 + [[486]] * 7
    assert len(phone.invited()) == 3
    for ring in rings:
        await refuse(ring, 403)


def _foreign_voicemail(setup: Setup) -> tuple[Forward, str]:
    other = setup.line(fleet="globex")
    return to_voicemail(other), other


def _unknown_voicemail(setup: Setup) -> tuple[Forward, str]:
    other = numbers.line_number()
    return to_voicemail(other), other


def _fax_without_offer(setup: Setup) -> tuple[Forward, str]:
    other = setup.line()
    return to_fax(other), other


def _premium(setup: Setup) -> tuple[Forward, str]:
    return to_number("+33899123456"), "+33899123456"


def _emergency(setup: Setup) -> tuple[Forward, str]:
    return to_number("112"), "112"


@pytest.mark.parametrize(
    "make", [_foreign_voicemail, _unknown_voicemail, _fax_without_offer, _premium, _emergency]
)
async def test_a_forward_that_is_not_allowed_counts_as_off(setup: Setup, make: object) -> None:
    assert callable(make)
    forward, target = make(setup)
    line, phone = await setup.line_with_phone(forwards={"busy": forward})
    call = await setup.call(line)
    await refuse(await phone.incoming(), 486)
    assert (await call.final()).code == 486
    for kind in ("voicemail", "fax", "number"):
        assert not setup.server(kind).invited(target)
    await setup.ended(call.call_id, condition="none", outcome="busy")


async def test_a_line_that_forwards_to_itself_rings(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    setup.change(line, forwards={"unconditional": to_number(line)})
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_a_line_of_another_fleet_is_an_outside_number(setup: Setup) -> None:
    stranger, phone = await setup.line_with_phone(fleet="globex")
    line = setup.line(forwards={"unreachable": to_number(stranger)})
    call = await setup.call(line)
    away = await setup.server("number").incoming(stranger)
    await connect(call, away)
    await part(call, away)
    assert not phone.invited()
    await setup.ended(call.call_id, condition="unreachable", destination="number")
