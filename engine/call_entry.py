"""A call as the journal keeps it: its facts, what it counts on, and the state of its legs, so that
another process can continue it; after its end its record.

`VERSION` changes when an older process could not read a newer entry. New fields with a default, at
the end, do not change it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from engine.call_facts import NOT_WAITING, AnyLeg, CallFacts, EndedLeg, Waits
from engine.call_outcome import Outcome, Over
from engine.records.record import CallRecord, ForwardRecord, LegRecord, PreventedRecord
from sip.leg_state import LegState
from sip.relayed_fields import Diverted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VERSION = 2


class ActiveCall(msgspec.Struct, array_like=True, tag="standing", gc=False):
    """The facts of a call in progress, as in `CallFacts`. `signalling` is the caller's leg and, for
    each of `legs`, its state; None for one that is over.

    `visited`, `counted` and `held`: the lines on its path, those on which it counts as a call, and
    those on which it counts as a forward. `leased`: those of `counted`, and the caller's, on which
    Redis has a lease of it.
    """

    id: str
    call_id: str
    caller: str
    called: str
    received: float
    decided: float | None
    rang: float | None
    answered: float | None
    forwards: list[ForwardRecord]
    legs: list[LegRecord]
    withheld: bool = False
    caller_by: str = ""
    offset: float = 0.0  # of the call's clock from the machine's monotonic one; 0 = not known
    takeovers: int = 0
    identity: str = ""
    brought: int = 0
    is_transferred: bool = False
    expires: float = 0.0  # the session's end by the call's clock, 0 = never (RFC 4028)
    visited: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    leased: tuple[str, ...] = ()
    signalling: list[LegState | None] = []
    prevented: list[PreventedRecord] = []
    pending: ForwardRecord | None = None  # to a list of which nobody had answered
    waits: Waits = NOT_WAITING  # how long what rings may ring (Ringing.wait)
    diverted: list[Diverted] = []
    is_plain: bool = False  # it may go on while it rings
    offers: list[ForwardRecord | None] = []  # what is paid if a leg answers, for each of `legs`
    hidden: str = ""

    def restored(
        self, changed: set[CallFacts] | None = None, legs: Sequence[AnyLeg] | None = None
    ) -> CallFacts:
        """Its facts, with these legs; None: all of them are over."""
        facts = CallFacts(
            self.id,
            self.call_id,
            self.caller,
            self.called,
            changed,
            self.caller_by,
            withheld=self.withheld,
        )
        if self.offset:
            facts.offset = self.offset
        facts.received, facts.decided = self.received, self.decided
        facts.rang, facts.answered = self.rang, self.answered
        facts.forwards, facts.brought = self.forwards, self.brought
        facts.prevented, facts.pending = self.prevented, self.pending
        facts.identity, facts.is_transferred = self.identity, self.is_transferred
        facts.waits, facts.hidden = self.waits, self.hidden
        facts.expires, facts.takeovers = self.expires, self.takeovers
        legs = legs if legs is not None else [EndedLeg() for _ in self.legs]
        facts.legs = dict(zip(legs, self.legs, strict=True))
        if self.offers:
            offers = zip(legs, self.offers, strict=True)
            facts.offers = {leg: offer for leg, offer in offers if offer is not None}
        return facts

    def failed(self, died: float, died_at: float | None) -> CallRecord:
        """Its record if nobody continues it. An answered call is billed until the last known moment
        (unix seconds; monotonic ones if the machine was not rebooted)."""
        if died_at is not None and self.offset:
            died = died_at + self.offset  # by the call's own clock
        over = Over(Outcome.FAILED, 500, "worker_died")
        return self.restored().record(over, max(died, self.received, self.answered or 0.0))


class EndedCall(msgspec.Struct, array_like=True, tag="ended", gc=False):
    """The record of an ended call, until it is safe."""

    record: CallRecord


Entry = ActiveCall | EndedCall
encode = msgspec.msgpack.Encoder().encode
decode: Callable[[bytes], Entry] = msgspec.msgpack.Decoder(Entry).decode


def active(facts: CallFacts) -> ActiveCall:
    """The entry of a call in progress."""
    caller, path, signalling = facts.caller_leg, facts.path, []
    if caller is not None:
        signalling = [
            leg.snapshot() if leg.dialog is not None else None for leg in (caller, *facts.legs)
        ]
    return ActiveCall(
        facts.id,
        facts.call_id,
        facts.caller,
        facts.called,
        facts.received,
        facts.decided,
        facts.rang,
        facts.answered,
        facts.forwards,
        list(facts.legs.values()),
        facts.withheld,
        facts.caller_by,
        facts.offset,
        facts.takeovers,
        facts.identity,
        facts.brought,
        facts.is_transferred,
        facts.expires,
        path.visited if path is not None else (),
        path.counted if path is not None else (),
        path.held if path is not None else (),
        path.leased(facts.identity) if path is not None else (),
        signalling,
        facts.prevented,
        facts.pending,
        facts.waits,
        path.diverted if path is not None else [],
        _is_plain(facts),
        [facts.offers.get(leg) for leg in facts.legs] if facts.offers else [],
        facts.hidden,
    )


def _is_plain(facts: CallFacts) -> bool:
    """Whether another process can go on while it rings: not with the parts of a list, or numbers of
    reliable responses, which only this process has."""
    caller = facts.caller_leg
    if facts.path is None or caller is None or facts.pending is not None or facts.offers:
        return False
    return caller.is_plain and all(leg.is_plain for leg in facts.legs)


class LeftCalls(Protocol):
    """What a process left that has died or was replaced: the calls that were active, and records
    that may not be safe. `lost` counts entries that this version cannot read. `is_handed_over`: it
    left them on purpose. `attempts`: how many processes have begun to continue them."""

    active: list[ActiveCall]
    over: list[CallRecord]
    lost: int
    is_handed_over: bool
    attempts: int

    @property
    def name(self) -> str:
        """Names it in the log."""

    @property
    def age_s(self) -> float:
        """Seconds since its process was last seen alive."""

    def attempt(self) -> None:
        """Note that this process begins to continue the calls, in case one of them ends it."""

    def failed(self, call: ActiveCall) -> CallRecord:
        """The record of one of its calls that nobody continues."""


def move(calls: Sequence[ActiveCall], unix: float, monotonic: float) -> None:
    """Let the clocks of calls go on here: these were unix and monotonic time of the machine that
    they come from, at one moment."""
    ahead = time.time() - time.monotonic() - (unix - monotonic)
    for call in calls:
        if call.offset:
            call.offset += ahead


def id_of(entry: Entry) -> str:
    """The id of its call."""
    return entry.id if isinstance(entry, ActiveCall) else entry.record.id
