"""The registrar's writes: contacts of a line, nonce counts, the secret that signs nonces."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from engine.redis_client import Client, Script

SECRET_KEY = "registrar:secret"
_USED_KEY = "registrar:nonce:"

# KEYS: the nonce's highest count. ARGV: this count, seconds to remember it. 1 = never used before.
_USE = """
local last = redis.call('GET', KEYS[1])
if last and tonumber(last) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""

# KEYS: reg:<number>. ARGV: now, most contacts, 1 = remove all others, number of URIs, then for each
# its URI, member and expiry (0 = remove). A member stands for its URI, whatever its q or path were.
# Returns the members with their expiries, or an empty list when there would be too many.
_BIND = """
local now, most, all = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local named = {}
for n = 0, tonumber(ARGV[4]) - 1 do named[ARGV[5 + 3 * n]] = n end
local kept, gone = 0, {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local expires = tonumber(redis.call('ZSCORE', KEYS[1], member))
  local uri = string.match(member, '^<([^>]*)>') or member
  if all or expires <= now or named[uri] then gone[#gone + 1] = member else kept = kept + 1 end
end
for _, n in pairs(named) do
  if tonumber(ARGV[7 + 3 * n]) > 0 then kept = kept + 1 end
end
if kept > most then return redis.error_reply('TOOMANY contacts') end
for _, member in ipairs(gone) do redis.call('ZREM', KEYS[1], member) end
for _, n in pairs(named) do
  local expires = tonumber(ARGV[7 + 3 * n])
  if expires > 0 then redis.call('ZADD', KEYS[1], expires, ARGV[6 + 3 * n]) end
end
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] then redis.call('EXPIREAT', KEYS[1], math.ceil(tonumber(last[2])) + 60) end
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
"""


class TooMany(Exception):
    """The line would have more contacts than it may."""


class Bindings:
    """What the registrar keeps in Redis. Every method raises REDIS_ERRORS when Redis is away."""

    def __init__(self, redis: Client) -> None:
        self._redis: Any = redis
        self._use = Script(redis, _USE)
        self._bind = Script(redis, _BIND)

    async def secret(self) -> bytes:
        """The secret of all workers on this Redis; the first one makes it."""
        await self._redis.set(SECRET_KEY, secrets.token_hex(32), nx=True)
        return bytes(await self._redis.get(SECRET_KEY))

    async def use_nonce(self, nonce: str, count: int, life_s: int) -> bool:
        """Note that a nonce was used with this count; False if it was already, or with a higher
        one."""
        used = await self._use(_USED_KEY + nonce, count, life_s)
        return bool(used == 1)

    async def bind(
        self,
        number: str,
        changes: Sequence[tuple[str, str, float]],
        *,
        now: float,
        most: int,
        only: bool = False,
    ) -> list[tuple[bytes, float]]:
        """Apply (URI, member, expiry in unix seconds or 0) in one step; the contacts afterwards.

        `only` removes every other contact. Raises TooMany, and then nothing is changed.
        """
        flat = [part for change in changes for part in change]
        try:
            found = await self._bind(f"reg:{number}", now, most, int(only), len(changes), *flat)
        except Exception as error:
            if "TOOMANY" in str(error):
                raise TooMany(number) from None
            raise
        return [(found[n], float(found[n + 1])) for n in range(0, len(found), 2)]
