"""The manager as an ASGI application: its routes, and what every answer carries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.config import Config
from manager import api, problems
from manager.site import Site

# Nothing from anywhere else, no inline script or style, no frames, no plugins.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_INSIST = {"Strict-Transport-Security": "max-age=31536000"}


def build(config: Config, redis_url: str) -> Starlette:
    """The application; it opens Redis when it starts."""
    site = Site(config, redis_url)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with site.open():
            yield

    app = Starlette(
        routes=api.routes(site),
        lifespan=lifespan,
        exception_handlers={HTTPException: problems.http_error},
    )
    headers = _HEADERS | (_INSIST if config.manager.https else {})
    app.add_middleware(_Headers, headers=headers)
    return app


class _Headers:
    """Puts the same headers on every answer."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self._app = app
        self._headers = [(n.lower().encode(), v.encode()) for n, v in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
