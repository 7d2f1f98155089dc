"""A scripted SIP endpoint on TCP or TLS: that of `endpoint.py`, with connections."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
import ssl
from collections.abc import Coroutine
from typing import Any, Self

from tests.scenarios.endpoint import Address, Endpoint, bracketed

_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)


class StreamEndpoint(Endpoint):
    """Listens on a port and keeps every connection, including its own."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: dict[Address, asyncio.StreamWriter] = {}
        self.made = 0  # connections that the other side opened
        self.pongs = 0
        self._server: asyncio.Server | None = None
        self._client_tls: ssl.SSLContext | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[Address, list[bytes]] = {}
        self.transport = "tcp"

    @classmethod
    async def listen(
        cls,
        host: str = "127.0.0.1",
        port: int = 0,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        sock: socket.socket | None = None,
    ) -> Self:
        """Listen; port 0 takes a free one. `sock` is bound already, with its own `host`, `port`."""
        endpoint = cls()
        endpoint._client_tls = client_tls
        endpoint.transport = "tls" if server_tls is not None else "tcp"
        if sock is None:
            server = await asyncio.start_server(endpoint._accepted, host, port, ssl=server_tls)
        else:
            server = await asyncio.start_server(endpoint._accepted, sock=sock, ssl=server_tls)
        endpoint._server = server
        endpoint.host, endpoint.port = server.sockets[0].getsockname()[:2]
        return endpoint

    def close(self) -> None:
        """End every remaining call, then close everything."""
        for call in self.calls:
            call.abandon()
        if self._server is not None:
            self._server.close()
        for writer in self.streams.values():
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()

    async def finish(self) -> None:
        """Close, and wait until every socket is closed."""
        writers = list(self.streams.values())
        self.close()
        for writer in writers:
            with contextlib.suppress(Exception):
                await writer.wait_closed()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop(self) -> None:
        """Abort every connection."""
        for writer in self.streams.values():
            writer.transport.abort()
        self.streams.clear()

    def uri(self, user: str = "ua") -> str:
        return f"sip:{user}@{bracketed(self.host)}:{self.port};transport={self.transport}"

    def via(self) -> str:
        branch = f"z9hG4bK{secrets.token_hex(8)}"
        name = self.transport.upper()
        return f"SIP/2.0/{name} {bracketed(self.host)}:{self.port};rport;branch={branch}"

    def send(self, raw: bytes, peer: Address) -> None:
        writer = self.streams.get(peer)
        if writer is not None:
            writer.write(raw)
        elif peer in self._waiting:
            self._waiting[peer].append(raw)
        else:
            self._waiting[peer] = [raw]
            self._run(self._connect(peer))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, peer: Address) -> None:
        tls = self._client_tls if self.transport == "tls" else None
        reader, writer = await asyncio.open_connection(
            peer[0], peer[1], ssl=tls, server_hostname="localhost" if tls else None
        )
        self.streams[peer] = writer
        for raw in self._waiting.pop(peer):
            writer.write(raw)
        await self._read(reader, peer)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")[:2]
        self.streams[peer] = writer
        self.made += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._read(reader, peer)
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, peer: Address) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.pongs += len(head) - len(head.lstrip(b"\r\n"))
                found = _LENGTH.search(head)
                body = await reader.readexactly(int(found[1])) if found else b""
                self.datagram_received(head.lstrip(b"\r\n") + body, peer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer = self.streams.pop(peer, None)
            if writer is not None:
                writer.close()
