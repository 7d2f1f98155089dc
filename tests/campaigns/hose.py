"""Hostile bytes over TCP: messages in pieces, joined, truncated, and connections that are reset."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from random import Random

from tests.campaigns.packet import Address

WIDTH = 20  # connections at once


class Hose:
    """Connections to the engine that send messages in bad ways. Responses are read and
    discarded."""

    def __init__(self, chance: Random, engine: Address) -> None:
        self._chance = chance
        self._engine = engine
        self._open: list[tuple[asyncio.StreamWriter, asyncio.Task[None]]] = []
        self.opened = 0

    async def throw(self, raw: bytes) -> None:
        """Send one message over one of the connections, complete or not."""
        chance = self._chance
        try:
            writer = await self._one()
            if chance.random() < 0.2:
                raw = raw[: chance.randrange(len(raw) + 1)]
            elif chance.random() < 0.2:
                raw = chance.choice((b"\r\n", b"\r\n\r\n", b"\0" * 20, b"x" * 70_000)) + raw
            for piece in self._pieces(raw):
                writer.write(piece)
                await asyncio.sleep(0)
        except OSError:
            return

    async def _one(self) -> asyncio.StreamWriter:
        chance = self._chance
        if self._open and (len(self._open) >= WIDTH or chance.random() < 0.8):
            place = chance.randrange(len(self._open))
            writer, reading = self._open[place]
            if not reading.done() and chance.random() < 0.9:
                return writer
            del self._open[place]
            await self._leave(writer, reading)
        reader, writer = await asyncio.open_connection(*self._engine)
        self.opened += 1
        self._open.append((writer, asyncio.create_task(_drain(reader))))
        return writer

    def _pieces(self, raw: bytes) -> list[bytes]:
        if self._chance.random() < 0.6 or len(raw) < 2:
            return [raw]
        cut = self._chance.randrange(1, len(raw))
        return [raw[:cut], raw[cut:]]

    async def _leave(self, writer: asyncio.StreamWriter, reading: asyncio.Task[None]) -> None:
        made = writer.get_extra_info("socket")
        if made is not None and self._chance.random() < 0.5:  # a reset instead of an end
            with contextlib.suppress(OSError):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    async def close(self) -> None:
        for writer, reading in self._open:
            await self._leave(writer, reading)
        self._open.clear()


async def _drain(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass
