"""The fleets of the lines that are called: their documents and what they have used, from memory.

A fleet is read when one of its lines is first called. It is read again in the background whenever
Redis reports a change of it, of its usage or of its active calls. Meanwhile, and while Redis is
away, the known data are used. So a call only looks into a dictionary.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from redis.asyncio import Redis

from rules.billing import month_begin, month_of
from rules.calendar import Calendar
from rules.callers import CallerList
from rules.fleet import Fleet, is_name, load_fleet
from rules.model import CAPPED, DocumentError
from rules.numbers import Numbering
from rules.usage_notes import NOTHING, Note, Using, notes_of
from store import background_tasks
from store.connection import Command
from store.keys import active_calls_key, fleet_key, fleet_usage_key
from store.lookup import seconds_used
from store.redis_errors import REDIS_ERRORS, is_wrong_type

_PATIENCE_S = 0.05
"""Seconds that the first call of a fleet waits for its document."""
_EXCHANGE_S = 1.0
_PAUSE_S = 0.02
"""Seconds for which changes are collected, because a busy fleet's usage changes with every call
that ends."""
_RETRY_S = 0.5
_MOST = 20_000
_AT_ONCE = 30
"""Fleets read in one exchange: parsing so many replies delays no call."""
_NOTES_AT_ONCE = 200  # about a millisecond
Ask = Callable[[Sequence[Command]], Awaitable[Sequence[Any]]]
"""Sends commands and returns a reply for each, an exception for one that failed."""


@dataclass(frozen=True, slots=True)
class FleetState:
    """The cached data of a fleet.

    Attributes:
        fleet: its document; None when it has none.
        used_s: seconds of its cap that its lines have used in the month, without active calls.
        until: unix seconds when that month ends.
        using: what active calls use, on all workers; workers write notes of them once a second.
        refused: its document is invalid and no good one is known here. It may suspend the lines, so
            their calls are rejected.
    """

    fleet: Fleet | None = None
    used_s: float = 0.0
    until: float = 0.0
    using: Using = NOTHING
    refused: bool = False

    @property
    def suspended(self) -> bool:
        """Whether its lines are suspended, or may be because the document is invalid."""
        return self.refused or (self.fleet is not None and self.fleet.suspended)

    @property
    def countries(self) -> frozenset[str] | None:
        """The countries of its allowed targets; None = it has no list of its own."""
        return self.fleet.forward_countries if self.fleet is not None else None

    @property
    def calendars(self) -> Mapping[str, Calendar]:
        """Its calendars by name."""
        return self.fleet.calendars if self.fleet is not None else {}

    @property
    def lists(self) -> Mapping[str, CallerList]:
        """Its lists of callers by name."""
        return self.fleet.lists if self.fleet is not None else {}

    def cap_left_s(self, unix_now: float) -> float | None:
        """Seconds of the cap that are left in the month after active calls, negative if it is
        exceeded; None without a cap."""
        if self.fleet is None or self.fleet.cap_seconds is None:
            return None
        if unix_now >= self.until:
            return self.fleet.cap_seconds
        return self.fleet.cap_seconds - self.used_s - self.using.out_of_plan_by(unix_now)


_NOTHING = FleetState()
_UNKNOWN = FleetState(until=-1.0)
"""Redis could not be asked about it."""


class Fleets:
    """Fleets by name.

    Args:
        redis: a client, of one Redis or of a Cluster.
        timezone: IANA name; decides which month it is.
        numbering: for the numbers in lists of callers.
        on_refused: called with the key and the error of each bad document; the last good one stays
            in use; without one the calls of the fleet's lines are rejected.
        ask: `store.lines.Store.ask`, for a Cluster: a server that is away keeps no fleet of other
            servers from being read.

    Attributes:
        refused: what is wrong with the documents that are bad now, by fleet.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        timezone: str,
        numbering: Numbering,
        clock: Callable[[], float] = time.time,
        on_refused: Callable[[str, DocumentError], None] | None = None,
        ask: Ask | None = None,
    ) -> None:
        self.on_refused = on_refused
        self.refused: dict[str, str] = {}
        self._ask: Ask = ask or self._ask_client
        self._redis: Any = redis
        self._zone = ZoneInfo(timezone)
        self._numbering = numbering
        self._clock = clock
        self._known: OrderedDict[str, FleetState] = OrderedDict()
        self._due: dict[str, None] = {}
        self._wanted: dict[str, asyncio.Future[None]] = {}  # not known yet; calls wait
        self._reading: set[str] = set()
        self._reported: dict[str, Any] = {}  # the bad documents that were reported
        self._digests: dict[str, bytes] = {}  # of the good documents, so that none is parsed twice
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="rules: fleets")

    async def close(self) -> None:
        self._closing = True
        self._wake.set()
        task, self._task = self._task, None
        await background_tasks.end([task])

    def find(self, name: str) -> FleetState | None:
        """The cached data of a fleet; None if it must be read (`load`)."""
        return self._known.get(name)

    async def load(self, name: str) -> FleetState:
        """The same, read from Redis if necessary. After 50 ms it counts as having no document."""
        if name not in self._known and is_name(name):
            read = self._wanted.get(name)
            if read is None:
                read = self._wanted[name] = asyncio.get_running_loop().create_future()
                self._wake.set()
            # The read continues if a caller hangs up or times out, because others may wait too.
            await background_tasks.wait_for_reply(read, _PATIENCE_S)
        return self._known.get(name, _NOTHING)

    def changed(self, name: str | None) -> None:
        """Handle a change of a fleet's document or usage; None = any may have changed."""
        for each in [*self._known, *self._reading] if name is None else (name,):
            if each in self._known or each in self._reading:
                self._due[each] = None
        self._wake.set()

    def renumber(self, numbering: Numbering) -> None:
        """Use another numbering plan; every fleet is read again."""
        self._numbering = numbering
        self._digests.clear()
        self.changed(None)

    async def _run(self) -> None:
        """One exchange at a time, for many fleets. Requests that arrive meanwhile form the next."""
        while not self._closing:
            await self._wake.wait()
            if not self._wanted:
                await asyncio.sleep(_PAUSE_S)
            self._wake.clear()
            while self._wanted or self._due:
                await self._exchange()

    async def _exchange(self) -> None:
        """Read the requested fleets, and request again those that cannot be read now."""
        names = [*self._wanted, *self._due][:_AT_ONCE]
        wanted = {name: self._wanted.pop(name) for name in names if name in self._wanted}
        for name in names:
            self._due.pop(name, None)
        failed: Sequence[str] = names
        try:
            async with asyncio.timeout(_EXCHANGE_S):
                failed = await self._read(names)
        except Exception as error:
            if not isinstance(error, REDIS_ERRORS):
                background_tasks.report("rules: an exchange about fleets failed", error)
        for name in failed:
            self._known.setdefault(name, _UNKNOWN)
        _finish(wanted.values())
        if len(failed) == len(names):
            await asyncio.sleep(_RETRY_S)
            self._again(failed)
        elif failed:
            asyncio.get_running_loop().call_later(_RETRY_S, self._again, failed)

    def _again(self, names: Iterable[str]) -> None:
        self._due.update(dict.fromkeys(names))
        self._wake.set()

    async def _read(self, names: Sequence[str]) -> Sequence[str]:
        """Read fleets. Returns those that a server of a Cluster could not tell. Raises
        REDIS_ERRORS."""
        month, until = month_of(self._clock(), self._zone)
        commands: list[Command] = []
        for name in names:
            usage = fleet_usage_key(name, month)
            commands.append(("GET", fleet_key(name)))
            commands.append(("HMGET", usage, *CAPPED))
            commands.append(("HGETALL", active_calls_key(usage)))
        failed = []
        # A change that arrives meanwhile causes another read.
        self._reading.update(names)
        try:
            replies = await self._ask(commands)
            for place, name in enumerate(names):
                answers = replies[3 * place : 3 * place + 3]
                if any(isinstance(one, Exception) and not is_wrong_type(one) for one in answers):
                    failed.append(name)
                    continue
                raw, used, standing = answers
                try:
                    self._keep(name, raw, used, await self._using(standing), until)
                except Exception as error:
                    # An error with one fleet must not stop the others.
                    background_tasks.report(f"rules: fleet {name} cannot be kept", error)
                    self._known.setdefault(name, _UNKNOWN)
        finally:
            self._reading.difference_update(names)
        return failed

    async def _ask_client(self, commands: Sequence[Command]) -> Sequence[Any]:
        """All in one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        return replies

    async def _using(self, standing: Any) -> Using:
        if isinstance(standing, list):  # over a connection without redis-py's client
            standing = dict(zip(standing[::2], standing[1::2], strict=True))
        if not isinstance(standing, dict) or not standing:
            return NOTHING
        now = self._clock()
        notes = await read_notes(standing, now)
        return Using.of(notes.values(), now, month_begin(now, self._zone))

    def _keep(self, name: str, raw: Any, used: Any, using: Using, until: float) -> None:
        before = self._known.get(name, _UNKNOWN)
        fleet, is_refused = None, False
        try:
            if isinstance(raw, Exception):
                raise DocumentError("document", None, "key is no string")
            if raw is not None:
                fleet = self._parsed(name, raw, before.fleet)
            self._reported.pop(name, None)
            self.refused.pop(name, None)
        except DocumentError as error:
            fleet = before.fleet
            self._digests.pop(name, None)
            is_refused = before is _UNKNOWN or before.refused
            served = "its lines are closed" if is_refused else "the last good one serves"
            self.refused[name] = f"{error}; {served}"
            if self._reported.get(name, self) != raw and self.on_refused is not None:
                self.on_refused(fleet_key(name), error)
            self._reported[name] = raw if isinstance(raw, bytes) else None
        self._known[name] = FleetState(fleet, capped_s(used), until, using, is_refused)
        self._known.move_to_end(name)
        if len(self._known) > _MOST:
            forgotten, _ = self._known.popitem(last=False)
            self._reported.pop(forgotten, None)
            self._digests.pop(forgotten, None)
            self.refused.pop(forgotten, None)

    def _parsed(self, name: str, raw: bytes, before: Fleet | None) -> Fleet:
        """The fleet of a document. Its usage changes with every call that ends, the document
        seldom. Raises DocumentError."""
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        if before is not None and self._digests.get(name) == digest:
            return before
        fleet = load_fleet(raw, name, self._numbering)
        for calendar in fleet.calendars.values():
            calendar.prepare(self._clock())
        self._digests[name] = digest
        return fleet


def capped_s(used: Any) -> float:
    """Seconds that count against a cap, from the values of the classes CAPPED in a usage key."""
    return sum(map(seconds_used, used)) if isinstance(used, (list, tuple)) else 0.0


async def read_notes(stored: Mapping[bytes, bytes], now: float) -> dict[str, Note]:
    """The notes of a fleet by call id (`notes_of`), yielding to calls, because there may be
    thousands."""
    notes: dict[str, Note] = {}
    rest = iter(stored.items())
    while part := dict(islice(rest, _NOTES_AT_ONCE)):
        if notes:
            await asyncio.sleep(0)
        notes |= notes_of(part, now)
    return notes


def _finish(reads: Iterable["asyncio.Future[None]"]) -> None:
    for read in reads:
        if not read.done():
            read.set_result(None)
