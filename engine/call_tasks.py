"""The tasks of a worker's calls, and those that calls start beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class CallTasks:
    """Holds each task until it is done: the event loop itself does not."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        """Run it from the next turn of the loop on."""
        task = self._loop.create_task(work, name=name or None)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def end(self, within_s: float) -> None:
        """Wait until all are done, at most so long."""
        if self._running:
            await asyncio.wait(self._running, timeout=within_s)
