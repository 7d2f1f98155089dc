"""The recorder: every call's record reaches the `cdr` stream and `usage` exactly once.

Calls pass their record to `add` and continue. One background task writes them in batches. The step
that adds a record to Redis also sets a mark for its call's id (`writing_once.py`): records in doubt
are sent again, and a copy that finds the mark is not added.
While Redis is away records wait in memory, then on disk. Written records are kept for a while, in
case a fail-over or a restart of Redis loses confirmed ones. A call's own task never waits for
Redis, so a hang-up cannot interrupt a write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import structlog
from redis.asyncio import Redis, RedisCluster

from engine.records.record import (
    FIELDS,
    CallRecord,
    Entry,
    ForwardRecord,
    LegRecord,
    Months,
    read_entry,
    to_entry,
)
from engine.records.spool import Spool
from engine.records.writing_once import Batch, is_written, mark_of, read_line, records_in, write
from store import background_tasks
from store.redis_errors import REDIS_ERRORS

__all__ = [
    "FIELDS",
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
_REPLY_S = 2.0  # a slower Redis counts as away
_RETRY_S = (0.05, 0.5)  # first and longest pause between attempts
_LOOK_S = 1.0  # between two checks that Redis still has the written records
_KEEP_S = 30.0  # how long written records are kept: longer than the lag of a replica or a disk
_KEEP_RECORDS = 20_000
_AGAIN_S = 15.0  # in a Cluster every record is sent again after this time, in case of a fail-over


class Recorder:
    """Writes call records. `add` may be called before `start`; the records then wait.

    `memory` is the number of records that may wait in memory, `spool_bytes` the size of the file
    for the rest. Records that have waited `spill_after_s` for Redis move to the file earlier, so
    that a killed process loses few. `others` are spools that nobody else will replay. `lost`
    counts records for which both were full. `on_safe` gets the ids of calls whose records have
    reached Redis or the disk, `on_error` each failure of Redis.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        timezone: str,
        worker: str,
        spool: Path,
        others: Sequence[Path] = (),
        maxlen: int = 1_000_000,
        memory: int = 50_000,
        spool_bytes: int = 256 * 1024 * 1024,
        spill_after_s: float = 5.0,
        on_safe: Callable[[Sequence[str]], None] | None = None,
        on_error: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.lost = 0
        self.on_error = on_error
        self.on_safe = on_safe
        self._redis = redis
        self._in_cluster = isinstance(redis, RedisCluster)
        self._months = Months(timezone)
        self._worker = worker
        self._maxlen = maxlen
        self._memory = memory
        self._spill_after_s = spill_after_s
        self._spool = Spool(spool, limit_bytes=spool_bytes, size_of=records_in, others=others)
        self._waiting: deque[Entry] = deque()
        self._kept: deque[tuple[float, Entry]] = deque()  # written at this loop time
        self.trouble: str | None = None  # why records wait
        self._away_since: float | None = None
        self._next_flush = 0.0
        self._next_look = 0.0
        self._wake = asyncio.Event()
        self._closing = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "up" if self._away_since is None else "away"
        return f"<Recorder {self._worker} {state} backlog={self.backlog} lost={self.lost}>"

    @property
    def backlog(self) -> int:
        """Records that may not be in Redis yet, in memory and on disk."""
        return len(self._waiting) + self._spool.records

    def add(self, record: CallRecord) -> None:
        """Add a record. Never blocks, never raises; later changes to it have no effect."""
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
        except Exception:  # the end of a call must not fail because of its record
            _log.exception("cdr.unwritable", record=repr(record))
            self.lost += 1
            return
        if not self._wake.is_set():
            self._wake.set()

    async def start(self) -> None:
        """Open the spool and start writing. A spool that cannot be opened is logged, not fatal."""
        try:
            await asyncio.to_thread(self._spool.open)
        except OSError as error:
            _log.error("cdr.spool_unusable", path=str(self._spool.path), error=str(error))
        if self._spool.records:
            _log.info("cdr.replay", path=str(self._spool.path), records=self._spool.records)
        self._task = background_tasks.keep(self._run, "cdr: the writer stopped", name="cdr")

    async def close(self, deadline_s: float = 2.0) -> None:
        """Write waiting records for at most `deadline_s`; the rest goes to the spool."""
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
            self._keep_on_disk()
            self._spool.close()

    # The writer

    async def _run(self) -> None:
        pause_s = _RETRY_S[0]
        while True:
            await self._wait_for_work()
            if self._closing and (self._away_since is not None or not self._waiting):
                return
            try:
                await self._write()
                await self._look()
            except Exception as error:  # whatever it is, the records stay and are tried again
                self._note_away(error)
                await self._spill_if_due()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_S[1])
            else:
                self._note_up()
                pause_s = _RETRY_S[0]

    async def _wait_for_work(self) -> None:
        """Wait until there is something to write or to check."""
        loop = asyncio.get_running_loop()
        while not (self._waiting or len(self._spool) or self._closing):
            self._wake.clear()
            try:
                async with asyncio.timeout_at(self._next_look if self._kept else None):
                    await self._wake.wait()
            except TimeoutError:
                return
        now = loop.time()
        hurried = self._away_since is not None or self._closing or len(self._spool)
        if not hurried and len(self._waiting) < _BATCH and now < self._next_flush:
            await asyncio.sleep(self._next_flush - now)
            now = self._next_flush
        self._next_flush = now + _FLUSH_S

    async def _write(self) -> None:
        """Write one batch from memory and one from the spool."""
        if self._waiting:
            batch = self._form(self._waiting)
            await self._send(batch)
            self._drop(batch.count)
            self._note_safe(batch)
        if len(self._spool):
            spooled = await asyncio.to_thread(self._read_spool)
            if spooled is not None:
                await self._send(spooled)
                # In a thread, because after the last line the whole file is truncated. The spool
                # blocks appends meanwhile. If the writer is stopped before, the line stays, is sent
                # again and found to be written.
                await asyncio.to_thread(self._spool.drop_head)

    def _form(self, entries: Iterable[Entry]) -> Batch:
        first = list(islice(entries, _BATCH))
        return Batch(len(first), list(FIELDS), first)

    def _drop(self, count: int) -> None:
        """Drop the first waiting records, which are safe now."""
        for _ in range(count):
            self._waiting.popleft()

    def _note_safe(self, batch: Batch) -> None:
        if self.on_safe is not None:
            self.on_safe(batch.ids())

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
        witness = mark_of(self._kept[-1][1].values[0]) if self._kept else None
        async with asyncio.timeout(_REPLY_S):
            had_all = await write(self._redis, batch, self._maxlen, witness)
        if not had_all:
            self._send_again()
        self._remember(batch)

    # Written records that may still be lost

    def _remember(self, batch: Batch) -> None:
        if batch.names != list(FIELDS):  # from an older version, without more data
            return
        now = asyncio.get_running_loop().time()
        self._kept.extend((now, entry) for entry in batch.entries)
        while len(self._kept) > _KEEP_RECORDS:
            self._kept.popleft()

    async def _look(self) -> None:
        """Check once a second whether Redis still has the written records. It loses the newest
        first."""
        now = asyncio.get_running_loop().time()
        if now < self._next_look or not self._kept:
            return
        self._next_look = now + _LOOK_S
        if self._in_cluster:
            await self._write_twice(now)
            return
        async with asyncio.timeout(_REPLY_S):
            has_newest = await is_written(self._redis, mark_of(self._kept[-1][1].values[0]))
        if not has_newest:
            self._send_again()
        while self._kept and self._kept[0][0] < now - _KEEP_S:
            self._kept.popleft()

    async def _write_twice(self, now: float) -> None:
        while self._kept and self._kept[0][0] < now - _AGAIN_S:
            due = [entry for at, entry in islice(self._kept, _BATCH) if at < now - _AGAIN_S]
            async with asyncio.timeout(_REPLY_S):
                await write(self._redis, self._form(due), self._maxlen)
            for _ in due:
                self._kept.popleft()

    def _send_again(self) -> None:
        _log.warning("cdr.redis_lost_records", kept=len(self._kept), kept_s=_KEEP_S)
        self._waiting.extend(entry for _, entry in self._kept)
        self._kept.clear()

    # Redis away

    def _note_away(self, error: Exception) -> None:
        if self.on_error is not None:
            self.on_error(error)
        self.trouble = str(error) or type(error).__name__
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
            expected = isinstance(error, REDIS_ERRORS)
            text = str(error) or type(error).__name__
            _log.warning("cdr.redis_away", error=text, exc_info=None if expected else error)

    def _note_up(self) -> None:
        self.trouble = None
        if self._away_since is not None:
            away_s = asyncio.get_running_loop().time() - self._away_since
            self._away_since = None
            _log.info("cdr.redis_back", away_s=round(away_s, 3), backlog=self.backlog)

    async def _spill_if_due(self) -> None:
        assert self._away_since is not None
        away_s = asyncio.get_running_loop().time() - self._away_since
        if away_s < self._spill_after_s and len(self._waiting) < self._memory:
            return
        while self._waiting and not self._closing:
            batch = self._form(self._waiting)
            # In a thread, batch by batch: a slow disk must not delay calls.
            if not await asyncio.to_thread(self._spool.append, batch.to_line(), batch.count):
                return
            self._drop(batch.count)
            self._note_safe(batch)

    def _keep_on_disk(self) -> None:
        """Spool everything in memory now. Records that a thread was storing when the writer was
        stopped may be stored twice."""
        while self._waiting:
            batch = self._form(self._waiting)
            if not self._spool.append(batch.to_line(), batch.count):
                self.lost += len(self._waiting)
                _log.error(
                    "cdr.lost",
                    why="closing",
                    records=len(self._waiting),
                    spool=str(self._spool.path),
                )
                self._waiting.clear()
                return
            self._drop(batch.count)
            self._note_safe(batch)

    def _lose(self, record: CallRecord, why: str) -> None:
        self.lost += 1
        if self.lost % 1000 == 1:
            _log.error("cdr.lost", why=why, lost=self.lost, id=record.id)
