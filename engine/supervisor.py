"""`renvoi serve` with several workers: a process each, started, watched, replaced.

The supervisor is not on the call path and knows no SIP. It owns the embedded Redis and the signals:
SIGTERM drains all workers, SIGINT ends them, SIGHUP reads the configuration again and either
applies it live or replaces one worker after the other. A worker that is to be replaced keeps its
ports until its last call has ended (`timers.drain_s` at most), because the calls' own signalling
comes to them; the others serve meanwhile. docs/operation.md tells the rest.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from engine import log
from engine.admin import AddressInUse, Admin
from engine.aggregate import Aggregate
from engine.child import START_S, Child, told
from engine.config import Config, ConfigError, build, load_document
from engine.crash import last_stack
from engine.journal import standing_in
from engine.post import Post
from engine.redis_server import EmbeddedRedis, EmbeddedRedisError
from engine.reload import changes
from engine.systemd import Systemd

WATCH_S = 0.5
PROGRESS_S = 10.0
STOP_S = 20.0  # for a worker to end, over the time its calls are given
TOLD_CALLS = 100  # ids of standing calls in the log line of a death


class Supervisor:
    """All workers of one `renvoi serve`. `path` is the configuration's file, None = the default."""

    def __init__(self, config: Config, path: Path | None) -> None:
        self.config = config
        self._path = path
        self._document = load_document(path)
        self._before = config, self._document  # what a roll that fails goes back to
        self.log = log.get_logger("supervisor")
        self.posts = [Post(index) for index in range(config.workers)]
        self._generation = 0
        self._spare: Child | None = None
        self._redis: EmbeddedRedis | None = None
        self._systemd = Systemd()
        self._stopping = ""
        self._stop_asked_at = 0.0
        self._end = asyncio.Event()
        self._rolling: asyncio.Task[None] | None = None
        self._helpers: list[asyncio.Task[None]] = []
        self._aggregate = Aggregate(self.posts)
        self.admin = Admin(
            config.supervisor_listen,
            self._aggregate.metrics,
            self.not_ready,
            self._aggregate.calls,
            key="admin.supervisor_listen",
        )

    async def run(self) -> int:
        """Until a signal ends it; the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, "drain")
        loop.add_signal_handler(signal.SIGINT, self._stop, "at once")
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        try:
            problem = await self._start()
            if problem:
                print(f"renvoi: {problem}", file=sys.stderr)
                self._stop("at once")
            else:
                loop.add_signal_handler(signal.SIGHUP, self.reload)
                await self._end.wait()
            await self._finish()
        finally:
            for helper in self._helpers:
                helper.cancel()
            await self.admin.close()
            if self._redis is not None:
                await self._redis.close()
        return 1 if problem else 0

    def not_ready(self) -> str | None:
        """Why no new call should be sent to any worker (`/readyz`): None while one takes them."""
        if self._stopping:
            return "draining"
        reasons = {}
        for post in self.posts:
            reason = post.child.not_ready if post.child is not None else "dead"
            if reason is None:
                return None
            reasons[post.index] = reason
        return "; ".join(f"worker {index}: {reason}" for index, reason in reasons.items())

    # -- start and end ----------------------------------------------------------------------------

    async def _start(self) -> str:
        """Start everything; the first reason why it cannot be, empty when all is well."""
        try:
            await self.admin.start()
            if self.config.redis.embedded:
                self._redis = EmbeddedRedis(self.config.redis.data_dir)
                await self._redis.start()
        except (AddressInUse, EmbeddedRedisError) as error:
            return str(error)
        self._helpers = [
            asyncio.ensure_future(self._systemd.pet()),
            asyncio.ensure_future(self._watch()),
        ]
        children = []
        for post in self.posts:
            post.child = Child()
            await self._assign(post, post.child)
            children.append(post.child)
        for child in children:
            await child.settled()
            if self._stopping:
                return ""
            if not child.takes_calls:
                return child.failure or f"worker ended at its start ({told(await child.end())})"
        for post in self.posts:
            post.task = asyncio.ensure_future(self._keep(post))
        self._spare = Child()
        self._greet()
        self._systemd.ready(self._status())
        return ""

    def _stop(self, how: str) -> None:
        if self._stopping != how:
            self._stopping = how
            self._stop_asked_at = asyncio.get_running_loop().time()
            self._end.set()
            self._systemd.stopping(f"{how}, {self._calls()} calls")
            number = signal.SIGTERM if how == "drain" else signal.SIGINT
            for post in self.posts:
                if post.child is not None:
                    post.child.signal(number)

    async def _finish(self) -> None:
        """Wait for the workers to end, which was asked of them; kill those that do not."""
        if self._rolling is not None:
            self._rolling.cancel()
        for post in self.posts:
            if post.task is not None:
                post.task.cancel()
        if self._spare is not None:
            self._spare.signal(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        self.log.info("drain.start", how=self._stopping, calls=self._calls())
        for post in self.posts:  # one that was started meanwhile has not heard of it
            if post.child is not None:
                post.child.signal(signal.SIGINT if self._stopping == "at once" else signal.SIGTERM)
        while left := [p.child for p in self.posts if p.child and not p.child.exited.done()]:
            await asyncio.wait([child.exited for child in left], timeout=PROGRESS_S)
            most_s = self.config.timers.drain_s if self._stopping == "drain" else 0.0
            if loop.time() - self._stop_asked_at > most_s + STOP_S:
                self.log.error("drain.overdue", workers=[child.pid for child in left])
                await asyncio.gather(*(child.kill() for child in left))
            elif any(not child.exited.done() for child in left):
                calls = self._calls()
                self.log.info("drain.progress", calls=calls, workers=len(left))
                self._systemd.status(f"draining, {calls} calls", extend_s=60)
        self.log.info("drain.end")

    # -- one worker -------------------------------------------------------------------------------

    async def _assign(self, post: Post, child: Child) -> None:
        post.generation = self._generation
        post.retiring = False
        await child.assign(post.index, self._document, self._redis.url if self._redis else None)

    async def _keep(self, post: Post) -> None:
        """See to it that the place is taken, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            child = post.child
            assert child is not None
            began = loop.time()
            status = await child.end()
            reason = "replaced" if post.retiring and status == 0 else "died"
            if child.failure:
                reason = "not_started"
            post.restarts[reason] += 1
            self._aggregate.remember(post.index)
            if reason != "replaced":
                self._tell_death(post, child, status)
                await asyncio.sleep(post.pause_s(loop.time() - began, reason == "died"))
            post.child = self._take_spare()
            await self._assign(post, post.child)
            await post.child.settled()
            if post.child.takes_calls:
                post.child.reload(self._document)  # it may have changed meanwhile
                self.log.info("worker.restarted", worker=post.index, pid=post.child.pid)
            if self._spare is None:
                self._spare = Child()

    def _take_spare(self) -> Child:
        """The process that stands by, if it still does."""
        spare, self._spare = self._spare, None
        return spare if spare is not None and not spare.exited.done() else Child()

    def _tell_death(self, post: Post, child: Child, status: int) -> None:
        calls = standing_in(child.journal) if child.journal else []
        self.log.error(
            "worker.died",
            worker=post.index,
            pid=child.pid,
            status=told(status),
            calls=len(calls),
            standing=calls[:TOLD_CALLS],
            error=child.failure or None,
            stack=last_stack(self.config.redis.data_dir, post.index) or None,
        )

    async def _watch(self) -> None:
        """Notice workers whose loop does not turn, and end them."""
        loop = asyncio.get_running_loop()
        checked = loop.time()
        while True:
            await asyncio.sleep(WATCH_S)
            now = loop.time()
            late, checked = now - checked > 4 * WATCH_S, now
            for post in self.posts:
                child = post.child
                if child is None or child.exited.done():
                    continue
                if late:  # it is ourselves, or the whole machine, that stood still
                    child.heard_at = now
                elif now - child.heard_at > self._patience_s(child):
                    self.log.error("worker.hung", worker=post.index, pid=child.pid)
                    child.heard_at = now
                    self._helpers.append(asyncio.ensure_future(child.kill()))

    def _patience_s(self, child: Child) -> float:
        most_s = self.config.timers.hung_s
        return most_s if child.started.done() else max(most_s, START_S)

    # -- another configuration --------------------------------------------------------------------

    def reload(self) -> None:
        """SIGHUP: what has changed decides whether it is refused, applied live or rolled out."""
        if self._stopping:
            return
        self._systemd.reloading()
        try:
            document = load_document(self._path)
            config = build(document)
        except ConfigError as error:
            self._refuse(str(error))
        else:
            found = changes(self.config, config)
            if found.fixed:
                self._refuse(f"{', '.join(found.fixed)}: can only change with a new start")
            elif found.live and not found.restart:
                self._adopt(config, document)
                self.log.info("reload.done", keys=found.live)
            else:
                self._adopt(config, document)  # its live keys at once
                self.log.info("roll.start", keys=found.live + found.restart)
                self._roll_out()
        self._systemd.ready(self._status())

    def _refuse(self, reason: str) -> None:
        self.log.error("reload.refused", error=reason)
        print(f"renvoi: reload refused: {reason}", file=sys.stderr, flush=True)

    def _adopt(self, config: Config, document: Any) -> None:
        if self._rolling is None or self._rolling.done():
            self._before = self.config, self._document
        self.config, self._document = config, document
        log.apply(config.log)
        for post in self.posts:
            if post.child is not None and post.child.takes_calls:
                post.child.reload(document)

    def _roll_out(self) -> None:
        """Replace every worker that is older than now, one after the other. A roll that is under
        way goes on and takes the newer ones too."""
        self._generation += 1
        if self._spare is not None:  # it has the old code
            self._spare.signal(signal.SIGTERM)
            self._spare = Child()
        if self._rolling is None or self._rolling.done():
            self._rolling = asyncio.ensure_future(self._roll())

    async def _roll(self) -> None:
        while post := next((p for p in self.posts if p.generation < self._generation), None):
            child = post.child
            assert child is not None
            if self._spare is None or self._spare.exited.done():
                self._spare = Child()
            # The ports are free for a moment only; and code that does not start replaces nothing.
            if not await self._spare.stands_by():
                self._spare = None
                self._stop_rolling(post, "the new code does not start")
                return
            self.log.info("roll.worker", worker=post.index, calls=child.calls)
            post.retiring = True
            child.signal(signal.SIGTERM)
            while not await child.ended(PROGRESS_S):
                self.log.info("roll.progress", worker=post.index, calls=child.calls)
            while post.child is child or post.child is None:
                await asyncio.sleep(0.02)
            await post.child.settled()
            if not post.child.takes_calls:
                self._stop_rolling(post, post.child.failure)
                return
        self.log.info("roll.done")

    def _stop_rolling(self, post: Post, error: str) -> None:
        """No second worker is risked; the failed one tries again as it was before."""
        self.log.error("roll.stopped", worker=post.index, error=error)
        self.config, self._document = self._before
        for other in self.posts:
            other.generation = self._generation

    # -- what is told -----------------------------------------------------------------------------

    def _calls(self) -> int:
        return sum(post.child.calls for post in self.posts if post.child is not None)

    def _status(self) -> str:
        up = sum(post.child is not None and post.child.takes_calls for post in self.posts)
        return f"{up} of {len(self.posts)} workers, {self._calls()} calls"

    def _greet(self) -> None:
        listen = [c.started.result().sip for p in self.posts if (c := p.child) is not None]
        redis = self.config.redis.safe_url
        self.log.info("supervisor.start", sip=listen, admin=str(self.admin.address), redis=redis)
        print(
            f"renvoi: {len(self.posts)} workers, SIP on "
            f"{', '.join(address for addresses in listen for address in addresses)}; metrics on "
            f"http://{self.admin.address}/metrics; Redis: {redis}",
            file=sys.stderr,
            flush=True,
        )


async def run(config: Config, path: Path | None) -> int:
    return await Supervisor(config, path).run()


def serve(config: Config, path: Path | None) -> int:
    """`renvoi serve` with several workers; the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(config, path))
