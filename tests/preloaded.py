"""`renvoi serve`, `manager` and `notify` as processes that need not import their modules.

A start takes most of a second of CPU, three for the manager, nearly all of it for imports, and the
tests start some hundred. So an interpreter without threads imports them once and forks for each
start; the child ends like any other process. It has the arguments, environment, directory and
descriptors that a new interpreter would have. A start with another environment or another program
is a new interpreter (`tests.scenarios.processes`), and so is each worker of a supervisor.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
_MODULES = {
    "serve": ("engine.serve", "engine.supervisor"),
    "manager": ("manager.serve",),
    "notify": ("notify.serve",),
}
_NUMBER = struct.Struct("=i")
_LARGEST = 65_536  # bytes of a request


class Forked:
    """A process that was started here, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, words: int) -> None:
        """`words`: where its interpreter writes the process id, and later the exit status."""
        self._words = words
        self.returncode: int | None = None
        self.pid = self._next()

    def _has_ended(self, wait_s: float | None) -> bool:
        poller = select.poll()
        poller.register(self._words, select.POLLIN)
        return bool(poller.poll(None if wait_s is None else wait_s * 1000))

    def _next(self) -> int:
        word = os.read(self._words, _NUMBER.size)
        assert word, "the interpreter that forks has ended"
        number: int = _NUMBER.unpack(word)[0]
        return number

    def poll(self) -> int | None:
        """The exit status, minus the signal that killed it; None while it runs."""
        if self.returncode is None and self._has_ended(0):
            self.returncode = self._next()
            os.close(self._words)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._has_ended(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired("renvoi", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Interpreter:
    """Has imported what one command imports, and forks."""

    def __init__(self, command: str, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.preloaded", str(theirs.fileno()), command],
                cwd=ROOT,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self._end)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def _end(self) -> None:
        self._requests.close()
        self._process.wait()

    def fork(self, arguments: Sequence[str], output: IO[bytes]) -> Forked:
        """Start `renvoi` with these arguments; `output` gets both its outputs."""
        ours, theirs = os.pipe()
        try:
            with os.fdopen(theirs, "wb"):
                request = json.dumps(arguments).encode()
                socket.send_fds(self._requests, [request], [output.fileno(), theirs])
            return Forked(ours)
        except BaseException:
            os.close(ours)
            raise


_interpreters: dict[str, Interpreter] = {}
_lock = threading.Lock()


def start(
    arguments: Sequence[str], output: IO[bytes], environment: Mapping[str, str]
) -> Forked | subprocess.Popen[bytes]:
    """Start `renvoi` with these arguments, in the directory of the project."""
    # pytest's variables change with each test; the processes do not read them.
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    command = arguments[0]
    with _lock:
        if command not in _interpreters or _interpreters[command].has_ended:
            _interpreters[command] = Interpreter(command, environment)
    interpreter = _interpreters[command]
    if interpreter.environment == environment:
        return interpreter.fork(arguments, output)
    program = [sys.executable, "-m", "engine.cli", *arguments]
    return subprocess.Popen(program, cwd=ROOT, env=environment, stdout=output, stderr=output)


# -- In the interpreter that forks ----------------------------------------------------------------


def _serve(requests: socket.socket, command: str) -> list[str] | None:
    """Forks for each request. Returns its arguments in a child, None when nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in ("engine.cli", "engine.commands.program", *_MODULES[command]):
        importlib.import_module(module)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()  # or each child would copy the pages of all objects
    poller = select.poll()
    poller.register(requests, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}  # by descriptor: process id, where its status goes
    while True:
        for ready, _ in poller.poll():
            if ready != requests.fileno():
                poller.unregister(ready)
                _report(ready, *running.pop(ready))
                continue
            request, descriptors, _, _ = socket.recv_fds(requests, _LARGEST, 2)
            if not request:
                return None
            output, words = descriptors
            pid = os.fork()
            if pid == 0:
                _take_over(output, words)
                arguments: list[str] = json.loads(request)
                return arguments
            os.close(output)
            ended = os.pidfd_open(pid)
            running[ended] = (pid, words)
            poller.register(ended, select.POLLIN)


def _report(ended: int, pid: int, words: int) -> None:
    os.close(ended)
    _, status = os.waitpid(pid, 0)
    try:
        os.write(words, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
    except BrokenPipeError:
        pass  # its test has ended
    os.close(words)


def _take_over(output: int, words: int) -> None:
    """Become a process of its own: no descriptor but the standard ones, signals as at a start.
    Only then its id is told, so that no signal meets it before."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(words, _NUMBER.pack(os.getpid()))
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _main() -> int:
    requests = socket.socket(fileno=int(sys.argv[1]))
    arguments = _serve(requests, sys.argv[2])
    if arguments is None:
        return 0
    from engine import cli

    requests.detach()  # closed already
    sys.argv = [str(cli.__file__), *arguments]
    sys.orig_argv = [sys.executable, "-m", "engine.cli", *arguments]
    return cli.main()


if __name__ == "__main__":
    sys.exit(_main())
