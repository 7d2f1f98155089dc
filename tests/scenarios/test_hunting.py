"""Contacts with q-values: groups rung one after the other (RFC 3261 16.6)."""

from __future__ import annotations

import asyncio

from tests.patience import Stalls
from tests.scenarios import numbers
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import call_off, check_one_tag, connect, part, refuse
from tests.scenarios.setup import ANSWER_BYTES, Setup, to_number

SETTINGS = {"timers": {"pre_ringing_s": 4, "group_ring_s": 2, "max_ring_s": 30}}


async def line_of(
    setup: Setup, *preferences: float, **fields: object
) -> tuple[str, list[Endpoint]]:
    """A line with one phone for each q-value."""
    phones = [await setup.endpoint() for _ in preferences]
    to = [f"<{phone.uri()}>;q={q}" for phone, q in zip(phones, preferences, strict=True)]
    return setup.line(to=to, **fields), phones  # type: ignore[arg-type]


async def test_a_lower_group_rings_when_every_phone_of_the_higher_refused(setup: Setup) -> None:
    line, (first, second, later) = await line_of(setup, 1, 1, 0.3)
    call = await setup.call(line)
    await refuse(await first.incoming(), 486)
    assert not later.invited()
    await refuse(await second.incoming(), 404)
    await connect(call, await later.incoming())
    await part(call, later.invited()[0])


async def test_after_a_group_that_does_not_answer_the_next_rings(setup: Setup) -> None:
    line, (first, later) = await line_of(setup, 0.9, 0.8)
    call = await setup.call(line)
    ring = await first.incoming()
    ring.respond(180)
    await call.receive(180)
    here = await later.incoming(wait_s=4)
    cancel = await ring.receive("CANCEL")
    assert cancel.one("Reason").startswith("Q.850;cause=19")
    await connect(call, here)
    check_one_tag(call.received)
    await part(here, call)
    record = await setup.ended(call.call_id, outcome="answered", condition="none")
    assert [leg["code"] for leg in record["legs"]] == [487, 200]


async def test_after_a_silent_group_the_next_rings_after_pre_ringing(setup: Setup) -> None:
    line, (_, later) = await line_of(setup, 1, 0)
    call = await setup.call(line)
    await connect(call, await later.incoming())
    await part(call, later.invited()[0])


async def test_a_phone_that_was_given_up_may_still_answer(setup: Setup) -> None:
    line, (first, later) = await line_of(setup, 1, 0.5)
    call = await setup.call(line)
    ring = await first.incoming()
    ring.automatic.discard("CANCEL")
    ring.respond(180)
    other = await later.incoming(wait_s=4)
    other.respond(180)
    ring.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await other.receive("CANCEL")
    await part(call, ring)


async def test_the_lines_own_time_runs_over_all_groups(setup: Setup, stalls: Stalls) -> None:
    """after_s is counted from the first 18x, over all groups (forwarding-rules.md 1.6)."""
    stalls.watch(setup.engine.pid)
    target = numbers.outside_number()
    line, phones = await line_of(
        setup, 1, 0.6, 0.3, forwards={"no_answer": to_number(target, after_s=9)}
    )
    call = await setup.call(line)
    for phone in phones:
        ring = await phone.incoming(wait_s=4)
        last = asyncio.get_running_loop().time()
        ring.respond(180)
    away = await setup.server("number").incoming(target, wait_s=9)
    took_s = asyncio.get_running_loop().time() - last
    assert took_s < 9 + stalls.total_s  # as from the last
    await connect(call, away)
    await part(call, away)
    await setup.ended(call.call_id, condition="no_answer")


async def test_a_phone_that_declines_ends_the_hunt(setup: Setup) -> None:
    target = numbers.outside_number()
    line, (first, later) = await line_of(setup, 1, 0.5, forwards={"busy": to_number(target)})
    call = await setup.call(line)
    await refuse(await first.incoming(), 603)
    away = await setup.server("number").incoming(target)
    assert not later.invited()
    await connect(call, away)
    await part(call, away)


async def test_all_groups_decide_together(setup: Setup) -> None:
    """One phone rang unanswered, the other was busy: no answer, as if they had rung at once."""
    target = numbers.outside_number()
    line, (first, later) = await line_of(
        setup, 1, 0.5, forwards={"no_answer": to_number(target, after_s=9)}
    )
    call = await setup.call(line)
    (await first.incoming()).respond(180)
    await refuse(await later.incoming(wait_s=4), 486)
    await connect(call, await setup.server("number").incoming(target))
    await part(call, setup.server("number").invited(target)[0])
    await setup.ended(call.call_id, condition="no_answer")


async def test_a_caller_who_cancels_ends_the_hunt(setup: Setup) -> None:
    line, (first, later) = await line_of(setup, 1, 0.5)
    call = await setup.call(line)
    ring = await first.incoming()
    await call_off(call, ring)
    await asyncio.sleep(2)
    assert not later.invited()
    await setup.ended(call.call_id, outcome="cancelled")
