"""Runs the garbage collector often, on few objects, and never on old ones.

Calls leave no cycles (tests/scenarios/test_garbage.py), so there is little to find. A full
collection would stop the loop, because lines in memory and active calls are millions of objects. By
default the interpreter counts objects created minus objects freed. If as many calls end as begin,
this count grows slowly, and a collection examines thousands of young objects: 24 ms with 240 calls
a second that ring for five. So the collector runs after every few calls, and examined objects are
set aside.
"""

from __future__ import annotations

import asyncio
import gc

CALLS = 10
"""New calls per collection: some 600 objects, half a millisecond."""
_YOUNG = 500  # other objects per collection
_NEVER = 1_000_000_000


def look() -> None:
    """Free the cycles among the objects since the last collection."""
    gc.collect(0)
    gc.freeze()  # into a list that is never examined; nothing is moved or copied


class Collector:
    """Paces the collections of one worker's process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls = 0

    def start(self) -> None:
        """Treat all present objects as permanent."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG, _NEVER, _NEVER)

    def call_began(self) -> None:
        """Collect if it is time, after the loop's pending work, the start of the call."""
        self._calls += 1
        if self._calls >= CALLS:
            self._calls = 0
            self._loop.call_soon(look)
