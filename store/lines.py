"""Lines from memory: a read-through cache that Redis invalidates.

It is safe because of this order: a read notes the `Span` in which it begins; an invalidation that
arrives during the read marks it; an answer counts as current only if its span has not ended and
there is no mark. Any other answer is kept as a last good copy, to be read again.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from redis.exceptions import ResponseError

from rules.billing import month_of
from rules.contact import Contact, read_contacts
from rules.line_document import load_line
from rules.model import DocumentError, Line
from rules.numbers import Numbering
from store import background_tasks
from store.cache import Cache, Entry, Slot, Span
from store.connection import Command
from store.keys import (
    ACTIVE_CALLS,
    CANARY,
    FLEET,
    LINE,
    PROBE,
    REGISTRATIONS,
    TRANSFER,
    USAGE,
    fleet_of_active_calls,
    line_key,
    number_of_probe,
    registrations_key,
)
from store.layout import Client, Layout, layout_of
from store.lookup import Lookup, pairs, seconds_used
from store.shard import Shard, Unavailable

__all__ = ["Contact", "Entry", "Store", "Unavailable"]

_PATIENCE_KNOWN_S = 0.05
"""Seconds that a call of a line with a last good copy waits for a current one."""
_PATIENCE_UNKNOWN_S = 1.0
_MANY_KEYS = 2_000
"""A notification of more keys than this makes everything stale, which is faster than handling
each."""
_PREFIXES = (LINE, REGISTRATIONS, USAGE, FLEET, ACTIVE_CALLS, TRANSFER, PROBE)
_MOST_BAD = 1_000
_NO_TARGETS: Mapping[str, Line | None] = {}


class Store:
    """Lines, registrations and plan use by number.

    Args:
        redis: a client; its settings are used for two connections of the store's own to each
            server.
        cache_lines: lines kept in memory.
        stale_max_s: how long a last good copy may be used while Redis is away, in seconds.
        timezone: IANA name; determines the month of a plan.
        canary: this worker's unique id.
        on_refused: called with the key and the error of each bad document.
        on_refused_target: called with the number of each line that is read, the condition of each
            of its forwards whose target is refused, that target and why.
        on_trouble: called with the server, the error and its kind (`store.redis_errors`) at each
            failure of Redis.
        on_fleet: called with the name of a fleet whose document or usage has changed; with None
            when any may have.
        on_line: called with the number of a line whose document has changed; with None when any
            may have.
        on_transfer: called with the key of each transfer that a stream reports.
        leads_here: whether a URI leads to this engine; a contact that does is refused.
        same_phone: whether two contacts are one phone, which is rung once.
        on_probe: called with the key of each probe that a stream reports, once all its earlier
            reports are in force here, and the probe's line is read again if it is in memory.

    Attributes:
        refused: number of bad documents found, by kind "line" and "reg".
        bad_lines: lines in memory whose present document is refused; only some of them if there are
            many.
    """

    def __init__(
        self,
        redis: Client,
        *,
        numbering: Numbering,
        cache_lines: int,
        stale_max_s: float,
        timezone: str,
        canary: str,
        on_refused: Callable[[str, DocumentError], None] | None = None,
        on_refused_target: Callable[[str, str, str, str], None] | None = None,
        on_trouble: Callable[[str, BaseException, str], None] | None = None,
        on_fleet: Callable[[str | None], None] | None = None,
        on_line: Callable[[str | None], None] | None = None,
        on_transfer: Callable[[str], None] | None = None,
        on_probe: Callable[[str], None] | None = None,
        leads_here: Callable[[str], bool] | None = None,
        same_phone: Callable[[Contact, Contact], bool] | None = None,
    ) -> None:
        self.refused = {"line": 0, "reg": 0}
        self.bad_lines: set[str] = set()
        self.on_refused = on_refused
        self.on_refused_target = on_refused_target
        self.on_trouble = on_trouble
        self.on_fleet = on_fleet
        self.on_line = on_line
        self.on_transfer = on_transfer
        self.on_probe = on_probe
        self.leads_here = leads_here
        self.same_phone = same_phone
        self._numbering = numbering
        self._zone = ZoneInfo(timezone)
        self._cache = Cache(cache_lines, stale_max_s)
        self._reads: dict[str, Lookup] = {}
        self._edition = 0  # of the numbering plan
        self._begun = time.monotonic()

        def make(name: str, dial: Any, **more: Any) -> Shard:
            return Shard(name, dial, prefixes=_PREFIXES, canary=canary, watcher=self, **more)

        self._layout: Layout = layout_of(redis, make)

    @property
    def redis_up(self) -> bool:
        """Whether all of Redis answered the last command, which is sent at least once a second."""
        shards = self._layout.shards
        return bool(shards) and all(shard.up for shard in shards)

    @property
    def redis_refuses(self) -> str | None:
        """Why a server of Redis refuses writes ("full", "read_only"...); None while all accept
        them."""
        return next((shard.refused for shard in self._layout.shards if shard.refused), None)

    async def start(self) -> None:
        """Connect, and wait until Redis has answered or failed (1 s at most)."""
        await self._layout.start()

    async def close(self) -> None:
        """Stop, and end all waiting for answers."""
        await self._layout.close()
        for read in list(self._reads.values()):
            self._failed(read)

    def renumber(self, numbering: Numbering) -> None:
        """Use another numbering plan; everything in memory is read again."""
        self._numbering = numbering
        self._edition += 1
        self.read_all_again()

    def read_all_again(self) -> None:
        """Everything in memory is in doubt, and read again before it is used: the machine's clock
        was set, by which registrations that had expired were left out, and the month was chosen."""
        for shard in self._layout.shards:
            shard.forget()
        self._overtake_all()

    def peek(self, number: str) -> Entry | None:
        """The entry of a number from memory; None if Redis must be asked (`look_up`).

        While Redis is away this is the last good copy.
        """
        slot = self._cache.find(number)
        if slot is None:
            return None
        if self._cache.is_current(slot):
            return slot.entry
        up, prompt = self._state(number)
        if prompt or (up and slot.lacks_phone):
            return None
        copy = self._cache.last_good(slot)
        if up and copy is not None and number not in self._reads:
            self._read(number)  # for the next call: this one does not wait
        return copy

    def recall(self, number: str) -> tuple[Entry | None, bool]:
        """The entry of a number from memory, None if there is none or it is older than
        `stale_max_s`; and whether it is current. Does not ask Redis."""
        return self._cache.recall(number)

    def latest(self, number: str) -> Entry | None:
        """The last good entry of a number from memory, current or not, for those who cannot wait
        for Redis. If it is not current it is read again, for the next time."""
        slot = self._cache.find(number)
        if slot is None:
            return None
        is_read = self._cache.is_current(slot) or number in self._reads
        if not is_read and self._state(number)[0]:
            self._read(number)
        return self._cache.latest(slot)

    async def look_up(self, number: str) -> Entry:
        """The entry of a number, read from Redis if memory is not current.

        With a last good copy it waits at most 50 ms for a current one, unless the line had no phone
        and one has registered: the copy would make it unreachable.

        Raises:
            Unavailable: Redis is away and there is no entry, or it is too old.
        """
        slot = self._cache.find(number)
        copy, is_good = None, False
        if slot is not None:
            if self._cache.is_current(slot):
                return slot.entry
            copy = self._cache.last_good(slot)
            is_good = copy is not None and not slot.lacks_phone
        up, prompt = self._state(number)
        if prompt or (up and not is_good):
            read = self._reads.get(number) or self._read(number)
            patience_s = _PATIENCE_KNOWN_S if is_good else _PATIENCE_UNKNOWN_S
            # The read continues if the caller hangs up or times out, because others may wait too.
            await background_tasks.wait_for_reply(read.future, patience_s)
            found = read.future.result() if read.future.done() else None
            if found is not None:
                return found
        if copy is None:
            raise Unavailable(f"Redis is away and {number} is not in memory")
        return copy

    def ask_if_line(self, number: str, tell: Callable[[bool], None]) -> None:
        """Ask Redis whether a number is a line, without caching: for the many numbers that mostly
        are not lines. `tell` is also called with True if only `look_up` can determine it; never if
        Redis is away."""
        key = line_key(number)
        shard = self._layout.shard_of(key)

        def take(reply: Any, span: Span | None, begun: float) -> None:
            if not isinstance(reply, Unavailable):
                tell(reply != 0)

        if shard is not None:
            shard.ask(("EXISTS", key), take)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Ask the servers of a Cluster, each for its keys (the second word). The reply of one that
        is away is an exception, and so is that to a refused command."""
        loop = asyncio.get_running_loop()
        replies: list[asyncio.Future[Any]] = []
        for command in commands:
            reply: asyncio.Future[Any] = loop.create_future()
            replies.append(reply)
            shard = self._layout.shard_of(str(command[1]))
            if shard is None or not shard.up:
                reply.set_result(Unavailable("its server is away"))
                continue
            shard.ask(command, partial(_give, reply))
        return await asyncio.gather(*replies)

    def targets(self, entry: Entry, caller: str | None = None) -> Mapping[str, Line | None] | None:
        """The line of each number that the entry's forwards name, and of the caller if they depend
        on it; None if it is not one of our lines. None instead of all if one of them is not in
        memory (`load_targets`)."""
        if not entry.targets and not entry.asks_for_caller:
            return _NO_TARGETS
        found: dict[str, Line | None] = {}
        for number in _numbers(entry, caller):
            target = self.peek(number)
            if target is None:
                return None
            found[number] = target.line
        return found

    async def load_targets(
        self, entry: Entry, caller: str | None = None
    ) -> Mapping[str, Line | None]:
        """The same, read from Redis where needed. Never raises: a number without an entry while
        Redis is away counts as not one of our lines."""
        numbers = _numbers(entry, caller)
        entries = await asyncio.gather(*map(self._known_or_empty, numbers))
        return {n: e.line for n, e in zip(numbers, entries, strict=True)}

    def age_s(self) -> float:
        """Seconds since the rules in memory were last known to be current; 0 while they are."""
        off = [shard.lost_at for shard in self._layout.shards if shard.span is None]
        if not self._layout.shards:
            off = [self._begun]
        return time.monotonic() - min(off) if off else 0.0

    @property
    def invalidation_lag_s(self) -> float:
        """Seconds from a write to its notification here, measured once a second."""
        return max((shard.canary.lag_s for shard in self._layout.shards), default=0.0)

    async def _known_or_empty(self, number: str) -> Entry:
        try:
            return await self.look_up(number)
        except Unavailable:
            return Entry()

    # Reading

    def _state(self, number: str) -> tuple[bool, bool]:
        """Whether the server of the number's keys is up, and expected to answer at once."""
        shards = self._layout.shards
        if len(shards) == 1:
            return shards[0].up, shards[0].prompt
        line = self._layout.shard_of(line_key(number))
        reg = self._layout.shard_of(registrations_key(number))
        if line is None or reg is None:
            return False, False
        return line.up and reg.up, line.prompt and reg.prompt

    def _read(self, number: str) -> Lookup:
        future = asyncio.get_running_loop().create_future()
        read = self._reads[number] = Lookup(number, future, self._layout, self._done, self._failed)
        read.read(time.time())
        return read

    def _done(self, read: Lookup) -> None:
        """Finish a look-up: all answers are there."""
        try:
            newer = self._cache.find(read.number) if read.overtaken else None
            if newer is not None and newer.begun >= read.begun:
                # A read that began later needed fewer answers, or its server was faster.
                self._end(read, self._cache.latest(newer))
                return
            slot = read.slot
            if slot is None:
                slot = read.slot = self._slot(read.number, read.document, read.members)
                if slot.entry.plan_left_s() is not None:
                    read.read_plan(*month_of(time.time(), self._zone))
                    return
            else:
                slot.use_plan(seconds_used(read.used), read.until)
            span = read.span()
            if span is None or read.overtaken:
                span = Span(lost_at=read.begun)
            if read.overtaken and not slot.entry.live_contacts(time.time()):
                slot.lacks_phone = True  # it may have registered meanwhile
            slot.span, slot.begun = span, read.begun
            self._cache.keep(read.number, slot)
            self._end(read, slot.entry)
        except BaseException:
            self._failed(read)
            raise

    def _failed(self, read: Lookup) -> None:
        self._end(read, None)

    def _end(self, read: Lookup, entry: Entry | None) -> None:
        if self._reads.get(read.number) is read:
            del self._reads[read.number]
        if not read.future.done():
            read.future.set_result(entry)

    def _slot(self, number: str, document: bytes | ResponseError | None, listed: Any) -> Slot:
        """Evaluate an answer. An unchanged document is neither parsed nor counted again."""
        members = pairs(listed)
        before = self._cache.find(number)
        line, refused, digest = None, None, _digest(document, self._edition)
        if before is not None and before.digest == digest:
            line, refused = before.entry.line, before.entry.refused
        elif document is not None:
            try:
                line = self._line(number, document)
            except DocumentError as error:
                # A copy, without the traceback that would keep the whole document in memory.
                refused = DocumentError(error.field, error.value, error.problem)
                line = before.entry.line if before is not None else None
                self._refuse("line", number, refused)
        if refused is None:
            self.bad_lines.discard(number)
        elif len(self.bad_lines) < _MOST_BAD:
            self.bad_lines.add(number)
        contacts: tuple[Contact, ...] = ()
        if isinstance(members, ResponseError):
            self._refuse("reg", number, DocumentError("contacts", None, "key is no sorted set"))
        elif members:
            contacts, bad_members = read_contacts(members, self.leads_here, self.same_phone)
            for bad_member in bad_members:
                self._refuse("reg", number, bad_member)
        return Slot(Entry.of(line, contacts, refused), Span(0.0), digest)

    def _line(self, number: str, document: bytes | ResponseError) -> Line:
        if isinstance(document, ResponseError):
            raise DocumentError("document", None, "key is no string")
        line = load_line(document, number, self._numbering)
        for calendar in line.calendars.values():
            calendar.prepare(time.time())
        if self.on_refused_target is not None:
            for _, each in line.in_each_profile():
                for condition, to, refused in each.refused_targets():
                    self.on_refused_target(number, condition.value, to.number, refused)
        return line

    def _refuse(self, kind: str, number: str, error: DocumentError) -> None:
        self.refused[kind] += 1
        if self.on_refused is not None:
            self.on_refused(f"{kind}:{number}", error)

    # Reports of the shards

    def on_keys(self, shard: Shard, keys: Sequence[bytes] | None) -> None:
        """These keys have changed; None means all of them."""
        if keys is None:
            self._overtake_all()
            return
        if len(keys) > _MANY_KEYS:
            shard.forget()
            self._overtake_all()
        probes = []
        canary = shard.canary
        for key in keys if len(keys) <= _MANY_KEYS else ():
            name = key.decode("utf-8", "replace")
            kind, colon, rest = name.partition(":")
            kind += colon
            if kind == CANARY:
                if name == canary.key:
                    canary.reported()
                continue
            if kind == PROBE:
                probes.append(name)
                continue
            if kind == TRANSFER:
                if self.on_transfer is not None:
                    self.on_transfer(name)
                continue
            if kind == ACTIVE_CALLS:
                self._report_fleet(fleet_of_active_calls(name))
                continue
            number = rest.rpartition(":")[0] if kind == USAGE else rest
            if kind == FLEET or number.startswith(FLEET):
                self._report_fleet(rest if kind == FLEET else number.removeprefix(FLEET))
                continue
            self._cache.invalidate(
                number, usage_only=kind == USAGE, registered=kind == REGISTRATIONS
            )
            read = self._reads.pop(number, None)
            if read is not None:
                self._overtake(read)
            if kind == LINE and self.on_line is not None:
                self.on_line(number)  # after that: what it reads now is not overtaken
            if kind == LINE and number in self.bad_lines:
                self._read_again((number,))
        # While Redis does not answer reads, the last good copies are used.
        if self.on_probe is not None and shard.up:
            for name in probes:
                self._confirm(name)

    def _confirm(self, probe: str) -> None:
        """Report a probe once its line is read again: a call that waits too long for Redis uses the
        last good copy, which is the old line."""
        number = number_of_probe(probe)
        slot, read = self._cache.find(number), self._reads.get(number)
        if (slot is None and read is None) or (slot is not None and self._cache.is_current(slot)):
            self._report(probe)
            return

        def on_read(done: asyncio.Future[Entry | None]) -> None:
            if done.result() is not None:
                self._report(probe)

        (read or self._read(number)).future.add_done_callback(on_read)

    def _report(self, probe: str) -> None:
        if self.on_probe is not None:
            self.on_probe(probe)

    def on_stream(self, shard: Shard) -> None:
        """A server's stream of invalidations has started; changes may have been missed before."""
        self._report_any_fleet()
        self._read_again(self.bad_lines)

    def on_answers(self, shard: Shard, replies: Sequence[Any]) -> None:
        """Handle a cluster node's view of the cluster."""
        self._layout.answers(shard, replies)

    def on_shard_trouble(self, shard: Shard, error: BaseException, kind: str) -> None:
        """Handle a failure of a server."""
        if self.on_trouble is not None:
            self.on_trouble(shard.name, error, kind)

    def _report_fleet(self, name: str | None) -> None:
        if self.on_fleet is not None:
            self.on_fleet(name)

    def _report_any_fleet(self) -> None:
        """Report that every fleet and every line may have changed."""
        self._report_fleet(None)
        if self.on_line is not None:
            self.on_line(None)

    def _overtake_all(self) -> None:
        self._report_any_fleet()
        reads, self._reads = self._reads, {}
        for read in reads.values():
            self._overtake(read)
        self._read_again(self.bad_lines)

    def _overtake(self, read: Lookup) -> None:
        """Its answers may be old. They must not be all that memory has, nor come after a change is
        confirmed: the next read begins at once."""
        read.overtaken = True
        if self._cache.find(read.number) is None:
            self._read(read.number)

    def _read_again(self, refused: Iterable[str]) -> None:
        """Documents that were refused may be valid now, or gone: `bad_lines` does not wait for a
        call to find out."""
        for number in tuple(refused):
            if number not in self._reads:
                self._read(number)


def _give(future: asyncio.Future[Any], reply: Any, span: Span | None, begun: float) -> None:
    if not future.done():
        future.set_result(reply)


def _numbers(entry: Entry, caller: str | None) -> tuple[str, ...]:
    """The numbers whose lines a decision needs."""
    if caller is None or not entry.asks_for_caller or caller in entry.targets:
        return entry.targets
    return (*entry.targets, caller)


def _digest(document: bytes | ResponseError | None, edition: int) -> bytes:
    """Identifies a document as decoded with an edition of the numbering plan."""
    if document is None:
        return b""
    if isinstance(document, ResponseError):
        return b"no string"
    return hashlib.blake2b(document, digest_size=16).digest() + b"%d" % edition
