"""Which calls other workers must know of: those that count on a line with `max_calls`.

Every call counts in its worker, on the line that it rings and on the number that makes it
(forwarding-rules.md 1.3), at once and without asking. Only on lines with a limit does it get a
lease in Redis as well. Whether a line has one may not be known yet, and may change while calls
stand: then the line is read beside the call, a moment later and many lines together, and its calls
are leased.

Most callers are no lines of ours, and each is another one: about those whom memory does not know
Redis is asked first whether they are lines, so that they do not push the lines out of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from store import background_tasks
from store.lines import Unavailable

if TYPE_CHECKING:
    from engine.call import Call
    from engine.starcode import StarCall
    from engine.worker import Worker

GATHER_S = 0.1  # lines that are met or change within this time are looked at together
_AT_ONCE = 50  # read at the same time, when many have changed


class Leases:
    """Counts calls on lines, and leases those that other workers must count too."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._numbers: set[str] = set()  # to be looked at
        self._claims: dict[str, list[Call]] = {}  # calls with these numbers in From
        self._any = False  # all are
        self._timer: asyncio.TimerHandle | None = None

    def count(self, number: str, call_id: str) -> None:
        """A call counts on a number (E.164) from now on. A line with a limit that is known from
        before a change, as after each registration, has one until it is read again."""
        entry, is_current = self._worker.store.recall(number)
        limited = entry is not None and entry.line is not None and entry.line.max_calls is not None
        self._worker.live.add(number, call_id, lease=limited)
        if not (limited or is_current):
            self._look_at(number)

    def makes(self, call: Call) -> None:
        """A call begins, or has just come to be known: it counts on the number that makes it. One
        that is known by From alone waits until its line's phones are known."""
        facts = call.facts
        if facts.identity:
            self.count(facts.identity, hold(facts.id))
        elif facts.caller:
            entry, is_current = self._worker.store.recall(facts.caller)
            if not call.is_known_by(entry) and not is_current:
                self._claims.setdefault(facts.caller, []).append(call)
                self._look_at(facts.caller)

    def made(self, call: Call | StarCall) -> None:
        """It is over. Harmless for one that was not counted."""
        facts = call.facts
        if facts.identity:
            self._worker.live.leave(facts.identity, hold(facts.id))
        claims = self._claims.get(facts.caller)
        if claims is not None and call in claims:
            claims.remove(call)
            if not claims:
                del self._claims[facts.caller]

    def settle(self, number: str) -> None:
        """The line is known now: calls that claim to be its own are, or are not."""
        claims = self._claims.pop(number, None)
        if claims:
            entry, _ = self._worker.store.recall(number)
            for call in claims:
                call.is_known_by(entry)

    def changed(self, number: str | None) -> None:
        """A line's document has changed; None: any may have."""
        if number is None:
            self._any = True
            self._look_soon()
        elif self._worker.live.has_unleased(number):
            self._look_at(number)

    def _look_at(self, number: str) -> None:
        self._numbers.add(number)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._timer is None:
            self._timer = self._worker.loop.call_later(GATHER_S, self._look)

    def _look(self) -> None:
        worker, self._timer = self._worker, None
        numbers, self._numbers = self._numbers, set()
        if self._any:
            self._any = False
            numbers.update(worker.live.numbers())
        worker.calls.background(self._look_at_all(numbers))

    async def _look_at_all(self, numbers: Iterable[str]) -> None:
        live, store = self._worker.live, self._worker.store
        to_read: list[str] = []
        async for number in background_tasks.giving_way(numbers):
            if not (live.has_unleased(number) or number in self._claims):
                continue
            entry, _ = store.recall(number)
            if entry is not None and entry.line is not None:
                to_read.append(number)
            else:
                store.ask_if_line(number, partial(self._told, number))
            if len(to_read) == _AT_ONCE:
                await self._read_all(to_read)
                to_read = []
        await self._read_all(to_read)

    def _told(self, number: str, is_line: bool) -> None:
        if is_line:
            self._worker.calls.background(self._read(number))
        else:
            self._claims.pop(number, None)

    async def _read_all(self, numbers: list[str]) -> None:
        await asyncio.gather(*map(self._read, numbers))

    async def _read(self, number: str) -> None:
        try:
            entry = await self._worker.store.look_up(number)
        except Unavailable:
            return  # Redis is away; when it is back every line is looked at
        self.settle(number)
        if entry.line is not None and entry.line.max_calls is not None:
            self._worker.live.lease(number)


def hold(call_id: str) -> str:
    """How a call counts on the line that makes it: apart from the line it reaches, which may be
    the same one."""
    return f"{call_id}:caller"
