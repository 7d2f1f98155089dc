"""The recorder: every call's record reaches the `cdr` stream and `usage` once, and once only.

Calls hand their record over and go on. One background task writes them in batches, which Redis
tells apart (engine/batch.py). While Redis is away records wait in memory, then on disk. A call's
own task never waits for Redis, so a hang-up cannot interrupt a write.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from pathlib import Path

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from engine.batch import Batch, read_line, records_in, write
from engine.record import (
    FIELDS,
    STREAM,
    CallRecord,
    Entry,
    ForwardRecord,
    LegRecord,
    Months,
    read_entry,
    to_entry,
)
from engine.spool import Spool

__all__ = [
    "FIELDS",
    "STREAM",
    "CallRecord",
    "Entry",
    "ForwardRecord",
    "LegRecord",
    "Recorder",
    "read_entry",
]

_log = structlog.get_logger("cdr")

_BATCH = 200  # records in one step
_FLUSH_S = 0.05  # between two batches; a record that finds the writer idle is written at once
_REPLY_S = 2.0  # a Redis that takes longer than this is away
_RETRY_S = (0.05, 0.5)  # first and longest pause between attempts


class Recorder:
    """Writes call records. `add` may be called before `start`; the records then wait.

    `memory` is the number of records that wait in memory, `spool_bytes` the size of the file that
    takes the rest. Records that have waited `spill_after_s` for Redis move to the file earlier,
    so that a killed process loses few. `lost` counts records that found both full.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        timezone: str,
        worker: str,
        spool: Path,
        maxlen: int = 1_000_000,
        memory: int = 50_000,
        spool_bytes: int = 256 * 1024 * 1024,
        spill_after_s: float = 5.0,
    ) -> None:
        self.lost = 0
        self._redis = redis
        self._months = Months(timezone)
        self._worker = worker
        self._maxlen = maxlen
        self._memory = memory
        self._spill_after_s = spill_after_s
        self._spool = Spool(spool, limit_bytes=spool_bytes, size_of=records_in)
        self._waiting: deque[Entry] = deque()
        self._flying: Batch | None = None  # has its identity; once sent it must keep it
        self._sent = False  # whether the flying batch was ever sent
        self._away_since: float | None = None
        self._spilled = False  # the spool has batches of the present writer identity
        self._writer = ""
        self._number = 0
        self._next_flush = 0.0
        self._wake = asyncio.Event()
        self._closing = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._new_writer()

    def __repr__(self) -> str:
        state = "up" if self._away_since is None else "away"
        return f"<Recorder {self._writer} {state} backlog={self.backlog} lost={self.lost}>"

    @property
    def backlog(self) -> int:
        """Records that are not known to be in Redis yet, in memory and on disk."""
        flying = self._flying.count if self._flying else 0
        return len(self._waiting) + flying + self._spool.records

    def add(self, record: CallRecord) -> None:
        """Hand a record over. Never blocks, never raises; later changes to it have no effect."""
        waiting = len(self._waiting)
        if self._closed:
            self._lose(record, "closed")
            return
        # Above the memory limit the writer is busy moving records to disk; twice the limit is
        # reached only if the disk hangs.
        if waiting >= self._memory and (self._spool.full or waiting >= 2 * self._memory):
            self._lose(record, "full")
            return
        try:
            self._waiting.append(to_entry(record, self._months))
        except Exception:  # a call that ends must not fail on its record
            _log.exception("cdr.unwritable", record=repr(record))
            self.lost += 1
            return
        if not self._wake.is_set():
            self._wake.set()

    async def start(self) -> None:
        """Open the spool, begin to write. A spool that cannot be opened is logged, not fatal."""
        try:
            await asyncio.to_thread(self._spool.open)
        except OSError as error:
            _log.error("cdr.spool_unusable", path=str(self._spool.path), error=str(error))
        if self._spool.records:
            _log.info("cdr.replay", path=str(self._spool.path), records=self._spool.records)
        self._task = asyncio.create_task(self._run(), name="cdr")

    async def close(self, deadline_s: float = 2.0) -> None:
        """Write what waits, for at most `deadline_s`; the rest goes to the spool."""
        self._closing = True
        self._wake.set()
        task, self._task = self._task, None
        try:
            if task is not None:
                await asyncio.wait({task}, timeout=deadline_s)
                task.cancel()
                await asyncio.wait({task}, timeout=1.0)
        finally:
            if task is not None:
                task.cancel()
            self._closed = True
            self._keep()
            self._spool.close()

    # The writer

    async def _run(self) -> None:
        pause_s = _RETRY_S[0]
        while True:
            await self._wait_for_work()
            if self._closing and (self._away_since is not None or not self._in_memory()):
                return
            try:
                await self._write()
            except Exception as error:  # whatever it is, the records stay and are tried again
                self._note_away(error)
                await self._spill_if_due()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_S[1])
            else:
                self._note_up()
                pause_s = _RETRY_S[0]

    def _in_memory(self) -> bool:
        return self._flying is not None or bool(self._waiting)

    async def _wait_for_work(self) -> None:
        while not (self._in_memory() or len(self._spool) or self._closing):
            self._wake.clear()
            await self._wake.wait()
        now = asyncio.get_running_loop().time()
        hurried = self._away_since is not None or self._closing or len(self._spool)
        if not hurried and len(self._waiting) < _BATCH and now < self._next_flush:
            await asyncio.sleep(self._next_flush - now)
            now = self._next_flush
        self._next_flush = now + _FLUSH_S

    async def _write(self) -> None:
        """Write one batch from memory and one from the spool.

        While Redis is away only the spool's is tried, if there is one: a batch of the same writer
        that overtook it would make Redis take it for one that it has.
        """
        if self._in_memory() and (self._away_since is None or not len(self._spool)):
            if self._flying is None:
                if self._spilled:
                    self._new_writer()
                self._flying = self._form()
            self._sent = True
            await self._send(self._flying)
            self._flying = None
        if len(self._spool):
            batch = await asyncio.to_thread(self._read_spool)
            if batch is not None:
                await self._send(batch)
                self._spool.drop_head()

    def _new_writer(self) -> None:
        self._writer = f"{self._worker}-{uuid.uuid4().hex[:16]}"
        self._number = 0
        self._spilled = False

    def _form(self) -> Batch:
        size = min(_BATCH, len(self._waiting))
        entries = [self._waiting.popleft() for _ in range(size)]
        self._number += 1
        return Batch(size, self._writer, self._number, list(FIELDS), entries)

    def _read_spool(self) -> Batch | None:
        line = self._spool.head()
        if line is None:
            return None
        try:
            return read_line(line)
        except ValueError as error:
            _log.error("cdr.spool_line_unreadable", path=str(self._spool.path), error=str(error))
            self._spool.drop_head(aside=True)
            return None

    async def _send(self, batch: Batch) -> None:
        async with asyncio.timeout(_REPLY_S):
            await write(self._redis, batch, self._maxlen)

    # Redis away

    def _note_away(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
            expected = isinstance(error, (RedisError, OSError, TimeoutError))
            text = str(error) or type(error).__name__
            _log.warning("cdr.redis_away", error=text, exc_info=None if expected else error)

    def _note_up(self) -> None:
        if self._away_since is not None:
            away_s = asyncio.get_running_loop().time() - self._away_since
            self._away_since = None
            _log.info("cdr.redis_back", away_s=round(away_s, 3), backlog=self.backlog)

    async def _spill_if_due(self) -> None:
        assert self._away_since is not None
        away_s = asyncio.get_running_loop().time() - self._away_since
        if away_s < self._spill_after_s and len(self._waiting) < self._memory:
            return
        while self._in_memory() and not self._closing:
            batch = self._next_to_spill()
            # In a thread, batch by batch: a slow disk must not delay calls.
            stored = await asyncio.to_thread(self._spool_one, batch)
            self._note_spilled(batch, stored)
            if not stored:
                return

    def _keep(self) -> None:
        """Spool all that is in memory, now. A batch that a thread was storing when the writer was
        stopped may be stored twice: it has one identity."""
        stored = True
        while self._in_memory() and stored:
            batch = self._next_to_spill()
            stored = self._spool_one(batch)
            self._note_spilled(batch, stored)
        left = len(self._waiting) + (self._flying.count if self._flying else 0)
        if left:
            self.lost += left
            self._flying = None
            self._waiting.clear()
            _log.error("cdr.lost", why="closing", records=left, spool=str(self._spool.path))

    def _next_to_spill(self) -> Batch:
        if self._flying is None:
            self._flying, self._sent = self._form(), False
        return self._flying

    def _spool_one(self, batch: Batch) -> bool:
        return self._spool.append(batch.to_line(), batch.count)

    def _note_spilled(self, batch: Batch, stored: bool) -> None:
        if stored:
            self._flying = None
            self._spilled = True
        elif not self._sent:  # it must get another identity: the spool may have older ones
            self._waiting.extendleft(reversed(batch.entries))
            self._flying = None
            self._number -= 1

    def _lose(self, record: CallRecord, why: str) -> None:
        self.lost += 1
        if self.lost % 1000 == 1:
            _log.error("cdr.lost", why=why, lost=self.lost, id=record.id)
