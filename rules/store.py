"""The rules as Redis has them, from memory: a read-through cache that Redis itself invalidates.

The order that makes it safe: a read notes the `Span` it begins in; an invalidation that arrives
while the read is on its way marks it; and an answer is kept as current only if its span still
goes on and no mark was made. Anything else is kept as a last good copy, to be read again.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from zoneinfo import ZoneInfo

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rules.billing import month_of
from rules.cache import Cache, Entry, Slot, Span
from rules.canary import Canary
from rules.contact import Contact, read_contacts
from rules.invalidation import Invalidations
from rules.model import DocumentError, Line, load_line
from rules.numbers import Numbering
from rules.reader import Answer, Reader, Unavailable

__all__ = ["PROBE_PREFIX", "Contact", "Entry", "Store", "Unavailable"]

PROBE_PREFIX = "probe:"
"""Of keys that mean nothing: a writer's question whether its write has been heard of."""

_PATIENCE_KNOWN_S = 0.05
"""How long a call of a line with a last good copy waits for a better one."""
_PATIENCE_UNKNOWN_S = 1.0
_LARGEST_BATCH = 200
_CANARY_EVERY_S = 1.0
_CANARY_EVERY_DOWN_S = 0.25
_NO_TARGETS: Mapping[str, Line | None] = {}


class _Read:
    """A look-up on its way: everybody who waits for it, and whether it was overtaken."""

    __slots__ = ("future", "overtaken")

    def __init__(self, future: "asyncio.Future[Entry | None]") -> None:
        self.future = future
        self.overtaken = False


class Store:
    """Lines, registrations and plan use by number.

    Args:
        redis: a client; its settings are used for two connections of the store's own.
        cache_lines: how many lines to remember.
        stale_max_s: how long a last good copy may serve while Redis is away, in seconds.
        timezone: IANA name; decides which month of a plan it is.
        canary: this worker's unique id.

    Attributes:
        redis_up: Redis answered last time it was asked, which is once a second at least.
        refused: how many bad documents were met, by kind "line" and "reg".
        on_refused: called with the key and the error of each.
        on_probe: called with the key of each probe that the stream tells of, once everything that
            it told before is in force here.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        numbering: Numbering,
        cache_lines: int,
        stale_max_s: float,
        timezone: str,
        canary: str,
    ) -> None:
        self.redis_up = False
        self.refused = {"line": 0, "reg": 0}
        self.on_refused: Callable[[str, DocumentError], None] | None = None
        self.on_probe: Callable[[str], None] | None = None
        self._numbering = numbering
        self._zone = ZoneInfo(timezone)
        self._cache = Cache(cache_lines, stale_max_s)
        self._reader = Reader(redis, _PATIENCE_UNKNOWN_S)
        self._canary = Canary(canary)
        self._stream = Invalidations(
            redis,
            ("line:", "reg:", "usage:", PROBE_PREFIX, self._canary.key),
            on_live=self._live,
            on_keys=self._invalidated,
            on_lost=self._lost,
        )
        self._queued: dict[str, _Read] = {}
        self._flying: dict[str, _Read] = {}
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._canary_due = True
        self._lost_at = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect, and wait until Redis has answered or has been found away (1 s at most)."""
        self._tasks = [
            asyncio.create_task(self._stream.run(), name="rules: invalidations"),
            asyncio.create_task(self._read_for_ever(), name="rules: reader"),
            asyncio.create_task(self._sing(), name="rules: canary"),
        ]
        await self._stream.tried.wait()
        await self._answered.wait()

    async def close(self) -> None:
        """Stop, and let nobody wait for an answer that will not come."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self.redis_up = False
        self._give_up([*self._flying.values(), *self._queued.values()])
        self._flying.clear()
        self._queued.clear()
        await self._reader.close()

    def peek(self, number: str) -> Entry | None:
        """What memory knows about a number; None when Redis has to be asked (`look_up`).

        While Redis is away this is the last good copy.
        """
        slot = self._cache.find(number)
        if slot is None:
            return None
        if self._cache.is_current(slot):
            return slot.entry
        return None if self.redis_up else self._cache.last_good(slot)

    async def look_up(self, number: str) -> Entry:
        """What is known about a number, read from Redis if memory is not current.

        A number with a last good copy waits 50 ms for a better one at most.

        Raises:
            Unavailable: nothing is known, or only what is too old, and Redis is away.
        """
        slot = self._cache.find(number)
        copy = None
        if slot is not None:
            if self._cache.is_current(slot):
                return slot.entry
            copy = self._cache.last_good(slot)
        if self.redis_up:
            read = self._flying.get(number) or self._queued.get(number) or self._queue(number)
            patience_s = _PATIENCE_KNOWN_S if copy else _PATIENCE_UNKNOWN_S
            # The read goes on when the caller hangs up or loses patience: others may wait too.
            await asyncio.wait((read.future,), timeout=patience_s)
            found = read.future.result() if read.future.done() else None
            if found is not None:
                return found
        if copy is None:
            raise Unavailable(f"Redis is away and {number} is not in memory")
        return copy

    def targets(self, entry: Entry) -> Mapping[str, Line | None] | None:
        """The line of each number that the entry's forwards name, None where it is no line of
        ours; None for all when one of them is not in memory (`load_targets`)."""
        if not entry.targets:
            return _NO_TARGETS
        found: dict[str, Line | None] = {}
        for number in entry.targets:
            target = self.peek(number)
            if target is None:
                return None
            found[number] = target.line
        return found

    async def load_targets(self, entry: Entry) -> Mapping[str, Line | None]:
        """The same, read from Redis where needed. Never raises: a number that nothing is known
        about while Redis is away is taken for no line of ours."""
        entries = await asyncio.gather(*map(self._known_or_empty, entry.targets))
        return {n: e.line for n, e in zip(entry.targets, entries, strict=True)}

    def age_s(self) -> float:
        """Seconds since the rules in memory were last known to be current; 0 while they are."""
        return 0.0 if self._cache.span is not None else time.monotonic() - self._lost_at

    @property
    def invalidation_lag_s(self) -> float:
        """Seconds from a write until the news of it was here, measured once a second."""
        return self._canary.lag_s

    async def _known_or_empty(self, number: str) -> Entry:
        try:
            return await self.look_up(number)
        except Unavailable:
            return Entry()

    # Reading: one task, one batch at a time; what is asked meanwhile makes the next batch.

    def _queue(self, number: str) -> _Read:
        read = self._queued[number] = _Read(asyncio.get_running_loop().create_future())
        self._wake.set()
        return read

    async def _read_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self._canary_due or self._queued:
                    if self._canary_due:
                        self._canary_due = False
                        await self._touch_canary()
                    if self._queued:
                        await self._read_batch()
                    self.redis_up = True
            except Unavailable:
                self.redis_up = False
                self._give_up(self._queued.values())
                self._queued.clear()
            except Exception as error:
                # One answer that cannot be dealt with must not end the reading of all others.
                context = {"message": "rules: a batch of look-ups failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
            self._answered.set()

    async def _read_batch(self) -> None:
        numbers = list(self._queued)[:_LARGEST_BATCH]
        batch = {number: self._queued.pop(number) for number in numbers}
        # Anyone may join a read on its way until an invalidation overtakes it.
        self._flying = dict(batch)
        span, begun = self._cache.span, time.monotonic()
        try:
            slots = await self._read_slots(numbers)
            for number, read in batch.items():
                slot = slots[number]
                if span is not None and not read.overtaken:
                    slot.span = span
                else:
                    slot.span = Span(lost_at=begun)
                self._cache.keep(number, slot)
                if not read.future.done():
                    read.future.set_result(slot.entry)
        finally:
            self._flying = {}
            self._give_up(batch.values())

    async def _read_slots(self, numbers: Sequence[str]) -> dict[str, Slot]:
        unix_now = time.time()
        answers = await self._reader.read(numbers, unix_now)
        slots = {n: self._slot(n, a) for n, a in zip(numbers, answers, strict=True)}
        planned = [n for n, slot in slots.items() if slot.entry.plan_left_s() is not None]
        if planned:
            month, until = month_of(unix_now, self._zone)
            used = await self._reader.read_usage([f"usage:{n}:{month}" for n in planned])
            for number, seconds in zip(planned, used, strict=True):
                slots[number].use_plan(seconds, until)
        return slots

    def _slot(self, number: str, answer: Answer) -> Slot:
        """Read an answer. A document that has not changed is not parsed again, nor counted."""
        before = self._cache.find(number)
        line, refused, digest = None, None, _digest(answer.document)
        if before is not None and before.digest == digest:
            line, refused = before.entry.line, before.entry.refused
        elif answer.document is not None:
            try:
                line = self._line(number, answer.document)
            except DocumentError as error:
                # A copy, without the traceback that would keep the whole document in memory.
                refused = DocumentError(error.field, error.value, error.problem)
                line = before.entry.line if before is not None else None
                self._refuse("line", number, refused)
        contacts: tuple[Contact, ...] = ()
        if isinstance(answer.members, ResponseError):
            self._refuse("reg", number, DocumentError("contacts", None, "key is no sorted set"))
        elif answer.members:
            contacts, bad_members = read_contacts(answer.members)
            for bad_member in bad_members:
                self._refuse("reg", number, bad_member)
        return Slot(Entry.of(line, contacts, refused), Span(0.0), digest)

    def _line(self, number: str, document: bytes | ResponseError) -> Line:
        if isinstance(document, ResponseError):
            raise DocumentError("document", None, "key is no string")
        return load_line(document, number, self._numbering)

    def _refuse(self, kind: str, number: str, error: DocumentError) -> None:
        self.refused[kind] += 1
        if self.on_refused is not None:
            self.on_refused(f"{kind}:{number}", error)

    @staticmethod
    def _give_up(reads: Iterable[_Read]) -> None:
        for read in reads:
            if not read.future.done():
                read.future.set_result(None)

    # The stream, and the canary that proves it alive.

    def _live(self) -> None:
        self._cache.begin_span()
        self._canary.expect_nothing()
        self._ask_canary()

    def _lost(self, heard_at: float) -> None:
        self._cache.end_span(heard_at)
        self._lost_at = heard_at
        # Ask at once whether it is Redis that has gone, or this connection alone.
        self._ask_canary()

    def _invalidated(self, keys: Sequence[bytes] | None) -> None:
        if keys is None:
            # Everything was deleted: what is remembered is as stale as after an interruption.
            self._cache.end_span(time.monotonic())
            self._cache.begin_span()
            return
        for key in keys:
            name = key.decode("utf-8", "replace")
            if name == self._canary.key:
                self._canary.heard()
                continue
            if name.startswith(PROBE_PREFIX):
                # While Redis does not answer reads, the last good copies are in force.
                if self.on_probe is not None and self.redis_up:
                    self.on_probe(name)
                continue
            kind, _, rest = name.partition(":")
            number = rest.rpartition(":")[0] if kind == "usage" else rest
            self._cache.invalidate(number, usage_only=kind == "usage")
            read = self._flying.pop(number, None)
            if read is not None:
                read.overtaken = True

    async def _sing(self) -> None:
        while True:
            self._ask_canary()
            await asyncio.sleep(_CANARY_EVERY_S if self.redis_up else _CANARY_EVERY_DOWN_S)
            if self._canary.is_missed and self.redis_up and self._cache.span is not None:
                self._stream.restart()

    def _ask_canary(self) -> None:
        self._canary_due = True
        self._wake.set()

    async def _touch_canary(self) -> None:
        self._canary.send()
        if not await self._reader.touch(self._canary.key, self._canary.ttl_s):
            self._canary.expect_nothing()


def _digest(document: bytes | ResponseError | None) -> bytes:
    if document is None:
        return b""
    if isinstance(document, ResponseError):
        return b"no string"
    return hashlib.blake2b(document, digest_size=16).digest()
