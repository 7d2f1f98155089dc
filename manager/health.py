"""The manager's pages for operators: `/metrics`, `/healthz` and `/readyz` on
`manager.admin_listen`, which customers cannot reach, and a log line for every 5xx response."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.admin import Admin
from engine.config import Config
from engine.telemetry import log
from engine.telemetry.exposition import (
    Counters,
    Family,
    Histograms,
    build_info,
    gauge,
    process_families,
    render,
)
from manager.site import Site
from store import background_tasks
from store.redis_errors import REDIS_ERRORS

_LOOK_EVERY_S = 2.0
_ANSWER_S = 1.5
_AREAS = ("page", "api", "static")
_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_log = log.get_logger("manager")


class Health:
    """Monitors one manager process: checks its Redis periodically, and counts its responses."""

    def __init__(self, config: Config, site: Site) -> None:
        self._site = site
        self._away = "starting"
        self._active = 0
        self._looking: asyncio.Task[None] | None = None
        self._requests = Counters(
            "renvoi_manager_requests_total", "Requests answered.", ("area", "class"),
            [(area, of) for area in _AREAS for of in _CLASSES],
        )  # fmt: skip
        self._seconds = Histograms(
            "renvoi_manager_request_seconds", "From a request's head to the end of its answer.",
            _BOUNDS_S, "area", _AREAS,
        )  # fmt: skip
        self._families: list[Family] = [
            self._requests,
            self._seconds,
            gauge("renvoi_manager_active_requests", "Requests under way.", lambda: self._active),
            gauge(
                "renvoi_manager_redis_up", "1 while Redis answers.", lambda: float(not self._away)
            ),
            build_info("renvoi_manager_build_info"),
            *process_families(),
        ]
        self.admin = Admin(
            config.manager.admin_listen,
            self._metrics,
            lambda: self._away or None,
            key="manager.admin_listen",
        )

    async def start(self) -> None:
        """Listens. Raises AddressInUse, which names the address."""
        await self.admin.start()
        self._looking = asyncio.create_task(self._look(), name="manager: look at Redis")

    async def close(self) -> None:
        await background_tasks.end([self._looking])
        await self.admin.close()

    def observe(self, app: ASGIApp) -> ASGIApp:
        """The application, with each of its responses counted."""

        async def observed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            begun, status = time.monotonic(), 500  # the status without a response

            async def heard(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            self._active += 1
            try:
                await app(scope, receive, heard)
            finally:
                self._active -= 1
                self._answered(scope, status, time.monotonic() - begun)

        return observed

    def _answered(self, scope: Scope, status: int, took_s: float) -> None:
        path: str = scope["path"]
        area = next((name for name in ("api", "static") if path.startswith(f"/{name}/")), "page")
        self._requests.counts[area, f"{status // 100}xx"] += 1
        self._seconds[area].observe(took_s)
        if status >= 500:
            _log.error(
                "request.failed", method=scope["method"], path=path, status=status,
                seconds=round(took_s, 3),
            )  # fmt: skip

    async def _metrics(self) -> bytes:
        return await render(self._families)

    async def _look(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await self._site.ping()
                self._away = ""
            except (*REDIS_ERRORS, TimeoutError):
                self._away = "redis does not answer"
            except Exception as error:
                self._away = "redis was not asked"
                background_tasks.report("manager: Redis was not asked", error)
            await asyncio.sleep(_LOOK_EVERY_S)
