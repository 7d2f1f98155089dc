# cython: language_level=3, boundscheck=True, wraparound=False, nonecheck=True
"""One wheel for every timer of the core.

There are no timer objects. An object that waits keeps the tick that `after` returned and compares
it with the argument of `on_tick`. A timer that was stopped or restarted simply expires in its slot.
"""

from __future__ import annotations

import heapq
from typing import Any, Protocol

import cython

TICK_MS = cython.declare(cython.int, 10)
SLOTS = cython.declare(cython.int, 8192)  # 82 s; later timers are in a heap


class Timed(Protocol):
    """The interface of objects that wait in the wheel."""

    def on_tick(self, tick: int) -> None:
        """The tick that `after` returned has come, or an outdated one."""


@cython.final
@cython.cclass
class Wheel:
    """Timers by the tick at which they are due. The caller has the clock: `run` gets the time.

    Attributes:
        waiting: the number of timers, including stopped ones.
        on_error: gets an exception of `on_tick`; the other timers of that tick are still called.
    """

    waiting: int = cython.declare(cython.longlong, visibility="public")
    on_error: Any = cython.declare(object, visibility="public")
    _slots: list[Any]
    _far: list[Any]  # heap of (tick, order, who)
    _order: cython.longlong
    _tick: cython.longlong  # the last completed one
    _now: cython.longlong

    def __init__(self, now_ms: int) -> None:
        self._slots = [[] for _ in range(SLOTS)]
        self._far = []
        self._order = 0
        self._tick = self._now = now_ms // TICK_MS
        self.waiting = 0
        self.on_error = None

    def after(self, who: Timed, ms: int) -> int:
        """Call `who.on_tick` in so many milliseconds, not earlier; returns the tick."""
        tick: cython.longlong = self._now + (ms + TICK_MS - 1) // TICK_MS
        if tick <= self._tick:
            tick = self._tick + 1
        self.waiting += 1
        if tick - self._tick >= SLOTS:
            self._order += 1
            heapq.heappush(self._far, (tick, self._order, who))
        else:
            slot: list[Any] = self._slots[tick % SLOTS]
            slot.append(who)
        return tick

    def run(self, now_ms: int) -> None:
        """Call all timers due at `now_ms`."""
        slot: list[Any]
        now: cython.longlong = now_ms // TICK_MS
        if now <= self._now:
            return
        self._now = now
        while self._tick < now:
            if self.waiting == 0:
                self._tick = now
                return
            self._tick += 1
            while self._far and self._far[0][0] - self._tick < SLOTS:
                tick, _, who = heapq.heappop(self._far)
                slot = self._slots[tick % SLOTS]
                slot.append(who)
            slot = self._slots[self._tick % SLOTS]
            if slot:
                self._slots[self._tick % SLOTS] = []
                self.waiting -= len(slot)
                for who in slot:
                    try:
                        who.on_tick(self._tick)
                    except Exception as error:
                        if self.on_error is None:
                            raise
                        self.on_error(error)
