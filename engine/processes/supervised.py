"""A worker process under the supervisor: `python -m engine.processes.supervised DESCRIPTOR`.

It waits with everything imported until the supervisor assigns it a worker. Then it runs that
worker, sends a heartbeat twice a second, and applies the supervisor's messages. When the supervisor
dies it waits for the next one, and takes calls meanwhile. If none comes it drains, as at SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from engine.call_entry import VERSION
from engine.config import build
from engine.loop import Loop
from engine.processes import orphaned_workers
from engine.processes.control import (
    Assign,
    Beat,
    Failed,
    HandOver,
    Left,
    Line,
    Reload,
    Replaced,
    Started,
    ToWorker,
)
from engine.processes.crash import watch_for_crashes
from engine.serve import run, sip_addresses
from engine.telemetry import log
from engine.worker import StartError, Worker
from store import background_tasks

BEAT_S = 0.5


async def supervised(descriptor: int) -> int:
    """Run; returns the exit status."""
    line = Line(socket.socket(fileno=descriptor), ToWorker)
    await line.open()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGHUP, signal.SIGUSR2):  # to a whole group; supervisors send messages
        loop.add_signal_handler(number, lambda: None)
    waiting = asyncio.ensure_future(line.hear())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, waiting.cancel)
    line.say(Beat(reads=VERSION))
    connections: dict[str, socket.socket] = {}
    flows: list[str] = []
    try:
        order = await waiting
        while isinstance(order, Left):
            descriptors = line.take_descriptors(len(order.connections))
            opened = [socket.socket(fileno=each) for each in descriptors]
            connections.update(zip(order.connections, opened, strict=False))  # all or none
            flows += order.flows
            order = await line.hear()
    except asyncio.CancelledError:
        order = None
    if not isinstance(order, Assign):
        return 0
    config = build(order.document)
    log.set_up(config.log)
    watch_for_crashes(config.redis.data_dir, order.index)
    descriptors = line.take_descriptors(len(order.sockets))
    sockets = {
        name: socket.socket(fileno=each)
        for name, each in zip(order.sockets, descriptors, strict=False)  # all or none
    }
    worker = Worker(config, order.index, order.redis_url, sockets, connections, flows)
    link = Link(line, worker)
    helpers = [
        background_tasks.keep(work, "worker: the supervisor's line")
        for work in (link.beat, link.follow)
    ]

    def started() -> None:
        sip, admin = sip_addresses(worker), str(worker.admin.address)
        worker.log.info("worker.start", sip=sip, admin=admin, pid=os.getpid())
        names = list(worker.sockets)
        link.started = Started(sip, admin, str(worker.journal.path), names, VERSION)
        link.say_started()

    failure = ""
    try:
        await run(worker, started=started, stopping=lambda: None)
    except StartError as error:
        failure = str(error)
    await background_tasks.end(helpers)
    log.close()
    if failure:
        link.line.say(Failed(failure))
        await link.line.flush()
    return 1 if failure else 0


class Link:
    """The line to the supervisor, or to the next one after its death."""

    def __init__(self, line: Line, worker: Worker) -> None:
        self.line = line
        self.started: Started | None = None  # the message for a supervisor
        self._worker = worker

    def say_started(self) -> None:
        """That the worker takes calls, with its listening sockets. The last heartbeat is of before
        its journal was open, and a rolling restart may come before the next: one goes ahead."""
        if self.started is not None:
            self.line.say(self._beat())
            sockets = [each.fileno() for each in self._worker.sockets.values()]
            self.line.say(self.started, sockets)

    def _beat(self) -> Beat:
        worker = self._worker
        remark = worker.remark() if worker.is_started else None
        has_all = worker.journal.has_all()
        return Beat(worker.active_calls, worker.not_ready(), remark, VERSION, has_all)

    async def beat(self) -> None:
        while True:
            self.line.say(self._beat())
            await asyncio.sleep(BEAT_S)

    async def follow(self) -> None:
        """Follow one supervisor after the other."""
        worker = self._worker
        while True:
            await _obey(self.line, worker, drain=False)
            self.line.close()
            try:
                with orphaned_workers.adoption_socket(
                    worker.config.redis.data_dir, worker.index
                ) as listener:
                    end = await self._next_supervisor(listener)
            except OSError as error:
                worker.log.error("supervisor.none", error=str(error))
                os.kill(os.getpid(), signal.SIGTERM)
                return
            line = Line(end, ToWorker)
            await line.open()
            self.line = line
            self.say_started()
            line.say(self._beat())
            worker.log.info("supervisor.found", calls=worker.active_calls)

    async def _next_supervisor(self, listener: socket.socket) -> socket.socket:
        """Wait for the line to the next supervisor. The worker takes calls meanwhile, and drains
        after a while; the next supervisor cancels the drain."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(orphaned_workers.ADOPTION_S):
                return (await loop.sock_accept(listener))[0]
        except TimeoutError:
            os.kill(os.getpid(), signal.SIGTERM)
        end, _ = await loop.sock_accept(listener)
        self._worker.resume()
        return end


async def _leave(line: Line, connections: Mapping[str, int], flows: Sequence[str]) -> None:
    """Send what a successor needs besides the journal."""
    line.leave(connections, flows)
    await line.all_sent()


async def _obey(line: Line, worker: Worker, *, drain: bool = True) -> None:
    """Follow the supervisor until it is gone; then `drain`, if asked to."""
    known = False  # that the supervisor goes
    while (order := await line.hear()) is not None:
        if isinstance(order, HandOver):
            if worker.journal.has_all():
                await worker.hand_over(partial(_leave, line))
                log.close()
                os._exit(0)  # anything else would end the calls
            worker.log.warning("roll.drains", journal_has_all=False)  # since the last heartbeat
            os.kill(os.getpid(), signal.SIGTERM)
        known = isinstance(order, Replaced)
        if not isinstance(order, Reload):
            continue
        try:
            keys = worker.apply(build(order.document))
        except Exception:  # continue to read the next message and the end of the supervisor
            worker.log.exception("reload.failed")
        else:
            worker.log.info("reload.done", keys=keys)
    if known:
        worker.log.info("supervisor.gone", calls=worker.active_calls)
    else:
        worker.log.error("supervisor.gone", calls=worker.active_calls)
    if drain:
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(supervised(int(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
