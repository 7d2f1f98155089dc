"""Real SIPp processes, and their message traces, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from tests.patience import within
from tests.scenarios.message import Message, parse

HOST = "127.0.0.1"
_HEADING = re.compile(rb"UDP message (sent|received) [\[(](\d+)(?: bytes\)|\] bytes) ?:\n\n")
_names = itertools.count(1)


# Ports are below the range from which the kernel assigns its own. A free port must still be free
# when a program binds it: so ports are assigned in turn, and none comes again before all others.
# Test processes that run at the same time (pytest-xdist's gw0, gw1 ...) use separate parts of the
# range.
def part_of(numbers: range) -> range:
    """The part of a range that this test process alone uses."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = len(numbers) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return numbers[process * size :][:size]


_PORTS = part_of(range(12_000, 30_000))
_place = random.randrange(len(_PORTS))  # index of the next one


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM, several: int = 1) -> int:
    """The first of several consecutive free ports: SIPp's media needs several."""
    global _place
    for _ in _PORTS if several <= len(_PORTS) else ():
        if _place + several > len(_PORTS):
            _place = 0
        ports = _PORTS[_place : _place + several]
        _place += 1
        try:
            with contextlib.ExitStack() as stack:
                for port in ports:
                    probe = stack.enter_context(socket.socket(socket.AF_INET, kind))
                    probe.bind((HOST, port))
        except OSError:
            continue
        _place += several - 1
        return ports[0]
    raise AssertionError(f"no {several} ports are free in {_PORTS}")


@dataclass(frozen=True)
class Trace:
    """The messages one SIPp sent and received, in order."""

    sent: list[Message] = field(default_factory=list)
    received: list[Message] = field(default_factory=list)

    def call(self, call_id: str) -> Trace:
        """The messages of one call."""
        return Trace(
            [m for m in self.sent if m.call_id == call_id],
            [m for m in self.received if m.call_id == call_id],
        )

    def invites(self, user: str = "") -> list[Message]:
        """The INVITEs received, without repeats, for that user part when one is given."""
        found: dict[str, Message] = {}
        for message in self.received:
            if not message.code and message.method == "INVITE":
                found.setdefault(message.branch, message)
        return [m for m in found.values() if not user or m.user == user]

    def codes(self) -> list[int]:
        """The codes received for INVITE above 100, in order, without repeats."""
        seen = [m.code for m in self.received if m.code > 100 and m.method == "INVITE"]
        return [code for code, _ in itertools.groupby(seen)]

    def answer(self, code: int, method: str = "INVITE") -> Message:
        """The first response with that code. Raises AssertionError with the received ones."""
        for message in self.received:
            if message.code == code and message.method == method:
                return message
        raise AssertionError(f"no {code} to {method} among {self.received}")


def read_trace(path: Path) -> Trace:
    """Read SIPp's message file: each heading says how many bytes follow."""
    trace = Trace()
    data = path.read_bytes() if path.exists() else b""
    position = 0
    while found := _HEADING.search(data, position):
        position = found.end() + int(found.group(2))
        raw = data[found.end() : position]
        (trace.sent if found.group(1) == b"sent" else trace.received).append(parse(raw))
    return trace


class Sipp:
    """One SIPp process."""

    def __init__(self, directory: Path, script: str, peer: str) -> None:
        """`directory` is for its files; `peer` is the host:port of its requests."""
        self.name = f"sipp{next(_names)}"
        self.port = free_port()
        self._peer = peer
        self._base = directory / self.name
        self._process: asyncio.subprocess.Process | None = None
        self._file("xml").write_text(script, encoding="utf-8")

    def _file(self, suffix: str) -> Path:
        return self._base.with_suffix(f".{suffix}")

    @property
    def trace(self) -> Trace:
        """The messages that it sent and received so far."""
        return read_trace(self._file("messages"))

    async def start(
        self,
        *,
        port: int = 0,
        calls: int = 1,
        limit_s: int = 25,
        rate: float = 10,
        host: str = HOST,
        trace: bool = True,
    ) -> Sipp:
        """Start it and wait until its socket is bound. It fails if it has not ended `within`
        `limit_s`. `rate`: calls a second that it places; `trace`: whether it keeps every
        message."""
        self.port = port or self.port
        command = ["sipp", self._peer, "-sf", str(self._file("xml")), "-i", host]
        command += ["-r", str(rate)]
        command += ["-p", str(self.port), "-m", str(calls), "-nostdin"]
        # its control and media sockets: by default all SIPps of a machine share a few ports
        command += ["-cp", str(free_port()), "-mp", str(free_port(several=8))]
        if trace:
            command += ["-trace_msg", "-message_file", str(self._file("messages"))]
        command += ["-trace_err", "-error_file", str(self._file("errors"))]
        command += ["-timeout", f"{within(limit_s):.0f}s", "-timeout_error"]
        with self._file("screen").open("wb") as screen:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=screen,
                stderr=screen,
                cwd=self._base.parent,
            )
        while not bound(self.port) and self._process.returncode is None:
            await asyncio.sleep(0.01)
        return self

    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return None if self._process is None else self._process.returncode

    async def finish(self) -> Trace:
        """Wait until it has ended with success, after every step of its script. Returns its
        messages."""
        assert self._process is not None
        status = await self._process.wait()
        trace = self.trace
        if status != 0:
            errors = self._file("errors")
            text = errors.read_text("utf-8", "replace") if errors.exists() else ""
            raise AssertionError(
                f"SIPp on port {self.port} ended with status {status}\n"
                f"sent {trace.sent}\nreceived {trace.received}\n{text[:2500]}"
            )
        return trace

    async def stop(self) -> None:
        """Stop it now, in any state."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def bound(port: int) -> bool:
    """Whether a UDP socket is bound to that port."""
    wanted = f":{port:04X}"
    with open("/proc/net/udp", encoding="ascii") as table:
        return any(line.split()[1].endswith(wanted) for line in table.readlines()[1:])
