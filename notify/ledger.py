"""What `renvoi notify` keeps in Redis, so that a restart loses nothing and that only one process
sends: the lease of the active process, the positions in the streams, the notifications that wait.

Each write states that the lease is still held; a process that has lost it writes nothing. Reading a
part of a stream, the notifications that come of it and the new position are one write.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from notify.deliveries import Delivery, decode_delivery, encode_delivery
from rules.notify import EVENTS
from store.keys import (
    NOTIFY_LEASE,
    NOTIFY_ONCE,
    NOTIFY_POSITIONS,
    NOTIFY_PREVENTED,
    NOTIFY_WAITING,
)
from store.script import Script

LEASE_S = 15.0
RENEW_S = 4.0
_BEGAN = "began"
_PAGE = 500
_REMEMBER_ONCE_S = 70 * 86400  # longer than the month that it is about
_KEYS = (NOTIFY_LEASE, NOTIFY_POSITIONS, NOTIFY_WAITING, NOTIFY_ONCE, NOTIFY_PREVENTED)

# ARGV: our id, milliseconds. Takes the lease if nobody has it, or renews our own.
_HOLD = Script("""
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")
_LET_GO = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
""")
# ARGV: field. Sets it to now as an id of a stream, by the server's clock, if it is not there.
_BEGIN = Script("""
local now = redis.call('TIME')
local id = now[1] .. string.format('%03d', math.floor(now[2] / 1000)) .. '-0'
redis.call('HSETNX', KEYS[1], ARGV[1], id)
""")
# ARGV: our id, the content in MessagePack: [positions, notified, prevented, done].
# Position: [stream, id]. Notified: [what is notified once or "", its mark, [[id, text], ...]].
# Prevented: [field, text or ""]. Done: ids. When the reply is lost and the script runs again, the
# marks are ours and the ids are there: it returns the same.
_COMMIT = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local positions, notified, prevented, done = unpack(cmsgpack.unpack(ARGV[2]))
local added = {}
for _, each in ipairs(notified) do
  local once, mark, messages = unpack(each)
  if once == '' or redis.call('HSETNX', KEYS[4], once, mark) == 1
      or redis.call('HGET', KEYS[4], once) == mark then
    for _, message in ipairs(messages) do
      redis.call('HSETNX', KEYS[3], message[1], message[2])
      added[#added + 1] = message[1]
    end
  end
end
for _, each in ipairs(prevented) do
  if each[2] == '' then redis.call('HDEL', KEYS[5], each[1])
  else redis.call('HSET', KEYS[5], each[1], each[2]) end
end
for _, id in ipairs(done) do redis.call('HDEL', KEYS[3], id) end
for _, each in ipairs(positions) do redis.call('HSET', KEYS[2], each[1], each[2]) end
return added
""")
_pack = msgspec.msgpack.Encoder().encode  # of text alone: Redis does not unpack bytes


class LostLease(Exception):
    """Another process is the active one now."""


@dataclass(slots=True)
class Commit:
    """What is written in one step.

    `positions`: the last entry read, by stream. `notified`: what is notified once ("" = always),
    with its deliveries. `prevented`: texts by field; "" = gone. `done`: ids that wait no more.
    """

    positions: dict[str, str] = field(default_factory=dict)
    notified: list[tuple[str, Sequence[Delivery]]] = field(default_factory=list)
    prevented: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.positions or self.notified or self.prevented or self.done)


@dataclass(slots=True)
class Kept:
    """What Redis had when this process became the active one. `began`: the id from which streams
    without a position are read."""

    began: str
    positions: dict[str, str]
    waiting: list[Delivery]
    prevented: dict[str, bytes]


class Ledger:
    """The part of Redis that belongs to `renvoi notify`. Its methods raise REDIS_ERRORS."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._me = secrets.token_hex(12)

    async def hold(self) -> bool:
        """Take or renew the lease; False if another process has it."""
        milliseconds = int(LEASE_S * 1000)
        return bool(await _HOLD.run(self._client, [NOTIFY_LEASE], self._me, milliseconds))

    async def let_go(self) -> None:
        """Give the lease back, so that another process need not wait for its end."""
        await _LET_GO.run(self._client, [NOTIFY_LEASE], self._me)

    async def load(self, unix_now: float) -> Kept:
        """What was kept. The first process of all begins with what happens from now on."""
        client = self._client
        await _BEGIN.run(client, [NOTIFY_POSITIONS], _BEGAN)
        stored = await client.hgetall(NOTIFY_POSITIONS)
        positions = {_text(name): _text(value) for name, value in stored.items()}
        began = positions.pop(_BEGAN)
        waiting = []
        async for _, raw in client.hscan_iter(NOTIFY_WAITING, count=_PAGE):
            if (delivery := _waiting(raw)) is not None:
                waiting.append(delivery)
        await self._forget_once(unix_now)
        prevented = await client.hgetall(NOTIFY_PREVENTED)
        waiting.sort(key=lambda delivery: delivery.at)
        return Kept(began, positions, waiting, {_text(k): v for k, v in prevented.items()})

    async def _forget_once(self, unix_now: float) -> None:
        stored = await self._client.hgetall(NOTIFY_ONCE)
        old = [
            name
            for name, mark in stored.items()
            if not mark.split()[:1] or _seconds(mark.split()[0]) < unix_now - _REMEMBER_ONCE_S
        ]
        if old:
            await self._client.hdel(NOTIFY_ONCE, *old)

    async def commit(self, what: Commit, unix_now: float) -> set[str]:
        """Write it and return the ids of its deliveries that wait now: not those of what was
        notified before. Raises LostLease."""
        mark = f"{int(unix_now)} {secrets.token_hex(8)}"
        notified = [
            (once, mark, [(each.id, encode_delivery(each).decode()) for each in made])
            for once, made in what.notified
        ]
        content = (list(what.positions.items()), notified, list(what.prevented.items()), what.done)
        added = await _COMMIT.run(self._client, _KEYS, self._me, _pack(content))
        if added is None:
            raise LostLease
        return {_text(each) for each in added}


def _waiting(raw: bytes) -> Delivery | None:
    """A message that waits; None if it is of a newer version, for which it stays, or of another
    program."""
    try:
        delivery = decode_delivery(raw)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return delivery if delivery.event in EVENTS else None


def _text(raw: bytes | str) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw


def _seconds(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
