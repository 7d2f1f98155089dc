"""The payer of a transferred call: the line that transferred it (forwarding-rules.md 4).

A transfer ends one call and starts another. One side of a call transfers the other by REFER, which
passes through this engine. The transferred party then calls the target, and may name a call that it
takes over (Replaces). The payers of the first call must not be lost:

- a leg that continues is paid for by the lines whose forwards led to it, as before: the leg that a
  Replaces takes over, or the far end of a forward that is transferred to another party;
- a line that transfers the other side to a line pays for that as for its own forward.

Whether they still may pay is checked when the new call arrives (`carried_forwards.py`); if not, it
is refused. A newer REFER to the same party replaces the older one.

In the record these are elements of `forwards` with the condition "none": nothing was forwarded in
this call. The new call is identified by its numbers: the transferred party calls the transfer
target. It may reach another worker, so the payers are kept in Redis for a minute
(`transfer:<caller>:<called>`). Redis notifies every worker, and only the call concerned reads them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from engine import carried_forwards
from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over
from engine.call_services import CallServices
from engine.call_tasks import CallTasks
from engine.records.record import ForwardRecord
from rules.billing import billing_class, tariff_of
from sip.outgoing import Outgoing
from sip.referral import nothing
from store import background_tasks
from store.keys import TRANSFER, parties_of_transfer, transfer_key
from store.lines import Unavailable
from store.redis_errors import REDIS_ERRORS

if TYPE_CHECKING:
    from engine.call_path import CallPath
    from sip.interfaces import Party

LIFE_S = 60
"""Seconds after the REFER in which the new call may come."""
_PATIENCE_S = 0.1
# A call may arrive before the worker has written its REFER to Redis.
_AGAIN_S = (0.005, 0.015, 0.04)
_QUICK_S = 5.0  # the longest delay of a transfer's notification after its call
_MOST = 10_000
_SCAN = 1000  # keys looked at in one exchange


class Owed(msgspec.Struct, array_like=True):
    """The payers of a call that follows a transfer: those for the caller's side, which continues,
    and the line that transferred it ("" = not one of ours). `who` is the number of the transferring
    party, `replaces` the dialog to take over as in the REFER ("" = none), `of` the id of the call
    with the REFER."""

    paid: list[ForwardRecord]
    by: str
    who: str = ""
    replaces: str = ""
    of: str = ""


Side = tuple[str, bool]
"""A side of a call: the call's id, and whether it was called."""


class _Transfer(NamedTuple):
    """A transfer whose call has not come yet: until when it may, the transferred side, the payers
    if known here, and the task that writes to Redis."""

    until: float
    referee: Side | None = None
    owed: Owed | None = None
    writing: asyncio.Task[None] | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Owed).decode


class Owing(Protocol):
    """A call that may have to pay."""

    async def owe(self) -> None:
        """It follows a transfer that became known only later."""


class Transfers:
    """The pending transfers known to one worker. `begun` returns the newest call from one number to
    another that came in within so many seconds."""

    def __init__(
        self,
        services: CallServices,
        tasks: CallTasks,
        begun: Callable[[str, str, float], Owing | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._services = services
        self._tasks = tasks
        self._begun = begun
        self._clock = clock
        # By key, oldest first. Payers that are not known here are in Redis.
        self._known: dict[str, _Transfer] = {}
        self._newest: dict[Side, str] = {}  # a side has at most one pending transfer: its key
        self._gone: dict[str, _Transfer] = {}  # ended, while Redis is being updated
        self._doubt_until = -math.inf

    def __len__(self) -> int:
        """The number of pending transfers, nearly always 0."""
        return len(self._known)

    def __bool__(self) -> bool:
        """Whether a call may follow a transfer."""
        return bool(self._known) or self._is_in_doubt()

    def missed(self) -> None:
        """Redis may not have reported some: calls ask for theirs until these would be over."""
        self._doubt_until = self._clock() + LIFE_S

    def _is_in_doubt(self) -> bool:
        store = self._services.store
        return store.redis_up and (self._clock() < self._doubt_until or store.age_s() > 0)

    def referred(self, referrer: Party, user: str, replaces: str) -> Callable[[], None]:
        """One side of a call transfers the other (REFER) to `user`, to take over the dialog
        `replaces` ("" = none). This replaces an earlier REFER. Returns a function to call if the
        other side refuses."""
        services, referee = self._services, referrer.peer
        facts = facts_of(referrer)
        if facts is None or referee is None:
            return nothing
        side = facts.id, isinstance(referee, Outgoing)
        called = services.numbering.quick(user)
        caller, who = number_at(facts, referee), number_at(facts, referrer)
        key = transfer_key(caller, called) if called is not None else ""
        before = self._newest.get(side, "")
        if key != before:
            self._forget(before)
        if called is None:
            return nothing
        by = who if self._is_line(who) else ""
        owed = Owed(paid_for(facts, referee), by, who, replaces, facts.id)
        if caller and (owed.paid or owed.by or owed.replaces):
            self._gone.pop(key, None)
            writing = self._tasks.start(self._write(key, owed))
            transfer = _Transfer(self._clock() + LIFE_S, side, owed, writing)
            self._keep(key, transfer)
            self._newest[side] = key
            return partial(self._refused, key, transfer)
        return nothing

    def _refused(self, key: str, transfer: _Transfer) -> None:
        """The REFER was refused: a later call to its target has no such payer."""
        if self._known.get(key) is transfer:  # its call has not come, and there is no other REFER
            self._forget(key)

    def _forget(self, key: str) -> None:
        """Remove a transfer, if its call has not come yet."""
        transfer = self._drop(key)
        if transfer is not None:
            self._gone[key] = transfer
            self._tasks.start(self._delete(key, transfer))

    def _drop(self, key: str) -> _Transfer | None:
        transfer = self._known.pop(key, None)
        if transfer is not None and transfer.referee is not None:
            self._newest.pop(transfer.referee, None)
        return transfer

    def reported(self, key: str) -> None:
        """Redis reports a transfer; its call may have come before."""
        known, reported = self._known.get(key), _Transfer(self._clock() + LIFE_S)
        if known is not None and known.owed is None:  # perhaps there is a newer REFER
            del self._known[key]
            self._known[key] = reported
        if known is not None or key in self._gone:
            return
        self._keep(key, reported)
        caller, called = parties_of_transfer(key)
        call = self._begun(caller, called, _QUICK_S)
        if call is not None:
            self._tasks.start(call.owe())

    async def look(self) -> None:
        """Read the pending transfers from Redis: this process knows none of those before its
        start. Their calls may have come meanwhile."""
        client: Any = self._services.redis
        try:
            async for key in client.scan_iter(match=f"{TRANSFER}*", count=_SCAN):
                self.reported(key.decode() if isinstance(key, bytes) else key)
        except REDIS_ERRORS as error:
            self._services.rejections.redis("transfer", error)

    def expect(self, caller: str, called: str) -> bool:
        """Whether a transfer is pending for a call between these numbers."""
        return transfer_key(caller, called) in self._known

    async def comes_of(self, facts: CallFacts) -> bool:
        """Whether a call that came before the notification of a transfer may follow it: not the
        call with the REFER itself, even if its numbers are the same."""
        client: Any = self._services.redis
        try:
            stored = await _soon(client.get(transfer_key(facts.identity, facts.called)))
            return bool(stored) and _decode(stored).of != facts.id
        except (*REDIS_ERRORS, ValueError) as error:
            self._services.rejections.redis("transfer", error)
            return False

    async def carry(self, facts: CallFacts, path: CallPath, *, ask: bool = False) -> Owed | None:
        """Set the payers of a call that follows a transfer, once, and return them. `ask`: also read
        Redis without a notification, as while some may be missing. Raises Over if a payer may not
        pay."""
        if facts.is_transferred:  # the payers of another REFER are those of another call
            return None
        owed = await self._take(facts.identity, facts.called, ask=ask)
        if owed is None:
            return None
        facts.is_transferred = True
        sent = await self._sent_on(owed.by, facts.called) if owed.by else None
        services = self._services
        try:
            paid = [await carried_forwards.admit(services, path, forward) for forward in owed.paid]
            own = [await carried_forwards.admit(services, path, sent)] if sent is not None else []
        finally:
            if facts.ended:  # it came before the notification, and is counted by nobody else
                path.end()
        if not facts.ended:
            facts.pay(paid, for_caller=True)
            facts.pay(own)
        return owed

    async def _take(self, caller: str, called: str, *, ask: bool = False) -> Owed | None:
        key = transfer_key(caller, called)
        if key in self._gone:
            return None
        known = self._drop(key)
        again: tuple[float, ...] = ()
        if known is None and caller and (ask or self._is_in_doubt()):
            known, again = _Transfer(math.inf), _AGAIN_S if ask else ()
        if known is None or known.until < self._clock():
            return None
        try:
            stored = await _soon(self._take_stored(key, known.writing, again))
            return _decode(stored) if stored else None  # already taken, by any worker
        except (*REDIS_ERRORS, ValueError) as error:
            self._services.rejections.redis("transfer", error)
            return known.owed

    async def _take_stored(
        self, key: str, writing: asyncio.Task[None] | None, again: tuple[float, ...]
    ) -> Any:
        if writing is not None:
            await asyncio.wait({writing})
        client: Any = self._services.redis
        stored = await client.getdel(key)
        for wait_s in again:
            if stored:
                break
            await asyncio.sleep(wait_s)
            stored = await client.getdel(key)
        return stored

    async def _sent_on(self, by: str, called: str) -> ForwardRecord | None:
        """What line `by` pays for transferring a call to line `called`; None if one of them is not
        a line. Raises Over without rules."""
        store = self._services.store
        try:
            payer, target = [await store.look_up(number) for number in (by, called)]
        except Unavailable:
            raise Over(Outcome.FAILED, 503, "rules_unavailable") from None
        if payer.line is None or target.line is None:
            return None
        line, same_fleet = payer.line, payer.line.fleet == target.line.fleet
        numbering = self._services.numbering
        known = numbering.recognise(called)
        tariff = tariff_of(known, numbering.country_of(by))
        left_s = payer.plan_left_s()
        billing = billing_class(line, "number", called, known.mobile, same_fleet, left_s, tariff)
        plan_s = line.offer.plan_s
        return ForwardRecord(
            by, "none", "line", called, billing, 0, line.fleet, plan_s, time.time()
        )

    def _is_line(self, number: str) -> bool:
        entry = self._services.store.latest(number) if number else None
        return entry is not None and entry.line is not None

    def _keep(self, key: str, transfer: _Transfer) -> None:
        now = self._clock()
        for old, known in list(self._known.items()):
            if known.until > now and len(self._known) < _MOST:
                break
            self._drop(old)
        self._drop(key)
        self._known[key] = transfer

    async def _write(self, key: str, owed: Owed) -> None:
        client: Any = self._services.redis
        try:
            await client.set(key, _encode(owed), ex=LIFE_S)
        except REDIS_ERRORS as error:
            self._services.rejections.redis("transfer", error)

    async def _delete(self, key: str, transfer: _Transfer) -> None:
        client: Any = self._services.redis
        if transfer.writing is not None:
            await asyncio.wait({transfer.writing})
        if self._gone.get(key) is not transfer:
            return  # a newer REFER leads there, or led there and handles it
        try:
            await client.delete(key)
        except REDIS_ERRORS as error:
            self._services.rejections.redis("transfer", error)
        finally:
            if self._gone.get(key) is transfer:
                del self._gone[key]


def facts_of(leg: Party) -> CallFacts | None:
    """The facts of the call to which a leg belongs; None if it belongs to no call."""
    return leg.owner if isinstance(leg.owner, CallFacts) else None


def paid_for(facts: CallFacts, leg: Party) -> list[ForwardRecord]:
    """What lines pay for one side of a call, to continue in another."""
    paid = facts.forwards
    paid = paid[facts.brought :] if isinstance(leg, Outgoing) else paid[: facts.brought]
    return [replace(forward, condition="none", seconds=0) for forward in paid]


def number_at(facts: CallFacts, leg: Party) -> str:
    """The number of the party at the far end of a leg."""
    if not isinstance(leg, Outgoing):
        return facts.identity
    record = facts.legs.get(leg)
    return record.number if record is not None else ""


async def _soon(answer: Coroutine[Any, Any, Any]) -> Any:
    """The answer of Redis; TimeoutError if it does not come soon. It counts also if this loop is
    late while it comes, because what was taken from Redis is there no more."""
    asking = asyncio.ensure_future(answer)
    try:
        await background_tasks.wait_for_reply(asking, _PATIENCE_S)
        if not asking.done():
            raise TimeoutError
        return asking.result()
    finally:
        asking.cancel()
