"""Who pays for a call that was transferred: who transferred it (forwarding-rules.md 4).

A transfer ends one call and makes another. One side of a call sends the other on by REFER, which
passes through here; whoever got it then calls the target anew, and may name a call that it takes
over (Replaces). What the first call made somebody pay for must not be lost on the way:

- a leg that goes on is paid for by the lines whose forwards led to it, as before: the leg that a
  Replaces takes over, or the far end of a forward that is sent on to somebody else;
- a line that sends the other side on to a line pays for that as for a forward of its own.

Whether they still may is asked when the new call comes (`paying.py`): it is refused if not. Who is
sent on twice goes where the newer REFER says.

In the record these are elements of `forwards` with the condition "none": nothing was forwarded in
this call. The new call is known by the number that was sent on, which calls the number it was sent
to. It may come to another worker, so that what is owed is kept in Redis for a minute (`transfer:
<caller>:<called>`): every worker hears of it, and only the call that it is about asks for it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from engine import paying
from engine.call_facts import CallFacts
from engine.call_services import CallServices
from engine.call_tasks import CallTasks
from engine.records.record import ForwardRecord
from rules.billing import billing_class
from rules.model import tariff_of
from sip.outgoing import Outgoing
from sip.referral import nothing
from store.keys import parties_of_transfer, transfer_key
from store.lines import Unavailable
from store.redis_errors import REDIS_ERRORS

if TYPE_CHECKING:
    from engine.call_path import CallPath
    from sip.party import Party

LIFE_S = 60
"""How long after the REFER the new call may come."""
_PATIENCE_S = 0.1
# A call may be quicker than the worker that tells Redis of its REFER.
_AGAIN_S = (0.005, 0.015, 0.04)
_QUICK_S = 5.0  # the news of a transfer comes later than its call by no more
_MOST = 10_000


class Owed(msgspec.Struct, array_like=True):
    """What a call pays that comes of a transfer: for its caller's side, which goes on, and the line
    that sent it to its target ("" = none of ours). `who` is the number of who sent it, `replaces`
    the dialog that it was told to take over ("" = none), as it was told, `of` the id of the call in
    which that was."""

    paid: list[ForwardRecord]
    by: str
    who: str = ""
    replaces: str = ""
    of: str = ""


Side = tuple[str, bool]
"""A side of a call: the call's id, and whether it was called."""


class _Transfer(NamedTuple):
    """A transfer whose call has not come yet: until when it may, whom it sends on, what is owed if
    that is known here, and who tells Redis."""

    until: float
    referee: Side | None = None
    owed: Owed | None = None
    told: asyncio.Task[None] | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Owed).decode


class Owing(Protocol):
    """A call that may have to pay."""

    async def owe(self) -> None:
        """It comes of a transfer, of which the news came later."""


class Transfers:
    """The transfers under way, as one worker knows of them. `begun` gives the newest call from one
    number to another that came in within so many seconds."""

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
        # By key, oldest first. What is not known here is in Redis.
        self._known: dict[str, _Transfer] = {}
        self._newest: dict[Side, str] = {}  # who is sent on goes one way only: the key of it
        self._gone: dict[str, _Transfer] = {}  # owed no more, which Redis is being told

    def __len__(self) -> int:
        """Transfers whose new call has not come yet; 0 nearly always."""
        return len(self._known)

    def referred(self, referrer: Party, user: str, replaces: str) -> Callable[[], None]:
        """One side of a call sends the other on (REFER) to `user`, to take over the dialog
        `replaces` ("" = none). It replaces what it was told before. What is returned is to be
        called when the other side refuses."""
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
            told = self._tasks.start(self._tell(key, owed))
            transfer = _Transfer(self._clock() + LIFE_S, side, owed, told)
            self._keep(key, transfer)
            self._newest[side] = key
            return partial(self._refused, key, transfer)
        return nothing

    def _refused(self, key: str, transfer: _Transfer) -> None:
        """Nobody follows: whoever calls there owes nothing."""
        if self._known.get(key) is transfer:  # its call has not come, and no other REFER
            self._forget(key)

    def _forget(self, key: str) -> None:
        """Nobody owes what a REFER led to, if its call has not come yet."""
        transfer = self._drop(key)
        if transfer is not None:
            self._gone[key] = transfer
            self._tasks.start(self._untell(key, transfer))

    def _drop(self, key: str) -> _Transfer | None:
        transfer = self._known.pop(key, None)
        if transfer is not None and transfer.referee is not None:
            self._newest.pop(transfer.referee, None)
        return transfer

    def heard(self, key: str) -> None:
        """Redis tells of a transfer; its call may have been quicker."""
        if key in self._known or key in self._gone:
            return
        self._keep(key, _Transfer(self._clock() + LIFE_S))
        caller, called = parties_of_transfer(key)
        call = self._begun(caller, called, _QUICK_S)
        if call is not None:
            self._tasks.start(call.owe())

    def expect(self, caller: str, called: str) -> bool:
        """Whether a call between these numbers is about to come of a transfer."""
        return transfer_key(caller, called) in self._known

    async def comes_of(self, facts: CallFacts) -> bool:
        """Whether a call that was there before the news of a transfer may come of it: not the very
        call in which one side was sent on, though its numbers are the same."""
        client: Any = self._services.redis
        try:
            async with asyncio.timeout(_PATIENCE_S):
                stored = await client.get(transfer_key(facts.identity, facts.called))
            return bool(stored) and _decode(stored).of != facts.id
        except (*REDIS_ERRORS, ValueError) as error:
            self._services.rejections.redis("transfer", error)
            return False

    async def carry(self, facts: CallFacts, path: CallPath, *, ask: bool = False) -> Owed | None:
        """Let a call that comes of a transfer pay what it owes, once; what that is. `ask`: of Redis
        too, where no news has come of it. Raises Over when a line that owes may not pay."""
        owed = await self._take(facts.identity, facts.called, ask=ask)
        if owed is None or facts.is_transferred:
            return None
        facts.is_transferred = True
        sent = await self._sent_on(owed.by, facts.called) if owed.by else None
        services = self._services
        paid = [await paying.admit(services, path, forward) for forward in owed.paid]
        own = [await paying.admit(services, path, sent)] if sent is not None else []
        if facts.ended:  # by somebody who was quicker than the news
            path.end()
        else:
            facts.pay(paid, for_caller=True)
            facts.pay(own)
        return owed

    async def _take(self, caller: str, called: str, *, ask: bool = False) -> Owed | None:
        key = transfer_key(caller, called)
        if key in self._gone:
            return None
        known = self._drop(key)
        again: tuple[float, ...] = ()
        if known is None and ask and caller:
            known, again = _Transfer(math.inf), _AGAIN_S
        if known is None or known.until < self._clock():
            return None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                if known.told is not None:
                    await asyncio.wait({known.told})
                client: Any = self._services.redis
                stored = await client.getdel(key)
                for wait_s in again:
                    if stored:
                        break
                    await asyncio.sleep(wait_s)
                    stored = await client.getdel(key)
            return _decode(stored) if stored else None  # taken already, by whichever worker
        except (*REDIS_ERRORS, ValueError) as error:
            self._services.rejections.redis("transfer", error)
            return known.owed

    async def _sent_on(self, by: str, called: str) -> ForwardRecord | None:
        """What line `by` pays for sending a call on to line `called`; None when one is none."""
        store = self._services.store
        try:
            payer, target = [await store.look_up(number) for number in (by, called)]
        except Unavailable:
            return None
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
        entry = self._services.store.peek(number) if number else None
        return entry is not None and entry.line is not None

    def _keep(self, key: str, transfer: _Transfer) -> None:
        now = self._clock()
        for old, known in list(self._known.items()):
            if known.until > now and len(self._known) < _MOST:
                break
            self._drop(old)
        self._drop(key)
        self._known[key] = transfer

    async def _tell(self, key: str, owed: Owed) -> None:
        client: Any = self._services.redis
        try:
            await client.set(key, _encode(owed), ex=LIFE_S)
        except REDIS_ERRORS as error:
            self._services.rejections.redis("transfer", error)

    async def _untell(self, key: str, transfer: _Transfer) -> None:
        client: Any = self._services.redis
        if transfer.told is not None:
            await asyncio.wait({transfer.told})
        if self._gone.get(key) is not transfer:
            return  # a newer REFER leads there, or led there and sees to it
        try:
            await client.delete(key)
        except REDIS_ERRORS as error:
            self._services.rejections.redis("transfer", error)
        finally:
            if self._gone.get(key) is transfer:
                del self._gone[key]


def facts_of(leg: Party) -> CallFacts | None:
    """The facts of the call that a leg is a side of; None of none of ours."""
    return leg.owner if isinstance(leg.owner, CallFacts) else None


def paid_for(facts: CallFacts, leg: Party) -> list[ForwardRecord]:
    """What lines pay for one side of a call, to be paid on in another."""
    paid = facts.forwards
    paid = paid[facts.brought :] if isinstance(leg, Outgoing) else paid[: facts.brought]
    return [replace(forward, condition="none", seconds=0) for forward in paid]


def number_at(facts: CallFacts, leg: Party) -> str:
    """The number of who is at the far end of a leg."""
    if not isinstance(leg, Outgoing):
        return facts.identity
    record = facts.legs.get(leg)
    return record.number if record is not None else ""
