"""A first 18x may shorten the wait, if the time for a first response is longer than the time to
answer."""

from __future__ import annotations

import time

from tests.scenarios import numbers
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import Setup, to_number

AFTER_S = 5
SETTINGS = {"timers": {"pre_ringing_s": 60, "max_ring_s": 60}}


async def test_the_no_answer_timer_ends_before_the_time_for_a_first_sign(setup: Setup) -> None:
    target = numbers.outside_number()
    forwards = {"no_answer": to_number(target, after_s=AFTER_S)}
    line, phone = await setup.line_with_phone(forwards=forwards)
    call = await setup.call(line)
    ring = await phone.incoming()
    rang = time.monotonic()
    ring.respond(180)
    await call.receive(180)
    away = await setup.server("number").incoming(target, wait_s=30)
    assert time.monotonic() - rang > AFTER_S - 0.3
    await connect(call, away)
    await part(call, away)
