"""The no-answer timer, and the races around it. Each takes five seconds, so they play together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.scenarios import numbers
from tests.scenarios.batch import Batch, Outcomes, names_in
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import check_diversion, check_one_tag, connect, part, refuse
from tests.scenarios.setup import ANSWER_BYTES, RunningEngine, Setup, to_number, to_voicemail

batch = Batch(together=40)
AFTER_S = 5
MAX_RING_S = 7
PRE_S = 6
SETTINGS = {"timers": {"pre_ringing_s": PRE_S, "max_ring_s": MAX_RING_S}}
LONG_S = AFTER_S + 3


async def ringing(setup: Setup, **fields: object) -> tuple[str, str, Call, Call, Endpoint]:
    """A line that rings, with a no-answer forward outside: line, target, caller, phone call."""
    target = numbers.outside_number()
    forwards = {"no_answer": to_number(target, after_s=AFTER_S)}
    line, phone = await setup.line_with_phone(forwards=forwards, **fields)
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    return line, target, call, ring, phone


@batch
async def the_timer_starts_at_the_first_ringing_and_only_there(setup: Setup) -> None:
    target = numbers.outside_number()
    forwards = {"no_answer": to_number(target, after_s=AFTER_S)}
    line, phone = await setup.line_with_phone(forwards=forwards)
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(100)
    await asyncio.sleep(1.2)
    rang = time.monotonic()
    ring.respond(180)
    await asyncio.sleep(AFTER_S - 1)
    again = time.monotonic()
    ring.respond(180)
    ring.respond(183)
    away = await setup.server("number").incoming(target, wait_s=LONG_S)
    assert time.monotonic() - rang > AFTER_S - 0.1
    assert time.monotonic() - again < AFTER_S  # not counted from there
    await connect(call, away)
    await part(call, away)


@batch
async def a_phone_that_repeats_183_is_given_up(setup: Setup) -> None:
    """The purpose of timer C (RFC 3261 16.6): further 183s do not extend the wait."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()

    async def insist() -> None:
        while True:
            ring.respond(183)
            await asyncio.sleep(0.5)

    insisting = asyncio.create_task(insist())
    try:
        await ring.receive("CANCEL", wait_s=MAX_RING_S + 3)
    finally:
        insisting.cancel()
    await call.receive(480)


@batch
async def the_line_is_cancelled_and_the_target_called_without_waiting(setup: Setup) -> None:
    line, target, call, ring, _ = await ringing(setup)
    ring.automatic.discard("CANCEL")
    await ring.receive("CANCEL", wait_s=LONG_S)  # without any response
    away = await setup.server("number").incoming(target, wait_s=2)
    check_diversion(away.first, [(line, "no_answer")])
    await connect(call, away)
    assert call.codes() == [180, 181, 180, 200]
    check_one_tag(call.received)
    for cancel in ring.requests("CANCEL")[:1]:
        ring.respond(200, to=cancel)
    await refuse(ring, 487)
    await part(call, away)
    await setup.ended(call.call_id, condition="no_answer", destination="number")


@batch
async def who_picks_up_while_the_target_rings_wins(setup: Setup) -> None:
    before = setup.engine.metric("renvoi_races_total", kind="line_won")
    line, target, call, ring, _ = await ringing(setup, max_calls=1)
    ring.automatic.discard("CANCEL")
    cancel = await ring.receive("CANCEL", wait_s=LONG_S)
    away = await setup.server("number").incoming(target)
    away.respond(180)
    await call.receive(181)
    ring.respond(200, body=ANSWER_BYTES)
    ring.respond(200, to=cancel)
    answer = await call.receive(200)
    assert answer.body == ANSWER_BYTES
    call.ack(answer)
    await ring.receive("ACK")
    await away.receive("CANCEL")
    await away.receive("ACK")
    assert not ring.requests("BYE")
    check_one_tag(call.received)
    # the line has its one call
    second = await setup.call(line)
    busy = await second.final()
    await part(call, ring)
    await setup.ended(call.call_id, condition="none", destination="line", outcome="answered")
    assert setup.engine.metric("renvoi_races_total", kind="line_won") > before
    assert busy.code == 486, "the line's call does not count after the race was won"


@batch
async def who_picks_up_after_the_target_answered_is_ended(setup: Setup) -> None:
    _, target, call, ring, _ = await ringing(setup)
    ring.automatic.discard("CANCEL")
    cancel = await ring.receive("CANCEL", wait_s=LONG_S)
    away = await setup.server("number").incoming(target)
    await connect(call, away)
    ring.respond(200, body=ANSWER_BYTES)
    ring.respond(200, to=cancel)
    await ring.receive("ACK")
    await ring.receive("BYE")
    assert not call.requests("BYE")
    await part(call, away)
    await setup.ended(call.call_id, condition="no_answer", destination="number")


@batch
async def who_picks_up_before_the_timer_is_connected(setup: Setup) -> None:
    _, target, call, ring, _ = await ringing(setup)
    await asyncio.sleep(1)
    await connect(call, ring, ring=False)
    await asyncio.sleep(AFTER_S)
    assert not setup.server("number").invited(target)
    await part(call, ring)


@batch
async def both_answer_in_the_same_moment_and_one_call_is_left(setup: Setup) -> None:
    _, target, call, ring, _ = await ringing(setup)
    ring.automatic.discard("CANCEL")
    cancel = await ring.receive("CANCEL", wait_s=LONG_S)
    away = await setup.server("number").incoming(target)
    away.automatic.discard("CANCEL")
    away.respond(200, body=ANSWER_BYTES)
    ring.respond(200, body=ANSWER_BYTES)
    ring.respond(200, to=cancel)
    call.ack(await call.receive(200))
    await away.receive("ACK")
    await ring.receive("ACK")
    await until(lambda: ring.requests("BYE") or away.requests("BYE"), "one is ended")
    await asyncio.sleep(0.3)
    ended = [side for side in (ring, away) if side.requests("BYE")]
    assert len(ended) == 1
    assert call.codes().count(200) == 1
    assert not call.requests("BYE")
    await part(call, away if ended[0] is ring else ring)


@batch
async def a_line_that_rings_on_gives_480_when_no_answer_is_off(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(forwards={})
    call = await setup.call(line)
    ring = await phone.incoming()
    start = time.monotonic()
    ring.respond(180)
    assert (await call.final(wait_s=MAX_RING_S + 3)).code == 480
    assert time.monotonic() - start > MAX_RING_S - 0.7
    await ring.receive("CANCEL")
    await setup.ended(call.call_id, condition="none", outcome="no_answer", code=480)


@batch
async def a_target_that_rings_on_gives_480(setup: Setup) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line)
    away = await setup.server("number").incoming(target)
    away.respond(180)
    assert (await call.final(wait_s=MAX_RING_S + 3)).code == 480
    await away.receive("CANCEL")
    await setup.ended(
        call.call_id, condition="unconditional", destination="number", outcome="no_answer"
    )


@batch
async def a_target_that_never_answers_anything_gives_480(setup: Setup) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line)
    await setup.server("number").incoming(target)
    assert (await call.final(wait_s=MAX_RING_S + 4)).code == 480
    await setup.ended(call.call_id, condition="unconditional", outcome="unreachable")


@batch
async def a_chain_of_no_answer_rings_each_line_in_turn(setup: Setup) -> None:
    second, desk = await setup.line_with_phone()
    setup.change(second, forwards={"no_answer": to_voicemail(second, after_s=AFTER_S)})
    first, phone = await setup.line_with_phone(
        forwards={"no_answer": to_number(second, after_s=AFTER_S)}
    )
    call = await setup.call(first)
    ring = await phone.incoming()
    ring.respond(180)
    there = await desk.incoming(wait_s=LONG_S)
    there.respond(180)
    deposit = await setup.server("voicemail").incoming(second, wait_s=LONG_S)
    check_diversion(deposit.first, [(second, "no_answer"), (first, "no_answer")])
    await connect(call, deposit)
    check_one_tag(call.received)
    await part(call, deposit)


@batch
async def the_first_line_may_still_win_while_the_second_rings(setup: Setup) -> None:
    second, desk = await setup.line_with_phone()
    first, phone = await setup.line_with_phone(
        forwards={"no_answer": to_number(second, after_s=AFTER_S)}
    )
    call = await setup.call(first)
    ring = await phone.incoming()
    ring.automatic.discard("CANCEL")
    ring.respond(180)
    cancel = await ring.receive("CANCEL", wait_s=LONG_S)
    there = await desk.incoming()
    there.respond(180)
    ring.respond(200, body=ANSWER_BYTES)
    ring.respond(200, to=cancel)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await there.receive("CANCEL")
    await part(ring, call)
    await setup.ended(call.call_id, condition="none", destination="line", outcome="answered")


@batch
async def the_caller_who_cancels_in_the_race_ends_it_all(setup: Setup) -> None:
    _, target, call, ring, _ = await ringing(setup)
    ring.automatic.discard("CANCEL")
    cancel = await ring.receive("CANCEL", wait_s=LONG_S)
    away = await setup.server("number").incoming(target)
    away.respond(180)
    await call.receive(181)
    call.cancel()
    await call.receive(487)
    ring.respond(200, body=ANSWER_BYTES)
    ring.respond(200, to=cancel)
    await away.receive("CANCEL")
    await ring.receive("ACK")
    await ring.receive("BYE")
    await setup.ended(call.call_id, outcome="cancelled")


@batch
async def a_phone_that_rings_late_is_not_given_up_at_the_first_timer(setup: Setup) -> None:
    """Ringing starts before pre_ringing_s: the no-answer timer counts from there."""
    target = numbers.outside_number()
    line, phone = await setup.line_with_phone(
        forwards={"no_answer": to_number(target, after_s=2 * PRE_S)}
    )
    call = await setup.call(line)
    ring = await phone.incoming()
    await asyncio.sleep(PRE_S / 2)
    ring.respond(180)
    await call.receive(180)
    await asyncio.sleep(PRE_S / 2 + 1)
    await connect(call, ring, ring=False)
    await part(call, ring)


@batch
async def a_phone_that_never_rang_and_answers_late_wins_too(setup: Setup) -> None:
    """Given up by pre_ringing_s, before any provisional answer: the race is the same."""
    target = numbers.outside_number()
    line, phone = await setup.line_with_phone(forwards={"unreachable": to_number(target)})
    call = await setup.call(line)
    ring = await phone.incoming()
    away = await setup.server("number").incoming(target, wait_s=PRE_S + 2)
    away.respond(180)
    await call.receive(181)
    ring.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await away.receive("CANCEL")
    await part(call, ring)


@batch
async def a_200_that_is_never_acknowledged_ends_the_call_on_both_sides(setup: Setup) -> None:
    """RFC 3261 13.3.1.4: after 64*T1, 32 seconds, the answered side gives up with BYE."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    await call.receive(200)
    await ring.receive("BYE", wait_s=36)
    await call.receive("BYE")
    await setup.record(call.call_id)
    assert setup.engine.metric("renvoi_races_total", kind="ack_missing") > 0


@pytest.fixture(scope="module")
def outcomes(running_engine: RunningEngine, request: pytest.FixtureRequest) -> Outcomes:
    @asynccontextmanager
    async def open_set() -> AsyncIterator[Callable[[], Setup]]:
        async with running_engine.endpoints() as servers:
            yield lambda: Setup(running_engine, servers)

    return batch.play(open_set, names_in(request))


@pytest.mark.parametrize("name", batch.names)
def test_no_answer(name: str, outcomes: Outcomes) -> None:
    outcomes.check(name)
