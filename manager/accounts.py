"""Accounts of customers and operators: kept in Redis, passwords as argon2id hashes."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from typing import Any

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from store.keys import ACCOUNT

SHORTEST_PASSWORD = 10
_LONGEST_PASSWORD = 200
_READ_AT_ONCE = 500
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")

_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)  # OWASP's argon2id
# Compared for unknown accounts, so that they take as long as known ones.
_NOBODY = _hasher.hash("nobody's password")
# Each comparison takes 19 MiB and some 20 ms of a core: two at a time, the rest wait.
_comparing = asyncio.Semaphore(2)


class Account(msgspec.Struct, frozen=True):
    """An account in Redis, at `manager:account:<name>`. `fleet` None = an operator; `line`: the
    number of the one line of a user, None = an administrator of the fleet."""

    name: str
    fleet: str | None
    password: str
    created: float
    line: str | None = None

    @property
    def role(self) -> str:
        """As `manager.access.Who.role`."""
        return "operator" if self.fleet is None else "fleet" if self.line is None else "line"

    @property
    def stamp(self) -> str:
        """Changes with the password, so that sessions opened with the old one end."""
        return hashlib.sha256(self.password.encode()).hexdigest()[:16]


def name_of(text: str) -> str | None:
    """The stored form of an account's name; None if it is invalid."""
    name = text.strip().lower()
    return name if _NAME.fullmatch(name) else None


def make(name: str, fleet: str | None, password: str, line: str | None = None) -> Account:
    """A new account. Raises ValueError with the fault of the password."""
    return Account(name, fleet, hashed(password), time.time(), line)


def invented() -> str:
    """A generated password: four times four letters and digits, 80 bits."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    parts = ("".join(secrets.choice(alphabet) for _ in range(4)) for _ in range(4))
    return "-".join(parts)


def fits(password: str) -> bool:
    """Whether it is neither too short nor too long."""
    return SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD


def hashed(password: str) -> str:
    """Hash a password. Raises ValueError if it is too short or too long."""
    if not fits(password):
        raise ValueError(f"expected {SHORTEST_PASSWORD} to {_LONGEST_PASSWORD} characters")
    return _hasher.hash(password)


def read(raw: bytes | None) -> Account | None:
    """Decode an account from Redis; None if it is not one."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=Account)
    except (msgspec.DecodeError, UnicodeError):
        return None


async def matches(account: Account | None, password: str) -> bool:
    """Whether this is the account's password; takes as long without an account. Does not block the
    loop."""
    kept = account.password if account else _NOBODY
    async with _comparing:
        right = await asyncio.to_thread(_verify, kept, password[:_LONGEST_PASSWORD])
    return right and account is not None


def _verify(kept: str, password: str) -> bool:
    try:
        return _hasher.verify(kept, password)
    except (VerifyMismatchError, InvalidHashError):
        return False


# -- in Redis ------------------------------------------------------------------------------------


async def every(redis: Any, most: int, fleet: str | None = None) -> list[Account]:
    """The accounts of a fleet (None = all), at most so many, not counting those of other fleets."""
    found: dict[str, Account] = {}
    keys: list[bytes] = []

    async def look() -> None:
        pipe = redis.pipeline(transaction=False)  # in a cluster they are on several nodes
        for key in keys:
            pipe.get(key)
        for raw in await pipe.execute() if keys else []:
            account = read(raw)
            if account is not None and fleet in (None, account.fleet):
                found[account.name] = account
        keys.clear()

    async for key in redis.scan_iter(match=ACCOUNT + "*", count=1000):
        keys.append(key)
        if len(keys) == min(most, _READ_AT_ONCE):
            await look()
            if len(found) >= most:
                break
    await look()
    return list(found.values())[:most]


async def give_password(redis: Any, name: str, password: str) -> Account | None:
    """Give an account another password, which ends its sessions. None if the account does not
    exist."""
    account = read(await redis.get(ACCOUNT + name))
    if account is None:
        return None
    changed = msgspec.structs.replace(account, password=await asyncio.to_thread(hashed, password))
    written = await redis.set(ACCOUNT + name, msgspec.json.encode(changed), xx=True)
    return changed if written else None
