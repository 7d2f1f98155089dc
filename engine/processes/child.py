"""One worker process for the supervisor: start, assignment, messages, end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.processes import systemd
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
    ToSupervisor,
)
from store import background_tasks

START_S = 30.0  # for a process to send its first message, because a busy machine imports slowly


class Child:
    """A spare process that waits until it is assigned; or an `orphan`, the line to a running worker
    whose supervisor has ended (orphaned_workers.py).

    `calls`, `not_ready` and `remark` are from its last heartbeat, `heard_at` is its loop time.
    `started` is its message that it takes calls, `exited` its exit status (negative: the signal
    that ended it). Raises OSError if the system cannot start a process (descriptors, processes,
    memory).
    """

    def __init__(self, orphan: socket.socket | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None  # None: not a child of this process
        self.is_adopted = orphan is not None
        ours = orphan if orphan is not None else self._spawn()
        try:
            self.pid = self._process.pid if self._process is not None else _peer(ours)
            self._pidfd = self._watched()
        except BaseException:
            ours.close()
            raise
        self._is_gone = False
        self.calls = 0
        self.not_ready: str | None = "starting"
        self.remark: str | None = None
        self.heard_at = loop.time()
        self.journal: Path | None = None
        self.sockets: dict[str, int] = {}  # descriptors of its listening sockets, by address
        self.connections: dict[str, int] = {}  # that it left when it handed over
        self.flows: list[str] = []
        self.version = 0  # of the entries in its journal
        self.reads = 0  # the newest version that it can read
        self.has_all = True  # its calls in its journal, by its last heartbeat
        self.killing: asyncio.Task[None] | None = None
        self.document: Any = None
        self.failure = ""  # why it could not start, from its message
        self.started: asyncio.Future[Any] = loop.create_future()
        self.exited: asyncio.Future[Any] = loop.create_future()
        self._loop = loop
        self._line = Line(ours, ToSupervisor)
        loop.add_reader(self._pidfd, self._on_exit)
        self._opened = asyncio.Event()  # our end of the line
        self._first_word: asyncio.Future[Any] = loop.create_future()
        self._hearing = background_tasks.keep(self._hear, "worker: its messages were not read")

    def _spawn(self) -> socket.socket:
        """Start the process; returns our end of the line to it."""
        ours, theirs = socket.socketpair()
        environment = {k: v for k, v in os.environ.items() if k not in systemd.VARIABLES}
        try:
            with theirs:
                # A new interpreter, which loads the code on disk.
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "engine.processes.supervised", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                )
        except BaseException:
            ours.close()
            raise
        return ours

    def __repr__(self) -> str:
        return f"<Child {self.pid} calls={self.calls} not_ready={self.not_ready}>"

    @property
    def takes_calls(self) -> bool:
        return self.served and not self.exited.done()

    @property
    def served(self) -> bool:
        """Whether it has taken calls at any time."""
        return self.started.done() and not self.started.cancelled()

    async def stands_by(self) -> bool:
        """Wait until it is ready to be assigned; False if it ended instead."""
        both = [self._first_word, self.exited]
        await asyncio.wait(both, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        return self._first_word.done() and not self.exited.done()

    async def assign(
        self,
        index: int,
        document: Any,
        redis_url: str | None,
        sockets: Mapping[str, int],
        predecessor: Child | None,
    ) -> None:
        """Make it this worker. `sockets`: descriptors of its predecessor's listening sockets. It
        gets the connections and flows that this one left too."""
        self.document = document
        self.heard_at = self._loop.time()  # a spare process has been silent
        await self._opened.wait()
        if predecessor is not None:
            self._line.leave(predecessor.connections, predecessor.flows)
            await self._line.all_sent()
            predecessor.close_connections()
        names, descriptors = list(sockets), list(sockets.values())
        self._line.say(Assign(index, document, redis_url, names), descriptors)

    def close_connections(self) -> None:
        """Close this process's copies of the connections that it left."""
        for descriptor in self.connections.values():
            os.close(descriptor)
        self.connections, self.flows = {}, []

    def hand_over(self) -> None:
        """Make it leave its calls to a successor and end."""
        self._line.say(HandOver())

    async def leave_to_another(self) -> None:
        """Another supervisor will adopt it."""
        self._line.say(Replaced())
        await self._line.flush()

    def close_sockets(self) -> None:
        """Close this process's copies of its listening sockets."""
        for descriptor in self.sockets.values():
            os.close(descriptor)
        self.sockets = {}

    def reload(self, document: Any) -> None:
        """Make it apply the live keys of this configuration."""
        if self.document != document:
            self.document = document
            self._line.say(Reload(document))

    def signal(self, number: signal.Signals) -> None:
        if not self._is_gone:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def settled(self) -> None:
        """Wait until it takes calls, or has ended before."""
        await asyncio.wait([self.started, self.exited], return_when=asyncio.FIRST_COMPLETED)
        if self.started.cancelled():
            await self.end()

    async def end(self) -> int:
        """Wait for its end and return its exit status. Not `await exited`, because a cancelled
        waiter would cancel it for the others."""
        await asyncio.wait([self.exited])
        return int(self.exited.result())

    async def ended(self, within_s: float) -> bool:
        """Whether it ends within this time."""
        await asyncio.wait([self.exited], timeout=within_s)
        return self.exited.done()

    async def kill(self) -> None:
        """Kill one that does not respond, first with a trace of where it hangs."""
        self.signal(signal.SIGABRT)
        if not await self.ended(1.0):
            self.signal(signal.SIGKILL)
            await self.end()

    def _watched(self) -> int:
        """The descriptor that reports its end. A process that cannot be watched is ended."""
        try:
            return os.pidfd_open(self.pid)
        except OSError:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            raise

    async def _hear(self) -> None:
        await self._line.open()
        self._opened.set()
        while (message := await self._line.hear()) is not None:
            if not self._first_word.done():
                self._first_word.set_result(None)
            self.heard_at = self._loop.time()
            if isinstance(message, Beat):
                self.calls, self.not_ready = message.calls, message.not_ready
                self.remark, self.reads = message.remark, message.reads
                self.has_all = message.has_all
            elif isinstance(message, Started):
                self.journal = Path(message.journal) if message.journal else None
                self.close_sockets()
                descriptors = self._line.take_descriptors(len(message.sockets))
                self.sockets = dict(zip(message.sockets, descriptors, strict=False))  # all or none
                self.version = message.version
                self.started.set_result(message)
            elif isinstance(message, Left):
                descriptors = self._line.take_descriptors(len(message.connections))
                self.connections.update(zip(message.connections, descriptors, strict=False))
                self.flows += message.flows
            elif isinstance(message, Failed):
                self.failure = message.text

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._is_gone = True
        status = self._process.wait() if self._process is not None else _status_of(self.pid)
        self._loop.create_task(self._say_goodbye(status))

    async def _say_goodbye(self, status: int) -> None:
        """Read its last messages before its end is reported."""
        await asyncio.wait([self._hearing], timeout=0.5)
        self._hearing.cancel()
        self._line.close()
        self.calls, self.not_ready = 0, "dead"
        self.started.cancel()
        self.exited.set_result(status)


def _status_of(pid: int) -> int:
    """The exit status of an adopted process: of a child that this process had before `exec`.
    Otherwise it is not available, and counts as 0."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, os.WNOHANG)[1])
    except (ChildProcessError, ValueError):
        return 0


def _peer(end: socket.socket) -> int:
    """The process at the other end of a line."""
    size = struct.calcsize("3i")
    pid, _, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid)


def status_in_words(status: int) -> str:
    """An exit status as text: the signal's name, or the number."""
    if status < 0:
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"
    return f"status {status}"
