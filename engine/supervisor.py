"""`renvoi serve` with several workers: a process each, started, watched, replaced.

The supervisor is not on the call path and handles no SIP. It owns the embedded Redis and the
signals: SIGTERM drains all workers, SIGINT ends them, SIGHUP reads the configuration again and
either applies it live or replaces one worker after the other, SIGUSR2 replaces every process by one
of the code on disk. A worker that is replaced leaves its ports and its calls to the next process.
More: docs/operation.md.

`processes/worker_pool.py` watches the processes. It notices at once that one has ended, and kills
one that has sent no heartbeat for `timers.hung_s`. It keeps copies of the listening sockets, and
gives the slot to a spare process: at once, or after a growing pause if the dead one never served.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from engine.admin import AddressInUse, Admin
from engine.config import Config, load_document
from engine.descriptors import raised, streams_of
from engine.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from engine.hint import next_steps
from engine.loop import Loop
from engine.processes import upgrade
from engine.processes.aggregate import Aggregate
from engine.processes.rolling_restart import RollingRestart
from engine.processes.systemd import Systemd
from engine.processes.worker_pool import PROGRESS_S, WorkerPool, WorkerSlot
from engine.reload import reload
from engine.stderr import say
from engine.telemetry import log
from sip import compiled

STOP_S = 20.0  # for a worker to end, beyond the time for its calls


class Supervisor:
    """All workers of one `renvoi serve`. `path` is the configuration's file, None = the default."""

    def __init__(self, config: Config, path: Path | None) -> None:
        self.log = log.get_logger("supervisor")
        self._path = path
        self._pool = WorkerPool(
            config, load_document(path), self.log, self._on_gone, self._on_leaving
        )
        self._rolling = RollingRestart(self._pool, self.log)
        self._upgrading: asyncio.Task[None] | None = None
        self._redis: EmbeddedRedis | None = None
        self._systemd = Systemd()
        self._stopping = ""
        self._stop_asked_at = 0.0
        self._end = asyncio.Event()
        self._aggregate = Aggregate(self._pool.slots)
        self.admin = Admin(
            config.supervisor_listen,
            self._aggregate.metrics,
            self.not_ready,
            self._aggregate.calls,
            key="admin.supervisor_listen",
            remark=self.remark,
        )

    async def run(self) -> int:
        """Run until a signal ends it; returns the exit status."""
        loop = asyncio.get_running_loop()
        upgrade.shield_threads()
        loop.add_signal_handler(signal.SIGTERM, self._stop, "drain")
        loop.add_signal_handler(signal.SIGINT, self._stop, "at once")
        early = upgrade.EarlySignals()
        upgrade.unblock_signals()
        replaces = upgrade.shall_roll()
        self._aggregate.resume(upgrade.inherited().sums)  # all else the workers have
        self._make_room()
        petting = asyncio.ensure_future(self._systemd.pet())
        problem = ""
        try:
            problem = await self._start()
            if self._stopping:  # a signal came first, so not all started
                problem = ""
            elif problem:
                say(f"renvoi: {problem}")
                self._stop("at once")
            else:
                self._greet()
                self._systemd.ready(self._status())
                if replaces:
                    self._rolling.start()
                early.obey(self.reload, self.upgrade)
            await self._end.wait()
            await self._finish()
        finally:
            petting.cancel()
            self._pool.close()
            await self.admin.close()
            if self._redis is not None:
                await self._redis.close()
        return 1 if problem else 0

    def not_ready(self) -> str | None:
        """Why no new call should be sent to any worker (`/readyz`); None while one takes them."""
        if self._stopping:
            return "draining"
        reasons = {}
        for slot in self._pool.slots:
            reason = slot.child.not_ready if slot.child is not None else "dead"
            if reason is None:
                return None
            reasons[slot.index] = reason
        return "; ".join(f"worker {index}: {reason}" for index, reason in reasons.items())

    def remark(self) -> str | None:
        """Problems by worker while calls are taken."""
        remarks = {slot.index: slot.child.remark for slot in self._pool.slots if slot.child}
        return (
            "; ".join(f"worker {index}: {text}" for index, text in remarks.items() if text) or None
        )

    # -- start and end ----------------------------------------------------------------------------

    async def _start(self) -> str:
        """Start everything; returns the first reason of a failure, empty on success."""
        redis = self._pool.config.redis
        try:
            await self.admin.start()
            if redis.embedded:
                self._redis = EmbeddedRedis(redis.data_dir)
                await self._redis.start()
                self._pool.redis_url = self._redis.url
        except (AddressInUse, EmbeddedRedisError) as error:
            return str(error)
        return await self._pool.start()

    def _stop(self, how: str) -> None:
        if self._stopping not in (how, "at once"):
            self._stopping = how
            self._stop_asked_at = asyncio.get_running_loop().time()
            self._end.set()
            self._systemd.stopping(f"{how}, {self._pool.calls} calls")
            self._pass_on()

    def _pass_on(self) -> None:
        self._pool.signal(signal.SIGTERM if self._stopping == "drain" else signal.SIGINT)

    async def _finish(self) -> None:
        """Wait for the workers to end, and kill those that do not."""
        pool, loop = self._pool, asyncio.get_running_loop()
        self._rolling.cancel()
        await pool.leave()
        self.log.info("drain.start", how=self._stopping, calls=pool.calls)
        self._pass_on()  # one that was started meanwhile has not been asked
        while left := pool.running:
            await asyncio.wait([child.exited for child in left], timeout=PROGRESS_S)
            most_s = pool.config.timers.drain_s if self._stopping == "drain" else 0.0
            if loop.time() - self._stop_asked_at > most_s + STOP_S:
                self.log.error("drain.overdue", workers=[child.pid for child in left])
                await asyncio.gather(*(child.kill() for child in left))
            elif pool.running:
                self.log.info("drain.progress", calls=pool.calls, workers=len(pool.running))
                self._systemd.status(f"draining, {pool.calls} calls", extend_s=60)
        self.log.info("drain.end")

    # -- another configuration --------------------------------------------------------------------

    def reload(self) -> None:
        """SIGHUP: refuse the changes, apply them live, or do a rolling restart."""
        if self._stopping:
            return
        self._systemd.reloading()
        config = self._pool.config
        reload(config, self._path, self.log, adopt=self._adopt, roll_out=self._rolling.start)
        self._systemd.ready(self._status())

    def upgrade(self) -> None:
        """SIGUSR2: replace every process by one of the code on disk, this one first: it keeps its
        process id, and the next supervisor adopts the workers and replaces them in turn."""
        if not self._stopping and (self._upgrading is None or self._upgrading.done()):
            self._upgrading = asyncio.ensure_future(self._upgrade())

    async def _upgrade(self) -> None:
        self._systemd.reloading()
        while True:
            await self._rolling.over()
            # Not before: it may take hours, in which code and configuration change.
            problem = await upgrade.fault(len(self._pool.slots))
            if problem or not self._rolling.in_progress:
                break
        if self._stopping:  # meanwhile
            return
        if problem:
            self.log.error("roll.stopped", error=problem)
            say(f"renvoi: not replaced: {problem}")
            self._systemd.ready(self._status())
            return
        self.log.info("roll.start", keys=[])
        signals = upgrade.note_signals()
        await self._pool.leave_to_another()
        await self.admin.close()
        if self._redis is not None:
            await self._redis.close()
        log.close()
        sums = self._aggregate.left()
        upgrade.become({}, {}, [], signals=signals, roll=True, sums=sums)

    def _adopt(self, config: Config, document: object) -> None:
        self._rolling.adopt(config, document)
        self._make_room()
        log.apply(config.log)

    def _make_room(self) -> None:
        """For the connections that pass from worker to worker."""
        if streams_of(self._pool.config):
            raised(self._pool.config.limits.connections)

    # -- reports ----------------------------------------------------------------------------------

    def _on_gone(self, index: int) -> None:
        self._aggregate.remember(index)

    async def _on_leaving(self, slot: WorkerSlot) -> None:
        await self._aggregate.look(slot)

    def _status(self) -> str:
        slots = self._pool.slots
        up = sum(slot.child is not None and slot.child.takes_calls for slot in slots)
        return f"{up} of {len(slots)} workers, {self._pool.calls} calls"

    def _greet(self) -> None:
        children = self._pool.running
        listen = [child.started.result().sip for child in children if child.takes_calls]
        redis = self._pool.config.redis.safe_url
        admin, core = str(self.admin.address), compiled.serving()
        self.log.info("supervisor.start", sip=listen, admin=admin, redis=redis, core=core)
        say(
            f"renvoi: {len(self._pool.slots)} workers, SIP on "
            f"{', '.join(address for addresses in listen for address in addresses)}; metrics on "
            f"http://{self.admin.address}/metrics; Redis: {redis}"
        )
        if sys.stderr.isatty():
            say(next_steps(self._pool.config, self._path))


async def run(config: Config, path: Path | None) -> int:
    return await Supervisor(config, path).run()


def serve(config: Config, path: Path | None) -> int:
    """`renvoi serve` with several workers; the exit status."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(run(config, path))
