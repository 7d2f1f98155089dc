"""The shared parts of all routes, opened once: Redis, the lines, the directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

from redis.asyncio import Redis

from engine.changes.acks import Acks, in_force
from engine.config import Config
from engine.explain import Explanation, RefusedLine, UnknownLine, explain_call
from engine.telemetry import log
from manager import accounts, tokens
from manager.access import Who
from manager.calls import Calls
from manager.directory import Directory
from manager.failures import Broken, NotFound, Unauthenticated
from manager.formats import Shown
from manager.lines import Lines, Stored
from rules.model import Line
from rules.numbers import NumberError
from store.client import ANSWER_S, close, connect
from store.keys import TOKEN
from store.redis_errors import REDIS_ERRORS

_CONNECT_S = 3.0
_log = log.get_logger("manager")
_ANSWER_S = 5.0


class Site:
    """The parts of the manager. `redis_url`: the URL of Redis, with `embedded` resolved."""

    def __init__(self, config: Config, redis_url: str) -> None:
        self.config = config
        self.numbering = config.numbering.plan()
        self.zone = ZoneInfo(config.numbering.timezone)
        self.shown = Shown(config.numbering.country, self.zone)
        self.redis: Redis = connect(
            redis_url, socket_connect_timeout=_CONNECT_S, socket_timeout=_ANSWER_S
        )
        self.lines = Lines(self.redis, self.numbering)
        self.directory = Directory(self.redis, self.shown.national)
        self.calls = Calls(self.redis)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            await self.ping()
        except REDIS_ERRORS as error:
            text = " ".join(str(error).split()) or "no answer"
            where = self.config.redis.safe_url
            _log.error("redis.away", url=where, error=text)  # continue, and wait for Redis
        await self.directory.start()
        await self.calls.start()
        try:
            yield
        finally:
            await self.calls.close()
            await self.directory.close()
            await close(self.redis)

    async def ping(self) -> None:
        """Raises REDIS_ERRORS, after ANSWER_S at the latest: a silent Redis would cost a new
        connection two times its socket limits."""
        client: Any = self.redis
        async with asyncio.timeout(ANSWER_S):
            await client.ping()

    async def without_account(self) -> bool:
        """Whether there is no account to log in with; False if Redis cannot be asked."""
        client: Any = self.redis
        try:
            await self.ping()
            return not await accounts.every(client, 1)
        except REDIS_ERRORS:
            return False

    def number(self, text: str) -> str:
        """E.164 of a number in a path. Raises NotFound for an invalid number."""
        try:
            return self.numbering.normalise(text)
        except NumberError:
            raise NotFound(f"line {text[:40]}: unknown line") from None

    async def in_force(self, number: str) -> Acks:
        """The workers' confirmations of a change that was just written."""
        return await in_force(self.redis, number)

    async def explain(
        self,
        stored: Stored,
        caller: str | None = None,
        instead: Line | None = None,
        at: float | None = None,
        withheld: bool | None = None,
    ) -> Explanation:
        """The result for a call to a line that the account may see.

        Args:
            instead: with this document.
            at: at this moment, in unix seconds, instead of now.
            withheld: as in `explain_call`.
        """
        lines = {stored.number: instead or stored.line}
        try:
            return await explain_call(
                self.redis, self.config, stored.number, caller, lines, at, withheld
            )
        except UnknownLine as error:
            raise NotFound(str(error)) from None
        except RefusedLine as error:
            raise Broken(str(error)) from None

    async def bearer(self, header: str) -> Who:
        """The owner of this Authorization header. Raises Unauthenticated."""
        scheme, _, text = header.partition(" ")
        parts = tokens.split(text.strip()) if scheme.lower() == "bearer" else None
        if parts is None:
            raise Unauthenticated("a token is needed: Authorization: Bearer rvt_...")
        client: Any = self.redis
        raw = await client.get(TOKEN + parts[0])
        token = tokens.read(raw) if raw else None
        if token is None or not tokens.matches(token, parts[1], time.time()):
            raise Unauthenticated("the token is not known, or it is revoked or expired")
        return Who(token.name, token.fleet, "api", token.line)
