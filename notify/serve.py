"""`renvoi notify`: one process is active and the others wait for its lease, until a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from zoneinfo import ZoneInfo

import click

from engine.admin import AddressInUse
from engine.config import Config
from engine.loop import Loop
from engine.telemetry.log import get_logger
from notify.health import Health
from notify.ledger import LEASE_S, RENEW_S, Ledger, LostLease
from notify.mail import PASSWORD_VARIABLE, Mailer
from notify.reading import Reader
from notify.sending import Outgoing, Sender, tls_context
from notify.webhook import Webhooks
from store import background_tasks
from store.client import close, connect
from store.redis_errors import REDIS_ERRORS

_CONNECT_S = 3.0
_ANSWER_S = 5.0
_STANDBY_S = 2.0
_log = get_logger("notify")


def outgoing(client: Any, config: Config) -> Outgoing:
    """What sends, by the configuration."""
    settings, context = config.notify, tls_context(config)
    zone = ZoneInfo(config.numbering.timezone)
    password = os.environ.get(PASSWORD_VARIABLE)
    mailer = Mailer(settings, zone, config.numbering.country, context, password)
    webhooks = Webhooks(settings.allow_networks, settings.timeout_s, context)
    return Outgoing(client, webhooks, mailer)


def serve(config: Config, redis_url: str) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. Raises ConfigError."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(_serve(config, redis_url))


async def _serve(config: Config, redis_url: str) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    health = Health(config)
    client = connect(redis_url, socket_connect_timeout=_CONNECT_S, socket_timeout=_ANSWER_S)
    try:
        service = Service(client, config, health, ended)
        await health.admin.start()
        where = health.admin.address
        _log.info("notify.start", admin=str(where), smtp=config.notify.smtp_host)
        click.echo(f"renvoi: notifications, http://{where}/metrics", err=True)
        await service.run()
    except AddressInUse as error:
        click.echo(f"renvoi: {error}", err=True)
        return 1
    finally:
        await close(client)
        await health.admin.close()
    _log.info("notify.end")
    return 0


def _errors(tasks: Iterable[asyncio.Task[Any]]) -> list[BaseException]:
    """Those of tasks that have ended. All are asked: asyncio reports those of the others."""
    errors = [task.exception() for task in tasks if not task.cancelled()]
    return [error for error in errors if error is not None]


def _is_expected(error: BaseException) -> bool:
    return isinstance(error, (LostLease, *REDIS_ERRORS))


class Service:
    """Takes the lease and works while it has it, again and again, until `ended` is set."""

    def __init__(self, client: Any, config: Config, health: Health, ended: asyncio.Event) -> None:
        self._client = client
        self._config = config
        self._health = health
        self._ended = ended
        self._ledger = Ledger(client)
        self._outgoing = outgoing(client, config)
        self._held_until = 0.0
        self._done: list[str] = []
        self._logged = ""

    async def run(self) -> None:
        while not self._ended.is_set():
            try:
                if await self._hold():
                    await self._work()
                    continue
                self._now("notify.standby")
            except REDIS_ERRORS as error:
                self._away(error)
            except Exception as error:  # it goes on from the positions that are in the ledger
                background_tasks.report("notify: the work stopped", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_STANDBY_S):
                    await self._ended.wait()

    async def _hold(self) -> bool:
        """Take or renew the lease. It counts from before the request: Redis may count from then."""
        before = time.monotonic()
        held = await self._ledger.hold()
        self._health.away = ""
        if self._logged == "notify.redis_away":
            self._logged = ""
        if held:
            self._held_until = before + LEASE_S
        return held

    async def _work(self) -> None:
        """Read and send until `ended`, or until the lease is lost. Raises REDIS_ERRORS."""
        kept = await self._ledger.load(time.time())
        health = self._health
        sender = Sender(
            self._client, self._config, self._ledger, self._outgoing, health, self._done
        )
        reader = Reader(
            self._client, self._config, self._ledger, kept,
            admits=sender.admits, on_waiting=sender.add, on_dropped=sender.drop,
        )  # fmt: skip
        health.waiting, health.failing = lambda: sender.waiting, lambda: sender.failing
        health.oldest_s, health.lag_s = lambda: sender.oldest_s, lambda: reader.lag_s
        health.watched, health.is_active = lambda: reader.watched, True
        self._now("notify.active", waiting=len(kept.waiting))
        sender.add(kept.waiting)
        tasks = [
            asyncio.create_task(each, name=f"notify: {name}")
            for name, each in (
                ("reader", reader.run()),
                ("settle", sender.run()),
                ("lease", self._renew()),
                ("end", self._ended.wait()),
            )
        ]
        error: BaseException | None = None
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = next(iter(_errors(done)), None)
        finally:
            await background_tasks.end(tasks)
            # The others may have lost the lease, or Redis, as well.
            others = [each for each in _errors(tasks) if not _is_expected(each)]
            error = others[0] if others else error
            await sender.close(drain=error is None)
            health.is_active = False
            with suppress(LostLease, *REDIS_ERRORS):
                await sender.settle()
                await self._ledger.let_go()
        if isinstance(error, LostLease):
            self._now("notify.standby")
        elif error is not None:
            raise error

    async def _renew(self) -> None:
        """Renew the lease; raises LostLease when it may have run out."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                if not await self._hold():
                    raise LostLease
            except REDIS_ERRORS as error:
                self._away(error)
            if time.monotonic() > self._held_until - RENEW_S:
                raise LostLease

    def _away(self, error: Exception) -> None:
        self._health.away = "redis does not answer"
        text = " ".join(str(error).split()) or type(error).__name__
        if self._logged != "notify.redis_away":
            self._logged = "notify.redis_away"
            _log.warning("notify.redis_away", error=text)

    def _now(self, event: str, **values: Any) -> None:
        """Log what this process is now, once."""
        if self._logged == event:
            return
        self._logged = event
        if event == "notify.active":
            _log.info("notify.active", **values)
        else:
            _log.info("notify.standby", **values)
