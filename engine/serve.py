"""`renvoi serve`: one worker in this process, from its start to the signal that ends it."""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from engine.config import Config
from engine.worker import StartError, Worker


async def run(config: Config, index: int = 0) -> int:
    """Run one worker until a signal ends it; the exit status."""
    worker = Worker(config, index)
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    draining: asyncio.Task[None] | None = None

    def on_term() -> None:
        nonlocal draining
        if draining is None:
            draining = asyncio.ensure_future(worker.drain())
            draining.add_done_callback(lambda _: done.set())

    # Before the first call can come: a signal during the start ends it properly too.
    loop.add_signal_handler(signal.SIGTERM, on_term)
    loop.add_signal_handler(signal.SIGINT, done.set)
    try:
        await worker.start()
    except StartError as error:
        print(f"renvoi: {error}", file=sys.stderr)
        return 1
    greet(worker)
    await done.wait()
    if draining is not None:
        draining.cancel()
    worker.log.info("worker.stop", calls=len(worker.calls))
    await worker.close()
    return 0


def greet(worker: Worker) -> None:
    """Say where the worker listens and what to try next: for machines, then for people."""
    config = worker.config
    listen = [str(address) for address in worker.endpoint.transports.addresses]
    worker.log.info(
        "worker.start", sip=listen, admin=str(worker.admin.address), redis=config.redis.safe_url
    )
    if sys.stderr.isatty() or worker.index == 0:
        print(
            f"renvoi: SIP on {', '.join(listen)}; metrics on "
            f"http://{worker.admin.address}/metrics; Redis: {config.redis.safe_url}\n"
            "renvoi: try next, in another terminal: renvoi line set FILE, renvoi explain NUMBER, "
            "renvoi demo (see README.md)",
            file=sys.stderr,
        )


def serve(config: Config) -> int:
    """`renvoi serve`: runs until a signal ends it; the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(config))
