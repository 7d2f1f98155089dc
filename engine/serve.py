"""`renvoi serve` with one worker, in this process. With several it is `supervisor.py`.

SIGTERM drains, SIGINT ends at once, SIGHUP reads the configuration again, SIGUSR2 continues with
the code on disk.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.config import Config
from engine.hint import next_steps
from engine.loop import Loop
from engine.processes import upgrade
from engine.processes.crash import watch_for_crashes
from engine.processes.systemd import Systemd
from engine.reload import reload
from engine.stderr import say
from engine.telemetry import log
from engine.worker import StartError, Worker
from sip import compiled


def serve(config: Config, path: Path | None) -> int:
    """`renvoi serve`: runs until a signal ends it; the exit status. `path` is the file that SIGHUP
    reads again."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(alone(config, path))


async def alone(config: Config, path: Path | None) -> int:
    """One worker, without a supervisor."""
    upgrade.shield_threads()
    left = upgrade.inherited()
    worker = Worker(config, sockets=left.sockets, connections=left.connections, flows=left.flows)
    systemd = Systemd()
    loop, replaces = asyncio.get_running_loop(), upgrade.shall_roll()
    upgrading: list[asyncio.Task[None]] = []

    def on_usr2() -> None:
        if not worker.admission.draining and not any(not task.done() for task in upgrading):
            upgrading[:] = [loop.create_task(_upgrade(worker, systemd))]

    def started() -> None:
        greet(worker, path)
        if replaces:
            worker.log.info("roll.done")
        systemd.ready(f"1 worker, SIP on {' '.join(sip_addresses(worker))}")
        early.obey(lambda: on_hup(worker, path, systemd), on_usr2)

    def draining() -> None:
        systemd.stopping(f"draining, {worker.active_calls} calls")

    early = upgrade.EarlySignals()
    watch_for_crashes(config.redis.data_dir, 0)
    petting = asyncio.ensure_future(systemd.pet())
    worker.on_drain = lambda left: systemd.status(f"draining, {left} calls", extend_s=60)
    try:
        await run(worker, started=started, stopping=draining)
    except StartError as error:
        say(f"renvoi: {error}")
        return 1
    finally:
        petting.cancel()
    return 0


async def run(worker: Worker, *, started: Callable[[], None], stopping: Callable[[], None]) -> None:
    """Run a worker until a signal ends it. Raises StartError."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    draining: asyncio.Task[None] | None = None

    def on_term() -> None:
        nonlocal draining
        if draining is None:
            worker.admission.draining = True  # at once: an upgrade may be about to begin
            stopping()
            draining = asyncio.ensure_future(worker.drain())
            draining.add_done_callback(drained)

    def on_int() -> None:
        worker.admission.draining = True
        done.set()

    def drained(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            done.set()

    def resume() -> None:
        nonlocal draining
        if draining is not None and not done.is_set():
            draining.cancel()
            draining = None
            worker.admission.draining = False
            worker.log.info("drain.undone", calls=worker.active_calls)

    worker.resume = resume

    # Before the first call can arrive, so that a signal during the start ends it properly too.
    loop.add_signal_handler(signal.SIGTERM, on_term)
    loop.add_signal_handler(signal.SIGINT, on_int)
    upgrade.unblock_signals()
    await worker.start()
    started()
    await done.wait()
    if draining is not None:
        draining.cancel()
    else:
        stopping()
    worker.log.info("worker.stop", calls=worker.active_calls)
    await worker.close()


async def _upgrade(worker: Worker, systemd: Systemd) -> None:
    """SIGUSR2: continue with the code on disk, in this process. Its sockets stay open, its calls go
    on."""
    systemd.reloading()
    problem = await upgrade.fault(workers=1)
    if worker.admission.draining:
        return
    if not problem and worker.active_calls and not worker.journal.has_all():
        problem = f"{worker.journal.path.parent}: the journal has no room for all calls"
    if problem:
        worker.log.error("roll.stopped", error=problem)
        say(f"renvoi: not replaced: {problem}")
        systemd.ready(f"1 worker, SIP on {' '.join(sip_addresses(worker))}")
        return
    worker.log.info("roll.start", keys=[])
    signals = upgrade.note_signals()
    left: list[tuple[Mapping[str, int], Sequence[str]]] = []

    async def leave(connections: Mapping[str, int], flows: Sequence[str]) -> None:
        left.append((connections, flows))

    await worker.hand_over(leave)
    log.close()
    sockets = {name: each.fileno() for name, each in worker.sockets.items()}
    upgrade.become(sockets, *left[0], signals=signals, roll=True)


def on_hup(worker: Worker, path: Path | None, systemd: Systemd) -> None:
    """SIGHUP without a supervisor: apply all changes live, or none."""
    if worker.admission.draining:
        return
    systemd.reloading()
    try:
        reload(worker.config, path, worker.log, adopt=lambda config, _: worker.apply(config))
    finally:  # in any case, or systemd would consider the engine failed
        systemd.ready(f"1 worker, SIP on {' '.join(sip_addresses(worker))}")


def sip_addresses(worker: Worker) -> list[str]:
    return [str(address) for address in worker.endpoint.transports.addresses]


def greet(worker: Worker, path: Path | None) -> None:
    """Report where the worker listens, in the log, and suggest what to try next, on standard
    error."""
    redis, listen = worker.config.redis.safe_url, sip_addresses(worker)
    admin, core = str(worker.admin.address), compiled.serving()
    worker.log.info("worker.start", sip=listen, admin=admin, redis=redis, core=core)
    say(
        f"renvoi: SIP on {', '.join(listen)}; metrics on "
        f"http://{worker.admin.address}/metrics; Redis: {redis}"
    )
    if core == "python":
        say(f"renvoi: {compiled.words()}")
    if sys.stderr.isatty():
        say(next_steps(worker.config, path))
