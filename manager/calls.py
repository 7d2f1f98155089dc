"""The recently forwarded calls of each line: an index in memory of positions in the `cdr` stream.

The stream holds the calls of all lines. Searching it for one line at each page view would read
thousands of entries, so they are read once, as they arrive.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Any

from redis.asyncio import Redis

from manager.records import Met, met
from rules.model import Line
from store import background_tasks
from store.keys import RECORDS
from store.redis_errors import REDIS_ERRORS

_KEPT = 20  # calls per line
_READ_BACK = 100_000  # entries of the stream that are read at the start
_AT_ONCE = 500
_REST_S = 0.01
_BLOCK_MS = 500  # a cluster node that is silent for longer than 0.9 s is abandoned
_RETRY_S = 0.5
_LINE = re.compile(rb'"line":"(\+[0-9]+)"')

_Entry = tuple[bytes, dict[bytes, bytes]]


class Calls:
    """Follows the stream, also after Redis was away."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._places: dict[bytes, deque[bytes]] = {}  # of a line, the newest last
        self._last: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = background_tasks.keep(
            self._follow, "calls: records were not read", name="calls: follow"
        )

    async def close(self) -> None:
        await background_tasks.end([self._task])

    async def forwarded(self, line: Line, limit: int) -> list[Met]:
        """The last calls that the line has forwarded, newest first."""
        places = list(self._places.get(line.number.encode(), ()))[-limit:]
        pipe = self._redis.pipeline(transaction=False)
        for place in places:
            pipe.xrange(RECORDS, place, place)
        answers = await pipe.execute() if places else []
        found = [met(entry, line) for answer in answers for _, entry in answer]
        return [call for call in reversed(found) if call is not None and call.forward is not None]

    async def _follow(self) -> None:
        while True:
            try:
                if self._last is None:
                    await self._read_back()
                await self._read_on()
            except REDIS_ERRORS:
                await asyncio.sleep(_RETRY_S)

    async def _read_back(self) -> None:
        """Read the present entries in small batches, the newest first."""
        self._places.clear()
        newest = await self._redis.xrevrange(RECORDS, count=1)
        last = newest[0][0] if newest else b"0-0"
        end = last.decode()
        for _ in range(_READ_BACK // _AT_ONCE):
            entries: list[_Entry] = await self._redis.xrevrange(RECORDS, max=end, count=_AT_ONCE)
            for place, entry in entries:
                for number in _lines(entry):
                    known = self._places.setdefault(number, deque(maxlen=_KEPT))
                    if len(known) < _KEPT:
                        known.appendleft(place)
            if len(entries) < _AT_ONCE:
                break
            end = f"({entries[-1][0].decode()}"
            await asyncio.sleep(_REST_S)
        self._last = last

    async def _read_on(self) -> None:
        answer = await self._redis.xread({RECORDS: self._last}, count=_AT_ONCE, block=_BLOCK_MS)
        for _, entries in answer or ():
            for place, entry in entries:
                for number in _lines(entry):
                    self._places.setdefault(number, deque(maxlen=_KEPT)).append(place)
                self._last = place


def _lines(entry: dict[bytes, bytes]) -> set[bytes]:
    """The lines that forwarded a call."""
    return set(_LINE.findall(entry.get(b"forwards", b"")))
