"""The line between the supervisor and a worker: JSON messages over a pair of sockets.

Either end may run a newer version than the other (a rolling restart brings new code in): add
fields with a default, rename none.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import msgspec

MESSAGE_BYTES = 1 << 24


class Assign(msgspec.Struct, tag="assign"):
    """To a spare process: which worker it becomes. `document` is the configuration as in the file,
    `redis_url` that of the supervisor's embedded Redis."""

    index: int
    document: Any
    redis_url: str | None = None


class Reload(msgspec.Struct, tag="reload"):
    """To a worker: a configuration whose live keys are to be applied."""

    document: Any


class Beat(msgspec.Struct, tag="beat"):
    """The heartbeat of a worker, twice a second. `not_ready` is why no new call should be sent to
    it, `remark` a problem while calls are taken."""

    calls: int = 0
    not_ready: str | None = "starting"
    remark: str | None = None


class Started(msgspec.Struct, tag="started"):
    """From a worker: it takes calls."""

    sip: list[str]
    admin: str
    journal: str = ""


class Failed(msgspec.Struct, tag="failed"):
    """From a worker: it cannot start, one line for the operator."""

    text: str


ToWorker = Assign | Reload
ToSupervisor = Beat | Started | Failed
_encode = msgspec.json.Encoder().encode


class Line:
    """One end. `messages` is the union of the other end's messages."""

    def __init__(self, end: socket.socket, messages: Any) -> None:
        end.setblocking(False)
        self._end = end
        self._decoder = msgspec.json.Decoder(messages)
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(
            sock=self._end, limit=MESSAGE_BYTES
        )

    def say(self, message: ToWorker | ToSupervisor) -> None:
        """Send a message. Never waits; does nothing if the other end is gone."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(_encode(message) + b"\n")

    async def flush(self) -> None:
        """Wait until all messages are sent."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()

    async def hear(self) -> Any:
        """The next message; None if the other end is gone. Invalid messages are skipped."""
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except (asyncio.IncompleteReadError, OSError):
                return None
            try:
                return self._decoder.decode(line)
            except msgspec.DecodeError:
                continue

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        else:
            self._end.close()
