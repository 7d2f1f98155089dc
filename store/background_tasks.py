"""Background tasks: how they yield to calls, are waited for, report unexpected errors and end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
_AGAIN_S = 0.2
_PAUSE_S = 1.0  # after an error that nobody expected
_SLICES = 5


async def giving_way(items: Iterable[T], at_once: int = 20) -> AsyncIterator[T]:
    """Iterate over the items, and let the loop run other tasks before every `at_once` of them.
    Those should be at most a few milliseconds of work."""
    for place, item in enumerate(items):
        if place % at_once == 0:
            await asyncio.sleep(0)
        yield item


async def wait_for_reply(reply: asyncio.Future[Any], most_s: float) -> None:
    """Wait at most so long until a reply is there.

    A loop that is late runs its timers before it reads sockets, or even sends what was asked. So
    the time is waited in slices: being late once costs one slice, not the reply.
    """
    for _ in range(_SLICES):
        await asyncio.wait((reply,), timeout=most_s / _SLICES)
        if reply.done():
            return


def report(message: str, error: Exception) -> None:
    """Report an internal error in a task that continues, as asyncio reports uncaught exceptions."""
    context = {"message": message, "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


async def continuing(work: Callable[[], Awaitable[None]], message: str) -> None:
    """Do work that no error may end, until it returns: one that it raises is reported, and a second
    later it begins again."""
    while True:
        try:
            await work()
            return
        except Exception as error:
            report(message, error)
            await asyncio.sleep(_PAUSE_S)


def keep(
    work: Callable[[], Awaitable[None]], message: str, name: str | None = None
) -> asyncio.Task[None]:
    """A task of `continuing`. End it with `end`."""
    return asyncio.create_task(continuing(work, message), name=name)


async def end(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel tasks and wait until each has ended.

    One cancellation may not be enough: up to Python 3.11 `asyncio.wait_for`, which redis-py uses to
    send, loses a cancellation that arrives just as its awaitable completes (python/cpython#86296).
    """
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
