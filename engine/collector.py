"""When the interpreter looks for cycles of garbage: often, at few objects, never at old ones.

Calls leave no cycles (tests/scenarios/test_garbage.py), so that there is little to find, and to
look at everything would stop the loop: millions of objects are lines in memory and standing calls.
By itself the interpreter counts objects made less objects gone. With as many calls that end as
begin that grows slowly, and the young among which it then looks are thousands: 24 ms where 240
calls begin in a second and ring for five. So it is made to look after every few calls, and what it
has looked at once is put aside.
"""

from __future__ import annotations

import asyncio
import gc

CALLS = 10
"""New calls from one look to the next: some 600 objects, half a millisecond."""
_YOUNG = 500  # other objects at a time
_NEVER = 1_000_000_000


def look() -> None:
    """Free the cycles among what is new since the last look."""
    gc.collect(0)
    gc.freeze()  # into a list that is never walked; nothing is moved or copied


class Collector:
    """Paces the collections of one worker's process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls = 0

    def start(self) -> None:
        """What is there now lives as long as the process."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG, _NEVER, _NEVER)

    def call_began(self) -> None:
        """Look when it is time, after what the loop has to do already: the call's own beginning."""
        self._calls += 1
        if self._calls >= CALLS:
            self._calls = 0
            self._loop.call_soon(look)
