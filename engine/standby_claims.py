"""Claims the calls of dead processes at the addresses of this one, in Redis, and continues them.

A process is dead when it has given no sign of life for `DEAD_S`. Its calls are claimed once its
address is at this machine, in one step, so that only one process gets them (`store/standby.py`).
The claim stands in Redis until the calls are written as those of this process. Calls that nobody
continues are recorded, from whichever address.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from engine.call_entry import VERSION, ActiveCall, LeftCalls, decode, move
from engine.calls import Calls
from engine.held_requests import HeldRequests, is_here
from engine.processes.journal import Journal, Left
from engine.records.record import CallRecord
from engine.records.writing_once import written_of
from engine.telemetry.log import get_logger
from sip.endpoint import Endpoint
from sip.message import Message
from store.client import Client
from store.redis_errors import REDIS_ERRORS
from store.standby import Claimed, Newer, Process, StandbyCalls

BEAT_S = 0.5  # between two signs of life
DEAD_S = 2.5  # without one
START_S = 5.0
LOOK_S = 0.1  # between two looks while a process starts

Continue = Callable[[Sequence[LeftCalls]], Awaitable[None]]
"""Continues calls, and records those that cannot go on."""

log = get_logger("standby")


class OwnName:
    """The name of this process in Redis. It gets another one when another host has taken calls of
    it. `earlier` are those under which others have taken them."""

    def __init__(self, epoch: str) -> None:
        self._epoch = self.now = epoch
        self.earlier: list[str] = []

    def renew(self) -> None:
        self.earlier.append(self.now)
        self.now = f"{self._epoch}.{len(self.earlier)}"


class StandbyClaims:
    """Finds and claims them, for one process. Methods raise REDIS_ERRORS unless they say
    otherwise."""

    def __init__(
        self,
        redis: Client,
        store: StandbyCalls,
        journal: Journal,
        calls: Calls,
        endpoint: Endpoint,
        name: OwnName,
        *,
        continue_calls: Continue,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._redis = redis
        self._store = store
        self._journal = journal
        self._calls = calls
        self._endpoint = endpoint
        self._name = name
        self._continue = continue_calls
        self._on_error = on_error
        self._others: dict[str, list[Process]] = {}  # by place, at the last look
        self._unwritten: list[tuple[str, str]] = []  # claims by place and name
        self._newer: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._held = HeldRequests(endpoint.receive, self._loop.time)

    @property
    def place(self) -> str:
        """Where this process leaves its calls: at the first address."""
        return self._endpoint.places()[0]

    @property
    def are_unwritten(self) -> bool:
        """Whether claimed calls are not written yet as those of this process."""
        return bool(self._unwritten)

    async def begin(self, left: Sequence[Left]) -> list[LeftCalls]:
        """Claim what dead processes have left, before the first message is read. Calls of the
        journals `left` that another host has claimed are removed there. Never raises."""
        found: list[LeftCalls] = []
        try:
            async with asyncio.timeout(START_S):
                for epoch in self._journal.dead:
                    await self._replace(epoch, left)
                for place in self._endpoint.places():
                    await self._wait_for_dead(place, found)
        except REDIS_ERRORS as error:
            self._on_error(error)
        # A process that had claimed calls itself may have written them to its journal alone.
        kept = {id_ for journal in left for id_ in journal.pending}
        for claimed in found:
            claimed.active = [call for call in claimed.active if call.id not in kept]
        return found

    async def _replace(self, epoch: str, left: Sequence[Left]) -> None:
        """This process has the journal of that one. Others may have taken some of its calls, after
        which it had other names."""
        taken = set(await self._store.replace(self.place, epoch))
        for process in await self._store.processes(self.place):
            if process.name.startswith(f"{epoch}."):
                taken.update(await self._store.replace(self.place, process.name))
        for journal in left:
            journal.active = [call for call in journal.active if call.id not in taken]
        self._journal.continued(list(taken))

    async def _wait_for_dead(self, place: str, found: list[LeftCalls]) -> None:
        """Claim the calls of every dead process at a place. One that may just have died gets the
        time to show that it lives."""
        until = self._loop.time() + DEAD_S + BEAT_S
        seen: dict[str, float] = {}
        alive: set[str] = set()
        while is_here(place) and self._loop.time() < until:
            waits = False
            for process in await self._store.processes(place):
                name, age_s = process
                if age_s >= DEAD_S:
                    claimed = await self._claim(place, name, DEAD_S, tell=True)
                    if claimed is not None:
                        found.append(claimed)
                elif age_s < seen.get(name, 0.0):
                    alive.add(name)
                seen[name] = age_s
                waits = waits or (age_s < DEAD_S and name not in alive)
            if not waits:
                return
            await asyncio.sleep(LOOK_S)

    async def written(self) -> None:
        """This process has written all its calls: forget those claims."""
        for claim in list(self._unwritten):
            await self._store.forget(*claim)
            self._unwritten.remove(claim)

    def release(self, *, overdue: bool = False) -> None:
        """Handle requests that wait for a claim: all, or those that have waited too long."""
        self._held.release(overdue=overdue)

    def note(self, place: str, processes: list[Process]) -> None:
        ours = {self._name.now, *(name for _, name in self._unwritten)}
        self._others[place] = [process for process in processes if process.name not in ours]

    async def look(self) -> None:
        """Continue the calls of dead processes at the addresses of this one."""
        for place in self._endpoint.places():
            if place != self.place:
                self.note(place, await self._store.processes(place))
            dead = [process for process in self._others[place] if process.age_s >= DEAD_S]
            if dead and is_here(place):
                for process in dead:
                    await self._take(place, process.name, DEAD_S, tell=True)

    async def _take(self, place: str, name: str, silent_s: float, *, tell: bool) -> None:
        claimed = await self._claim(place, name, silent_s, tell=tell)
        if claimed is not None:
            await self._continue([claimed])
            self._calls.put_in_order()
        self._others[place] = [each for each in self._others.get(place, []) if each.name != name]
        self._held.release()

    async def _claim(
        self, place: str, name: str, silent_s: float, *, tell: bool
    ) -> ClaimedCalls | None:
        try:
            claimed = await self._store.claim(
                place, name, self._name.now, silent_s, VERSION, tell=tell
            )
        except Newer:
            if name not in self._newer:
                self._newer.add(name)
                log.error("standby.newer", place=place, process=name)
            return None
        if claimed is None:
            return None
        calls = ClaimedCalls(claimed)
        log.warning(
            "standby.claimed",
            place=place,
            process=name,
            calls=len(claimed.entries),
            age_s=round(claimed.age_s, 1),
        )
        for earlier in self._name.earlier:
            await self._store.give_back(self.place, earlier, list(claimed.entries))
        known = await self._ended([call.id for call in calls.active])
        calls.active = [
            call for call in calls.active if call.id not in known and call.id not in self._calls
        ]
        # Not before: an error above leaves them under the name of the claim, to be claimed again.
        self._unwritten.append((place, claimed.name))
        return calls

    async def _ended(self, ids: list[str]) -> set[str]:
        """Those calls whose records are written: they ended just before their host."""
        try:
            return await written_of(self._redis, ids) if ids else set()
        except REDIS_ERRORS as error:
            self._on_error(error)
            return set()

    async def reap(self, silent_s: float) -> None:
        """Record the calls of processes without a sign of life for so long, at whichever address:
        nobody has continued them."""
        await self._store.announce(self.place)
        for place in await self._store.places():
            processes = await self._store.processes(place)
            for process in processes:
                if process.age_s >= silent_s:
                    await self._take(place, process.name, silent_s, tell=False)
            if not processes and place != self.place:
                await self._store.withdraw(place)

    def hold(self, message: Message, way: Any) -> bool:
        """Whether a request of an unknown dialog waits, because the dialog may come from Redis."""
        places = [place for place, others in self._others.items() if others]
        return bool(places) and self._held.hold(message, way, places)


class ClaimedCalls:
    """As the journal of a process of this host (`call_entry.LeftCalls`)."""

    def __init__(self, claimed: Claimed) -> None:
        self.name = f"{claimed.process} at {claimed.place}"
        self.age_s = claimed.age_s
        self.is_handed_over = False
        self.attempts = claimed.process.count("/")  # each claim has added one to the name
        self.active: list[ActiveCall] = []
        self.over: list[CallRecord] = []
        self.lost = 0
        self._died = claimed.head.unix
        for entry in claimed.entries.values():
            call = _read(entry) if claimed.head.version >= 0 else None
            if call is None:
                self.lost += 1
            else:
                self.active.append(call)
        move(self.active, claimed.head.unix, claimed.head.monotonic)

    def attempt(self) -> None:
        """The claim itself is the note."""

    def failed(self, call: ActiveCall) -> CallRecord:
        """The record of one of its calls that nobody continues: until its last sign of life."""
        return call.failed(self._died, self._died - (time.time() - time.monotonic()))


def _read(entry: bytes) -> ActiveCall | None:
    try:
        call = decode(entry)
    except msgspec.DecodeError:
        return None
    return call if isinstance(call, ActiveCall) else None
