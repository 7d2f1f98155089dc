"""The path of a call: its lines, its forwards, and the lines on which it counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from engine.call_services import CallServices
from engine.forwards import LAST_HOUR, STANDING
from engine.max_calls import hold
from rules.decide import ForwardTo
from rules.model import Line
from sip import headers
from sip.relayed_fields import Diverted

if TYPE_CHECKING:
    from engine.call_entry import ActiveCall
    from sip.message import Message


class CallPath:
    """One call's path. A call counts on a line from the moment the line rings until the call leaves
    it (forwarding-rules.md 1.4), and on a forwarding line while the forwarded call is in
    progress."""

    __slots__ = (
        "_asking", "_call_id", "_services", "before", "diverted", "held", "joined",
        "received_diversions", "visited",
    )  # fmt: skip

    def __init__(self, services: CallServices, call_id: str, invite: Message) -> None:
        self._services = services
        self._call_id = call_id
        self._asking: asyncio.Lock | None = None  # once a shared limit is asked
        self.received_diversions = headers.diversions(invite)
        # The lines that forwarded it before it came back from outside.
        self.before = services.marks.forwarded(invite, services.numbering, time.time())
        self.visited: tuple[str, ...] = ()
        self.diverted: list[Diverted] = []
        self.held: tuple[str, ...] = ()  # lines on which it counts as a forward in progress
        self.joined: tuple[str, ...] = ()  # lines that ring as targets, on which it counts too

    @property
    def diversions(self) -> int:
        """Forwards so far: those listed in the INVITE and our own."""
        return self.received_diversions + len(self.diverted)

    @property
    def counted(self) -> tuple[str, ...]:
        """The lines on which the call counts now."""
        live, id_ = self._services.live, self._call_id
        return tuple(number for number in self.visited if live.has(number, id_))

    def leased(self, caller: str) -> tuple[str, ...]:
        """The lines on which Redis has a lease of it, and the number of the caller, if its own."""
        live, id_ = self._services.live, self._call_id
        leased = tuple(number for number in self.visited if live.is_leased(number, id_))
        return (*leased, caller) if live.is_leased(caller, hold(id_)) else leased

    def resume(self, entry: ActiveCall, *, begins: bool = False) -> None:
        """Count the call as it counted in the process that it comes from. At first with the same
        leases, so that its end releases them; what has changed is found a moment later. If it
        `begins` again, it does not count yet."""
        services, id_ = self._services, self._call_id
        if begins:
            for number in entry.leased:
                services.live.release(number, id_)
            for number in entry.held:
                services.forwards.release(number, id_)
            return
        self.visited, self.diverted = entry.visited, list(entry.diverted)
        for number in entry.counted:
            services.live.add(number, id_, lease=number in entry.leased)
            services.max_calls.count(number, id_)
        if entry.identity in entry.leased:
            services.live.add(entry.identity, hold(id_), lease=True)
        for number in entry.held:
            self.carry(number)
            # It counts in this worker's share now, not in the pool.
            services.forwards.release(number, id_)

    def arrive(self, line: Line) -> None:
        self.visited += (line.number,)

    async def admit(self, line: Line) -> int | None:
        """Count the call on the line. None, or the number of calls if `max_calls` is reached."""
        self._services.max_calls.settle(line.number)
        if line.max_calls is None:
            self._services.max_calls.count(line.number, self._call_id)
            return None
        return await self._services.live.admit(line.number, self._call_id, line.max_calls)

    def take_over(self, line: Line) -> None:
        """Count the call on the line instead of the one that it replaces."""
        self.arrive(line)
        self._services.max_calls.count(line.number, self._call_id)

    def leave(self, number: str) -> None:
        """Stop counting the call on this line. Harmless if it was not counted."""
        self._services.live.leave(number, self._call_id)

    def may_forward(self, number: str) -> bool:
        """Count a forward of the line within this worker's local quota; False if the shared limit
        must be asked (`ask_to_forward`), or is being asked."""
        if number not in self.held:
            if self._asking is not None and self._asking.locked():
                return False
            if not self._services.forwards.begin(number, self._services.config.limits):
                return False
            self.held += (number,)
        return True

    def carry(self, number: str) -> None:
        """Count a forward that was carried out in another call and continues in this one."""
        if number not in self.held:
            self._services.forwards.carry(number)
            self.held += (number,)

    async def ask_to_forward(self, number: str) -> str | None:
        """Count it against the shared limit. None, or the limit that is reached.

        One at a time: the news of a transfer may ask for the same line as the call's own coroutine.
        """
        services = self._services
        if self._asking is None:
            self._asking = asyncio.Lock()
        async with self._asking:
            if number in self.held:
                return None
            full = await services.forwards.ask(number, self._call_id, services.config.limits)
            if full is None:
                self.held += (number,)
            return full

    async def count_forward(self, number: str) -> str | None:
        """Count a forward of the line that no decision of this moment allows. None, or the limit
        that is reached."""
        if number in self.held:
            return None
        limits, forwards = self._services.config.limits, self._services.forwards
        if 0 < limits.forwards_per_line <= forwards.standing(number):
            return STANDING
        hourly = limits.forwards_per_line_per_hour
        if 0 < hourly <= forwards.last_hour(number, hourly):
            return LAST_HOUR
        return None if self.may_forward(number) else await self.ask_to_forward(number)

    def forward(self, line: Line, decision: ForwardTo) -> None:
        """Move the call on from this line."""
        mark = self._services.marks.make(line.number, time.time())
        self.diverted.append(Diverted(line.number, decision.reason, decision.cause, mark))
        self.leave(line.number)

    async def join(self, line: Line) -> bool:
        """Count the call on a line that rings as a target. False if it has `max_calls` calls."""
        self.arrive(line)
        if await self.admit(line) is not None:
            return False
        self.joined += (line.number,)
        return True

    def part(self) -> None:
        """Stop counting the call on the lines that rang as targets."""
        for number in self.joined:
            self.leave(number)
        self.joined = ()

    def settle(self, number: str, payers: Collection[str]) -> None:
        """Somebody answered: a phone of line `number` ("" = of none). Of all that rang as targets
        the call counts on that line alone, and as a forward of the lines that pay."""
        self.part()
        if number:
            self._services.max_calls.count(number, self._call_id)
        for line in self.held:
            if line not in payers:
                self._let_go(line)
        for line in payers:
            self.carry(line)

    def take_back(self, number: str) -> bool:
        """Return the call to this line and undo the forwards since. False if it had not left."""
        if all(diverted.line != number for diverted in self.diverted):
            return False
        for other in self.visited:
            self.leave(other)
        while self.diverted:
            left = self.diverted.pop().line
            self._let_go(left)
            if left == number:
                break
        self._services.max_calls.count(number, self._call_id)
        return True

    def leave_leases(self, caller: str) -> None:
        """Another host has the call, and the same leases in Redis: stop counting it here, on its
        caller too, without releasing them."""
        live, id_ = self._services.live, self._call_id
        for number in self.visited:
            live.keep(number, id_)
        live.keep(caller, hold(id_))

    def end(self) -> None:
        """The call is over: stop counting it everywhere."""
        for number in self.visited:
            self.leave(number)
        for number in self.held:
            self._let_go(number)
        self.diverted.clear()

    def _let_go(self, number: str) -> None:
        if number in self.held:
            self.held = tuple(other for other in self.held if other != number)
            self._services.forwards.end(number, self._call_id)
