"""Opaque sessions in Redis, the log-in and its limits, CSRF.

The cookie holds 256 random bits; Redis holds their hash, so that read access to Redis opens no
session.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import Response

from engine.config import Manager
from engine.telemetry import log
from manager import accounts
from manager.access import Who
from manager.failures import Forbidden, TooMany
from manager.source import neighbourhood, source_of
from store.keys import ACCOUNT, LOGIN_ATTEMPTS, SESSION
from store.script import Script

_WINDOW_S = 900
# How long the browser remembers that it had a session, after its longest life.
_KNOWN_FOR_S = 86_400
# Counts one more within the window (ARGV: its seconds); returns the count and the seconds left.
_COUNT = Script("""
local count = redis.call('INCR', KEYS[1])
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('TTL', KEYS[1])}
""")
# Counts one less, unless the window has ended meanwhile: a count without expiry would lock
# permanently.
_FORGIVE = Script(
    "if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('DECR', KEYS[1]) end"
)
_NOT_OURS = "the form was not sent by this page, or it is too old"
_log = log.get_logger("manager")


class Kept(msgspec.Struct, frozen=True):
    """A session in Redis. `since` in unix seconds; `stamp` is the account's; `as_fleet` and
    `as_line`: the customer whose page an operator sees."""

    account: str
    stamp: str
    csrf: str
    since: float
    as_fleet: str | None = None
    as_line: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """An open session."""

    who: Who
    csrf: str
    key: str
    kept: Kept


class Sessions:
    """Opens, finds and ends sessions."""

    def __init__(self, redis: Redis, config: Manager) -> None:
        self._redis: Any = redis
        self._config = config
        # __Host-: only this host over https may set it (RFC 6265bis 4.1.3.2).
        prefix = "__Host-" if config.https else ""
        self._cookie = f"{prefix}renvoi_session"
        self._login_cookie = f"{prefix}renvoi_login"

    async def find(self, request: Request) -> Session | None:
        """The session of a request; None without a valid one."""
        if not self.had_one(request):
            return None
        sid = request.cookies[self._cookie]
        key = SESSION + hashlib.sha256(sid.encode()).hexdigest()
        raw = await self._redis.getex(key, ex=self._config.session_idle_s)
        try:
            kept = msgspec.json.decode(raw or b"", type=Kept)
        except msgspec.DecodeError:
            return None
        account = accounts.read(await self._redis.get(ACCOUNT + kept.account))
        over = time.time() - kept.since > self._config.session_max_s
        if account is None or account.stamp != kept.stamp or over:
            await self._redis.delete(key)
            return None
        who = Who(account.name, account.fleet, "page", account.line)
        if kept.as_fleet is not None and account.fleet is None:
            who = Who(account.name, kept.as_fleet, "page", kept.as_line, read_only=True)
        return Session(who, kept.csrf, key, kept)

    def had_one(self, request: Request) -> bool:
        """Whether the browser had a session, which may have ended."""
        return 20 <= len(request.cookies.get(self._cookie, "")) <= 100

    async def log_in(self, request: Request, name: str, password: str) -> str | None:
        """Open a session; returns its cookie's value, None if name or password is wrong.

        Raises TooMany.
        """
        known = accounts.name_of(name)
        address = self.address(request)
        limits = await self._count_attempt(known or "?", address)
        raw = await self._redis.get(ACCOUNT + known) if known else None
        account = accounts.read(raw)
        if not await accounts.matches(account, password) or account is None:
            _log.warning("login.refused", account=known, address=address)
            return None
        for key in limits:
            await _FORGIVE.run(self._redis, [key])
        _log.info("login", account=account.name, address=address)
        return await self.open(account)

    async def open(self, account: accounts.Account) -> str:
        """Open a new session of the account; returns its cookie's value."""
        sid = secrets.token_urlsafe(32)
        kept = Kept(account.name, account.stamp, secrets.token_urlsafe(24), time.time())
        key = SESSION + hashlib.sha256(sid.encode()).hexdigest()
        await self._redis.set(key, msgspec.json.encode(kept), ex=self._config.session_idle_s)
        return sid

    async def see_as(self, session: Session, fleet: str | None, line: str | None) -> None:
        """See the page as this customer, or as oneself again (`fleet` None)."""
        kept = msgspec.structs.replace(session.kept, as_fleet=fleet, as_line=line)
        await self._redis.set(session.key, msgspec.json.encode(kept), keepttl=True, xx=True)

    async def proves(self, request: Request, session: Session, password: str) -> bool:
        """Whether it is the password of the logged-in user. Raises TooMany."""
        name = session.kept.account
        limits = await self._count_attempt(name, self.address(request))
        account = accounts.read(await self._redis.get(ACCOUNT + name))
        right = await accounts.matches(account, password)
        for key in limits if right else ():
            await _FORGIVE.run(self._redis, [key])
        return right

    async def log_out(self, session: Session) -> None:
        await self._redis.delete(session.key)

    def give(self, response: Response, sid: str) -> None:
        """Set the session's cookie. It outlives the session, which only the server ends, so that a
        form that is sent too late is recognised and its input comes back."""
        life_s = self._config.session_max_s + _KNOWN_FOR_S
        self._set(response, self._cookie, sid, life_s, "lax")
        response.delete_cookie(self._login_cookie, secure=self._config.https)

    def take(self, response: Response) -> None:
        response.delete_cookie(self._cookie, secure=self._config.https)

    # -- CSRF: the log-in form has its own cookie, all others the session's token -------------

    def login_token(self, request: Request, response: Response) -> None:
        """Set the log-in form's token, if the browser has none yet."""
        self._set(response, self._login_cookie, request.state.login_token, 3600, "strict")

    def new_login_token(self, request: Request) -> str:
        known: str = request.cookies.get(self._login_cookie, "")
        token = known if 20 <= len(known) <= 100 else secrets.token_urlsafe(24)
        request.state.login_token = token
        return token

    def check_login(self, request: Request, given: str) -> None:
        """Raises Forbidden."""
        self._check(request, request.cookies.get(self._login_cookie, ""), given)

    def check(self, request: Request, session: Session, given: str) -> None:
        """Raises Forbidden unless our own page sent the form."""
        self._check(request, session.csrf, given)

    def check_origin(self, request: Request) -> None:
        """Raises Forbidden if the browser reports that another site sent the form."""
        origin = request.headers.get("origin")
        host = request.headers.get("host", "")
        if origin is not None and origin.partition("://")[2] != host:
            raise Forbidden(_NOT_OURS)

    def _check(self, request: Request, expected: str, given: str) -> None:
        self.check_origin(request)
        if not expected or not hmac.compare_digest(expected.encode(), given.encode()):
            raise Forbidden(_NOT_OURS)

    # -- limits -----------------------------------------------------------------------------------

    async def _count_attempt(self, name: str, address: str) -> list[str]:
        """Count before comparing, so that simultaneous guesses count too. Raises TooMany."""
        most, source = self._config.login_attempts, neighbourhood(address)
        limits = {
            f"{LOGIN_ATTEMPTS}pair:{name}:{source}": most,
            f"{LOGIN_ATTEMPTS}address:{source}": 5 * most,
            f"{LOGIN_ATTEMPTS}account:{name}": 20 * most,  # from everywhere
        }
        for key, most in limits.items():
            count, left_s = await _COUNT.run(self._redis, [key], _WINDOW_S)
            if count > most:
                _log.warning("login.limited", account=name, address=address)
                raise TooMany("too many log-ins that failed", max(1, int(left_s)))
        return list(limits)

    def address(self, request: Request) -> str:
        """The source of a request: the peer, or the address from a trusted proxy."""
        given = request.headers.getlist
        return source_of(
            request.client.host if request.client else "",
            given("x-forwarded-for"),
            given("forwarded"),
            self._config.trusted_proxies,
        )

    def _set(self, response: Response, name: str, value: str, life_s: int, same: Any) -> None:
        response.set_cookie(
            name, value, life_s, secure=self._config.https, httponly=True, samesite=same
        )
