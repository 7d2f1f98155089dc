"""The facts of a call, for its record, the `call.end` log line and the live view."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from msgspec.structs import replace

from engine.call_outcome import Over
from engine.records.record import CallRecord, ForwardRecord, LegRecord, PreventedRecord
from engine.telemetry import log
from rules.decide import ForwardTo, Target
from rules.model import Line

if TYPE_CHECKING:
    from sip.incoming import Incoming
    from sip.outgoing import Outgoing
    from sip.relayed_fields import Diverted


class EndedLeg:
    """Stands for a leg that was over when another process continued its call."""

    dialog = None
    is_plain = True

    def snapshot(self) -> None: ...

    def detach(self) -> None: ...

    def hangup(self, farewell: object = None) -> None: ...

    def leave(self) -> None: ...


class Path(Protocol):
    """What a call counts on (call_path.py)."""

    visited: tuple[str, ...]
    held: tuple[str, ...]
    diverted: list[Diverted]

    @property
    def counted(self) -> tuple[str, ...]: ...

    def leased(self, caller: str) -> tuple[str, ...]: ...


AnyLeg: TypeAlias = "Outgoing | EndedLeg"
Waits = tuple[float, float, float, float]
NOT_WAITING: Waits = (0.0, 0.0, 0.0, 0.0)
_NO_OFFERS: Mapping[AnyLeg, ForwardRecord] = {}


class CallFacts:
    """The facts of one call as they happen. Whenever one changes it puts itself into
    `changed`, for the journal.

    All times are unix seconds by the call's own clock, which is set when the call comes in and
    never steps. So the difference of two times is the time that has passed.
    """

    __slots__ = (
        "_changed",
        "_offset",
        "answered",
        "brought",
        "call_id",
        "called",
        "caller",
        "caller_by",
        "caller_leg",
        "decided",
        "detail",
        "ended",
        "expires",
        "forwards",
        "hidden",
        "id",
        "identity",
        "is_transferred",
        "legs",
        "offers",
        "path",
        "pending",
        "prevented",
        "rang",
        "received",
        "replaced_by",
        "takeovers",
        "waits",
        "withheld",
    )

    def __init__(
        self,
        id_: str,
        call_id: str,
        caller: str,
        called: str,
        changed: set[CallFacts] | None = None,
        caller_by: str = "",
        *,
        withheld: bool = False,
    ) -> None:
        self._changed = changed if changed is not None else set()
        self.id = id_
        self.call_id = call_id
        self.caller = caller  # as shown, if it may be shown
        self.caller_by = caller_by
        self.identity = ""  # the caller's identity, which counts for the rules
        self.withheld = withheld  # the caller is visible only to operators who ask
        self.called = called
        self.hidden = ""  # the number of a party that is called and withholds it
        now = time.monotonic()
        self._offset = time.time() - now
        self.received = now + self._offset
        self.decided: float | None = None
        self.rang: float | None = None
        self.answered: float | None = None
        self.ended = 0.0
        self.forwards: list[ForwardRecord] = []
        self.prevented: list[PreventedRecord] = []
        self.pending: ForwardRecord | None = None  # to a list of which nobody has answered yet
        self.offers = _NO_OFFERS  # what is paid if a leg answers: targets of lists, `also_ring`
        self.brought = 0  # how many of the first ones pay for the caller's side (transfers.py)
        self.is_transferred = False  # it must pay what the earlier call left
        self.replaced_by = ""  # the call that takes over this one (replaces.py)
        self.legs: dict[AnyLeg, LegRecord] = {}
        self.expires = 0.0  # when the session ends by this clock, 0 = never (RFC 4028)
        self.waits = NOT_WAITING
        self.takeovers = 0  # how often another process has continued the call
        self.caller_leg: Incoming | None = None  # for the journal, as is the path
        self.path: Path | None = None
        self.detail = log.detail(call_id, call=id_, call_id=call_id)  # None for nearly all calls
        if self.detail is not None:
            self.debug("call.begin", caller=self.caller_shown, called=called)

    @property
    def caller_shown(self) -> str:
        """The caller's number for all readers: empty if it is withheld."""
        return "" if self.withheld else self.caller

    def clock(self) -> float:
        """Now, in unix seconds by the call's own clock."""
        return time.monotonic() + self._offset

    def hide(self, number: str) -> None:
        """A party that is called withholds its number: no reader sees it, nor the phone's URI."""
        self.hidden = number
        self.detail = None  # it would log them
        self._changed.add(self)

    def age_s(self) -> float:
        """Seconds since the call came in."""
        return self.clock() - self.received

    @property
    def offset(self) -> float:
        """Seconds by which the call's clock is ahead of the monotonic clock of this machine."""
        return self._offset

    @offset.setter
    def offset(self, seconds: float) -> None:
        self._offset = seconds

    def touch(self) -> None:
        """Something that the journal keeps has changed."""
        self._changed.add(self)

    def refreshed(self, seconds: int) -> None:
        """The session expires in so many seconds, 0 = never."""
        self.expires = self.clock() + seconds if seconds else 0.0
        self._changed.add(self)

    def debug(self, event: str, **values: Any) -> None:
        """Log a debug event, if this call is sampled (`log.sample`). What every call tells asks for
        `detail` first: the facts need not be gathered."""
        if self.detail is not None:
            self.detail.debug(event, **values)

    def dialled(self, leg: Outgoing, role: str, number: str) -> None:
        condition = self.condition
        started = time.monotonic() + self._offset
        self.legs[leg] = LegRecord(
            role, number, leg.uri, 0, None, started, None, None, None, condition
        )
        self._changed.add(self)
        if self.detail is not None:
            self.debug("leg.dialled", role=role, number=number, uri=leg.uri)

    def leg_rang(self, leg: Outgoing) -> None:
        record = self.legs[leg]
        if record.rang is None:
            record.rang = time.monotonic() + self._offset
            self._changed.add(self)
            if self.detail is not None:
                self.debug("leg.rang", uri=leg.uri)

    def has_rung(self, leg: Outgoing) -> bool:
        return self.legs[leg].rang is not None

    def leg_answered(self, leg: Outgoing, code: int) -> None:
        record = self.legs[leg]
        record.code = code
        record.answered = time.monotonic() + self._offset
        offer = self.offers.get(leg)
        if offer is not None:
            self.forwards.append(offer)
        self.pending = None
        self._changed.add(self)
        if self.detail is not None:
            self.debug("leg.answered", uri=leg.uri, code=code)

    def talks(self) -> None:
        """Note that both sides are connected, if they were not before."""
        if self.answered is None:
            self.answered = time.monotonic() + self._offset
            self._changed.add(self)

    def leg_ended(self, leg: Outgoing, code: int, q850: int | None = None) -> None:
        record = self.legs.get(leg)
        if record is not None and record.ended is None:
            record.code = record.code or code
            record.q850 = q850 if q850 is not None else record.q850
            record.ended = time.monotonic() + self._offset
            self._changed.add(self)
            if self.detail is not None:
                self.debug("leg.ended", uri=leg.uri, code=record.code, q850=record.q850)

    def caller_rang(self) -> float | None:
        """Note the first 18x to the caller; its post-dial delay in seconds, None if not first."""
        if self.rang is not None:
            return None
        self.rang = time.monotonic() + self._offset
        if self.detail is not None:
            self.debug("caller.rang")
        return self.rang - self.received

    def forwarded(self, line: Line, decision: ForwardTo) -> None:
        """A forward is carried out. That to a list is in `forwards` only when a target answers."""
        forward = payment(line, decision.condition, decision, self.clock(), decision.rule)
        if len(decision.targets) > 1:
            self.pending = forward
        else:
            self.forwards.append(forward)
        self._changed.add(self)
        self.debug("call.forwarded", forward=forward)

    def offer(self, leg: Outgoing, forward: ForwardRecord) -> None:
        """The line pays this if the leg answers."""
        self.offers = {**self.offers, leg: forward}

    def line_of(self, leg: Outgoing) -> str:
        """The line whose phone a leg rings; "" if it rings no phone."""
        record = self.legs[leg]
        return record.number if record.role == "line" else ""

    def is_beside(self, leg: Outgoing) -> bool:
        """Whether the leg rings beside a line's phones (`also_ring`)."""
        offer = self.offers.get(leg)
        return offer is not None and offer.condition == "none"

    def forward_prevented(self, line: Line, condition: str, reason: str) -> bool:
        """A forward that is on was due and does not happen. Each counts once in a call; whether
        this one is new."""
        record = PreventedRecord(line.number, condition, reason)
        if record in self.prevented:
            return False
        self.prevented.append(record)
        self._changed.add(self)
        return True

    def pay(self, paid: list[ForwardRecord], *, for_caller: bool = False) -> None:
        """Set the lines that pay for this call because it follows a transfer: those for the
        caller's side first, then those for the other side, then its own forwards."""
        place = 0
        if for_caller:
            self.brought = len(paid)
        else:
            own = self.offers.values()
            while place < len(self.forwards) and self.forwards[place].condition == "none":
                if self.forwards[place] in own:
                    break
                place += 1
        self.forwards[place:place] = paid
        self._changed.add(self)

    def overtaken(self, winner: Outgoing) -> str:
        """A cancelled phone answered nevertheless: the forwards since then did not happen.

        Returns the line's number; "" for another target of the same list, or another server of
        the same target, for which the forwards stand.
        """
        offer = self.offers.get(winner)
        if offer is not None and offer.condition != "none":
            return ""
        line = offer.line if offer is not None else self.line_of(winner)
        if not line:
            return ""
        self._changed.add(self)
        self.debug("call.overtaken", line=line, uri=winner.uri)
        for place, forward in enumerate(self.forwards):
            if forward.line == line and forward.condition != "none":
                del self.forwards[place:]
                break
        return line

    @property
    def condition(self) -> str:
        """The forward that was carried out, the last of a chain; "none" if none was."""
        last = self._last()
        return last.condition if last is not None else "none"

    def _last(self) -> ForwardRecord | None:
        """The last forward that was carried out."""
        if self.pending is not None or not self.forwards:
            return self.pending
        made = (forward for forward in reversed(self.forwards) if forward.condition != "none")
        return next(made, None)

    @property
    def destination(self) -> str:
        return self._led_to(*self._reached())[0]

    @property
    def target(self) -> str:
        """The number that the call went to."""
        return self._led_to(*self._reached())[1]

    def _led_to(self, leg: AnyLeg | None, record: LegRecord | None) -> tuple[str, str]:
        """What the call went to and its number: of the last forward, else of the leg that it has
        reached."""
        last = self._last()
        if last is not None:
            return last.kind, last.number
        if leg is None or record is None:
            return "none", self.called
        if leg in self.offers:
            return "line", self.offers[leg].line
        return record.role, self._shown(record).number

    def _shown(self, leg: LegRecord) -> LegRecord:
        """A leg as all readers see it."""
        if not self.hidden or leg.number != self.hidden:
            return leg
        return replace(leg, number="", uri="")

    def _reached(self) -> tuple[AnyLeg | None, LegRecord | None]:
        """The leg that answered, else the last that was dialled."""
        reached, record = None, None
        for leg, known in self.legs.items():
            if known.answered is not None or record is None or record.answered is None:
                reached, record = leg, known
        return reached, record

    def record(self, over: Over, ended: float | None = None) -> CallRecord:
        """The record for the `cdr` stream.

        Every forward pays for the conversation. If the caller never got the answer (its PRACK was
        missing), it pays from the target's answer on, because somebody charges for that. `ended` in
        unix seconds; None = now.
        """
        self.ended = ended = self.clock() if ended is None else ended
        answered, forwards, legs = self.answered, self.forwards, list(self.legs.values())
        seconds = self._since(answered)
        payer, billing, condition, forwarded = "", "", "none", None
        carried_out = self._last()
        if carried_out is not None:
            condition, forwarded = carried_out.condition, carried_out.at
        leg_reached, reached = self._reached()
        if forwards:
            paid_s = seconds
            if answered is None and reached is not None:
                paid_s = self._since(reached.answered)
            for forward in forwards:
                forward.seconds = paid_s
            last = forwards[-1]
            payer, billing = last.line, last.billing
        q850 = None
        for leg in legs:
            if answered is None or leg is reached:  # not why others failed before the answer
                q850 = leg.q850 or q850
            if leg.ended is None:
                leg.ended = ended
        destination, target = self._led_to(leg_reached, reached)
        return CallRecord(
            self.id,
            self.call_id,
            "" if self.withheld else self.caller,
            self.called,
            self.received,
            self.rang,
            answered,
            ended,
            condition,
            destination,
            target,
            over.outcome,
            over.code,
            q850,
            over.why,
            seconds,
            payer,
            billing,
            forwards,
            [self._shown(leg) for leg in legs] if self.hidden else legs,
            self.decided,
            legs[0].started if legs else None,
            forwarded,
            0,  # out of plan: set from Redis when the record is written
            self.caller if self.withheld else "",
            self.caller_by,
            self.prevented,
            self.takeovers,
        )

    def _since(self, instant: float | None) -> int:
        """Whole seconds from an instant, None = never, to the end."""
        return 0 if instant is None else max(0, round(self.ended - instant))

    def now(self) -> dict[str, Any]:
        """The call as `/calls` and `renvoi calls` show it."""
        return {
            "id": self.id,
            "call_id": self.call_id,
            "caller": self.caller_shown,
            "withheld": self.withheld,
            "called": self.called,
            "state": "answered" if self.answered else "ringing" if self.rang else "trying",
            "received": self.received,
            "answered": self.answered,
            "condition": self.condition,
            "destination": self.destination,
            "target": self.target,
            "payer": self.forwards[-1].line if self.forwards else "",
            "legs": [
                {"role": leg.role, "number": leg.number, "uri": leg.uri, "code": leg.code}
                for leg in map(self._shown, self.legs.values())
                if leg.ended is None
            ],
        }


def payment(
    line: Line, condition: str, target: ForwardTo | Target, at: float, rule: int = 0
) -> ForwardRecord:
    """What a line pays for a forward to a target; `at` in unix seconds."""
    return ForwardRecord(
        line.number,
        condition,
        target.kind,
        target.number,
        target.billing,
        0,
        line.fleet,
        line.offer.plan_s,
        at,
        rule,
    )


def end_fields(record: CallRecord) -> dict[str, Any]:
    """The fields of the `call.end` log line of a record; times in unix seconds."""
    fields: dict[str, Any] = {
        "call": record.id,
        "call_id": record.call_id,
        "caller": record.caller,
        "caller_by": record.caller_by,
        "called": record.called,
        "condition": record.condition,
        "destination": record.destination,
        "target": record.target,
        "outcome": record.outcome,
        "code": record.code,
        "q850": record.q850,
        "why": record.why,
        "received": record.received,
        "decided": record.decided,
        "dialled": record.dialled,
        "rang": record.rang,
        "forwarded": record.forwarded,
        "answered": record.answered,
        "ended": record.ended,
        "seconds": record.seconds,
        "payer": record.payer,
        "billing": record.billing,
        "forwards": record.forwards,
        "legs": record.legs,
    }
    if record.prevented:
        fields["prevented"] = record.prevented
    return fields
