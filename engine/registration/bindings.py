"""The registrar's writes: contacts of a line, nonce counts, the secret that signs nonces.

A contact is a member of its line's sorted set, whose score is the unix time at which it expires.
That time is granted in `registrar.py`: what the phone asks for, an hour if it does not say, at
least `sip.register_min_s` (423 below) and at most `sip.register_max_s`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from rules.contact import FAR_S, Contact, member_of, read_contact
from rules.model import DocumentError
from sip.grammar import same_uri, same_urn
from store.client import Client
from store.keys import REGISTRAR_NONCE, REGISTRAR_SECRET, registrations_key
from store.lines import Unavailable
from store.script import Script

MOST_CONTACTS = 10  # of a line
# Requests to Redis in progress: each takes a connection, and a storm of REGISTERs must leave some
# to records, fleets and heartbeats.
AT_ONCE = 16
TURN_S = 2.0  # the longest wait for a turn, if Redis is slow

# KEYS: the nonce's highest count. ARGV: this count, seconds to remember it. 1 = never used before.
_USE = Script("""
local last = redis.call('GET', KEYS[1])
if last and tonumber(last) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
""")

# KEYS: reg:<number>. ARGV: the number of expected members and these, the number to remove and
# these, then expiry and member of each to add. Returns the members with their expiries; 0 if they
# were changed meanwhile.
_BIND = Script(f"""
local expected, members = tonumber(ARGV[1]), redis.call('ZRANGE', KEYS[1], 0, -1)
if #members ~= expected then return 0 end
for n = 1, expected do
  if members[n] ~= ARGV[1 + n] then return 0 end
end
local at = 2 + expected
for n = at + 1, at + tonumber(ARGV[at]) do redis.call('ZREM', KEYS[1], ARGV[n]) end
for n = at + tonumber(ARGV[at]) + 1, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], ARGV[n], ARGV[n + 1])
end
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] then
  local at = math.ceil(math.min(tonumber(last[2]), {FAR_S}))
  redis.call('EXPIREAT', KEYS[1], at + 60)
end
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
""")
_ATTEMPTS = 20
Members = list[tuple[bytes, float]]


class TooMany(Exception):
    """The line would have more contacts than it may."""


class Bindings:
    """The registrar's data in Redis. Every method raises REDIS_ERRORS if Redis is away."""

    def __init__(self, redis: Client) -> None:
        self._redis: Any = redis
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def secret(self) -> bytes:
        """The secret of all workers on this Redis; the first one makes it."""
        await self._redis.set(REGISTRAR_SECRET, secrets.token_hex(32), nx=True)
        return bytes(await self._redis.get(REGISTRAR_SECRET))

    async def use_nonce(self, nonce: str, count: int, life_s: int) -> bool:
        """Note that a nonce was used with this count; False if it was used before with this or a
        higher one."""
        async with self._turn():
            used = await _USE.run(self._redis, [REGISTRAR_NONCE + nonce], count, life_s)
        return bool(used == 1)

    async def bind(
        self,
        number: str,
        changes: Sequence[Contact],
        *,
        now: float,
        most: int,
        only: bool = False,
    ) -> Members:
        """Add these contacts, or remove those whose `expires` is 0, in one step; returns all
        contacts.

        `only` removes every other contact. Raises TooMany, without a change, if more are added than
        a line may have.
        """
        key = registrations_key(number)
        for _ in range(_ATTEMPTS):
            async with self._turn():
                listed = await self._redis.zrange(key, 0, -1, withscores=True)
                stored = [(bytes(member), float(expires)) for member, expires in listed]
                gone, added = decide(stored, changes, now=now, most=most, only=only)
                if not gone and not added:
                    return stored
                members = [member for member, _ in stored]
                pairs = [part for one in added for part in (one.expires, member_of(one))]
                words = (len(members), *members, len(gone), *gone, *pairs)
                found = await _BIND.run(self._redis, [key], *words)
            if found != 0:
                return [(found[n], float(found[n + 1])) for n in range(0, len(found), 2)]
        raise Unavailable(f"{key} is changed by others all the time")

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Raises TimeoutError, which is one of REDIS_ERRORS, if the others take too long."""
        async with asyncio.timeout(TURN_S):
            await self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()


def decide(
    stored: Members, changes: Sequence[Contact], *, now: float, most: int, only: bool = False
) -> tuple[list[bytes], list[Contact]]:
    """Which members a REGISTER removes and which contacts it adds (RFC 3261 10.3, RFC 5626 6).

    A binding that it names is replaced, whatever its q or Path were. In a full set the new contact
    replaces the one that would expire first. Raises TooMany.
    """
    added: list[Contact] = []
    for contact in changes:
        added = [other for other in added if not same_binding(contact, other)]
        if contact.expires > 0:
            added.append(contact)
    if len(added) > most:
        raise TooMany
    gone: Members = []
    kept: Members = []
    for member, expires in stored:
        binding = _read(member, expires)
        named = binding is not None and any(same_binding(binding, change) for change in changes)
        (gone if only or expires <= now or named else kept).append((member, expires))
    kept.sort(key=lambda item: item[1])
    if added:
        gone += kept[: max(0, len(kept) + len(added) - most)]
    return [member for member, _ in gone], added


def same_binding(one: Contact, other: Contact) -> bool:
    """Whether a contact replaces another: by instance and flow if it has them, otherwise by its URI
    (RFC 5626 6). Several instances may have one URI behind their edges."""
    if one.instance and one.reg_id and other.instance and other.reg_id:
        if one.reg_id == other.reg_id and _same_instance(one, other):
            return True
        return _same_place(one, other)
    return same_uri(one.uri.encode(), other.uri.encode())


def same_phone(one: Contact, other: Contact) -> bool:
    """Whether two contacts are one phone, so that a call rings only one (RFC 5626 5.3). One URI
    behind two edges may be two phones, because private addresses repeat."""
    both = bool(one.instance and other.instance)
    return (both and _same_instance(one, other)) or _same_place(one, other)


def _same_place(one: Contact, other: Contact) -> bool:
    return one.path == other.path and same_uri(one.uri.encode(), other.uri.encode())


def _same_instance(one: Contact, other: Contact) -> bool:
    return same_urn(one.instance.encode(), other.instance.encode())


def _read(member: bytes, expires: float) -> Contact | None:
    """None for a member that is not a contact."""
    try:
        return read_contact(member, expires)
    except DocumentError:
        return None
