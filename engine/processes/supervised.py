"""A worker process under the supervisor: `python -m engine.processes.supervised DESCRIPTOR`.

It stands by, with everything imported, until the supervisor says which worker it is. From then on
it is that worker, tells twice a second that its loop turns, and applies what the supervisor sends.
When the supervisor is gone it drains, as at SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import uvloop

from engine.config import build
from engine.processes.control import Assign, Beat, Failed, Line, Reload, Started, ToWorker
from engine.processes.crash import watch_for_crashes
from engine.serve import run, sip_addresses
from engine.telemetry import log
from engine.worker import StartError, Worker

BEAT_S = 0.5


async def supervised(descriptor: int) -> int:
    """The exit status."""
    line = Line(socket.socket(fileno=descriptor), ToWorker)
    await line.open()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # a terminal's; the supervisor's is a word
    waiting = asyncio.ensure_future(line.hear())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, waiting.cancel)
    line.say(Beat())
    try:
        order = await waiting
    except asyncio.CancelledError:
        order = None
    if not isinstance(order, Assign):
        return 0
    config = build(order.document)
    log.set_up(config.log)
    watch_for_crashes(config.redis.data_dir, order.index)
    worker = Worker(config, order.index, order.redis_url)
    helpers = [
        asyncio.ensure_future(_beat(line, worker)),
        asyncio.ensure_future(_obey(line, worker)),
    ]

    def started() -> None:
        sip, admin = sip_addresses(worker), str(worker.admin.address)
        worker.log.info("worker.start", sip=sip, admin=admin, pid=os.getpid())
        line.say(Started(sip, admin, str(worker.journal.path)))

    failure = ""
    try:
        await run(worker, started=started, stopping=lambda: None)
    except StartError as error:
        failure = str(error)
    for helper in helpers:
        helper.cancel()
    log.close()
    if failure:
        line.say(Failed(failure))
        await line.flush()
    return 1 if failure else 0


async def _beat(line: Line, worker: Worker) -> None:
    while True:
        line.say(Beat(len(worker.calls), worker.not_ready()))
        await asyncio.sleep(BEAT_S)


async def _obey(line: Line, worker: Worker) -> None:
    while isinstance(order := await line.hear(), Reload):
        try:
            keys = worker.apply(build(order.document))
        except Exception:  # the next one, and the end of the supervisor, are still to be heard
            worker.log.exception("reload.failed")
        else:
            worker.log.info("reload.done", keys=keys)
    worker.log.error("supervisor.gone", calls=len(worker.calls))
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(supervised(int(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
