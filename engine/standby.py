"""Answered calls go on when their host dies (`calls.standby: redis`): each process leaves them in
Redis, and the process that gets the address of a dead one continues its calls.

Nothing here is on the way of a call. The journal collects what has changed; ten times a second a
background task writes it to Redis. The same task finds dead processes at the addresses of this one
and claims their calls, once the address is at this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any

from engine.call import Call
from engine.call_entry import VERSION, LeftCalls, active, encode
from engine.calls import Calls
from engine.claimed_calls import ClaimedCalls
from engine.config import Config
from engine.held_requests import HeldRequests, is_here
from engine.processes.journal import Journal, Left
from engine.records.writing_once import written_of
from engine.telemetry.log import get_logger
from sip.endpoint import Endpoint
from sip.message import Message
from store import background_tasks
from store.client import Client
from store.redis_errors import REDIS_ERRORS
from store.standby import Head, Newer, Process, StandbyCalls

GATHER_S = 0.1  # changes are written together
BEAT_S = 0.5
DEAD_S = 2.5  # without a sign of life
AT_ONCE = 200  # calls in one write, some hundred kilobytes
RETRY_S = 0.5
START_S = 5.0
GOODBYE_S = 1.0
REWRITE_S = 10.0  # at least, between two times that Redis had lost calls
REAP_S = 60.0
KEPT_S = 86_400  # after the time in which the calls are continued or recorded

Continue = Callable[[Sequence[LeftCalls]], Awaitable[None]]
"""Continues calls, and records those that cannot go on."""

log = get_logger("standby")


class Standby:
    """The answered calls of one process in Redis, and those of the processes before it at its
    addresses. `name` is that of the process, `on_error` gets each failure of Redis."""

    def __init__(
        self,
        redis: Client,
        config: Config,
        journal: Journal,
        calls: Calls,
        endpoint: Endpoint,
        name: str,
        *,
        continue_calls: Continue,
        on_error: Callable[[BaseException], None],
    ) -> None:
        takeover_s = config.timers.takeover_s
        # A process that only Redis does not hear from may live on with the rules in memory.
        self._reap_s = takeover_s + config.rules.stale_max_s
        self._redis = redis
        self._store = StandbyCalls(redis, round(self._reap_s) + KEPT_S)
        self._journal = journal
        self._calls = calls
        self._endpoint = endpoint
        self._epoch = self._name = name
        self._continue = continue_calls
        self._on_error = on_error
        self._changes: dict[str, bytes | None] = {}
        journal.standby = self._changes
        self._kept: set[str] = set()  # calls that Redis has, or may have
        self._others: dict[str, list[Process]] = {}  # by place, at the last look
        self._claims: list[tuple[str, str]] = []  # place and name, until the calls are written
        self._newer: set[str] = set()
        self._names: list[str] = []  # those under which others have taken calls
        self._loop = asyncio.get_running_loop()
        self._held = HeldRequests(endpoint.receive, self._loop.time)
        self._next_beat = self._next_rewrite = self._next_reaping = 0.0
        self._away_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Changes that are not in Redis yet."""
        return len(self._changes)

    @property
    def kept(self) -> int:
        """Calls that Redis has."""
        return len(self._kept)

    @property
    def _place(self) -> str:
        """Where this process leaves its calls: at the first address."""
        return self._endpoint.places()[0]

    # -- start and end ----------------------------------------------------------------------------

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
        taken = set(await self._store.replace(self._place, epoch))
        for process in await self._store.processes(self._place):
            if process.name.startswith(f"{epoch}."):
                taken.update(await self._store.replace(self._place, process.name))
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
            await asyncio.sleep(GATHER_S)

    async def start(self) -> None:
        """Write from now on, and look for dead processes."""
        self._endpoint.layer.holds = self._hold
        self._task = self._loop.create_task(
            background_tasks.continuing(self._run, "standby: stopped"), name="standby"
        )

    async def close(self) -> None:
        """The normal end: all calls are over."""
        if self._task is None:
            return
        await background_tasks.end([self._task])
        self._held.release()
        with contextlib.suppress(*REDIS_ERRORS):
            async with asyncio.timeout(GOODBYE_S):
                await self._store.forget(self._place, self._name)

    # -- the task ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(GATHER_S)
            try:
                now = self._loop.time()
                if self._changes or self._claims or now >= self._next_beat:
                    await self._write()
                if now >= self._next_beat:
                    self._next_beat = now + BEAT_S
                    await self._look()
                if now >= self._next_reaping:
                    self._next_reaping = now + min(REAP_S, self._reap_s)
                    await self._reap()
            except REDIS_ERRORS as error:
                self._note_away(error)
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                background_tasks.report("standby: calls are not left to other hosts", error)
                await asyncio.sleep(RETRY_S)
            else:
                self._note_up()
            self._held.release(overdue=True)

    async def _write(self) -> None:
        """Write what has changed, and that this process lives."""
        changes = self._changes
        while True:
            batch = dict(islice(changes.items(), AT_ONCE))
            for id_ in batch:
                del changes[id_]
            calls = {id_: entry for id_, entry in batch.items() if entry is not None}
            over = [id_ for id_, entry in batch.items() if entry is None and id_ in self._kept]
            self._kept.update(calls)
            head = Head(VERSION, time.time(), time.monotonic())
            try:
                written = await self._store.write(self._place, self._name, head, calls, over)
            except BaseException:
                self._restore(batch)
                raise
            if written.taken is not None:
                self._restore(batch)
                await self._lose(set(written.taken))
                continue
            self._kept.difference_update(over)
            self._note(self._place, written.processes)
            if not changes:
                break
        if written.calls != len(self._kept) and self._loop.time() >= self._next_rewrite:
            self._next_rewrite = self._loop.time() + REWRITE_S
            log.warning("standby.rewritten", found=written.calls, calls=len(self._kept))
            await self._store.forget(self._place, self._name)
            await self._write_anew()
        for claim in list(self._claims):
            await self._store.forget(*claim)
            self._claims.remove(claim)

    def _restore(self, batch: dict[str, bytes | None]) -> None:
        """It was not written: later changes win."""
        for id_, entry in batch.items():
            self._changes.setdefault(id_, entry)

    async def _write_anew(self) -> None:
        self._kept.clear()
        async for call in background_tasks.giving_way(self._calls):
            facts = call.facts
            if facts.answered is not None and facts.id in self._calls:
                self._changes[facts.id] = encode(active(facts))

    async def _lose(self, ids: set[str]) -> None:
        """Another host took this process for dead and continues these calls. Others of this process
        stay, under another name."""
        log.warning("standby.taken", calls=len(ids))
        for id_ in ids:
            call = self._calls.find(id_)
            if isinstance(call, Call):
                call.leave()
            self._changes.pop(id_, None)
        self._names.append(self._name)
        self._name = f"{self._epoch}.{len(self._names)}"
        await asyncio.sleep(0)
        await self._write_anew()

    # -- the calls of others ----------------------------------------------------------------------

    def _note(self, place: str, processes: list[Process]) -> None:
        ours = {self._name, *(name for _, name in self._claims)}
        self._others[place] = [process for process in processes if process.name not in ours]

    async def _look(self) -> None:
        """Continue the calls of dead processes at the addresses of this one."""
        for place in self._endpoint.places():
            if place != self._place:
                self._note(place, await self._store.processes(place))
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
            claimed = await self._store.claim(place, name, self._name, silent_s, VERSION, tell=tell)
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
        for earlier in self._names:
            await self._store.give_back(self._place, earlier, list(claimed.entries))
        known = await self._ended([call.id for call in calls.active])
        calls.active = [
            call for call in calls.active if call.id not in known and call.id not in self._calls
        ]
        # Not before: an error above leaves them under the name of the claim, to be claimed again.
        self._claims.append((place, claimed.name))
        return calls

    async def _ended(self, ids: list[str]) -> set[str]:
        """Those calls whose records are written: they ended just before their host."""
        try:
            return await written_of(self._redis, ids) if ids else set()
        except REDIS_ERRORS as error:
            self._on_error(error)
            return set()

    async def _reap(self) -> None:
        """Record the calls of dead processes that nobody has continued, at whichever address."""
        await self._store.announce(self._place)
        for place in await self._store.places():
            processes = await self._store.processes(place)
            for process in processes:
                if process.age_s >= self._reap_s:
                    await self._take(place, process.name, self._reap_s, tell=False)
            if not processes and place != self._place:
                await self._store.withdraw(place)

    def _hold(self, message: Message, way: Any) -> bool:
        """Whether a request of an unknown dialog waits, because the dialog may come from Redis."""
        places = [place for place, others in self._others.items() if others]
        return bool(places) and self._held.hold(message, way, places)

    # -- Redis away -------------------------------------------------------------------------------

    def _note_away(self, error: BaseException) -> None:
        self._on_error(error)
        if self._away_since is None:
            self._away_since = self._loop.time()
            log.warning("standby.redis_away", error=str(error) or type(error).__name__)

    def _note_up(self) -> None:
        if self._away_since is not None:
            away_s, self._away_since = self._loop.time() - self._away_since, None
            log.info("standby.redis_back", away_s=round(away_s, 3), waiting=len(self._changes))
