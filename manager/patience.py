"""Time limits for clients.

uvicorn waits without limit for a connection's first request, and counts silent connections among
those it serves: a few hundred would block the site. Here the head of each request has a time limit,
and with many connections the one that has been silent longest is closed. Bodies have a time limit
too (`read`).
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, cast

from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from manager.failures import BadRequest, TooLarge, TooSlow

HEAD_S = 10.0
BODY_S = 20.0
MOST_CONNECTIONS = 400  # above it silent ones are closed


class Patient(H11Protocol):
    """uvicorn's HTTP/1.1 with time limits."""

    _silent: ClassVar[dict[H11Protocol, None]] = {}  # without a request, oldest first
    _ends: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(HEAD_S)
        if len(self.connections) > MOST_CONNECTIONS:
            oldest = next(iter(self._silent))
            cast(Patient, oldest).transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._heard()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self._is_serving():
            self._heard()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # begins the next request, if it has come already
        if not self.transport.is_closing() and not self._is_serving():
            self._wait(self.timeout_keep_alive)

    def _unsupported_upgrade_warning(self) -> None:
        """Not logged: any client could write into the log, and the advice is not for us."""

    def _is_serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self, seconds: float) -> None:
        self._heard()
        self._silent[self] = None
        self._ends = self.loop.call_later(seconds, self.transport.close)

    def _heard(self) -> None:
        self._silent.pop(self, None)
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None


async def read(request: Request, most: int) -> bytes:
    """The body of a request, at most so many bytes. Raises TooLarge, TooSlow, BadRequest."""
    raw = b""
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > most:
                    raise TooLarge(f"the body is over {most} bytes")
    except TimeoutError:
        raise TooSlow(f"the body did not come within {BODY_S:g} s") from None
    except ClientDisconnect:
        raise BadRequest("the body did not come whole") from None
    return raw
