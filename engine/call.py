"""One call, from INVITE to record, top to bottom.

`Call.run` is the whole flow: find the line, ask the rules, ring or forward until somebody answers,
let the two sides talk, record the result. Every path ends in an `Over` with an outcome.
`hunting.py` says what rings and for how long, `ringing.py` has the legs and their races,
`call_path.py` the lines on the call's path.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from engine import carried_forwards
from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over, refused
from engine.call_path import CallPath
from engine.call_services import CallServices
from engine.caller_identity import ASSERTED, REGISTERED, is_phone_at, phone_of
from engine.dialled_target import Branch
from engine.dialling import NO_MESSAGE
from engine.event_queue import Event, EventQueue, Stop
from engine.hunting import Hunting
from engine.replaces import Elsewhere, Replaced, Replacements
from engine.ringing import Ringing, Rings
from engine.transfers import Owed, Transfers
from rules.decide import (
    BLOCKED,
    Circumstances,
    Decision,
    ForwardTo,
    Reject,
    Ring,
    Situation,
    at_limit,
    decide,
    prevented,
)
from rules.model import METERED, Condition, Line
from sip import headers
from sip.end_of_call import Farewell
from sip.events import Acked, Ended, Refreshed
from sip.outgoing import Outgoing
from sip.state import ANSWERED, CONFIRMED, EARLY
from store.fleets import FleetState
from store.lines import Entry, Unavailable

if TYPE_CHECKING:
    from sip.incoming import Incoming
    from sip.interfaces import Party
    from sip.message import Message


SoFar: TypeAlias = "Outgoing | Rings | Over"
"""How far a call came: the callee that has answered, what rings, or the end that is due."""
CAP_REACHED = "fleet_cap"
CAP = b'Reason: SIP;cause=402;text="out-of-plan cap reached"'
EXPIRED = Farewell(b'Reason: Q.850;cause=102;text="session expired"')  # recovery on timer expiry
# With a 503, which without this field counts as a 500 (RFC 3261 21.5.4): another engine may take
# the call at once, and this one goes on with those that it knows.
AT_ONCE = b"Retry-After: 0"


class Handovers(NamedTuple):
    """Access to earlier calls, whose sides this call may take over."""

    transfers: Transfers
    replacements: Replacements


class Ends(Protocol):
    """Gets the end of a call."""

    def over(self, call: Any, over: Over) -> None:
        """The call is over. Called once per call, on every path."""

    def crashed(self, facts: CallFacts, error: Exception) -> None:
        """The call met an internal error."""


class Call:
    """The call flow of one INVITE; `facts` has caller and called number."""

    def __init__(
        self,
        services: CallServices,
        handovers: Handovers,
        ends: Ends,
        leg: Incoming,
        facts: CallFacts,
        so_far: SoFar | None = None,
    ) -> None:
        """`so_far`: how far the call came in another process, which this one continues."""
        invite = leg.invite or NO_MESSAGE
        self.facts = facts
        self.is_elsewhere = False  # another host has the call
        self._so_far = so_far
        self._owed: Owed | None = None  # by a transfer that this call follows
        self._carrying: asyncio.Lock | None = None
        self._services = services
        self._transfers, self._replacements = handovers
        self._ends = ends
        self._caller = leg
        self._events = EventQueue(services.deadlines)
        leg.listener = self._events.put
        if facts.caller_by == ASSERTED or services.config.numbering.identity == "from":
            facts.identity = facts.caller
        leg.owner = facts
        if so_far is None:
            self._look_for_phone(invite)
        self._path = facts.path = CallPath(services, facts.id, invite)
        self._ringing = Ringing(services, leg, self._events, self._path, facts)
        self._hunting = Hunting(services, self._ringing, self._path, facts)
        facts.caller_leg = leg
        self._listen(so_far)

    def _listen(self, so_far: SoFar | None) -> None:
        """The first message of a continued call may come before its coroutine runs."""
        caller = self._caller
        if isinstance(so_far, Outgoing):
            so_far.listener = self._events.put
            if so_far.state is ANSWERED and (caller.invite is None or caller.invite.body):
                so_far.accept()
        elif isinstance(so_far, Rings):
            for leg in (*so_far.legs, *so_far.retired):
                leg.listener = self._events.put

    def _look_for_phone(self, invite: Message) -> None:
        """The caller may be a phone of ours, behind a server that passed the call on."""
        leg, facts = self._caller, self.facts
        known = self._services.store.recall(facts.caller)[0] if facts.caller else None
        if known is not None and known.contacts:
            phone = phone_of(invite, leg.flow, known.contacts)
            if phone:
                leg.is_phone(phone)

    # -- the call, top to bottom ------------------------------------------------------------------

    @property
    def source(self) -> str:
        """The IP address that the call came from."""
        return self._caller.source

    @property
    def path(self) -> CallPath:
        """Its lines, and what it counts on."""
        return self._path

    def is_known_by(self, entry: Entry | None) -> bool:
        """Whether the number in From is that of a line and the call comes from one of its phones.
        If so, the call counts as the line's from now on."""
        flow, facts, line = self._caller.flow, self.facts, entry.line if entry else None
        if facts.identity or flow is None or line is None or line.number != facts.caller:
            return bool(facts.identity)
        contacts = entry.live_contacts(time.time()) if entry is not None else ()
        by_flow = bool(contacts) and self._services.registrar.flows.lead_to(flow, line.number)
        if by_flow or is_phone_at(flow, contacts):
            facts.identity, facts.caller_by = line.number, REGISTERED
            facts.touch()
            if self._caller.trusted:
                self._caller.is_phone("")  # at any address, because it came without an edge
            self._services.max_calls.makes(self)
        return bool(facts.identity)

    def _identity(self) -> str | None:
        """The identity of the caller (E.164); None if it is not known."""
        facts = self.facts
        if facts.caller and not facts.identity:
            self.is_known_by(self._services.store.recall(facts.caller)[0])
        return facts.identity or None

    async def run(self) -> None:
        """Never raises; reports the end on every path."""
        over = Over(Outcome.FAILED, 500, "internal")
        crash: Exception | None = None
        try:
            resumes = self._so_far is not None
            winner = await self._continue() if resumes else await self._connect()
            over = await self._converse(winner)
        except Over as end:
            over = end.with_traceback(None)  # it and this frame would keep each other alive
        except Exception as error:
            crash = error
        finally:
            self._events.close()
            try:
                self._end_legs(over)
            except Exception as error:
                crash = crash or error
            if crash is not None:
                self._ends.crashed(self.facts, crash)
                crash = None  # it keeps this frame alive too
            self._path.end()
            self._ends.over(self, over)

    async def _continue(self) -> Outgoing:
        """Continue where another process left off. Raises Over if nothing can go on."""
        so_far = self._so_far
        if isinstance(so_far, Rings):
            return await self._ring_on(so_far) if so_far.legs else await self._connect()
        if not isinstance(so_far, Outgoing):
            assert so_far is not None
            raise so_far
        self._ringing.resume_answered(so_far)
        return so_far

    async def _ring_on(self, rings: Rings) -> Outgoing:
        """Phones of a line, or a target, ring already."""
        self._caller.trying(again=True)
        self._ringing.resume(rings)
        record = self.facts.legs[rings.legs[0]]
        if record.role != "line":
            return await self._hunting.answer_of_target()
        return await self._follow(await self._find(record.number), rings=True)

    async def _connect(self) -> Outgoing:
        """Follow the rules, from line to line, until somebody answers."""
        owed = None
        invite = self._caller.invite
        takes_over = invite is not None and invite.first(b"replaces") is not None
        if takes_over and not self._identity() and self.facts.caller:
            self.is_known_by(await self._find(self.facts.caller))
        if takes_over or self._transfers:
            facts = self.facts
            if self._transfers.expect(facts.caller, facts.called) and not self._identity():
                await self._look_up_identity()  # nobody pays for a caller who is not known
            owed = await self._carry(ask=takes_over)
            self._ringing.check_caller()
        if invite is not None and invite.tells_dialogs:
            self._ringing.may_name = self._may_name
        if takes_over and invite is not None:
            try:
                replaced = await self._replacements.ask(self.facts, invite, owed)
            except Elsewhere as over:
                self._ringing.refusal_field = over.contact
                raise
            if replaced is not None:
                return await self._take_over(replaced)
        return await self._follow(await self._find(self.facts.called), takes_over=takes_over)

    async def _follow(
        self, entry: Entry, *, takes_over: bool = False, rings: bool = False
    ) -> Outgoing:
        """Follow the rules from this line on, which `rings` already or not."""
        while True:
            line = self._line_of(entry)
            decision: Decision = Ring(None) if rings else await self._on_arrival(line, entry)
            if isinstance(decision, Ring):
                if takes_over and decision.also:
                    decision = Ring(decision.after_s)
                result = await self._hunting.ring_line(line, entry, decision)
                if isinstance(result, Outgoing):
                    return result
                # Without a forward for busy or no answer an early answer of its phone may be final.
                if line.may_forward_ringing or result is Condition.UNREACHABLE:
                    entry = await self._after_ringing(line, entry)
                    line = self._line_of(entry)
                decision = await self._decide(line, entry, result)
            if takes_over and isinstance(decision, ForwardTo):
                # A dialog unknown to this engine may be a phone's, but never a forward target's.
                raise self._replacements.unknown(self.facts)
            if not isinstance(decision, ForwardTo):
                raise self._refusal(decision)
            self._forward(line, decision)
            if decision.kind != "line" or len(decision.targets) > 1:
                return await self._hunting.ring_target(line, decision)
            rings = False
            entry = await self._find(decision.number)

    async def _converse(self, winner: Outgoing) -> Over:
        """From the answer until one side hangs up, or the session expires."""
        caller, loop = self._caller, self._services.loop
        max_call_s = self._services.config.timers.max_call_s
        self._meter()
        caller.listener = self._hear
        facts = self.facts
        ahead_s = loop.time() - facts.clock()
        deadline = ahead_s + (facts.answered or facts.clock()) + max_call_s
        expiry = ahead_s + facts.expires if facts.expires else math.inf
        while True:
            event = await self._events.get(min(deadline, expiry))
            if isinstance(event, Acked):
                facts.talks()
                facts.touch()
                if winner.state is ANSWERED:  # late offer: the answer came in the ACK
                    winner.accept(event.message)
            elif isinstance(event, Ended) and event.leg in (caller, winner):
                facts.leg_ended(winner, 0, headers.q850_cause(event.message))
                other = winner if event.leg is caller else caller
                other.hangup(event.leg.farewell)
                if facts.answered is None:  # the 2xx still waited for the caller's PRACK
                    return Over(Outcome.FAILED, 504 if event.leg is caller else 480, event.why)
                return Over(Outcome.ANSWERED, 200, event.why)
            elif isinstance(event, Refreshed):
                facts.refreshed(event.seconds)
                expiry = loop.time() + event.seconds if event.seconds else math.inf
            elif event is None and expiry < deadline:  # RFC 4028 10
                caller.hangup(EXPIRED)
                self._ringing.farewell = EXPIRED
                return Over(Outcome.ANSWERED, 200, "session_expired")
            elif event is None:
                return Over(Outcome.ANSWERED, 200, "max_call")
            elif isinstance(event, Stop) and facts.answered is not None:
                self._ringing.farewell = Farewell(event.reason)
                if not self.is_elsewhere:
                    caller.hangup(self._ringing.farewell)
                return Over(Outcome.ANSWERED, 200, event.why)
            else:
                self._ringing.on_late(event)
            event = None  # a call in progress keeps no message

    def _hear(self, event: Event) -> None:
        """An event of the caller during the conversation. An ACK without new information does not
        wake the coroutine."""
        winner = self._caller.peer
        is_connected = winner is not None and winner.state is CONFIRMED
        if is_connected and isinstance(event, Acked) and self._events.is_empty:
            self.facts.talks()
            self.facts.touch()
        else:
            self._events.put(event)

    async def owe(self) -> None:
        """The call follows a transfer that became known only later. Its payer is set, or the call
        ends if nobody may pay."""
        facts, services = self.facts, self._services
        if not facts.identity and self._transfers.expect(facts.caller, facts.called):
            try:
                entry = await services.store.look_up(facts.caller)
            except Unavailable:
                return  # the caller is not known
            if facts.ended:  # meanwhile: nobody would stop counting it on the caller's line
                return
            self.is_known_by(entry)
        try:
            if await self._transfers.comes_of(facts):
                await self._carry()
        except Over as over:
            text = over.why.replace("_", " ").encode()
            reason = b'Reason: SIP;cause=%d;text="%s"' % (over.code, text)
            self.stop(over.code, over.why, reason)

    async def _carry(self, *, ask: bool = False) -> Owed | None:
        """Set the payers of a call that follows a transfer; what is owed, once it is known. Raises
        Over if they may not pay.

        One at a time: the news of the transfer may come while the call asks for it, and only one of
        the two gets it from Redis.
        """
        if self._carrying is None:
            self._carrying = asyncio.Lock()
        async with self._carrying:
            owed = await self._transfers.carry(self.facts, self._path, ask=ask)
            self._owed = owed or self._owed
        if self.facts.answered is not None and not self.facts.ended:
            self._meter()
        return self._owed

    def _meter(self) -> None:
        """Start counting seconds against the payer's plan and cap."""
        for forward in reversed(self.facts.forwards):
            if forward.billing in METERED:  # at most one, unless a call was transferred
                now = self.facts.clock()
                used_s = now - (self.facts.answered or now)
                self._services.spending_caps.begin(
                    self.facts.id, forward, used_s, lambda: self.stop(500, CAP_REACHED, CAP)
                )
                return

    # -- the rules --------------------------------------------------------------------------------

    async def _find(self, number: str) -> Entry:
        """The line's rules and registrations, from memory if possible."""
        store, metrics = self._services.store, self._services.metrics
        start = time.perf_counter()
        entry = store.peek(number)
        if entry is not None:
            metrics.lookup_memory.observe(time.perf_counter() - start)
            return entry
        try:
            entry = await store.look_up(number)
        except Unavailable:
            self._ringing.check_caller("cancel_in_lookup")
            if self._services.config.rules.when_unavailable == "reject":
                raise Over(Outcome.FAILED, 503, "rules_unavailable") from None
            return Entry(line=Line(number=number, fleet=""))  # only its number is known
        metrics.lookup_redis.observe(time.perf_counter() - start)
        self._ringing.check_caller("cancel_in_lookup")
        return entry

    async def _after_ringing(self, line: Line, entry: Entry) -> Entry:
        """The line's rules as they are now, which may have changed while it rang; as they were
        while its document cannot be read."""
        store = self._services.store
        try:
            found = store.peek(line.number) or await store.look_up(line.number)
        except Unavailable:
            return entry
        self._ringing.check_caller()
        return entry if found.line is None and found.refused is not None else found

    def _line_of(self, entry: Entry) -> Line:
        if entry.line is not None:
            return entry.line
        if entry.refused is not None:
            raise Over(Outcome.FAILED, 500, "bad_document")
        raise Over(Outcome.REJECTED, 404, "unknown_line")

    async def _on_arrival(self, line: Line, entry: Entry) -> Decision:
        """Decide for a call that reaches a line, counting it on the line if it is to ring.

        An unconditionally forwarded call never counts, not for a moment (forwarding-rules.md 1.4).
        The order of the conditions is in `rules/decide.py`; that busy comes before unreachable is
        here too, because `max_calls` is asked in Redis and the rules are pure.
        """
        path = self._path
        path.arrive(line)
        decision, unmade = await self._ask_rules(line, entry)
        rings = isinstance(decision, Ring)
        if isinstance(decision, Ring) or (
            line.max_calls is not None and decision.condition is Condition.UNREACHABLE
        ):  # an unreachable line is busy first
            found = await path.admit(line)
            self._ringing.check_caller()
            if found is not None:
                return await self._decide(line, entry, calls_in_progress=found)
            if not rings:
                path.leave(line.number)
        self._note_prevented(line, unmade)
        return decision

    async def _decide(
        self,
        line: Line,
        entry: Entry,
        trigger: Condition | None = None,
        calls_in_progress: int = 0,
    ) -> Decision:
        """Ask the rules: when the call arrives, and again each time a condition is met."""
        decision, unmade = await self._ask_rules(line, entry, trigger, calls_in_progress)
        self._note_prevented(line, unmade)
        return decision

    def _note_prevented(self, line: Line, unmade: Sequence[tuple[str, str]]) -> None:
        """Forwards of the line that were due do not happen: condition and reason of each."""
        for condition, reason in unmade:
            if self.facts.forward_prevented(line, condition, reason):
                self._services.metrics.forward_prevented(reason)

    async def _ask_rules(
        self,
        line: Line,
        entry: Entry,
        trigger: Condition | None = None,
        calls_in_progress: int = 0,
    ) -> tuple[Decision, Sequence[tuple[str, str]]]:
        """The decision, and the forwards that do not happen if it is carried out."""
        services, limits = self._services, self._services.config.limits
        self._ringing.triggered()
        caller = self._identity()
        if caller is None and entry.asks_for_caller and self.facts.caller:
            caller = await self._look_up_identity()
        targets = services.store.targets(entry, caller)
        if targets is None:
            targets = await services.store.load_targets(entry, caller)
            self._ringing.check_caller()
            caller = caller or self._identity()  # one of them may be the caller's line
        registered = bool(entry.live_contacts(time.time()))
        if trigger is None and not calls_in_progress:
            services.metrics.line_reached(registered)
        fleet = services.fleets.find(line.fleet)
        if fleet is None:
            fleet = await services.fleets.load(line.fleet)
            self._ringing.check_caller()
        if fleet.refused:  # the document may suspend the lines
            raise Over(Outcome.FAILED, 500, "bad_document")
        now, path, forwards = time.time(), self._path, services.forwards
        self.facts.decided = self.facts.decided or self.facts.clock()
        held = line.number in path.held  # decided for a forward before, which counts once
        situation = Situation(
            trigger=trigger,
            calls_in_progress=calls_in_progress,
            registered=registered,
            caller=caller,
            visited=path.visited,
            forwarded=path.before,
            diversions=path.diversions,
            max_diversions=limits.max_diversions,
            forwards_in_progress=forwards.standing(line.number) - held,
            forwards_per_line=limits.forwards_per_line,
            forwards_last_hour=forwards.last_hour(line.number, limits.forwards_per_line_per_hour)
            - held,
            forwards_per_line_per_hour=limits.forwards_per_line_per_hour,
            plan_left_s=services.spending_caps.less_standing(
                line.number, fleet, entry.plan_left_s(), now
            ),
            cap_left_s=fleet.cap_left_s(now),
            fleet_suspended=fleet.suspended,
            fleet_countries=fleet.countries,
            circumstances=self._circumstances(fleet, now) if line.asks_for_moment else None,
        )
        decision = decide(line, situation, targets)
        if isinstance(decision, ForwardTo) and not path.may_forward(line.number):
            full = await path.ask_to_forward(line.number)
            self._ringing.check_caller()
            if full is not None:
                situation = at_limit(situation, full)
                decision = decide(line, situation, targets)
        if self.facts.detail is not None:
            self.facts.debug("call.decision", line=line.number, trigger=trigger, decision=decision)
        return decision, prevented(line, situation, targets) if decision.prevented else ()

    async def _look_up_identity(self) -> str | None:
        """The identity of a caller whose line is not in memory yet."""
        try:
            self.is_known_by(await self._services.store.look_up(self.facts.caller))
        except Unavailable:
            return None  # the caller is not known
        self._ringing.check_caller()
        return self.facts.identity or None

    def _circumstances(self, fleet: FleetState, now: float) -> Circumstances:
        """What forwards depend on that do not always apply."""
        withheld = self.facts.withheld or not self.facts.caller
        return Circumstances(now, withheld, fleet.calendars, fleet.lists)

    def _refusal(self, decision: Decision) -> Over:
        """The call is not forwarded: the phone's own refusal is passed on, otherwise the
        condition's code."""
        assert isinstance(decision, Reject)
        over = refused(decision)
        if decision.why not in ("max_diversions", BLOCKED):
            over.message = self._ringing.attempt.response_with(decision.code)
            declined = self._ringing.attempt.decline()
            if declined is not None:
                over.code, over.message = declined.code, declined.message
        return over

    def _forward(self, line: Line, decision: ForwardTo) -> None:
        """Forward the call: the caller gets 181, and the line is free again."""
        self._ringing.check_caller()  # a CANCEL may wait behind the last event
        self._path.forward(line, decision)
        self.facts.forwarded(line, decision)
        self._ringing.next_attempt()
        self._caller.progress(181)

    async def _take_over(self, replaced: Replaced) -> Outgoing:
        """Complete an attended transfer: the call goes directly to the far end of the call that it
        replaces, without the line's rules. It takes that call's place in the line's count, so that
        it never exceeds the limit. Other payers continue to pay, if they may."""
        services, ringing, path = self._services, self._ringing, self._path
        try:
            paid = [
                await carried_forwards.admit(services, path, forward) for forward in replaced.paid
            ]
            self.facts.pay(paid)
            ringing.check_caller()
            if replaced.role == "line" and replaced.line is not None:
                path.take_over(replaced.line)
            before, is_callee = replaced.before, isinstance(replaced.leg, Outgoing)
            if before.hidden == replaced.number if is_callee else before.withheld:
                self.facts.hide(replaced.number)
            ringing.holder = replaced.leg
            ringing.triggered()
            alone = len(replaced.spots) == 1
            trusted = replaced.leg.trusted and replaced.role != "line"
            for uri, routes, contact in replaced.spots:
                ringing.dial(
                    Branch(replaced.role, replaced.number, uri, routes, trusted, alone, contact)
                )
            winner = await self._hunting.answer_of_target()
        except BaseException:
            self._replacements.release(replaced)
            raise
        self._replacements.over(replaced)
        return winner

    def _may_name(self, leg: Party) -> bool:
        """Whether the caller may name the dialog of a leg to its far end."""
        holder = self._ringing.holder
        if holder is not None and holder in (leg, leg.peer):
            return True
        return self._replacements.may_name(self.facts, leg)

    # -- the end ----------------------------------------------------------------------------------

    def _end_legs(self, over: Over) -> None:
        """End all remaining legs and detach from them. An error in one of them leaves none of the
        others connected; the first is raised."""
        caller = self._caller
        if self.is_elsewhere:
            self._path.leave_leases(self.facts.identity)
            for each in (caller, *self.facts.legs):
                each.leave()
            return
        farewell = self._ringing.farewell or caller.farewell
        crash: Exception | None = None
        try:
            if caller.state <= EARLY:
                code = over.code if over.code >= 300 else 500
                refusal_field = self._ringing.refusal_field or (AT_ONCE if code == 503 else b"")
                caller.reject(code, over.message, refusal_field)
            caller.detach()
            caller.hangup()
        except Exception as error:
            crash = error
        for leg in self.facts.legs:
            try:
                leg.detach()
                leg.hangup(farewell)
            except Exception as error:
                crash = crash or error
        if crash is not None:
            raise crash

    def stop(self, code: int, why: str, reason: bytes = b"") -> None:
        """Ask the call to end: BYE if it is answered, otherwise `code` to the caller. `reason` is a
        Reason header field for both sides."""
        self._events.put(Stop(code, why, reason))

    def leave(self) -> None:
        """Another host has this answered call: end here without a message and without a record."""
        self.is_elsewhere = True
        self.stop(500, "elsewhere")

    def now(self) -> dict[str, Any]:
        """The call as `/calls` shows it."""
        return self.facts.now()
