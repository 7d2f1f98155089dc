"""What rings for a call, in which order and for how long: the phones of a line and what rings
beside them, the target of a forward, several targets in turn or together. `ringing.py` has the legs
themselves and their races.
"""

from __future__ import annotations

import math
import time
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from engine.call_facts import CallFacts, payment
from engine.call_outcome import Outcome, Over, of_code
from engine.destinations import uri_at, uri_of
from engine.dialled_target import Branch
from engine.registration.own_addresses import hops_of
from rules.applies import is_undisturbed
from rules.contact import groups
from rules.decision import ALSO_RING, Circumstances, ForwardTo, Ring, Target
from rules.model import CAPPED, Condition, Line
from rules.model import Ringing as Order
from rules.ringing_outcome import Failure, best_failure, target_failure, verdict
from sip.outgoing import Outgoing
from sip.relayed_fields import Diverted
from store.lines import Unavailable

if TYPE_CHECKING:
    from engine.call_path import CallPath
    from engine.call_services import CallServices
    from engine.records.record import ForwardRecord
    from engine.ringing import Ringing
    from store.cache import Entry

_UNREACHABLE = Failure(503, transport=True)
_BUSY = Failure(486)
_MOBILE_PRE_S = 20  # until the first 18x, if a mobile may ring too: it must be found first
_ALSO = "follow-me", 302  # of what rings beside a line: Diversion reason (RFC 5806), and cause


class _Place(NamedTuple):
    """How a target rings: what the line pays for it, and as in `Branch`."""

    forward: ForwardRecord
    turn: int = 0
    ring_s: float = math.inf
    beside: Diverted | None = None


class Hunting:
    """Rings what the rules decide, for one call."""

    __slots__ = ("_facts", "_path", "_ringing", "_services")

    def __init__(
        self, services: CallServices, ringing: Ringing, path: CallPath, facts: CallFacts
    ) -> None:
        self._services = services
        self._ringing = ringing
        self._path = path
        self._facts = facts

    # -- a line -----------------------------------------------------------------------------------

    async def ring_line(self, line: Line, entry: Entry, decision: Ring) -> Outgoing | Condition:
        """Ring every registered contact, group after group, and beside all of them `also`.

        Returns the leg that answered, or the condition. The line's no-answer time runs from the
        first 18x of any group. Raises Over if the caller gets the phone's own code.
        """
        timers, ringing = self._services.config.timers, self._ringing
        contacts = entry.live_contacts(time.time())
        is_resumed, waits = ringing.is_resumed, self._facts.waits
        also = decision.also and await self._admit_also(line, decision.also)
        alone = len(contacts) == 1 and not line.may_forward_ringing and not also
        ring_s = decision.after_s if decision.after_s is not None else timers.max_ring_s
        hunt = groups(contacts)
        if is_resumed:  # its phones ring already, by the times of then
            ring_s = waits[1]
            dialled = {leg.uri for leg in self._facts.legs.values()}
            hunt = [(), *(group for group in hunt if dialled.isdisjoint(c.uri for c in group))]
        if also:
            await self._dial_also(line, also)
            hunt = hunt if hunt and not ringing.no_phones else [()]
        result: Outgoing | Condition | None = None
        for group in hunt:
            for contact in group:
                hops = hops_of(contact.path)
                ringing.dial(Branch("line", line.number, contact.uri, hops, False, alone, contact))
            pre_s, group_s = timers.pre_ringing_s, timers.group_ring_s
            if group is hunt[-1]:
                pre_s, group_s = max(pre_s, _MOBILE_PRE_S) if also else pre_s, math.inf
            if ringing.is_resumed:
                pre_s, group_s = waits[0], waits[3]
            result = await ringing.wait(pre_s, ring_s, group_s=group_s)
            if isinstance(result, Outgoing):
                return result
            if result is Condition.NO_ANSWER or ringing.attempt.decline() is not None:
                break
        self._path.part()
        self._path.leave(line.number)
        if result is Condition.NO_ANSWER:
            return result
        ringing.attempt.check_size()
        outcome = verdict(ringing.attempt.failures())
        if isinstance(outcome, Condition):
            return outcome
        raise Over(of_code(outcome), outcome, "passed_on", ringing.attempt.response_with(outcome))

    async def _admit_also(self, line: Line, also: tuple[Target, ...]) -> tuple[Target, ...]:
        """Count what rings beside the line as a forward of it. Empty if a limit is reached, also
        by other calls since the decision."""
        full = await self._path.count_forward(line.number)
        self._ringing.check_caller()
        if full is not None:
            self._prevented(line, ALSO_RING, full)
            return ()
        return also

    async def _dial_also(self, line: Line, also: tuple[Target, ...]) -> None:
        now = self._facts.clock()
        mark = self._services.marks.make(line.number, time.time())
        reason, cause = _ALSO
        beside = Diverted(line.number, reason, cause, mark)
        for target in also:
            place = _Place(payment(line, "none", target, now), beside=beside)
            await self._dial(line, target, cause, place)

    # -- targets ----------------------------------------------------------------------------------

    async def ring_target(self, line: Line, decision: ForwardTo) -> Outgoing:
        """Ring the target of a forward, or its targets. Raises Over with the target's code if it
        fails, because nothing else is tried."""
        if len(decision.targets) > 1:
            return await self._ring_targets(line, decision)
        if self._services.probing.is_down(decision.kind):
            raise Over(Outcome.UNREACHABLE, 480, "destination_down")
        uri = uri_of(self._services.config.destinations, decision)
        self._ringing.dial(Branch(decision.kind, decision.number, uri, (), True, True))
        ring_s = min((target.ring_s for target in decision.targets), default=math.inf)
        return await self.answer_of_target(ring_s)

    async def answer_of_target(self, ring_s: float = math.inf) -> Outgoing:
        """Wait for the one leg that is dialled, for `ring_s` seconds before its first 18x and as
        many after it. Raises Over if it fails."""
        most_s = self._services.config.timers.max_ring_s
        pre_s = each_s = min(most_s, ring_s)
        if self._ringing.is_resumed:  # by the times of then
            pre_s, each_s, most_s, _ = self._facts.waits
        result = await self._ringing.wait(pre_s, each_s, most_s=most_s)
        if isinstance(result, Outgoing):
            return result
        if result is not None:
            raise Over(Outcome(result.value), 480, "target_no_answer")
        raise self._failed()

    async def _ring_targets(self, line: Line, decision: ForwardTo) -> Outgoing:
        """Ring several targets, in turn or together, for `max_ring_s` in all. The first answer
        wins, also of one that was given up. Raises Over if all fail: with the code of the last, or
        of the best failure of all if they rang together."""
        loop, ringing, facts = self._services.loop, self._ringing, self._facts
        until = loop.time() + self._services.config.timers.max_ring_s
        over, at, turn = None, facts.clock(), 0
        every = decision.targets
        rounds = [every] if decision.ring is Order.TOGETHER else [(target,) for target in every]
        for targets in rounds:
            if loop.time() >= until:
                break
            ringing.check_caller()  # a CANCEL may wait behind the last event
            ringing.next_attempt()
            for target in targets:
                turn += 1
                forward = payment(line, decision.condition, target, at, decision.rule)
                if len(targets) == 1 and target.passed_over is None:
                    facts.pending = forward
                place = _Place(forward, turn, target.ring_s)
                await self._dial(line, target, decision.cause, place)
            left_s = max(0.0, until - loop.time())
            result = await ringing.wait(left_s, left_s, most_s=left_s)
            if isinstance(result, Outgoing):
                return result
            self._path.part()
            if ringing.attempt.failures() or over is None:
                over = self._failed()
        raise over or Over(Outcome.NO_ANSWER, 480, "target_no_answer")

    def _failed(self) -> Over:
        """The end of a call whose target failed, or whose targets did."""
        attempt = self._ringing.attempt
        attempt.check_size()
        failures = attempt.failures()
        if not failures:
            return Over(Outcome.UNREACHABLE, 480, "target_undialled")
        failure = best_failure(failures)
        code = target_failure(failure)
        outcome = of_code(code)
        if code == 480:
            unanswered = failure.code in (408, 480) and failure.rang
            outcome = Outcome.NO_ANSWER if unanswered else Outcome.UNREACHABLE
        why = "target_no_answer" if attempt.was_given_up(failure) else "target_failed"
        return Over(outcome, code, why, attempt.response_with(code))

    async def _dial(self, line: Line, target: Target, cause: int, place: _Place) -> None:
        """Ring a target of `line` beside others, unless it is passed over."""
        why = target.passed_over or self._why_not(line, target)
        if why is not None:
            condition = place.forward.condition if place.beside is None else ALSO_RING
            return self._prevented(line, condition, why)
        if target.kind == "line":
            await self._dial_line(target.number, place)
        elif self._services.probing.is_down(target.kind):
            self._pass_over(_UNREACHABLE)
        else:
            uri = uri_at(self._services.config.destinations, target.kind, target.number, cause)
            self._ringing.dial(
                Branch(target.kind, target.number, uri, (), True, False, None, *place)
            )
        return None

    def _prevented(self, line: Line, condition: str, why: str) -> None:
        if self._facts.forward_prevented(line, condition, why):
            self._services.metrics.forward_prevented(why)

    def _why_not(self, line: Line, target: Target) -> str | None:
        """Why a target that was allowed when the list was begun may not be rung now."""
        if target.billing not in CAPPED:
            return None
        fleet = self._services.fleets.find(line.fleet)
        left_s = fleet.cap_left_s(time.time()) if fleet is not None else None
        return "fleet_cap" if left_s is not None and left_s <= 0 else None

    async def _dial_line(self, number: str, place: _Place) -> None:
        """Ring all phones of a line of the fleet as one target: without its forwards, without what
        rings beside it, and not if it is busy (forwarding-rules.md 2)."""
        store, path = self._services.store, self._path
        entry = store.peek(number)
        if entry is None:
            try:
                entry = await store.look_up(number)
            except Unavailable:
                return self._pass_over(_UNREACHABLE)
            self._ringing.check_caller()
        line, contacts = entry.line, entry.live_contacts(time.time())
        if line is None or line.suspended or not contacts or self._ringing.no_phones:
            return self._pass_over(_UNREACHABLE)
        if line.do_not_disturb or (line.profile and self._is_undisturbed(line)):
            return self._pass_over(_BUSY)
        joined = await path.join(line)
        self._ringing.check_caller()
        if not joined:
            return self._pass_over(_BUSY)
        for contact in chain.from_iterable(groups(contacts)):
            hops = hops_of(contact.path)
            self._ringing.dial(
                Branch("line", number, contact.uri, hops, False, False, contact, *place)
            )
        return None

    def _is_undisturbed(self, line: Line) -> bool:
        """Whether the line's profile of this moment refuses to be disturbed."""
        fleet, found = self._services.fleets.find(line.fleet), None
        if fleet is not None:
            found = Circumstances(time.time(), False, fleet.calendars, fleet.lists)
        return is_undisturbed(line, found)

    def _pass_over(self, failure: Failure) -> None:
        """A target cannot be rung: it has failed."""
        self._ringing.attempt.passed_over(failure)
