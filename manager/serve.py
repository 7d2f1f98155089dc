"""`renvoi manager`: the page and the API until a signal ends them."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import click
import uvicorn

from engine.admin import AddressInUse
from engine.config import Address, Config
from engine.loop import Loop
from engine.ports import why
from engine.telemetry import log
from manager.app import build
from manager.health import Health
from manager.patience import Patient
from manager.site import Site

_DRAIN_S = 5
_KEEP_ALIVE_S = 20
_BACKLOG = 512
_NO_ACCOUNT = (
    "renvoi: nobody has an account yet, so nobody can log in. Make one:\n"
    "  renvoi manager account add NAME --operator       sees all fleets\n"
    "  renvoi manager account add NAME --fleet FLEET    a customer's administrator"
)
_MOST_REQUESTS = 500  # at once; above it 503
_log = log.get_logger("manager")


def serve(config: Config, redis_url: str) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    listen = config.manager.listen
    try:
        bound = _bound(listen)
    except OSError as error:
        click.echo(f"renvoi: manager.listen: cannot listen on {listen}: {why(error)}", err=True)
        return 1
    app = build(config, redis_url)
    health = Health(config, app.state.site)
    options = uvicorn.Config(
        health.observe(app),
        log_config=None,
        log_level="warning",  # its steps of start and end are in `manager.start` and `manager.end`
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the log-in reads the client's address, from trusted proxies only
        lifespan="on",
        http=Patient,
        ws="none",
        backlog=_BACKLOG,
        limit_concurrency=_MOST_REQUESTS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    server = _Server(options, app.state.site, f"http://{_place(bound)}/")
    with bound, asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(_run(server, health, bound))
    if server.started:
        _log.info("manager.end")
    return 0 if server.started else 1


async def _run(server: uvicorn.Server, health: Health, bound: socket.socket) -> None:
    try:
        await health.start()
    except AddressInUse as error:
        click.echo(f"renvoi: {error}", err=True)
        return
    try:
        await server.serve(sockets=[bound])
    finally:
        await health.close()


class _Server(uvicorn.Server):
    """Reports where it listens when it does."""

    def __init__(self, options: uvicorn.Config, site: Site, url: str) -> None:
        super().__init__(options)
        self._site = site
        self._url = url

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends normally at a signal, so that the signal is not raised again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _log.info("manager.start", url=self._url)
            click.echo(f"renvoi: the customer's page on {self._url}", err=True)
            if await self._site.without_account():
                click.echo(_NO_ACCOUNT, err=True)


def _bound(listen: Address) -> socket.socket:
    """A socket on this address. Raises OSError, also if the system has no IPv6."""
    bound = socket.socket(socket.AF_INET6 if ":" in listen.host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((listen.host, listen.port))
    except BaseException:
        bound.close()
        raise
    return bound


def _place(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
