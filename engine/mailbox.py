"""Where a call's events wait for its coroutine: one reader, no locks, a deadline."""

from __future__ import annotations

import asyncio
from collections import deque

from sip.events import Event


class Stop:
    """The worker asks the call to end. `code` is for a caller who has no answer yet."""

    __slots__ = ("code", "why")

    def __init__(self, code: int, why: str) -> None:
        self.code = code
        self.why = why


class Mailbox:
    """A queue for one reader: `put` from callbacks, `get` from the call's coroutine."""

    __slots__ = ("_items", "_loop", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Event | Stop] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Event | Stop) -> None:
        self._items.append(item)
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def get(self, deadline: float | None = None) -> Event | Stop | None:
        """The next event; None when the loop's clock passes `deadline` first."""
        items = self._items
        if items:
            return items.popleft()
        loop = self._loop
        timer = None
        if deadline is not None:
            if deadline <= loop.time():
                return None
            timer = loop.call_at(deadline, self._wake)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        return items.popleft() if items else None
