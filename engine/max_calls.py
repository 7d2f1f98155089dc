"""The calls of lines with `max_calls`, which all workers must count: which of them get a lease.

Every call counts in its worker, on the line that it rings and on the number that makes it
(forwarding-rules.md 1.4), at once and without asking. On a line with a limit it also gets a lease
in Redis. Whether a line has a limit may not be known yet, and may change during calls. Then the
line is read in the background, a moment later and together with others, and its calls get leases.

Most callers are not our lines, and each is different. For callers that are not in memory Redis is
asked first whether they are lines, so that they do not evict lines from memory. `leases.py` takes,
renews and releases the leases in Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol

from engine.call_facts import CallFacts
from engine.call_tasks import CallTasks
from engine.leases import LiveCalls
from store import background_tasks
from store.cache import Entry
from store.fleets import Fleets
from store.lines import Store, Unavailable

GATHER_S = 0.1  # lines that are called or change within this time are checked together
_AT_ONCE = 50  # lines read at the same time, if many have changed
_CALLER = ":caller"


class Claiming(Protocol):
    """A call that may be a line's own."""

    @property
    def facts(self) -> CallFacts: ...

    def is_known_by(self, entry: Entry | None) -> bool:
        """Whether it comes from a phone of this line. If so, it counts there from now on."""


class MaxCalls:
    """Counts calls on lines, and leases those that other workers must count too."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        fleets: Fleets,
        live: LiveCalls,
        tasks: CallTasks,
        on_leased: Callable[[str], None],
    ) -> None:
        """`on_leased` gets the id of a call that has a lease from now on, which it had not when it
        began to count."""
        self._loop = loop
        self._store = store
        self._fleets = fleets
        self._live = live
        self._tasks = tasks
        self._on_leased = on_leased
        self._numbers: set[str] = set()  # to be checked
        self._claims: dict[str, list[Claiming]] = {}  # calls with these numbers in From
        self._any = False  # all are
        self._timer: asyncio.TimerHandle | None = None

    def count(self, number: str, call_id: str) -> None:
        """Count a call on a number (E.164) from now on. If a line had a limit before a change, as
        after each registration, it counts as limited until it is read again."""
        entry, is_current = self._store.recall(number)
        limited = entry is not None and entry.line is not None and entry.line.max_calls is not None
        self._live.add(number, call_id, lease=limited)
        if not (limited or is_current) or self._lacks(entry):
            self._look_at(number)

    def makes(self, call: Claiming) -> None:
        """Count a call on its caller, when it begins or its caller becomes known. A caller known by
        From alone waits until its line's phones are known."""
        facts = call.facts
        if facts.identity:
            self.count(facts.identity, hold(facts.id))
        elif facts.caller:
            entry, is_current = self._store.recall(facts.caller)
            if not call.is_known_by(entry) and not is_current:
                self._claims.setdefault(facts.caller, []).append(call)
                self._look_at(facts.caller)

    def made(self, facts: CallFacts) -> None:
        """The call is over. Harmless if it was not counted."""
        if facts.identity:
            self._live.leave(facts.identity, hold(facts.id))
        claims = self._claims.get(facts.caller)
        if claims is not None:
            claims[:] = [call for call in claims if call.facts is not facts]
            if not claims:
                del self._claims[facts.caller]

    def settle(self, number: str) -> None:
        """The line is known now: decide for calls that claim to be its own."""
        claims = self._claims.pop(number, None)
        if claims:
            entry, _ = self._store.recall(number)
            for call in claims:
                call.is_known_by(entry)

    def changed(self, number: str | None) -> None:
        """A line's document has changed; None: any may have."""
        if number is None:
            self._any = True
            self._look_soon()
        elif self._live.has_unleased(number):
            self._look_at(number)
        elif self._live.count(number):
            self._store.latest(number)  # reads it: a REFER in its calls is decided from memory

    def _look_at(self, number: str) -> None:
        self._numbers.add(number)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(GATHER_S, self._look)

    def _look(self) -> None:
        self._timer = None
        numbers, self._numbers = self._numbers, set()
        if self._any:
            self._any = False
            numbers.update(self._live.numbers(), self._claims)
        self._tasks.start(self._look_at_all(numbers))

    async def _look_at_all(self, numbers: Iterable[str]) -> None:
        live, store = self._live, self._store
        to_read: list[str] = []
        async for number in background_tasks.giving_way(numbers):
            entry, _ = store.recall(number)
            # The calls of another process are leased already, but memory does not have their lines.
            unread = live.count(number) > 0 and self._lacks(entry)
            if not (unread or live.has_unleased(number) or number in self._claims):
                continue
            if entry is not None and entry.line is not None:
                to_read.append(number)
            else:
                store.ask_if_line(number, partial(self._found_out, number))
            if len(to_read) == _AT_ONCE:
                await self._read_all(to_read)
                to_read = []
        await self._read_all(to_read)

    def _found_out(self, number: str, is_line: bool) -> None:
        if is_line:
            self._tasks.start(self._read(number))
        else:
            self._claims.pop(number, None)

    async def _read_all(self, numbers: list[str]) -> None:
        await asyncio.gather(*map(self._read, numbers))

    async def _read(self, number: str) -> None:
        entry: Entry | None = None
        with suppress(Unavailable):
            entry = await self._store.look_up(number)
        # While the stream of changes is off every answer may be older; all lines are looked at when
        # it is on again.
        may_be_older = not self._store.recall(number)[1] and self._store.redis_up
        if may_be_older and not self._store.age_s():
            self._look_at(number)  # the answer is late
            return
        if entry is None:
            return  # Redis is away; every line is checked when it is back
        if not may_be_older:
            self.settle(number)
        line = entry.line
        if line is not None and line.max_calls is not None:
            for call_id in self._live.lease(number):
                self._on_leased(call_id.removesuffix(_CALLER))
        if line is not None and self._lacks(entry):
            await self._fleets.load(line.fleet)

    def _lacks(self, entry: Entry | None) -> bool:
        """Whether memory lacks a line or its fleet: a REFER in its calls is decided from memory."""
        if entry is None:
            return True
        return entry.line is not None and self._fleets.find(entry.line.fleet) is None


def hold(call_id: str) -> str:
    """The id of a call in its caller's count, which differs from that on the called line, as both
    may be the same line."""
    return call_id + _CALLER
