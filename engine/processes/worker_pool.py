"""Keeps every worker slot filled: starts, watches, ends and replaces the processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from engine.config import Config
from engine.processes.child import START_S, Child, status_in_words
from engine.processes.control import DRAINING
from engine.processes.crash import last_stack
from engine.processes.journal import active_in
from engine.processes.orphaned_workers import find_orphan
from engine.telemetry.log import FilteringBoundLogger
from store import background_tasks
from store.client import unreachable

WATCH_S = 0.5
PROGRESS_S = 10.0
HAND_OVER_S = 10.0  # for a worker to leave its calls to the next process
STALE_S = 3.0  # what has waited longer in the sockets of an empty slot is not wanted any more
TOLD_CALLS = 100  # ids of active calls in the log line of a death
# Pauses before a restart, by the number of consecutive processes that died before they took a call.
# A process that has taken calls is replaced at once, however often: a pause would only lengthen the
# outage, and the start time of a process limits the rate.
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


class WorkerSlot:
    """The slot of worker `index`."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.child: Child | None = None
        self.generation = 0  # of the configuration and code that the process was started with
        self.retiring = False  # its process was asked to drain, to be replaced
        self.left = False  # its process has left its calls to the next one, which does not run yet
        self.restarts: Counter[str] = Counter()  # by reason: died, not_started, replaced
        self.failures = 0  # consecutive processes that never served
        self.sockets: dict[str, int] = {}  # of its last process: they stay open without it

    def __repr__(self) -> str:
        return f"<WorkerSlot {self.index} {self.child!r} failures={self.failures}>"

    def keep_sockets(self) -> None:
        """Keep the listening sockets of its process. What arrives while the slot is empty waits in
        them for the next process."""
        if self.child is not None and self.child.sockets:
            self.drop_sockets()
            self.sockets, self.child.sockets = self.child.sockets, {}

    def drop_sockets(self) -> None:
        """Close them: whoever sends there may know that nobody listens."""
        for descriptor in self.sockets.values():
            os.close(descriptor)
        self.sockets = {}

    def pause_s(self, *, served: bool) -> float:
        """How long the slot stays empty after its process has died: not at all if the process
        `served` calls, otherwise longer with each process that dies at its start."""
        if served:
            self.failures = 0
            return 0.0
        pause_s = BACK_OFF_S[min(self.failures, len(BACK_OFF_S) - 1)]
        self.failures += 1
        return pause_s


class WorkerPool:
    """The processes of all workers, and the spare process.

    `config` and its `document` are for new processes, `redis_url` is the embedded Redis. `on_gone`
    gets the index of each worker whose process has ended; `on_leaving` a worker's slot before its
    process leaves its calls to the next one.
    """

    def __init__(
        self,
        config: Config,
        document: Any,
        log: FilteringBoundLogger,
        on_gone: Callable[[int], None],
        on_leaving: Callable[[WorkerSlot], Awaitable[None]],
    ) -> None:
        self.config, self.document = config, document
        self.redis_url: str | None = None
        self.slots = [WorkerSlot(index) for index in range(config.workers)]
        self._log = log
        self._on_gone = on_gone
        self._on_leaving = on_leaving
        self._generation = 0  # of code and configuration
        self._spare: Child | None = None
        self._is_over = False
        self._watching: asyncio.Task[None] | None = None
        self._slot_tasks: list[asyncio.Task[None]] = []  # by slot

    @property
    def calls(self) -> int:
        """Calls in progress, from the workers' last heartbeats."""
        return sum(child.calls for child in self._children)

    @property
    def running(self) -> list[Child]:
        """The processes of workers that have not ended."""
        return [child for child in self._children if not child.exited.done()]

    @property
    def _children(self) -> list[Child]:
        return [slot.child for slot in self.slots if slot.child is not None]

    async def start(self) -> str:
        """Start all workers; returns why one cannot start, empty if all take calls. Where some are
        adopted, one that cannot start ends nothing: the others have calls."""
        self._watching = background_tasks.keep(self._watch, "workers: not watched")
        for slot in self.slots:
            try:
                orphan = await find_orphan(self.config.redis.data_dir, slot.index)
                child = slot.child = Child(orphan)
            except OSError as error:
                return f"worker {slot.index} cannot be started: {error}"
            if not child.is_adopted:
                await self._assign(slot, child)
        for slot in self.slots:
            child = await self._settled(slot)
            if not child.takes_calls:
                if any(each.is_adopted for each in self._children):  # replace it as after a death
                    continue
                return (
                    child.failure
                    or f"worker ended at its start ({status_in_words(await child.end())})"
                )
            if child.is_adopted:
                child.reload(self.document)
                self._log.info(
                    "worker.adopted", worker=slot.index, pid=child.pid, calls=child.calls
                )
        self._slot_tasks = [
            background_tasks.keep(partial(self._keep, slot), f"worker {slot.index}: not replaced")
            for slot in self.slots
        ]
        self._let_one_stand_by()
        return ""

    async def _settled(self, slot: WorkerSlot) -> Child:
        """Wait until a worker takes calls, or has ended. If a new one could not start, its ports
        may be those of one that was too busy to be found before: that one is adopted."""
        child = slot.child
        assert child is not None
        await child.settled()
        if not child.takes_calls and not child.is_adopted:
            orphan = await find_orphan(self.config.redis.data_dir, slot.index)
            if orphan is not None:
                with contextlib.suppress(OSError):
                    child = slot.child = Child(orphan)
                    await child.settled()
        return child

    async def leave(self) -> None:
        """Stop replacing processes that end. One that is just leaving its calls, or has died, gets
        its successor first: without a process nobody could end these calls."""
        self._is_over = True
        filling = []
        for slot, task in zip(self.slots, self._slot_tasks, strict=False):  # none before the start
            if slot.left:
                filling.append(task)
            else:
                task.cancel()
        if filling:
            await asyncio.wait(filling, timeout=HAND_OVER_S)
        for slot, task in zip(self.slots, self._slot_tasks, strict=False):
            slot.left = False
            task.cancel()
        if self._spare is not None:
            self._spare.signal(signal.SIGTERM)

    async def leave_to_another(self) -> None:
        """Another supervisor will adopt the workers."""
        await self.leave()
        for child in self.running:
            await child.leave_to_another()
        if self._watching is not None:
            self._watching.cancel()  # it hears no heartbeat any more
        if self._spare is not None and not await self._spare.ended(2.0):
            await self._spare.kill()

    def close(self) -> None:
        for task in (self._watching, *self._slot_tasks):
            if task is not None:
                task.cancel()
        for slot in self.slots:
            slot.drop_sockets()
            if slot.child is not None:
                slot.child.close_sockets()
                slot.child.close_connections()

    def signal(self, number: signal.Signals) -> None:
        """To all workers, except those that cannot obey it: before it takes calls a successor would
        end without those that were left to it."""
        for slot in self.slots:
            if slot.child is not None and not slot.left:
                slot.child.signal(number)

    def adopt(self, config: Config, document: Any) -> None:
        """Use another configuration: its live keys now, the others for future processes."""
        self.config, self.document = config, document
        for child in self.running:
            if child.takes_calls:
                child.reload(document)

    # -- one after the other ----------------------------------------------------------------------

    def renew(self) -> None:
        """Mark every process as outdated, including the spare one."""
        self._generation += 1
        if self._spare is not None:
            self._spare.signal(signal.SIGTERM)
            self._let_one_stand_by()

    @property
    def oldest(self) -> WorkerSlot | None:
        """A worker whose process is outdated."""
        return next((slot for slot in self.slots if slot.generation < self._generation), None)

    def keep_old(self) -> None:
        """Accept the present processes: a failed rolling restart does not continue."""
        for slot in self.slots:
            slot.generation = self._generation

    async def replace(self, slot: WorkerSlot) -> str:
        """Replace a worker's process, which leaves its calls to the new one; returns the reason of
        a failure, or empty: then it is replaced, or to be looked at again (`oldest`)."""
        redis = self.config.redis
        if problem := await unreachable(self.redis_url or redis.url):
            return redis.cannot_reach(problem)
        # Start the successor first: the ports are free only for a moment, and code that does not
        # start must not replace anything.
        spare = await self._tried_spare()
        if isinstance(spare, str):
            return spare
        await self._on_leaving(slot)
        child = slot.child
        assert child is not None
        if slot.generation == self._generation or not child.started.done():
            await child.settled()  # it died meanwhile; one that starts cannot hand over yet
            return ""
        if child.takes_calls:
            await self._end(slot, child, spare.reads)
        while (successor := slot.child) is child or successor is None:
            await asyncio.sleep(0.02)
        await successor.settled()
        return "" if successor.takes_calls else successor.failure or "the new process died"

    async def _end(self, slot: WorkerSlot, child: Child, readable: int) -> None:
        """End a worker's process, which leaves its calls to the next one. If its journal does not
        have all of them, or the next one cannot read it, it drains first."""
        self._log.info("roll.worker", worker=slot.index, calls=child.calls)
        slot.retiring = True
        if child.has_all and 0 < child.version <= readable:
            slot.left = True
            child.hand_over()
            if not await child.ended(HAND_OVER_S):
                slot.left = False
                if child.not_ready != DRAINING:  # otherwise its journal has become full
                    self._log.error("worker.hung", worker=slot.index, pid=child.pid)
                    await child.kill()
        else:
            self._log.warning(
                "roll.drains",
                worker=slot.index,
                journal_version=child.version,
                readable_version=readable,
                journal_has_all=child.has_all,
            )
            child.signal(signal.SIGTERM)
        while not await child.ended(PROGRESS_S):
            self._log.info("roll.progress", worker=slot.index, calls=child.calls)

    async def _tried_spare(self) -> Child | str:
        """The spare process, once it has loaded the code; otherwise why there is none. While this
        waits, a slot may take the spare process, and `renew` may replace it."""
        while True:
            spare = self._spare
            if spare is None or spare.exited.done():
                try:
                    spare = self._spare = Child()
                except OSError as error:
                    self._spare = None
                    return f"no process can be started: {error}"
            stands_by = await spare.stands_by()
            if self._spare is not spare:
                continue
            if stands_by:
                return spare
            self._spare = None
            await spare.kill()
            return "the new code does not start"

    # -- one worker -------------------------------------------------------------------------------

    async def _assign(
        self, slot: WorkerSlot, child: Child, predecessor: Child | None = None
    ) -> None:
        # Before any pause, because others look at the slot meanwhile.
        slot.child, slot.generation, slot.retiring = child, self._generation, False
        document, redis_url = self.document, self.redis_url
        await child.assign(slot.index, document, redis_url, slot.sockets, predecessor)

    async def _keep(self, slot: WorkerSlot) -> None:
        """Keep this worker slot filled."""
        while True:
            child = slot.child
            assert child is not None
            status = await child.end()
            slot.left = child.served
            reason = "replaced" if slot.retiring and status == 0 else "died"
            if child.failure:
                reason = "not_started"
            slot.restarts[reason] += 1
            self._on_gone(slot.index)
            slot.keep_sockets()
            if reason != "replaced":
                log_death = self._death(slot, child, status)
                if not child.served:
                    log_death()
                pause_s = slot.pause_s(served=child.served)
                if pause_s > STALE_S:
                    slot.drop_sockets()
                await asyncio.sleep(pause_s)
            successor = await self._successor(slot)
            await self._assign(slot, successor, child)
            if reason != "replaced" and child.served:
                log_death()
            await successor.settled()
            slot.left = False
            if successor.takes_calls:
                slot.drop_sockets()
                successor.reload(self.document)  # it may have changed meanwhile
                self._log.info("worker.restarted", worker=slot.index, pid=successor.pid)
            if self._is_over:
                return
            if self._spare is None:
                self._let_one_stand_by()

    async def _successor(self, slot: WorkerSlot) -> Child:
        """The spare process if it is still there, otherwise a new one, as soon as one can be
        started."""
        while True:
            spare, self._spare = self._spare, None
            if spare is not None and not spare.exited.done():
                return spare
            try:
                return Child()
            except OSError as error:
                pause_s = slot.pause_s(served=False)
                self._log_none(error, worker=slot.index, pause_s=pause_s)
                await asyncio.sleep(pause_s)

    def _let_one_stand_by(self) -> None:
        """Start a spare process, so that a slot is filled sooner. Optional."""
        self._spare = None
        try:
            self._spare = Child()
        except OSError as error:
            self._log_none(error)

    def _log_none(self, error: OSError, **whose: Any) -> None:
        self._log.error("worker.not_spawned", error=str(error), **whose)

    def _death(self, slot: WorkerSlot, child: Child, status: int) -> Callable[[], None]:
        """What logs it. The next process deletes the journal and puts the stack aside. But it need
        not wait until the journal is read: with thousands of calls that takes tenths of a second.
        """
        stack = last_stack(self.config.redis.data_dir, slot.index) or None
        journal = None
        if child.journal is not None:
            with contextlib.suppress(OSError):
                journal = child.journal.open("rb")

        def log_death() -> None:
            calls = active_in(journal) if journal is not None else []
            self._log.error(
                "worker.died",
                worker=slot.index,
                pid=child.pid,
                status=status_in_words(status),
                calls=len(calls),
                standing=calls[:TOLD_CALLS],
                error=child.failure or None,
                stack=stack,
            )

        return log_death

    async def _watch(self) -> None:
        """Detect workers without heartbeat, and end them."""
        loop = asyncio.get_running_loop()
        checked = loop.time()
        while True:
            await asyncio.sleep(WATCH_S)
            now = loop.time()
            late, checked = now - checked > 4 * WATCH_S, now
            for slot in self.slots:
                child = slot.child
                if child is None or child.exited.done():
                    continue
                if late:  # this process, or the whole machine, was stopped
                    child.heard_at = now
                elif now - child.heard_at > self._patience_s(child):
                    self._log.error("worker.hung", worker=slot.index, pid=child.pid)
                    child.heard_at = now
                    child.killing = asyncio.ensure_future(child.kill())

    def _patience_s(self, child: Child) -> float:
        most_s = self.config.timers.hung_s
        return most_s if child.started.done() else max(most_s, START_S)
