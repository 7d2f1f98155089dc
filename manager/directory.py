"""The lines by fleet: an index in memory for lists and searches.

Redis holds lines by number only, and any program may write them. So the index reads them all once
and follows Redis's notifications of changes. It only finds lines and does not decide who may see
them: each document is read again, and checked, before it is shown (`manager.lines`).
"""

from __future__ import annotations

import asyncio
import secrets
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from redis.asyncio import Redis

from manager.access import Who
from manager.search import Listed, Page, View, fold
from store import background_tasks
from store.client import exchange
from store.index_changes import KeyChanges
from store.keys import LINE
from store.redis_errors import REDIS_ERRORS, is_wrong_type

_PREFIX = LINE.encode()
_BATCH = 1000
_RETRY_S = 0.5
_FAULT_S = 5.0  # after an error of ours: all lines are read again
_BEHIND = "1"
_FIRST_READ_S = 60.0
_SEPARATORS = " .-()/\u00a0\u202f"


class _Offer(msgspec.Struct):
    fax: bool = False


class _Document(msgspec.Struct):
    fleet: str
    label: str | None = None
    offer: _Offer | None = None


_decoder = msgspec.json.Decoder(_Document)


class Directory:
    """The index. `national` returns the digits of a number as dialled nationally."""

    def __init__(self, redis: Redis, national: Callable[[str], str]) -> None:
        self._redis: Any = redis
        self._national = national
        self._fleets: dict[str, dict[str, Listed]] = {}
        self._where: dict[str, str] = {}
        self._views: dict[str | None, View] = {}
        self._changed: set[bytes] = set()
        self._all = True
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        name = f"directory-{secrets.token_hex(8)}"
        self._key_changes = KeyChanges(redis, (LINE,), name, self._on_keys)
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        return len(self._where)

    async def start(self) -> None:
        """Read all lines once; continues without them if Redis is away."""
        self._tasks = [asyncio.create_task(self._follow(), name="directory: reader")]
        await self._key_changes.start()
        if self._key_changes.is_complete:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), _FIRST_READ_S)

    async def close(self) -> None:
        await background_tasks.end(self._tasks)
        await self._key_changes.close()

    def fleets(self) -> list[str]:
        return sorted(self._fleets)

    def has(self, fleet: str, number: str) -> bool:
        """Whether the number is a line of the fleet."""
        return self._where.get(number) == fleet

    def label(self, fleet: str, number: str) -> str:
        """The name of a line of the fleet; "" if it has none, or is not a line of the fleet."""
        line = self._fleets.get(fleet, {}).get(number)
        return line.label if line else ""

    def label_anywhere(self, number: str) -> str:
        """The same for a line of any fleet, for operators."""
        return self.label(self._where.get(number, ""), number)

    def count(self, fleet: str) -> int:
        """The number of lines of the fleet."""
        return len(self._fleets.get(fleet, ()))

    def named(self, fleet: str, name: str) -> list[Listed]:
        """The lines of the fleet with exactly this name, ignoring accents and case."""
        folded = fold(name)
        return [
            line
            for line in self._view(fleet).lines
            if line.text.startswith(f"{folded} {line.number}")
        ]

    def search(
        self,
        who: Who,
        fleet: str | None = None,
        words: str = "",
        after: str = "",
        limit: int = 50,
        fax: bool = False,
        names_first: bool = False,
    ) -> Page:
        """Lines by number whose label or number contains every word; `after`: from the previous
        page.

        `fleet` None = all that they may see. `fax`: only lines with a fax offer. `names_first`:
        those found by their name before those found by their number.
        """
        if fleet is None:
            fleet = who.fleet
        elif not who.may_fleet(fleet):
            return Page((), 0, None)
        view = self._view(fleet)
        if who.line is not None:
            line = self._fleets.get(fleet or "", {}).get(who.line)
            view = View([line] if line else [])
        if fax:
            view = view.fax
        found, named = view.having(self._wanted(words), names_first)
        # A cursor among the names begins with a digit: numbers begin with "+".
        is_behind = after.startswith(_BEHIND)
        low, high = (named, len(found)) if is_behind else (0, named)
        start = 0
        if after:
            last = after.removeprefix(_BEHIND)
            start = bisect_right(found, last, low, high, key=lambda line: line.number)
        page, end = found[start : start + limit], start + limit
        more = end < len(found)
        behind = _BEHIND if end > named else ""
        return Page(page, len(found), behind + page[-1].number if more else None)

    def _wanted(self, words: str) -> list[str]:
        digits = "".join(c for c in words if c not in _SEPARATORS)
        if digits.startswith("00"):
            digits = "+" + digits.removeprefix("00")
        if digits.removeprefix("+").isdecimal():
            return [digits]  # a number is one word, with any spacing
        return fold(words).split()

    def _view(self, fleet: str | None) -> View:
        view = self._views.get(fleet)
        if view is None:
            if fleet is None:
                lines = [line for own in self._fleets.values() for line in own.values()]
            else:
                lines = list(self._fleets.get(fleet, {}).values())
            view = View(sorted(lines, key=lambda line: line.number))
            if fleet is None or fleet in self._fleets:
                self._views[fleet] = view
        return view

    # -- following Redis --------------------------------------------------------------------------

    def _on_keys(self, keys: Sequence[bytes] | None) -> None:
        if keys is None:
            self._all = True
        else:
            self._changed.update(keys)
        self._wake.set()

    async def _follow(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self._all:
                    self._all = False
                    await self._read_all()
                await self._read_changed()
                self._tried.set()
            except Exception as error:
                self._all = True
                self._tried.set()
                is_away = isinstance(error, REDIS_ERRORS)
                if not is_away:
                    background_tasks.report("directory: lines were not read", error)
                await asyncio.sleep(_RETRY_S if is_away else _FAULT_S)
                self._wake.set()

    async def _read_all(self) -> None:
        seen: set[str] = set()
        batch: list[bytes] = []
        async for key in self._redis.scan_iter(match=LINE + "*", count=_BATCH):
            batch.append(bytes(key))
            if len(batch) == _BATCH:
                seen.update(await self._read(batch))
                batch = []
        seen.update(await self._read(batch))
        for number in self._where.keys() - seen:
            self._drop(number)

    async def _read_changed(self) -> None:
        while self._changed:
            keys = [self._changed.pop() for _ in range(min(_BATCH, len(self._changed)))]
            await self._read(keys)

    async def _read(self, keys: list[bytes]) -> list[str]:
        """Read these lines again; returns the numbers of those that are lines."""
        if not keys:
            return []
        there = []
        replies = await exchange(self._redis, [("GET", key) for key in keys])
        for key, raw in zip(keys, replies, strict=True):
            if isinstance(raw, Exception) and not is_wrong_type(raw):
                raise raw
            number = key.removeprefix(_PREFIX).decode(errors="replace")
            line = self._listed(number, raw) if isinstance(raw, bytes) else None
            if line is None:
                self._drop(number)
            else:
                self._put(line)
                there.append(number)
        return there

    def _listed(self, number: str, raw: bytes) -> Listed | None:
        try:
            document = _decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        label = document.label or ""
        if not document.fleet:
            return None
        text = f"{fold(label)} {number} {self._national(number)}"
        fax = document.offer is not None and document.offer.fax
        return Listed(number, document.fleet, label, fax, text)

    def _put(self, line: Listed) -> None:
        fleet = self._where.get(line.number)
        if fleet is not None and self._fleets[fleet][line.number] == line:
            return  # most changes are of forwards, which are not in the index
        self._drop(line.number)
        self._where[line.number] = line.fleet
        self._fleets.setdefault(line.fleet, {})[line.number] = line
        self._views.pop(line.fleet, None)
        self._views.pop(None, None)

    def _drop(self, number: str) -> None:
        fleet = self._where.pop(number, None)
        if fleet is not None:
            del self._fleets[fleet][number]
            if not self._fleets[fleet]:
                del self._fleets[fleet]
            self._views.pop(fleet, None)
            self._views.pop(None, None)
