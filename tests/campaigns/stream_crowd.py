"""The crowd on TCP: the same callers and phones behind connections, with messages in pieces."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from tests.campaigns.crowd import Crowd
from tests.campaigns.packet import Address, Packet

_LENGTH = re.compile(rb"\ncontent-length *: *(\d+)", re.IGNORECASE)
_CONTACT = re.compile(rb"(\n(?:Contact|m) *: *<sip:[^>;\r\n]*)>")
WIDTH = 4  # connections to the engine on which it sends


class StreamCrowd(Crowd):
    """Listens for the engine's connections and opens its own."""

    def __init__(
        self,
        chance: Random,
        engine: Address,
        wildness: float,
        trail: deque[bytes],
        change: Callable[[Random, Packet], bytes],
    ) -> None:
        super().__init__(chance, engine, wildness, trail, change)
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def listen(
        cls,
        chance: Random,
        engine: Address,
        wildness: float,
        trail: deque[bytes],
        change: Callable[[Random, Packet], bytes],
    ) -> StreamCrowd:
        """Listen on the loopback."""
        crowd = cls(chance, engine, wildness, trail, change)
        crowd._server = await asyncio.start_server(crowd._accepted, "127.0.0.1", 0)
        crowd.own = crowd._server.sockets[0].getsockname()[:2]
        return crowd

    def uri(self) -> str:
        return super().uri() + ";transport=tcp"

    def close(self) -> None:
        self._closed = True
        super().close()
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def gone(self) -> None:
        """Wait until all its connections are closed."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def put(self, raw: bytes) -> None:
        if not raw or self._closed:
            return
        raw = raw.replace(b"SIP/2.0/UDP", b"SIP/2.0/TCP")
        raw = _CONTACT.sub(rb"\1;transport=tcp>", raw)
        self._trail.append(raw)
        self.sent += 1
        self._writers = [writer for writer in self._writers if not writer.is_closing()]
        if len(self._writers) < WIDTH and len(self._tasks) < 50:
            self._run(self._connect(raw))
        elif self._writers:
            self._write(self._chance.choice(self._writers), raw)

    def _write(self, writer: asyncio.StreamWriter, raw: bytes) -> None:
        cut = self._chance.randrange(len(raw)) if self._chance.random() < 0.3 else len(raw)
        writer.write(raw[:cut])
        if cut < len(raw):
            asyncio.get_running_loop().call_soon(writer.write, raw[cut:])

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, raw: bytes) -> None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(*self._engine)
            if self._closed:
                writer.transport.abort()
                return
            self._writers.append(writer)
            self._write(writer, raw)
            await self._read(reader, writer)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.append(writer)
        await self._read(reader, writer)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = b""
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                buffer += piece
                while (end := buffer.find(b"\r\n\r\n")) >= 0:
                    found = _LENGTH.search(buffer, 0, end)
                    size = end + 4 + (int(found[1]) if found else 0)
                    if len(buffer) < size:
                        break
                    self.datagram_received(buffer[:size], self._engine)
                    buffer = buffer[size:]
        writer.close()
