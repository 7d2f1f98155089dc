"""HTTP for the operator: /metrics /healthz /readyz, and /calls of an engine.

A GET-only server with one request per connection, on the event loop. Whatever a client sends
(garbage, an endless header, nothing) costs a bounded buffer and a bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from engine import ports
from engine.config import Address
from engine.telemetry.log import get_logger
from engine.telemetry.metrics import CONTENT_TYPE
from store import background_tasks

HEAD_BYTES = 8192
HEAD_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 10.0
CONNECTIONS = 64

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

log = get_logger("admin")


class AddressInUse(OSError):
    """The server cannot listen on the address; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Response:
    status: HTTPStatus
    body: bytes = b""
    content_type: str = TEXT

    def encode(self, with_body: bool = True) -> bytes:
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n"
        )
        if self.status is HTTPStatus.METHOD_NOT_ALLOWED:
            head += "Allow: GET, HEAD\r\n"
        return head.encode() + b"\r\n" + (self.body if with_body else b"")


def _text(status: HTTPStatus, text: str) -> Response:
    return Response(status, text.encode() + b"\n")


class Admin:
    """The server. `metrics` returns the text for Prometheus, `ready` None or the reason why no new
    call should be sent here, `calls` the calls in progress as a JSON array (None: no such page).
    All are called on the loop. `key` is the configuration key of the address; `remark` returns a
    problem of an engine that is ready nevertheless.
    """

    def __init__(
        self,
        listen: Address,
        metrics: Callable[[], Awaitable[bytes]],
        ready: Callable[[], str | None],
        calls: Callable[[], Awaitable[bytes]] | None = None,
        key: str = "admin.listen",
        remark: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._key = key
        self._listen = listen
        self._metrics = metrics
        self._ready = ready
        self._remark = remark
        self._calls = calls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._pages: dict[str, Callable[[], Awaitable[Response]]] = {
            "/metrics": self._show_metrics,
            "/healthz": self._show_health,
            "/readyz": self._show_readiness,
        }
        if calls is not None:
            self._pages["/calls"] = self._show_calls

    @property
    def address(self) -> Address:
        """The listening address; after `start` with the real port for 0."""
        return self._listen

    async def start(self) -> None:
        """Listens. Raises AddressInUse, which names the address."""
        host, port = self._listen.host, self._listen.port
        try:
            self._server = await asyncio.start_server(
                self._accept, host, port, limit=HEAD_BYTES, reuse_address=True
            )
        except OSError as error:
            words = f"{self._key}: cannot listen on {self._listen}: {ports.why(error)}"
            raise AddressInUse(words) from None
        bound = self._server.sockets[0].getsockname()
        self._listen = Address(host, bound[1])

    async def close(self) -> None:
        """Stops listening and drops the open connections."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        await background_tasks.end(self._connections)
        await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) <= CONNECTIONS and self._server is not None:
                await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the client left, or we stop; the connection ends either way
        except RuntimeError:  # uvloop's, for writing to a connection that is lost
            if not writer.is_closing():
                raise
        finally:
            self._connections.discard(task)
            with suppress(OSError, RuntimeError):
                writer.transport.abort() if writer.transport.get_write_buffer_size() else None
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return  # closed before the request was complete: nobody to answer
        except TimeoutError:
            response, with_body = _text(HTTPStatus.REQUEST_TIMEOUT, "no request in time"), True
        except asyncio.LimitOverrunError:
            response = _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head over 8 KB")
            with_body = True
        else:
            response, with_body = await self._answer(head)
        writer.write(response.encode(with_body))
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
                # Read the rest, or a reset may overtake the response.
                while await reader.read(HEAD_BYTES):
                    pass

    async def _answer(self, head: bytes) -> tuple[Response, bool]:
        """The response to a request, and whether its body is sent (not for HEAD)."""
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _text(HTTPStatus.BAD_REQUEST, "this is no HTTP/1 request"), True
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD"), True
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            known = " ".join(self._pages)
            return _text(HTTPStatus.NOT_FOUND, f"no such page, there are: {known}"), method == "GET"
        try:
            response = await page()
        except Exception:
            log.exception("admin.failed", path=target)
            response = _text(HTTPStatus.INTERNAL_SERVER_ERROR, "failed, see the log")
        return response, method == "GET"

    async def _show_metrics(self) -> Response:
        return Response(HTTPStatus.OK, await self._metrics(), CONTENT_TYPE)

    async def _show_health(self) -> Response:
        return _text(HTTPStatus.OK, "ok")

    async def _show_readiness(self) -> Response:
        reason = self._ready()
        if reason is None:
            remark = self._remark()
            return _text(HTTPStatus.OK, f"ready, but {remark}" if remark else "ready")
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, reason)

    async def _show_calls(self) -> Response:
        assert self._calls is not None
        return Response(HTTPStatus.OK, await self._calls(), JSON)
