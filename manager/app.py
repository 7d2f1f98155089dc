"""The manager as an ASGI application: its routes, and the headers of every response."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.config import Config
from manager import (
    accounts_page,
    api,
    calendars_page,
    done_page,
    fleets_page,
    forwards_page,
    history_page,
    line_page,
    lines_page,
    operator_pages,
    problems,
    rules_page,
    several_lines_page,
    switching,
)
from manager.failures import NotFound
from manager.login import LogIn
from manager.operator_pages import Seeing
from manager.own_account import Own
from manager.site import Site
from manager.web import Visit, Web, failed, see
from manager.words import preferred
from store.redis_errors import REDIS_ERRORS

_HERE = Path(__file__).parent
# Nothing from other sites, no inline script or style, no frames, no plugins.
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
_ASK_AGAIN = {"Cache-Control": "no-cache"}
_FORMS_ALONE = ("/logout", "/see-as", "/see-as/end", "/several/undo")
_INSIST = {"Strict-Transport-Security": "max-age=31536000"}


def build(config: Config, redis_url: str) -> Starlette:
    """The application; it opens Redis when it starts."""
    site = Site(config, redis_url)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with site.open():
            yield

    app = Starlette(
        routes=[*api.routes(site), *_pages(site)],
        lifespan=lifespan,
        exception_handlers={HTTPException: _not_served},
    )
    # An extra slash gives 404, not a redirect to whatever Host says.
    app.router.redirect_slashes = False
    app.state.site = site
    headers = _HEADERS | (_INSIST if config.manager.https else {})
    app.add_middleware(_Headers, headers=headers)
    return app


def _pages(site: Site) -> list[BaseRoute]:
    web = Web(site)
    log_in, own, seeing = LogIn(web), Own(web), Seeing(web)
    line, forwards = "/lines/{number}", "/lines/{number}/forwards"
    rules = "/lines/{number}/rules/{condition}"
    return [
        Route("/", _home),
        Route("/healthz", partial(_health, site)),
        # Only forms are sent there: the language of what they show is changed by a link.
        *(Route(path, web.guarded(_to_lines)) for path in _FORMS_ALONE),
        Route("/login", web.open(log_in.show)),
        Route("/login", web.open(log_in.enter), methods=["POST"]),
        Route("/logout", web.guarded(log_in.leave, reads=True), methods=["POST"]),
        Route("/account", web.guarded(own.show)),
        Route("/account", web.guarded(own.change), methods=["POST"]),
        Route("/fleets", web.guarded(fleets_page.show, role="operator")),
        Route("/fleets", web.guarded(fleets_page.act, "operator", keeps="cap"), methods=["POST"]),
        Route("/live", web.guarded(operator_pages.live, role="operator")),
        Route("/registrations", web.guarded(operator_pages.registrations, role="operator")),
        Route("/changes", web.guarded(operator_pages.changes, role="operator")),
        Route("/see-as", web.guarded(seeing.begin, role="operator"), methods=["POST"]),
        Route("/see-as/end", web.guarded(seeing.end, reads=True), methods=["POST"]),
        Route("/calendars", web.guarded(calendars_page.show)),
        Route("/calendars", web.guarded(calendars_page.act, "fleet", keeps=True), methods=["POST"]),
        Route("/accounts", web.guarded(accounts_page.show, role="fleet")),
        Route("/accounts", web.guarded(accounts_page.act, "fleet", keeps="line"), methods=["POST"]),
        Route("/lines", web.guarded(lines_page.lines)),
        Route("/suggest", web.guarded(lines_page.suggest)),
        Route(line, web.guarded(line_page.line)),
        Route(line + "/calls", web.guarded(history_page.page)),
        Route(line + "/calls.csv", web.guarded(history_page.download)),
        Route(forwards, web.guarded(forwards_page.edit)),
        Route(forwards, web.guarded(forwards_page.submit, keeps=True), methods=["POST"]),
        Route(
            forwards + "/preview", web.guarded(forwards_page.preview, reads=True), methods=["POST"]
        ),
        Route(forwards + "/done", web.guarded(done_page.page)),
        Route(line + "/switch", web.guarded(switching.show)),
        Route(line + "/switch", web.guarded(switching.act, keeps="profile"), methods=["POST"]),
        Route(rules, web.guarded(rules_page.edit)),
        Route(rules, web.guarded(rules_page.submit, keeps=True), methods=["POST"]),
        Route(rules + "/preview", web.guarded(rules_page.preview, reads=True), methods=["POST"]),
        Route(line + "/restore", web.guarded(rules_page.restore)),
        Route(line + "/restore", web.guarded(rules_page.restore), methods=["POST"]),
        Route("/several", web.guarded(several_lines_page.choose)),
        Route("/several", web.guarded(several_lines_page.submit, keeps=True), methods=["POST"]),
        Route("/several/done", web.guarded(several_lines_page.done)),
        Route("/several/undo", web.guarded(several_lines_page.undo), methods=["POST"]),
        # Browsers ask each time whether a file has changed: pages need those of their version.
        Mount("/static", _Headers(StaticFiles(directory=_HERE / "static"), _ASK_AGAIN)),
    ]


async def _health(site: Site, _request: Request) -> Response:
    """For monitoring: 200 while it can reach Redis."""
    try:
        await site.ping()
    except REDIS_ERRORS:
        return PlainTextResponse("redis away\n", 503)
    return PlainTextResponse("ok\n")


async def _to_lines(_visit: Visit) -> Response:
    return see("/lines")


async def _home(_request: Request) -> Response:
    return RedirectResponse("/lines", 303)


async def _not_served(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, as an API problem or a page."""
    if request.url.path.startswith(api.PREFIX):
        return await problems.http_error(request, error)
    language = preferred(request.headers.get("accept-language", ""))
    response = failed(Visit(request.app.state.site, request, language), NotFound(""))
    assert isinstance(error, HTTPException)
    response.status_code = error.status_code
    if error.status_code == 405:  # RFC 9110 15.5.6
        routes = [route for route in request.app.routes if isinstance(route, Route)]
        here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
        methods = {method for route in here for method in route.methods or ()}
        response.headers["Allow"] = ", ".join(sorted(methods or {"GET", "HEAD"}))
    return response


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
