"""Answered calls go on when their host dies (`calls.standby: redis`): each process leaves them in
Redis, and the process that gets the address of a dead one continues its calls.

Nothing here is on the way of a call. The journal collects what has changed; ten times a second a
background task writes it to Redis. The same task lets `standby_claims.py` look for dead processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from itertools import islice

from engine.call import Call
from engine.call_entry import VERSION, LeftCalls, active, encode
from engine.calls import Calls
from engine.config import Config
from engine.processes.journal import Journal, Left
from engine.standby_claims import BEAT_S, Continue, OwnName, StandbyClaims
from engine.telemetry.log import get_logger
from sip.endpoint import Endpoint
from store import background_tasks
from store.client import Client
from store.redis_errors import REDIS_ERRORS
from store.standby import Head, StandbyCalls

GATHER_S = 0.1  # changes are written together
AT_ONCE = 200  # calls in one write, some hundred kilobytes
RETRY_S = 0.5
GOODBYE_S = 1.0
REWRITE_S = 10.0  # at least, between two times that Redis had lost calls
REAP_S = 60.0
KEPT_S = 86_400  # after the time in which the calls are continued or recorded

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
        self._store = StandbyCalls(redis, round(self._reap_s) + KEPT_S)
        self._calls = calls
        self._endpoint = endpoint
        self._name = OwnName(name)
        self._on_error = on_error
        self._changes: dict[str, bytes | None] = {}
        journal.standby = self._changes
        self._kept: set[str] = set()  # calls that Redis has, or may have
        self._claims = StandbyClaims(
            redis,
            self._store,
            journal,
            calls,
            endpoint,
            self._name,
            continue_calls=continue_calls,
            on_error=on_error,
        )
        self._loop = asyncio.get_running_loop()
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

    # -- start and end ----------------------------------------------------------------------------

    async def begin(self, left: Sequence[Left]) -> list[LeftCalls]:
        """As `StandbyClaims.begin`."""
        return await self._claims.begin(left)

    async def start(self) -> None:
        """Write from now on, and look for dead processes."""
        self._endpoint.layer.holds = self._claims.hold
        self._task = background_tasks.keep(self._run, "standby: stopped", name="standby")

    async def close(self) -> None:
        """The normal end: all calls are over."""
        if self._task is None:
            return
        await background_tasks.end([self._task])
        self._claims.release()
        with contextlib.suppress(*REDIS_ERRORS):
            async with asyncio.timeout(GOODBYE_S):
                await self._store.forget(self._claims.place, self._name.now)

    # -- the task ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(GATHER_S)
            try:
                now = self._loop.time()
                if self._changes or self._claims.are_unwritten or now >= self._next_beat:
                    await self._write()
                if now >= self._next_beat:
                    self._next_beat = now + BEAT_S
                    await self._claims.look()
                if now >= self._next_reaping:
                    self._next_reaping = now + min(REAP_S, self._reap_s)
                    await self._claims.reap(self._reap_s)
            except REDIS_ERRORS as error:
                self._note_away(error)
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                background_tasks.report("standby: calls are not left to other hosts", error)
                await asyncio.sleep(RETRY_S)
            else:
                self._note_up()
            self._claims.release(overdue=True)

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
                place = self._claims.place
                written = await self._store.write(place, self._name.now, head, calls, over)
            except BaseException:
                self._restore(batch)
                raise
            if written.taken is not None:
                self._restore(batch)
                await self._lose(set(written.taken))
                continue
            self._kept.difference_update(over)
            self._claims.note(place, written.processes)
            if not changes:
                break
        if written.calls != len(self._kept) and self._loop.time() >= self._next_rewrite:
            self._next_rewrite = self._loop.time() + REWRITE_S
            log.warning("standby.rewritten", found=written.calls, calls=len(self._kept))
            await self._store.forget(self._claims.place, self._name.now)
            await self._write_anew()
        await self._claims.written()

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
        self._name.renew()
        await asyncio.sleep(0)
        await self._write_anew()

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
