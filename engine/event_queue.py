"""A queue of a call's events for its coroutine: one reader, no locks, a deadline. The deadlines of
all calls share their timers.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sip.address import Address
from sip.events import Acked, Answered, Cancelled, Ended, Failed, Progress, Refreshed
from sip.incoming import Incoming
from sip.leg import Leg
from sip.outgoing import Outgoing

if TYPE_CHECKING:
    from engine.dialled_target import Branch

PER_S = 64  # possible deadlines per second


class Stop:
    """The worker asks the call to end. `code` is for an unanswered caller, `reason` a Reason header
    field for both sides, or empty."""

    __slots__ = ("code", "reason", "why")

    def __init__(self, code: int, why: str, reason: bytes = b"") -> None:
        self.code = code
        self.why = why
        self.reason = reason


class Resolved:
    """The servers of a resolved place; empty if the name leads nowhere."""

    __slots__ = ("branch", "servers")

    def __init__(self, branch: Branch, servers: Sequence[Address]) -> None:
        self.branch = branch
        self.servers = servers


class Checked:
    """The result of checking a contact whose names had to be resolved: why it may not be called,
    None if it may."""

    __slots__ = ("branch", "why")

    def __init__(self, branch: Branch, why: str | None) -> None:
        self.branch = branch
        self.why = why


Event = (
    Progress[Outgoing]
    | Answered[Outgoing]
    | Failed[Outgoing]
    | Cancelled[Incoming]
    | Acked[Incoming]
    | Ended[Leg]
    | Refreshed[Leg]
)
Item = Event | Stop | Resolved | Checked


class Deadlines:
    """Timers of many calls. A deadline is rounded up to 1/PER_S s, so that one wake-up of the
    process serves several calls: 0.7 of the CPU of a call that nobody answers
    (docs/measurements.md). These continue one in each turn of the loop, and messages are read in
    between."""

    __slots__ = ("_due", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: deque[Callable[[], None]] = deque()

    def at(self, deadline: float, wake: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `wake` soon after `deadline`, in seconds of the loop's clock."""
        return self.loop.call_at(math.ceil(deadline * PER_S) / PER_S, self._add, wake)

    def _add(self, wake: Callable[[], None]) -> None:
        self._due.append(wake)
        if len(self._due) == 1:
            self.loop.call_soon(self._wake_one)

    def _wake_one(self) -> None:
        try:
            self._due.popleft()()
        finally:
            if self._due:
                self.loop.call_soon(self._wake_one)


class EventQueue:
    """A queue for one reader: `put` from callbacks, `get` from the call's coroutine.

    Deadlines mostly move later during a call (pre-ringing, ringing, longest call), so a timer that
    is too early is kept and checks again when it fires.
    """

    __slots__ = ("_deadlines", "_items", "_loop", "_timer", "_timer_at", "_waiter")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._loop = deadlines.loop
        self._items: deque[Item] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether all events were read."""
        return not self._items

    def put(self, item: Item) -> None:
        self._items.append(item)
        if self._waiter is not None:
            self._wake()

    async def get(self, deadline: float) -> Item | None:
        """The next event; None if the loop's clock passes `deadline` first."""
        while not self._items:
            if deadline <= self._loop.time():
                return None
            if self._timer is None or deadline < self._timer_at:
                self._arm(deadline)
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._items.popleft()

    def close(self) -> None:
        """Stop reading."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._deadlines.at(deadline, self._on_timer)
        self._timer_at = deadline

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
