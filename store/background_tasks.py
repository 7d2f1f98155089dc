"""Background tasks: how they give way to calls, what they meet that nobody foresaw, their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
_AGAIN_S = 0.2


async def giving_way(items: Iterable[T], at_once: int = 20) -> AsyncIterator[T]:
    """The items in turn. Before every `at_once` of them, a few milliseconds of work at most,
    everybody else has a turn of the loop."""
    for place, item in enumerate(items):
        if place % at_once == 0:
            await asyncio.sleep(0)
        yield item


def report(message: str, error: Exception) -> None:
    """An error of ours in a task that goes on: told as asyncio tells those that nobody caught."""
    context = {"message": message, "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


async def end(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel tasks and wait until each has ended.

    One cancellation is not enough for a task that never returns by itself: up to Python 3.11
    `asyncio.wait_for`, through which redis-py sends, loses one that comes as what it waits for is
    done (python/cpython#86296).
    """
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
