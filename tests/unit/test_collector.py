"""The garbage collector examines few objects at a time, with any number of calls in progress."""

from __future__ import annotations

import asyncio
import gc
from collections import deque

from engine.collector import CALLS, Collector, look

OF_A_CALL = 60


async def test_as_many_calls_end_as_begin_and_few_objects_are_young() -> None:
    """Objects that are freed were examined long ago, so the interpreter's own count hardly
    grows."""
    thresholds = gc.get_threshold()
    collector = Collector(asyncio.get_running_loop())
    collector.start()
    try:
        standing: deque[list[list[int]]] = deque(maxlen=500)
        most = 0
        for _ in range(2000):
            standing.append([[] for _ in range(OF_A_CALL)])
            collector.call_began()
            most = max(most, len(gc.get_objects(generation=0)))
            await asyncio.sleep(0)
        assert most < 2 * CALLS * OF_A_CALL
        assert len(gc.get_objects(generation=1)) < 2 * CALLS * OF_A_CALL
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def test_a_cycle_of_what_is_new_is_freed() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    freed: list[str] = []
    cycle = Cycle()
    Cycle.__del__ = lambda self: freed.append("yes")  # type: ignore[attr-defined]
    del cycle
    try:
        look()
        assert freed == ["yes"]
    finally:
        gc.unfreeze()
