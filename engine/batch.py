"""A batch of entries: written in one step or not at all, and once however often it is sent.

A batch has an identity (writer, number). Numbers of one writer only grow, and the script that
writes a batch also stores its number, so that a batch sent twice, because a reply was lost or a
process died, is written once.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from engine.record import STREAM, Entry

_log = structlog.get_logger("cdr")

# How long Redis remembers a writer's last batch: longer than any spool waits for its replay.
_REMEMBER_S = 90 * 86400

# KEYS: the stream, the writer's memory, one usage key per addition.
# ARGV: batch number, seconds to remember it, maxlen, and in MessagePack [names, entries, additions]
# with the values of each entry, and class and seconds of each addition. One argument, because
# redis-py packs arguments one by one in Python, which cost three quarters of a write.
# An error can only come before anything is written: from GET, unpack, or the first XADD. Additions
# to a key that somebody else made something different of must not stop the others.
_SCRIPT = """
local last = redis.call('GET', KEYS[2])
if last and tonumber(last) >= tonumber(ARGV[1]) then return {} end
local content = cmsgpack.unpack(ARGV[4])
local names, entries, additions = content[1], content[2], content[3]
local flat = {}
for _, values in ipairs(entries) do
  for n, name in ipairs(names) do
    flat[2 * n - 1] = name
    flat[2 * n] = values[n]
  end
  redis.call('XADD', KEYS[1], '*', unpack(flat))
end
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[3])
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
local refused = {}
for n, addition in ipairs(additions) do
  local reply = redis.pcall('HINCRBY', KEYS[n + 2], addition[1], addition[2])
  if type(reply) == 'table' and reply.err then
    refused[#refused + 1] = KEYS[n + 2] .. ' ' .. addition[1] .. ' ' .. addition[2]
  end
end
return refused
"""
_SHA = hashlib.sha1(_SCRIPT.encode()).hexdigest()


class Batch(msgspec.Struct, gc=False):
    """Entries with an identity. `names` are the fields in the order of the entries' values: a
    newer version replays what an older one left on disk. `count` comes first so that a spool is
    counted without decoding its entries."""

    count: int
    writer: str
    number: int
    names: list[str]
    entries: list[Entry]

    def to_line(self) -> bytes:
        """The batch as one line of JSON, without its end."""
        return _encode(self)


class _Size(msgspec.Struct):
    count: int


_pack = msgspec.msgpack.Encoder().encode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Batch).decode
_decode_size = msgspec.json.Decoder(_Size).decode


def read_line(line: bytes) -> Batch:
    """The batch of a line. Raises ValueError when it is none."""
    batch = _decode(line)
    width = len(batch.names)
    if not width or any(len(entry.values) != width for entry in batch.entries):
        raise ValueError(f"batch {batch.writer} {batch.number}: entries differ from the names")
    return batch


def records_in(line: bytes) -> int:
    """The number of records in a line, 0 when it is no batch."""
    try:
        return _decode_size(line).count
    except ValueError:
        return 0


async def write(redis: Redis, batch: Batch, maxlen: int) -> None:
    """Write a batch unless Redis has it already. Raises RedisError or OSError; the batch may then
    have been written or not, and is to be sent again as it is."""
    sums: dict[tuple[str, str], int] = {}
    for entry in batch.entries:
        for key, billing, seconds in entry.usage:
            sums[key, billing] = sums.get((key, billing), 0) + seconds
    additions = [(billing, seconds) for (_, billing), seconds in sums.items()]
    content = _pack((batch.names, [entry.values for entry in batch.entries], additions))
    arguments: list[str | int | bytes] = [2 + len(sums), STREAM, f"cdr:written:{batch.writer}"]
    arguments += [key for key, _ in sums]
    arguments += [batch.number, _REMEMBER_S, maxlen, content]
    client: Any = redis
    try:
        refused = await client.execute_command("EVALSHA", _SHA, *arguments)
    except NoScriptError:  # a Redis that was restarted
        refused = await client.execute_command("EVAL", _SCRIPT, *arguments)
    if refused:
        _log.error("cdr.usage_refused", additions=[str(item) for item in refused])
