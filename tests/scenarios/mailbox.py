"""A mailbox that returns the first matching item, also one that arrives later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from tests.patience import within

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Items in order of arrival; `take` waits for one that matches and leaves the others."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._waiters: list[tuple[Callable[[Item], bool], asyncio.Future[Item]]] = []

    def put(self, item: Item) -> None:
        """Give the item to the first waiter that it matches, otherwise keep it."""
        for matches, future in self._waiters:
            if not future.done() and matches(item):
                future.set_result(item)
                return
        self.items.append(item)

    async def take(self, matches: Callable[[Item], bool], wait_s: float, wanted: str) -> Item:
        """Remove and return the first match. Raises AssertionError with `wanted` if none came
        `within` `wait_s`."""
        for item in self.items:
            if matches(item):
                self.items.remove(item)
                return item
        future: asyncio.Future[Item] = asyncio.get_running_loop().create_future()
        waiter = (matches, future)
        self._waiters.append(waiter)
        try:
            return await asyncio.wait_for(future, within(wait_s))
        except TimeoutError:
            pass
        finally:
            self._waiters.remove(waiter)
        raise AssertionError(f"no {wanted} within {wait_s} s; unclaimed: {self.items}")
