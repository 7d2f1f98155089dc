"""Ringing: the dialled legs of a call, which answers first, and the races between them.

The no-answer timer is the deadline of `wait`: its seconds run from the first 18x of a phone. At its
end the legs get CANCEL and `Call._follow` asks the rules again. Cancelled legs may still answer (a
200 crosses our CANCEL), so they are kept as `_retired` until the call is over. A person who picks
up on one wins while nobody else has (forwarding-rules.md 2). A caller's CANCEL is answered by
`sip/incoming.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over
from engine.call_path import CallPath
from engine.call_services import CallServices
from engine.dialled_target import Branch
from engine.dialling import NO_MESSAGE, Dialling
from engine.event_queue import Checked, Event, EventQueue, Item, Resolved, Stop
from rules.model import Condition
from sip import headers, session_expires
from sip.end_of_call import NOTHING, Farewell
from sip.events import Answered, Cancelled, Ended, Failed, Progress
from sip.message import Message
from sip.outgoing import Outgoing
from sip.state import ENDED

if TYPE_CHECKING:
    from sip.incoming import Incoming

ELSEWHERE = Farewell(b'Reason: SIP;cause=200;text="Call completed elsewhere"')
GIVEN_UP = Farewell(b"Reason: Q.850;cause=19")  # no answer from the user (RFC 3326)


class Rings(NamedTuple):
    """Legs of another process that ring for a call that this one continues, and those that were
    cancelled and may still answer."""

    legs: tuple[Outgoing, ...]
    retired: tuple[Outgoing, ...]


class Ringing(Dialling):
    """The outgoing legs of one call until one of them is answered."""

    __slots__ = (
        "_first_rang",
        "_group_rang",
        "_retired",
        "_ring_s",
        "_since",
        "_until",
        "farewell",
        "refusal_field",
    )

    def __init__(
        self,
        services: CallServices,
        caller: Incoming,
        events: EventQueue,
        path: CallPath,
        facts: CallFacts,
    ) -> None:
        super().__init__(services, caller, events, path, facts)
        self._retired: dict[Outgoing, None] = {}  # cancelled legs that may still answer
        self._first_rang = 0.0  # loop time of the attempt's first 18x
        self._group_rang = 0.0  # and of the first one of the legs that ring now
        self._since = 0.0  # loop time of the INVITEs of legs that rang in another process
        self._ring_s = 0.0  # how long the call waits from then on
        self._until = math.inf  # loop time until which `wait` sleeps; infinite if it does not sleep
        self.refusal_field = b""  # for a caller that is refused because the call must end
        self.farewell = NOTHING  # what the engine sends to all when it ends the call itself

    @property
    def is_resumed(self) -> bool:
        """Whether legs of another process ring, and `wait` was not called for them."""
        return self._since > 0

    def resume(self, rings: Rings) -> None:
        """Continue with legs that ring already. `wait` counts their time from its beginning."""
        facts, ahead_s = self._facts, self._services.loop.time() - self._facts.clock()
        for leg in rings.legs:
            record = facts.legs[leg]
            leg.listener = self._hear
            self._ringing[leg] = Branch(
                record.role, record.number, leg.uri, leg.routes, leg.trusted, leg.alone
            )
        for leg in rings.retired:
            leg.listener = self._hear
            self._give_up_on(leg, NOTHING)
        records = [facts.legs[leg] for leg in rings.legs]
        self._since = ahead_s + min(record.started for record in records)
        # Also those of the attempt that rang and have failed.
        self.attempt.resume(records[0].role, records[0].number)
        rang = [record.rang for record in records if record.rang is not None]
        if rang:
            self._first_rang = ahead_s + min(rang)
        self._decided = True

    def resume_answered(self, winner: Outgoing) -> None:
        """Continue with a leg that has answered. Others that had not ended get their CANCEL again:
        it may be lost, or waited for a provisional response that the other process never got."""
        for leg in self._facts.legs:
            if isinstance(leg, Outgoing) and leg is not winner:
                leg.listener = self._hear
                self._give_up_on(leg, ELSEWHERE)

    async def wait(
        self, pre_s: float, ring_s: float, *, most_s: float = math.inf, group_s: float = math.inf
    ) -> Outgoing | Condition | None:
        """Wait for an answer from the legs that ring now. Returns the leg that answered; NO_ANSWER
        if `ring_s` ran out, UNREACHABLE if none sent an 18x; None if every leg failed or rang for
        `group_s` without answer (`attempt` has the failures).

        A leg has `pre_s` from its INVITE until its first 18x. From the attempt's first 18x on the
        call waits `ring_s`, and never longer than `most_s` from the INVITE. At a line these are
        `timers.pre_ringing_s` and its `after_s`, without one `timers.max_ring_s`; at a target its
        own `ring_s` and `timers.max_ring_s`. With a finite `group_s` (`timers.group_ring_s`)
        others will follow: legs beside the line neither end nor extend the group's time, and go on.
        Raises Over if the caller cancels.
        """
        loop, facts = self._services.loop, self._facts
        start, self._group_rang, self._ring_s = loop.time(), 0.0, min(ring_s, group_s)
        if self._since:
            start, self._since, self._group_rang = self._since, 0.0, self._first_rang
        facts.waits = pre_s, ring_s, most_s, group_s
        if self._beside and any(map(facts.has_rung, self._ringing)):
            self._group_rang = start
        goes_on = self._beside and group_s < math.inf

        def deadlines() -> tuple[bool, float, float]:
            # Legs that have never rung do not extend the wait.
            rings = self._group_rang > 0 and any(map(facts.has_rung, self._ringing))
            line_until = self._first_rang + ring_s if self._first_rang else math.inf
            group_until = self._group_rang + group_s if rings else start + pre_s
            return rings, line_until, min(line_until, group_until)

        while self._ringing or self._unresolved:
            if goes_on and not self._of_group():
                return None
            rings, line_until, until = deadlines()
            self._until = min(until, start + most_s, self._move_at)
            event = await self._events.get(self._until)
            self._until = math.inf
            if event is None:
                rings, line_until, until = deadlines()  # it may have begun to ring meanwhile
                if loop.time() < min(until, start + most_s, self._move_at):
                    continue
            if event is None and loop.time() >= self._move_at:
                self._move_on()
            elif event is None:
                self._give_up(only_group=goes_on and until < min(line_until, start + most_s))
                if until == line_until:
                    self._rang_out(line_until)
                    return Condition.NO_ANSWER
                if rings and until <= start + most_s:
                    return None
                return Condition.NO_ANSWER if rings else Condition.UNREACHABLE
            elif isinstance(event, Answered) and (
                event.leg in self._ringing or event.leg in self._retired
            ):
                return self._take(event)
            elif isinstance(event, Progress) and event.leg in self._ringing:
                self._on_progress(event)
            elif isinstance(event, Failed) and event.leg in self._ringing:
                self._on_failed(event)
            elif isinstance(event, Resolved):
                if event.branch in self._unresolved:
                    self._unresolved.discard(event.branch)
                    self._resolved(event.branch, event.servers)
            elif isinstance(event, Checked):
                if event.branch in self._unresolved:
                    self._unresolved.discard(event.branch)
                    if event.why is None:
                        self._find(event.branch)
                    else:
                        self._bar(event.branch, event.why)
            else:
                self.on_late(event)
        return None

    def _hear(self, event: Event) -> None:
        """An event of a leg. A provisional response that moves no deadline earlier is passed on at
        once; the coroutine resumes only for decisions."""
        if (
            isinstance(event, Progress)
            and event.leg in self._ringing
            and self._events.is_empty
            and self._services.loop.time() + self._ring_s >= self._until
        ):
            self._on_progress(event)
        else:
            self._events.put(event)

    def _take(self, event: Answered[Outgoing]) -> Outgoing:
        """Somebody picked up: cancel all other legs, and answer the caller."""
        winner, caller = event.leg, self._caller
        rang_s = self._rang_s(winner, self._ringing.pop(winner, None))
        if winner in self._retired:
            # The no-answer race: the cancelled phone wins while the target has not answered.
            del self._retired[winner]
            if self._path.take_back(self._facts.overtaken(winner)):
                self._services.metrics.race("line_won")
        self._retire(ELSEWHERE)
        self._facts.leg_answered(winner, event.code)
        if self._path.held or self._facts.offers:
            number = self._facts.line_of(winner)
            self._path.settle(number, {forward.line for forward in self._facts.forwards})
        if rang_s is not None:
            self._services.metrics.ring_answered.observe(rang_s)
        extra, session_s = session_expires.response_fields(
            self._invite, event.message, self._services.config.timers.session_expires_s
        )
        self._facts.refreshed(session_s)
        # The journal has the answer before the caller or the callee has anything (Worker.on_kept).
        if not caller.answer(event.code, event.message, extra):
            winner.hangup()
            self._facts.answered = None
            self.check_caller()
            raise Over(Outcome.FAILED, 500, "answer_not_sent")
        if self._invite.body:
            winner.accept()
        self._invite = NO_MESSAGE  # a call in progress keeps little
        self.attempt.clear()
        winner.peer, caller.peer = caller, winner
        return winner

    def _on_progress(self, event: Progress[Outgoing]) -> None:
        if _is_ringing(event.code):
            branch = self._ringing[event.leg]
            if branch.forward is not None and not self._facts.has_rung(event.leg):
                branch.until = self._services.loop.time() + branch.ring_s
            self._facts.leg_rang(event.leg)
            self._group_rang = self._group_rang or self._services.loop.time()
            self._first_rang = self._first_rang or self._group_rang
        message: Message | None = None  # several phones' early media would contradict one another
        if len(self._ringing) == 1:
            event.leg.peer, self._caller.peer = self._caller, event.leg
            message = event.message
        delay_s = self._facts.caller_rang()
        if delay_s is not None:
            self._services.metrics.post_dial_delay.observe(delay_s)
        self._caller.progress(event.code, message, event.early, alone=event.leg.alone)

    def _on_failed(self, event: Failed[Outgoing]) -> None:
        branch = self._ringing.pop(event.leg)
        self._facts.leg_ended(event.leg, event.code, headers.q850_cause(event.message))
        if event.message is None and branch.server is not None:
            self._services.endpoint.names.failed(branch.server)
        if branch.servers and (event.message is None or event.code == 503):
            self._place_at_next(branch)  # RFC 3263 4.3
            return
        self.attempt.failed(event)
        if not self.attempt.declines(event):
            return
        if branch.turn:  # the other targets of the list ring on
            self._stop([leg for leg, b in self._ringing.items() if b.turn == branch.turn])
        else:
            self._retire(NOTHING)

    def _move_on(self) -> None:
        """Replace silent servers by the next of their place, and give up legs whose own time is
        over. All of these may still answer."""
        now = self._services.loop.time()
        for leg, branch in list(self._ringing.items()):
            if branch.until <= now:
                self.attempt.given_up(leg)
                if self._facts.has_rung(leg):
                    self._services.metrics.ring_no_answer.observe(
                        now - branch.until + branch.ring_s
                    )
                    self._services.metrics.ring_overrun.observe(now - branch.until)
                self._stop((leg,), GIVEN_UP)
            elif branch.move_at <= now and not leg.provisional and branch.server is not None:
                self._services.endpoint.names.failed(branch.server)
                self._stop((leg,))
                self._place_at_next(branch)
        self._unresolved -= {branch for branch in self._unresolved if branch.until <= now}
        self._move_at = min((branch.until for branch in self._unresolved), default=math.inf)
        for leg, branch in self._ringing.items():
            move_at = math.inf if leg.provisional else branch.move_at
            self._move_at = min(self._move_at, move_at, branch.until)

    def _stop(self, legs: Iterable[Outgoing], farewell: Farewell = NOTHING) -> None:
        """Cancel some of the ringing legs; they may still answer."""
        for leg in legs:
            del self._ringing[leg]
            self._give_up_on(leg, farewell)
            if self._caller.peer is leg:
                self._caller.peer = None

    def _of_group(self) -> list[Outgoing | Branch]:
        """Those that ring, or will, and do not ring beside the line."""
        found: list[Outgoing | Branch] = [
            leg for leg, branch in self._ringing.items() if branch.beside is None
        ]
        return found + [branch for branch in self._unresolved if branch.beside is None]

    def on_late(self, event: Item | None) -> None:
        """Handle an event that the present stage of the call does not use. Raises Over for its
        end."""
        if isinstance(event, Cancelled):
            raise Over(Outcome.CANCELLED, 487, "caller")
        if isinstance(event, Ended) and event.leg is self._caller:
            raise Over(Outcome.FAILED, 504, event.why)
        if isinstance(event, Stop):
            self.refusal_field, self.farewell = event.reason, Farewell(event.reason)
            raise Over(Outcome.FAILED, event.code, event.why)
        if isinstance(event, Answered):
            self._services.metrics.race("answer_after_cancel")
            event.leg.hangup()
        elif isinstance(event, Failed):
            self._retired.pop(event.leg, None)
            self._facts.leg_ended(event.leg, event.code)

    def _rang_s(self, leg: Outgoing, branch: Branch | None) -> float | None:
        """Seconds since the line or the target that a leg rings began to ring; None if it did not.
        A target of a list has its own time, and so has a leg that was given up (None)."""
        if branch is not None and not branch.turn:
            now = self._services.loop.time()
            return now - self._first_rang if self._first_rang else None
        rang = self._facts.legs[leg].rang
        return None if rang is None else max(0.0, self._facts.clock() - rang)

    def _rang_out(self, until: float) -> None:
        """Nobody answered before `until`, in loop time."""
        now, metrics = self._services.loop.time(), self._services.metrics
        metrics.ring_no_answer.observe(now - self._first_rang)
        metrics.ring_overrun.observe(max(0.0, now - until))

    def _give_up(self, *, only_group: bool = False) -> None:
        """The time of the ringing legs is over: record that as their failure. `only_group`: not the
        time of those beside the line."""
        if only_group:
            group = self._of_group()
            self._unresolved.difference_update(each for each in group if isinstance(each, Branch))
            legs = [leg for leg in group if isinstance(leg, Outgoing)]
            for leg in legs:
                self.attempt.given_up(leg)
            self._stop(legs, GIVEN_UP)
            return
        for leg in self._ringing:
            self.attempt.given_up(leg)
        self._retire(GIVEN_UP)

    def _retire(self, farewell: Farewell) -> None:
        """Cancel every ringing leg; they may still answer until the call is over."""
        for leg in self._ringing:
            self._give_up_on(leg, farewell)
        self._ringing.clear()
        self._unresolved.clear()
        self._move_at = math.inf
        self._caller.peer = None

    def _give_up_on(self, leg: Outgoing, farewell: Farewell) -> None:
        leg.peer = None
        leg.cancel(farewell)
        self._retired[leg] = None

    def check_caller(self, race: str = "caller_gone_in_forward") -> None:
        """The caller's CANCEL takes precedence over all events, also earlier ones. Raises Over."""
        if self._caller.state is ENDED:
            self._services.metrics.race(race)
            raise Over(Outcome.CANCELLED, 487, "caller")

    def next_attempt(self) -> None:
        """Start the attempt for another line or target."""
        self.attempt.clear()
        self._first_rang = 0.0
        self._beside = False


def _is_ringing(code: int) -> bool:
    """Whether an 18x means ringing or progress, not a forward (forwarding-rules.md 1.6)."""
    return 180 <= code <= 189 and code != 181
