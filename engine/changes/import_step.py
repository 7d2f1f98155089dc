"""Replaces the old lines by the new ones: in one transaction, or in a Cluster in one step per
slot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO

import hiredis
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from store.connection import Command
from store.keys import line_key

BATCH = 1000
_REPLICA_LIMIT = 256 << 20  # data that may wait for a replica, unless Redis reports a limit
_SWITCH_S = 300.0  # longest wait for the step itself
# KEYS: of one slot. ARGV: how many are set, then their values; the rest are deleted.
_SWITCH_SLOT = """
local set = tonumber(ARGV[1])
for n, key in ipairs(KEYS) do
  if n <= set then redis.call('SET', key, ARGV[n + 1]) else redis.call('UNLINK', key) end
end
return #KEYS
"""

Progress = Callable[[str, int], None]
"""Gets the present step, and the number of lines done."""


class ImportRefused(Exception):
    """This Redis cannot do it in this way; nothing was written. The message is one line."""


class Switch:
    """Writes checked changes.

    Args:
        changes: a file with a line per document to write: number, tab, text.
        deleted: numbers of lines to delete.
        lines: number of documents.
        size: their bytes.
        entry: the command that writes to the log of changes.
    """

    def __init__(
        self,
        client: Any,
        changes: BinaryIO,
        deleted: list[str],
        lines: int,
        size: int,
        progress: Progress,
        entry: Command,
    ) -> None:
        self._client = client
        self._changes = changes
        self._deleted = deleted
        self._lines = lines
        self._size = size
        self._progress = progress
        self._entry = entry

    def carry_out(self, parts: int = 0) -> float:
        """Write everything; returns the longest time in seconds that Redis was busy.

        `parts`: write so many lines at a time, for a Redis that must not be busy for long; readers
        then see some old and some new lines meanwhile. 0 = all at once.

        Raises REDIS_ERRORS (then nothing was written, unless `parts` or a Cluster), and
        ImportRefused.
        """
        if not parts:
            self._spare_replicas()
        most, longest = parts or self._lines + len(self._deleted) + 1, 0.0
        commands = chain(
            [([_bytes(word) for word in self._entry], 0)],
            _grouped(self._stored_changes(), self._deleted, min(BATCH, most)),
        )
        waiting = True
        while waiting:
            waiting, took = self._switch(commands, most)
            longest = max(longest, took)
        return longest

    def _switch(self, commands: Iterator[tuple[list[bytes], int]], most: int) -> tuple[bool, float]:
        """One transaction of at most `most` lines; returns whether there may be more, and how long
        it took."""
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command("MULTI")
            connection.read_response()
            count, more = 0, True
            while count < most:
                command = next(commands, None)
                if command is None:
                    more = False
                    break
                words, lines = command
                # hiredis's type stub declares a tuple of length one instead of any length.
                packed = hiredis.pack_command(tuple(words))  # type: ignore[arg-type]
                connection.send_packed_command([packed])
                connection.read_response()  # QUEUED, or an error: a full Redis reports it here
                count += lines
                self._progress("sent", count)
            if not count:
                connection.send_command("DISCARD")
                connection.read_response()
                return False, 0.0
            begun = time.monotonic()
            connection.send_command("EXEC")
            replies = connection.read_response(timeout=_SWITCH_S)
            took = time.monotonic() - begun
            refused = next((r for r in replies if isinstance(r, ResponseError)), None)
            if refused is not None:
                raise refused
            return more, took
        except BaseException:
            # The server drops all queued commands with the connection.
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _spare_replicas(self) -> None:
        """A transaction waits for each replica as a whole, and Redis limits that."""
        replicas = self._client.info("replication").get("connected_slaves", 0)
        size = self._size + 64 * (self._lines + len(self._deleted))
        limit = _REPLICA_LIMIT
        try:
            said = self._client.config_get("client-output-buffer-limit")
            words = str(said["client-output-buffer-limit"]).split()
            limit = int(words[words.index("slave" if "slave" in words else "replica") + 1])
        except (RedisError, KeyError, ValueError, IndexError):
            pass  # no right to ask: the default of Redis
        if replicas and limit and size > 0.8 * limit:
            raise ImportRefused(
                f"import: {size >> 20} MB at once would cut Redis off from its replicas "
                f"(client-output-buffer-limit replica is {limit >> 20} MB): raise that, or use "
                "--parts"
            )

    def slots(self, written: Sequence[tuple[int, int]]) -> float:
        """The same in a Cluster, slot by slot. `written`: slot and position in the file of each
        document."""
        by_slot: dict[int, tuple[list[int], list[str]]] = {}
        for slot, offset in written:
            by_slot.setdefault(slot, ([], []))[0].append(offset)
        for number in self._deleted:
            by_slot.setdefault(slot_of(number), ([], []))[1].append(number)
        self._client.execute_command(*self._entry)
        done, longest = 0, 0.0
        for offsets, gone in by_slot.values():
            pairs = [self._change_at(offset) for offset in offsets]
            keys = [line_key(number) for number, _ in pairs] + [line_key(n) for n in gone]
            begun = time.monotonic()
            self._client.execute_command(
                "EVAL", _SWITCH_SLOT, len(keys), *keys, len(pairs), *(text for _, text in pairs)
            )
            longest = max(longest, time.monotonic() - begun)
            done += len(keys)
            self._progress("written", done)
        return longest

    def _change_at(self, offset: int) -> tuple[str, bytes]:
        self._changes.seek(offset)
        number, _, text = self._changes.readline().rstrip(b"\n").partition(b"\t")
        return number.decode(), text

    def _stored_changes(self) -> Iterator[tuple[str, bytes]]:
        self._changes.seek(0)
        for record in self._changes:
            number, _, text = record.rstrip(b"\n").partition(b"\t")
            yield number.decode(), text


def _grouped(
    changes: Iterator[tuple[str, bytes]], deleted: list[str], size: int
) -> Iterator[tuple[list[bytes], int]]:
    """Commands of at most `size` lines each, with their numbers of lines."""
    words: list[bytes] = [b"MSET"]
    for number, text in changes:
        words += (line_key(number).encode(), text)
        if len(words) > 2 * size:
            yield words, size
            words = [b"MSET"]
    if len(words) > 1:
        yield words, len(words) // 2
    for start in range(0, len(deleted), size):
        some = deleted[start : start + size]
        keys = [line_key(number).encode(errors="surrogateescape") for number in some]
        yield [b"UNLINK", *keys], len(some)


def _bytes(word: str | bytes | int | float) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


def slot_of(number: str) -> int:
    """The slot of a line in a Cluster."""
    return key_slot(line_key(number).encode(errors="surrogateescape"))
