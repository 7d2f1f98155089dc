"""Keeps every worker slot filled: starts, watches, ends and replaces the processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

from engine.config import Config
from engine.processes.adoption import find_orphan
from engine.processes.child import START_S, Child, told
from engine.processes.crash import last_stack
from engine.processes.journal import active_in
from engine.telemetry.log import FilteringBoundLogger

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
    gets the index of each worker whose process has ended.
    """

    def __init__(
        self,
        config: Config,
        document: Any,
        log: FilteringBoundLogger,
        on_gone: Callable[[int], None],
    ) -> None:
        self.config, self.document = config, document
        self.redis_url: str | None = None
        self.slots = [WorkerSlot(index) for index in range(config.workers)]
        self._log = log
        self._on_gone = on_gone
        self._generation = 0  # of code and configuration
        self._spare: Child | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def calls(self) -> int:
        """Calls in progress, from the workers' last heartbeats."""
        return sum(slot.child.calls for slot in self.slots if slot.child is not None)

    @property
    def running(self) -> list[Child]:
        """The processes of workers that have not ended."""
        children = [slot.child for slot in self.slots if slot.child is not None]
        return [child for child in children if not child.exited.done()]

    async def start(self) -> str:
        """Start all workers; returns why one cannot start, empty if all take calls."""
        self._tasks.append(asyncio.ensure_future(self._watch()))
        for slot in self.slots:
            try:
                orphan = await find_orphan(self.config.redis.data_dir, slot.index)
                slot.child = Child(orphan)
            except OSError as error:
                return f"worker {slot.index} cannot be started: {error}"
            if not slot.child.is_adopted:
                await self._assign(slot, slot.child)
        for slot in self.slots:
            child = slot.child
            assert child is not None
            await child.settled()
            if not child.takes_calls:
                if child.is_adopted:  # it was about to end: replace it as after a death
                    continue
                return child.failure or f"worker ended at its start ({told(await child.end())})"
            if child.is_adopted:
                child.reload(self.document)
                self._log.info(
                    "worker.adopted", worker=slot.index, pid=child.pid, calls=child.calls
                )
        self._tasks += [asyncio.ensure_future(self._keep(slot)) for slot in self.slots]
        self._let_one_stand_by()
        return ""

    def leave(self) -> None:
        """Stop replacing processes that end."""
        for task in self._tasks[1:]:
            task.cancel()
        if self._spare is not None:
            self._spare.signal(signal.SIGTERM)

    async def leave_to_another(self) -> None:
        """Another supervisor will adopt the workers."""
        self.leave()
        for child in self.running:
            await child.leave_to_another()
        if self._spare is not None and not await self._spare.ended(2.0):
            await self._spare.kill()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for slot in self.slots:
            slot.drop_sockets()
            if slot.child is not None:
                slot.child.close_sockets()
                slot.child.close_connections()

    def signal(self, number: signal.Signals) -> None:
        """To all workers."""
        for child in self.running:
            child.signal(number)

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
        a failure, or empty. If its journal does not have all its calls, or the new one could not
        read them, the old one drains first."""
        # Start the successor first: the ports are free only for a moment, and code that does not
        # start must not replace anything.
        spare = await self._tried_spare()
        if isinstance(spare, str):
            return spare
        child = slot.child
        assert child is not None
        if slot.generation == self._generation:  # it died meanwhile, so its process is a new one
            await child.settled()
            return ""
        self._log.info("roll.worker", worker=slot.index, calls=child.calls)
        slot.retiring = True
        if child.has_all and 0 < child.version <= spare.reads:
            child.hand_over()
            if not await child.ended(HAND_OVER_S):
                self._log.error("worker.hung", worker=slot.index, pid=child.pid)
                await child.kill()
        else:
            self._log.warning(
                "roll.drains",
                worker=slot.index,
                journal_version=child.version,
                readable_version=spare.reads,
                journal_has_all=child.has_all,
            )
            child.signal(signal.SIGTERM)
        while not await child.ended(PROGRESS_S):
            self._log.info("roll.progress", worker=slot.index, calls=child.calls)
        while (successor := slot.child) is child or successor is None:
            await asyncio.sleep(0.02)
        await successor.settled()
        return "" if successor.takes_calls else successor.failure or "the new process died"

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

    async def _assign(self, slot: WorkerSlot, child: Child) -> None:
        slot.generation = self._generation
        slot.retiring = False
        await child.assign(slot.index, self.document, self.redis_url, slot.sockets)

    async def _keep(self, slot: WorkerSlot) -> None:
        """Keep this worker slot filled."""
        while True:
            child = slot.child
            assert child is not None
            status = await child.end()
            reason = "replaced" if slot.retiring and status == 0 else "died"
            if child.failure:
                reason = "not_started"
            slot.restarts[reason] += 1
            self._on_gone(slot.index)
            slot.keep_sockets()
            if reason != "replaced":
                self._tell_death(slot, child, status)
                pause_s = slot.pause_s(served=child.served)
                if pause_s > STALE_S:
                    slot.drop_sockets()
                await asyncio.sleep(pause_s)
            slot.child = await self._successor(slot)
            await slot.child.inherit(child)
            await self._assign(slot, slot.child)
            await slot.child.settled()
            if slot.child.takes_calls:
                slot.drop_sockets()
                slot.child.reload(self.document)  # it may have changed meanwhile
                self._log.info("worker.restarted", worker=slot.index, pid=slot.child.pid)
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
                self._tell_none(error, worker=slot.index, pause_s=pause_s)
                await asyncio.sleep(pause_s)

    def _let_one_stand_by(self) -> None:
        """Start a spare process, so that a slot is filled sooner. Optional."""
        self._spare = None
        try:
            self._spare = Child()
        except OSError as error:
            self._tell_none(error)

    def _tell_none(self, error: OSError, **whose: Any) -> None:
        self._log.error("worker.not_spawned", error=str(error), **whose)

    def _tell_death(self, slot: WorkerSlot, child: Child, status: int) -> None:
        calls = active_in(child.journal) if child.journal else []
        self._log.error(
            "worker.died",
            worker=slot.index,
            pid=child.pid,
            status=told(status),
            calls=len(calls),
            standing=calls[:TOLD_CALLS],
            error=child.failure or None,
            stack=last_stack(self.config.redis.data_dir, slot.index) or None,
        )

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
