"""A queue of a call's events for its coroutine: one reader, no locks, a deadline."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sip.address import Address
from sip.events import Acked, Answered, Cancelled, Ended, Failed, Progress, Refreshed
from sip.incoming import Incoming
from sip.leg import Leg
from sip.outgoing import Outgoing

if TYPE_CHECKING:
    from engine.branch import Branch


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


class EventQueue:
    """A queue for one reader: `put` from callbacks, `get` from the call's coroutine.

    Deadlines mostly move later during a call (pre-ringing, ringing, longest call), so a timer that
    is too early is kept and checks again when it fires.
    """

    __slots__ = ("_items", "_loop", "_timer", "_timer_at", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
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
        self._timer = self._loop.call_at(deadline, self._on_timer)
        self._timer_at = deadline

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
