"""Answered calls in Redis, so that another host can continue them when their host dies.

Each process keeps its calls by its SIP address, its place: the process that gets this address next
looks there. A process is alive while it renews its entry; all ages are by the clock of Redis. The
calls of a dead process are claimed in one atomic step, so that only one process gets them. A
process that was taken for dead finds out with its next write.

All keys of a place are in one slot. Entries expire: `kept_s`, renewed by each write.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from store.client import Client
from store.keys import STANDBY_PLACES, standby_key, standby_taken_key
from store.script import Script

_HEAD = b""
"""The field with what concerns the process itself; no call has this id."""

# KEYS: the place, the calls of the process, its calls that others took.
# ARGV: process, seconds to keep, head, the number of calls, their ids and entries in turn, ids of
# ended calls.
# Returns [1, ids that others took], or [0, number of calls, processes at the place and their ages].
_WRITE = Script("""
if redis.call('EXISTS', KEYS[3]) == 1 then return {1, redis.call('SMEMBERS', KEYS[3])} end
redis.call('HSET', KEYS[2], '', ARGV[3])
local last = 4 + 2 * ARGV[4]
for at = 5, last, 2 do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]) end
for at = last + 1, #ARGV do redis.call('HDEL', KEYS[2], ARGV[at]) end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[1])
for at = 1, 2 do redis.call('EXPIRE', KEYS[at], ARGV[2]) end
local others = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for at = 2, #others, 2 do others[at] = string.format('%.6f', now - others[at]) end
return {0, redis.call('HLEN', KEYS[2]) - 1, others}
""")

# KEYS: the place. Returns the processes there and their ages in seconds.
_PROCESSES = Script("""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local found = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for at = 2, #found, 2 do found[at] = string.format('%.6f', now - found[at]) end
return found
""")

# KEYS: the place, the calls of a process, its calls that others took, its calls under the name of
# the claim. ARGV: the process, the name of the claim, seconds that it must have been silent,
# seconds to keep, whether it must find out, the newest version of entries that can be read.
# Returns its age in seconds and its calls; -1 if it is alive, or its calls were claimed by others,
# -2 if its version is newer.
_CLAIM = Script("""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local last = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not last or math.max(0, now - last) < tonumber(ARGV[3]) then return {'-1', {}} end
local version = string.match(redis.call('HGET', KEYS[2], '') or '', '^%d+')
if version and tonumber(version) > tonumber(ARGV[6]) then return {'-2', {}} end
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then return {'-1', {}} end
if ARGV[5] == '1' then
  for _, id in ipairs(redis.call('HKEYS', KEYS[2])) do redis.call('SADD', KEYS[3], id) end
  redis.call('EXPIRE', KEYS[3], ARGV[4])
end
redis.call('RENAME', KEYS[2], KEYS[4])
redis.call('EXPIRE', KEYS[4], ARGV[4])
redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {string.format('%.6f', math.max(0, now - last)), redis.call('HGETALL', KEYS[4])}
""")

# The calls of a process whose journal another process of its host has. KEYS: as above, without the
# last. ARGV: the process, seconds to keep. Returns the ids that others took before.
_REPLACE = Script("""
if redis.call('EXISTS', KEYS[3]) == 1 then return redis.call('SMEMBERS', KEYS[3]) end
redis.call('SADD', KEYS[3], '')
redis.call('EXPIRE', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
return {}
""")


class Head(NamedTuple):
    """Of a process: the version of its entries, and its clocks at its last sign of life, in unix
    and in monotonic seconds."""

    version: int
    unix: float
    monotonic: float

    def text(self) -> str:
        return f"{self.version} {self.unix:.6f} {self.monotonic:.6f}"


class Newer(Exception):
    """A process is of a newer version, whose entries cannot be read here."""


class Process(NamedTuple):
    """A process at a place, and the seconds since its last sign of life."""

    name: str
    age_s: float


class Written(NamedTuple):
    """The result of a write. `taken`: not None if another process has claimed the calls, with
    their ids; nothing was written then. `calls`: how many of this process Redis has."""

    taken: list[str] | None
    calls: int
    processes: list[Process]


class Claimed(NamedTuple):
    """The calls of a dead process by id, and the seconds since its last sign of life. `name`: they
    are kept under this name until `forget`."""

    place: str
    process: str
    name: str
    age_s: float
    head: Head
    entries: dict[str, bytes]


class StandbyCalls:
    """Reads and writes them. Every method raises REDIS_ERRORS; a write may then have been done or
    not, and must be repeated."""

    def __init__(self, redis: Client, kept_s: int) -> None:
        self._redis = redis
        self._kept_s = kept_s

    async def write(
        self, place: str, process: str, head: Head, calls: dict[str, bytes], over: Sequence[str]
    ) -> Written:
        """Write calls of a process, remove those that are over, and say that it is alive."""
        flat: list[str | bytes] = [part for call in calls.items() for part in call]
        state, *reply = await _WRITE.run(
            self._redis,
            _keys(place, process),
            process,
            self._kept_s,
            head.text(),
            len(calls),
            *flat,
            *over,
        )
        if state:
            return Written([_text(id_) for id_ in reply[0] if id_], 0, [])
        return Written(None, int(reply[0]), _processes(reply[1]))

    async def processes(self, place: str) -> list[Process]:
        """The processes at a place, the longest silent first."""
        return _processes(await _PROCESSES.run(self._redis, [standby_key(place)]))

    async def claim(
        self, place: str, process: str, by: str, silent_s: float, version: int, *, tell: bool
    ) -> Claimed | None:
        """Take the calls of a process that has been silent for so long; None if there are none to
        take. `version` is the newest that can be read. `tell`: the process learns of this, should
        it be alive. Raises Newer as well."""
        name = f"{process}/{by}"
        keys = [*_keys(place, process), standby_key(place, name)]
        age, fields = await _CLAIM.run(
            self._redis, keys, process, name, silent_s, self._kept_s, int(tell), version
        )
        if float(age) == -2:
            raise Newer(process)
        if float(age) < 0:
            return None
        found = dict(zip(fields[::2], fields[1::2], strict=True))
        head = _head(_text(found.pop(_HEAD, b"")), time.time() - float(age))
        entries = {_text(id_): entry for id_, entry in found.items()}
        return Claimed(place, process, name, float(age), head, entries)

    async def replace(self, place: str, process: str) -> list[str]:
        """A process of the same host has the calls of this one, which is dead. Returns the ids of
        those that another host has taken before; otherwise none will from now on."""
        keys = _keys(place, process)
        taken = await _REPLACE.run(self._redis, keys, process, self._kept_s)
        return [_text(id_) for id_ in taken if id_]

    async def give_back(self, place: str, process: str, ids: Sequence[str]) -> None:
        """Calls that others had taken from a process are its own again."""
        redis: Any = self._redis
        if ids:
            await redis.srem(standby_taken_key(place, process), *ids)

    async def forget(self, place: str, process: str) -> None:
        """Remove a process and its calls."""
        redis: Any = self._redis
        await redis.delete(standby_key(place, process))
        await redis.zrem(standby_key(place), process)

    async def announce(self, place: str) -> None:
        """Add a place to `places`."""
        redis: Any = self._redis
        await redis.sadd(STANDBY_PLACES, place)

    async def places(self) -> list[str]:
        """All places of all hosts."""
        redis: Any = self._redis
        return [_text(place) for place in await redis.smembers(STANDBY_PLACES)]

    async def withdraw(self, place: str) -> None:
        """Remove a place without processes."""
        redis: Any = self._redis
        await redis.srem(STANDBY_PLACES, place)


def _keys(place: str, process: str) -> list[str]:
    return [
        standby_key(place),
        standby_key(place, process),
        standby_taken_key(place, process),
    ]


def _head(text: str, unix: float) -> Head:
    """`unix`: when it was alive, if another program wrote what is no head."""
    try:
        version, *clocks = text.split(" ")
        unix, monotonic = map(float, clocks)
        return Head(int(version), unix, monotonic)
    except ValueError:
        return Head(-1, unix, 0.0)


def _processes(flat: list[Any]) -> list[Process]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return [Process(_text(name), max(0.0, float(age))) for name, age in pairs]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
