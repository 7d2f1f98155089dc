"""Writes entries to Redis, each once, however often and by whichever process it is sent.

A call's id identifies its entry. The step that adds the entry also sets a mark for the id. A copy,
after a lost reply, the death of a process or the replay of a spool, finds the mark.

A single Redis executes a batch in one script. In a Cluster the keys are on different nodes: each
key has its own mark beside it (the part of its name in braces determines the node), the stream
comes last, and an interrupted write is sent again until it is complete.

The same scripts add the seconds to the usage of line and fleet, and split a `deducted` call into
its part within the hours of the plan and the part beyond (`within_plan`): only Redis knows how much
of the month is used. Who pays and from what is decided in `rules/billing.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog
from redis.asyncio import Redis, RedisCluster

from engine.records.record import Entry
from rules.model import METERED
from store.client import exchange
from store.keys import RECORDS, active_calls_key, added_key, written_key
from store.script import Script

_log = structlog.get_logger("cdr")

# How long an id is kept: longer than any spool waits for its replay.
_REMEMBER_S = 30 * 86400
_REMEMBER_USE_S = 3 * 86400  # in a Cluster, that it was added to a usage key
_MARK_BITS = 16  # ids of a worker share a key of so many marks, one bit each: 8 KB
_AT_ONCE = 64  # commands in progress to a Cluster
_BEYOND = "out_of_plan_s"  # the field that only Redis can compute

# How many of some seconds are within a month's plan (-1 = no limit known), given the use in the
# usage key. A value by another program may not be a number.
_PLAN = """
local function within_plan(key, seconds, plan)
  if plan < 0 then return seconds end
  local used = redis.pcall('HGET', key, 'deducted')
  used = type(used) == 'string' and tonumber(used) or 0
  if used ~= used then used = 0 end
  return math.max(0, math.min(seconds, math.floor(plan - used)))
end
"""

# KEYS: the stream, then the keys to which the content refers by position (from 1).
# ARGV: maxlen, seconds to remember, content in MessagePack. One argument, because redis-py packs
# arguments one by one in Python, which took three quarters of a write.
# Content: [names, position of out_of_plan_s among them or 0, entries, marks, witness].
# Entry: [values, mark key, bit, additions, id]. Addition: [usage key, fleet's usage key or 0,
# class, seconds, seconds of the month's plan or -1, key of the fleet's active calls or 0].
# The stream's type is checked first, and a mark is set before anything else is written, so that no
# error can leave half an entry. A usage key of the wrong type must not stop the other additions.
# Returns [whether the witness's mark is still there, additions that were refused].
_WRITE = Script(
    _PLAN
    + """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'stream' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. kind)
end
local content = cmsgpack.unpack(ARGV[3])
local names, beyond_at, entries, marks, witness = unpack(content)
local refused = {}

local function is_marked(place, bit)
  if bit < 0 then return redis.call('EXISTS', KEYS[place]) end
  return redis.call('GETBIT', KEYS[place], bit)
end
local function mark(place, bit)
  if bit >= 0 then return redis.call('SETBIT', KEYS[place], bit, 1) == 0 end
  return redis.call('SET', KEYS[place], '1', 'NX', 'EX', ARGV[2]) and true
end
local function add(place, class, seconds)
  if place == 0 or seconds == 0 then return end
  local reply = redis.pcall('HINCRBY', KEYS[place], class, seconds)
  if type(reply) == 'table' and reply.err then
    refused[#refused + 1] = KEYS[place] .. ' ' .. class .. ' ' .. seconds
  end
end
local kept = 1
if witness then kept = is_marked(witness[1], witness[2]) end
for _, entry in ipairs(entries) do
  local values = entry[1]
  if mark(entry[2], entry[3]) then
    local beyond = 0
    for _, addition in ipairs(entry[4]) do
      local line, fleet, class, seconds, plan, standing = unpack(addition)
      local within = seconds
      if class == 'deducted' then within = within_plan(KEYS[line], seconds, plan) end
      for _, place in ipairs({line, fleet}) do
        add(place, class, within)
        add(place, 'out_of_plan', seconds - within)
      end
      if standing > 0 then redis.pcall('HDEL', KEYS[standing], entry[5]) end
      beyond = beyond + (class == 'out_of_plan' and seconds or seconds - within)
    end
    if beyond > 0 and beyond_at > 0 then values[beyond_at] = string.format('%d', beyond) end
    local flat = {}
    for n, name in ipairs(names) do
      flat[2 * n - 1] = name
      flat[2 * n] = values[n]
    end
    redis.call('XADD', KEYS[1], '*', unpack(flat))
  end
end
for _, place in ipairs(marks) do redis.call('EXPIRE', KEYS[place], ARGV[2]) end
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
return {kept, refused}
"""
)

# One addition to one usage key, in a Cluster. KEYS: usage key, its marks, active calls.
# ARGV: mark (the call's id for the first addition), seconds to remember, seconds of the plan or -1,
# then class and seconds in turn.
# Returns [seconds beyond the plan, the refusal or nothing].
_USE = Script(
    _PLAN
    + """
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known then return {tonumber(known), false} end
local sums, beyond = {}, 0
for n = 4, #ARGV, 2 do
  local class, seconds = ARGV[n], tonumber(ARGV[n + 1])
  if class == 'deducted' then
    local within = within_plan(KEYS[1], seconds, tonumber(ARGV[3]))
    beyond = seconds - within
    sums['out_of_plan'] = (sums['out_of_plan'] or 0) + beyond
    seconds = within
  end
  sums[class] = (sums[class] or 0) + seconds
end
redis.call('HSET', KEYS[2], ARGV[1], beyond)
redis.pcall('HDEL', KEYS[3], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[2])
local refused = false
for class, seconds in pairs(sums) do
  if seconds > 0 then
    local reply = redis.pcall('HINCRBY', KEYS[1], class, seconds)
    if type(reply) == 'table' and reply.err then
      refused = KEYS[1] .. ' ' .. class .. ' ' .. seconds
    end
  end
end
return {beyond, refused}
"""
)


class Batch(msgspec.Struct, gc=False):
    """Entries that are sent together. `names` are the fields in the order of the entries' values,
    because a newer version replays what an older one left on disk. `count` comes first, so that a
    spool can be counted without decoding its entries."""

    count: int
    names: list[str]
    entries: list[Entry]

    def to_line(self) -> bytes:
        """The batch as one line of JSON, without its end."""
        return _encode(self)

    def ids(self) -> list[str]:
        """The ids of its calls."""
        at = self.names.index("id")
        return [entry.values[at] for entry in self.entries]


class Mark(NamedTuple):
    """The mark of a written id: a bit of a key, or with bit -1 the key itself."""

    key: str
    bit: int


class _Size(msgspec.Struct):
    count: int


_pack = msgspec.msgpack.Encoder().encode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Batch).decode
_decode_size = msgspec.json.Decoder(_Size).decode


def read_line(line: bytes) -> Batch:
    """The batch of a line. Raises ValueError if it is not one."""
    batch = _decode(line)
    width = len(batch.names)
    if "id" not in batch.names or any(len(entry.values) != width for entry in batch.entries):
        raise ValueError("batch: entries differ from the names")
    return batch


def records_in(line: bytes) -> int:
    """The number of records in a line, 0 if it is not a batch."""
    try:
        return _decode_size(line).count
    except ValueError:
        return 0


def mark_of(call_id: str) -> Mark:
    """The mark of an id. Ids of one worker (`<worker>-<serial>`) share keys of 65,536 bits."""
    prefix, _, serial = call_id.rpartition("-")
    if prefix and serial.isascii() and serial.isdigit() and len(serial) < 16:
        number = int(serial)
        key = written_key(f"{prefix}:{number >> _MARK_BITS}")
        return Mark(key, number & ((1 << _MARK_BITS) - 1))
    return Mark(written_key(call_id), -1)


async def write(redis: Redis, batch: Batch, maxlen: int, witness: Mark | None = None) -> bool:
    """Write those entries of a batch that Redis does not have.

    Raises REDIS_ERRORS; any of them may then have been written or not, and all must be sent again.
    Returns False if the mark of `witness`, an id written before, is missing: Redis has lost data.
    Always True in a Cluster, whose nodes lose data separately.
    """
    client: Any = redis  # a RedisCluster is no Redis to the type checker
    if isinstance(client, RedisCluster):
        await _write_by_key(client, batch, maxlen)
        return True
    return await _write_at_once(redis, batch, maxlen, witness)


async def is_written(redis: Redis, mark: Mark) -> bool:
    """Whether Redis has an id. Raises REDIS_ERRORS."""
    client: Any = redis
    if mark.bit < 0:
        return bool(await client.exists(mark.key))
    return bool(await client.getbit(mark.key, mark.bit))


async def written_of(redis: Redis, ids: Sequence[str]) -> set[str]:
    """Those ids that Redis has, as far as it answers. Raises REDIS_ERRORS."""
    marks = [mark_of(id_) for id_ in ids]
    replies = await exchange(
        redis, [("EXISTS", m.key) if m.bit < 0 else ("GETBIT", m.key, m.bit) for m in marks]
    )
    return {id_ for id_, reply in zip(ids, replies, strict=True) if reply == 1}


async def _write_at_once(
    redis: Any, batch: Batch, maxlen: int, witness: Mark | None, with_usage: bool = True
) -> bool:
    places: dict[str, int] = {RECORDS: 1}

    def place(key: str) -> int:
        return places.setdefault(key, len(places) + 1)

    entries, marks = [], set()
    for call_id, entry in zip(batch.ids(), batch.entries, strict=True):
        key, bit = mark_of(call_id)
        additions = [
            (
                place(line),
                place(fleet) if fleet else 0,
                billing,
                seconds,
                plan_s,
                place(active_calls_key(fleet)) if fleet and billing in METERED else 0,
            )
            for line, fleet, billing, seconds, plan_s in (entry.usage if with_usage else ())
        ]
        marks.add(place(key))
        entries.append((entry.values, place(key), bit, additions, call_id))
    seen = (place(witness.key), witness.bit) if witness is not None else False
    content = _pack((batch.names, _place_of_beyond(batch) + 1, entries, list(marks), seen))
    kept, refused = await _WRITE.run(redis, list(places), maxlen, _REMEMBER_S, content)
    _log_refused(refused)
    return bool(kept)


def _place_of_beyond(batch: Batch) -> int:
    return batch.names.index(_BEYOND) if _BEYOND in batch.names else -1


def _log_refused(refused: Iterable[Any]) -> None:
    additions = [str(item) for item in refused]
    if additions:
        _log.error("cdr.usage_refused", additions=additions)


# In a Cluster


async def _write_by_key(redis: Any, batch: Batch, maxlen: int) -> None:
    """Write the lines' usage, which returns the seconds beyond a plan, then their fleets', and the
    stream last."""
    gate = asyncio.Semaphore(_AT_ONCE)
    ids = batch.ids()

    async def use(call_id: str, entry: Entry) -> int:
        async with gate:
            return await _use(redis, call_id, entry)

    beyond = await asyncio.gather(*map(use, ids, batch.entries), return_exceptions=True)
    at = _place_of_beyond(batch)
    for entry, seconds in zip(batch.entries, beyond, strict=True):
        if isinstance(seconds, BaseException):
            raise seconds
        if seconds and at >= 0:
            entry.values[at] = str(seconds)
    await _write_at_once(redis, batch, maxlen, None, with_usage=False)


async def _use(redis: Any, call_id: str, entry: Entry) -> int:
    """Add the use of one call to every usage key; returns the seconds beyond a plan."""
    beyond, fleets = 0, dict[str, list[tuple[str, int]]]()
    added: Counter[str] = Counter()
    for line, fleet, billing, seconds, plan_s in entry.usage:
        # A line may pay twice in a call that was transferred: each addition has its own mark.
        mark = f"{call_id}/{added[line]}" if line in added else call_id
        added[line] += 1
        over = await _add(redis, line, mark, entry.day, plan_s, [(billing, seconds)])
        beyond += seconds if billing == "out_of_plan" else over
        if fleet:
            parts = fleets.setdefault(fleet, [])
            parts += [(billing, seconds - over), ("out_of_plan", over)]
    for fleet, parts in fleets.items():
        await _add(redis, fleet, call_id, entry.day, -1, parts)
    return beyond


async def _add(
    redis: Any, key: str, mark: str, day: int, plan_s: int, parts: list[tuple[str, int]]
) -> int:
    words: list[Any] = [mark, _REMEMBER_USE_S, plan_s]
    for billing, seconds in parts:
        words += [billing, seconds]
    keys = [key, added_key(key, day), active_calls_key(key)]
    beyond, refused = await _USE.run(redis, keys, *words)
    _log_refused([refused] if refused else ())
    return int(beyond)
