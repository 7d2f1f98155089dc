"""The line between the supervisor and a worker: JSON messages over a pair of sockets.

Either end may run a newer version than the other (a rolling restart brings new code in): add
fields with a default, rename none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class Assign(msgspec.Struct, tag="assign"):
    """To a spare process: which worker it becomes. `document` is the configuration as in the file,
    `redis_url` that of the supervisor's embedded Redis. `sockets` names the listening sockets of
    its predecessor, whose descriptors come with this message."""

    index: int
    document: Any
    redis_url: str | None = None
    sockets: list[str] = []


class Reload(msgspec.Struct, tag="reload"):
    """To a worker: a configuration whose live keys are to be applied."""

    document: Any


class HandOver(msgspec.Struct, tag="hand_over"):
    """To a worker: leave its calls to a successor and end. Without a BYE, without a pause for new
    calls: its sockets stay open here, and its journal has the calls. If that has no room for all
    of them any more, it drains instead."""


class Left(msgspec.Struct, tag="left"):
    """From a worker that hands over, and to its successor before its assignment: connections, whose
    descriptors come with this message, and flows of registered phones (sip/streams.py,
    registration/flows.py). At most 200 connections at once."""

    connections: list[str] = []
    flows: list[str] = []


class Replaced(msgspec.Struct, tag="replaced"):
    """To a worker: another supervisor takes this one's place in a moment."""


DRAINING = "draining"
"""`Beat.not_ready` of a worker that lets its calls end."""


class Beat(msgspec.Struct, tag="beat"):
    """The heartbeat of a worker, twice a second. `not_ready` is why no new call should be sent to
    it, `remark` a problem while calls are taken. `reads` is the newest version of a journal's
    entries that it can read. `has_all`: its journal has all its calls."""

    calls: int = 0
    not_ready: str | None = "starting"
    remark: str | None = None
    reads: int = 0
    has_all: bool = True


class Started(msgspec.Struct, tag="started"):
    """From a worker: it takes calls. `sockets` names its listening sockets, whose descriptors come
    with this message. `version` is that of the entries in its journal, 0 = it cannot hand over."""

    sip: list[str]
    admin: str
    journal: str = ""
    sockets: list[str] = []
    version: int = 0


class Failed(msgspec.Struct, tag="failed"):
    """From a worker: it cannot start, one line for the operator."""

    text: str


ToWorker = Assign | Reload | HandOver | Replaced | Left
ToSupervisor = Beat | Started | Failed | Left
_encode = msgspec.json.Encoder().encode


AT_ONCE = 200  # descriptors in a message


class Line:
    """One end. `messages` is the union of the other end's messages. Descriptors may go with a
    message (SCM_RIGHTS); the system allows 253 of them at once, and the sender keeps them open
    until they are sent."""

    def __init__(self, end: socket.socket, messages: Any) -> None:
        end.setblocking(False)
        self._end = end
        self._decoder = msgspec.json.Decoder(messages)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._part = b""  # of a message that is not complete
        self._received: list[int] = []  # descriptors that no message has claimed
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._sent = asyncio.Event()
        self._sent.set()

    async def open(self) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._end, self._read)

    def say(self, message: ToWorker | ToSupervisor, descriptors: Sequence[int] = ()) -> None:
        """Send a message, with these descriptors. Never waits; does nothing if the other
        end is gone."""
        if self._loop is None or self._end.fileno() < 0:
            return
        self._unsent.append((_encode(message) + b"\n", list(descriptors)))
        if len(self._unsent) == 1:
            self._sent.clear()
            self._write()

    async def flush(self) -> None:
        """Wait until all messages are sent, then close."""
        await self.all_sent()
        self.close()

    async def all_sent(self) -> None:
        """Wait until all messages are sent."""
        await self._sent.wait()

    def leave(self, connections: Mapping[str, int], flows: Sequence[str]) -> None:
        """Send connections and flows to a successor, in as many messages as it takes."""
        names, descriptors = list(connections), list(connections.values())
        for start in range(0, len(names), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            self.say(Left(names[part]), descriptors[part])
        for start in range(0, len(flows), AT_ONCE):
            self.say(Left(flows=list(flows[start : start + AT_ONCE])))

    async def hear(self) -> Any:
        """The next message; None if the other end is gone. Invalid messages are skipped."""
        message = await self._heard.get()
        if message is None:
            self._heard.put_nowait(None)  # for the next one who asks
        return message

    def take_descriptors(self, count: int) -> list[int]:
        """The descriptors that came with the message just heard: the oldest ones. None if this
        process had no room for all of them."""
        taken, self._received = self._received[:count], self._received[count:]
        if len(taken) < count:
            for descriptor in taken:
                os.close(descriptor)
            return []
        return taken

    def close(self) -> None:
        """Idempotent."""
        if self._end.fileno() < 0:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._end)
            self._loop.remove_writer(self._end)
        self._end.close()
        for descriptor in self._received:
            os.close(descriptor)
        self._received.clear()
        self._forget_unsent()
        self._heard.put_nowait(None)

    # -- inside -----------------------------------------------------------------------------------

    def _read(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._end, 1 << 16, 253)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            for descriptor in descriptors:  # not for the process that this one may become
                os.set_inheritable(descriptor, False)
            self._received += descriptors
            if not data:
                assert self._loop is not None
                self._loop.remove_reader(self._end)
                self._heard.put_nowait(None)
                return
            *whole, self._part = (self._part + data).split(b"\n")
            for line in whole:
                with contextlib.suppress(msgspec.DecodeError):
                    self._heard.put_nowait(self._decoder.decode(line))

    def _write(self) -> None:
        """Send what can be sent now, the rest as soon as possible."""
        assert self._loop is not None
        while self._unsent:
            data, descriptors = self._unsent[0]
            try:
                if descriptors:
                    sent = socket.send_fds(self._end, [data], descriptors)
                else:
                    sent = self._end.send(data)
            except BlockingIOError:
                self._loop.add_writer(self._end, self._write)
                return
            except OSError:  # the other end is gone
                self._forget_unsent()
                break
            if sent < len(data):
                self._unsent[0] = data[sent:], []
            else:
                self._unsent.popleft()
        self._loop.remove_writer(self._end)
        self._sent.set()

    def _forget_unsent(self) -> None:
        self._unsent.clear()
        self._sent.set()
