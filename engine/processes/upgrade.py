"""SIGUSR2: this process becomes one of the code on disk, with the same process id.

Sockets that must stay open go on through `exec`; the calls are in the journal, or in workers that
the new process adopts and replaces in turn (`rolling_restart.py`). The new code is tried first
(`fault`): what does not start must replace nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from engine.stderr import say

PROBE_S = 60.0  # for the new code to start, because a busy machine imports slowly
_PROBE = "RENVOI_PROBE"
_LEFT = "RENVOI_LEFT"
_ROLL = "RENVOI_ROLL"
_CHANGES = (signal.SIGHUP, signal.SIGUSR2)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, *_CHANGES)


def tried_by() -> int:
    """The number of workers of the engine to which this process only has to show that it can start
    with its configuration; 0 if it is no such trial."""
    return int(os.environ.pop(_PROBE, "") or 0)


def shall_roll() -> bool:
    """Whether this process replaces an older one, whose workers it has to replace too."""
    return os.environ.pop(_ROLL, "") != ""


class Inheritance(NamedTuple):
    """What the process that this one replaces has left: its listening sockets by address, its TCP
    connections and the flows of phones (Worker.hand_over); the sums of a supervisor's pages
    (Aggregate.left)."""

    sockets: dict[str, socket.socket]
    connections: dict[str, socket.socket]
    flows: list[str]
    sums: dict[str, Any]


def inherited() -> Inheritance:
    """What the process that this one replaces has left; nothing if it replaces none."""
    number = os.environ.pop(_LEFT, "")
    if not number:
        return Inheritance({}, {}, [], {})
    with os.fdopen(int(number), "rb") as reader:
        reader.seek(0)
        left = json.load(reader)
    for descriptor in (*left["sockets"].values(), *left["connections"].values()):
        os.set_inheritable(descriptor, False)
    sockets, connections = _opened(left["sockets"]), _opened(left["connections"])
    return Inheritance(sockets, connections, left["flows"], left.get("sums", {}))


def _opened(named: dict[str, int]) -> dict[str, socket.socket]:
    return {name: socket.socket(fileno=descriptor) for name, descriptor in named.items()}


def command() -> list[str]:
    """How this process was started. The script is found again by its name: a link on the way to it
    may lead to another version now."""
    script = Path(sys.argv[0])
    if script.suffix != ".py" and os.access(script, os.X_OK) and script.is_file():
        return sys.argv
    return [sys.executable, *sys.orig_argv[1:]]


async def fault(workers: int) -> str:
    """Why the code on disk cannot start with its configuration in place of an engine with so many
    workers, in one line; empty if it can."""
    arguments = command()
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            env={**os.environ, _PROBE: str(workers)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return f"{arguments[0]}: {error.strerror}"
    try:
        _, said = await asyncio.wait_for(process.communicate(), PROBE_S)
    except TimeoutError:
        return f"it did not start within {PROBE_S:.0f} s"
    finally:  # also if this engine ends meanwhile
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return ""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with status {process.returncode}"


def note_signals() -> list[signal.Signals]:
    """From now on signals are only noted, in this list: the process that replaces this one obeys
    them. The loop may have no turn left before `become`, so that it is not the loop that notes."""
    noted = _note(_SIGNALS)
    for number in _SIGNALS:
        signal.signal(number, lambda number, _: noted.append(signal.Signals(number)))
    return noted


def shield_threads() -> None:
    """Let the threads of this loop's executor take no signals: then all that come between
    `SIG_BLOCK` and `exec` wait for the new code. Called before there is one."""
    mask = signal.SIG_BLOCK, _SIGNALS
    executor = ThreadPoolExecutor(initializer=signal.pthread_sigmask, initargs=mask)
    asyncio.get_running_loop().set_default_executor(executor)


def unblock_signals() -> None:
    """All signals have handlers now: handle those that came since `become` too."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


class EarlySignals:
    """SIGHUP and SIGUSR2 that come during the start wait for its end."""

    def __init__(self) -> None:
        self._noted = _note(_CHANGES)

    def obey(self, on_hup: Callable[[], None], on_usr2: Callable[[], None]) -> None:
        """The start is over: handle these signals from now on, and those that came before, each
        once."""
        loop = asyncio.get_running_loop()
        for number, handler in zip(_CHANGES, (on_hup, on_usr2), strict=True):
            loop.add_signal_handler(number, handler)
            if number in self._noted:
                handler()


def _note(numbers: Sequence[signal.Signals]) -> list[signal.Signals]:
    loop, noted = asyncio.get_running_loop(), list[signal.Signals]()
    for number in numbers:
        loop.add_signal_handler(number, noted.append, number)
    return noted


def become(
    sockets: Mapping[str, int],
    connections: Mapping[str, int],
    flows: Sequence[str],
    *,
    signals: Sequence[signal.Signals] = (),
    roll: bool = False,
    sums: Mapping[str, Any] = MappingProxyType({}),
) -> NoReturn:
    """Replace this process by one of the code on disk, which gets these descriptors, signals
    (`note_signals`) and sums. If that is impossible by now, the process ends: its
    calls are in the journal, for whoever starts next."""
    left = os.memfd_create("renvoi-left")
    for descriptor in (left, *sockets.values(), *connections.values()):
        os.set_inheritable(descriptor, True)
    content = {
        "sockets": dict(sockets),
        "connections": dict(connections),
        "flows": list(flows),
        "sums": dict(sums),
    }
    with os.fdopen(os.dup(left), "wb") as writer:
        writer.write(json.dumps(content).encode())
    environment = {key: value for key, value in os.environ.items() if key not in (_LEFT, _ROLL)}
    environment[_LEFT] = str(left)
    if roll:
        environment[_ROLL] = "1"
    # Signals wait for the new code: `unblock_signals`.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for number in signals:
        signal.pthread_kill(threading.get_ident(), number)
    arguments = command()
    try:
        os.execvpe(arguments[0], arguments, environment)
    except OSError as error:
        say(f"renvoi: {arguments[0]}: {error.strerror}")
    os._exit(1)
