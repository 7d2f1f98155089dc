"""The exposed lag is the worst of the last 15 s."""

from __future__ import annotations

import asyncio
import time

from engine.telemetry.loop_lag import PROBE_S, WINDOW_S, LoopLag


def test_one_late_timer_is_seen_for_fifteen_seconds_and_then_forgotten() -> None:
    lag = LoopLag()
    assert lag.worst_s == 0
    lag.note(0.4)
    for _ in range(round(WINDOW_S / PROBE_S) - 1):
        lag.note(0.001)
        assert lag.worst_s == 0.4
    lag.note(0.001)
    assert lag.worst_s == 0.001


async def test_a_loop_that_is_held_up_is_late() -> None:
    lag = LoopLag()
    probe = asyncio.create_task(lag.probe())
    await asyncio.sleep(0)  # its timer is set
    time.sleep(PROBE_S + 0.1)  # noqa: ASYNC251 - this is what is seen
    await probe
    assert lag.worst_s >= 0.09
