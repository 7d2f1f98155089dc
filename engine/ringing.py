"""Ringing: the dialled legs of a call, which answers first, and the races between them.

Cancelled legs may still answer (a 200 crosses our CANCEL), so they are kept as `_retired` until the
call is over. A person who picks up on one wins while nobody else has (forwarding-rules.md 2).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from engine.attempt import Attempt
from engine.branch import Branch
from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over
from engine.call_path import CallPath
from engine.call_services import CallServices
from engine.event_queue import Checked, Event, EventQueue, Item, Resolved, Stop
from rules.model import Condition, DocumentError
from sip import crossing, headers, session_expires
from sip.address import Address
from sip.bodies import body_told
from sip.events import Answered, Cancelled, Ended, Failed, Progress
from sip.farewell import NOTHING, Farewell
from sip.features import features
from sip.message import Message
from sip.names import same_place
from sip.outgoing import Outgoing
from sip.replaces import End, May, anybody
from sip.settings import DialError, TooLarge
from sip.state import ENDED
from store.keys import registrations_key

if TYPE_CHECKING:
    from sip.incoming import Incoming
    from sip.party import Party

NO_MESSAGE = Message(b"")
ELSEWHERE = Farewell(b'Reason: SIP;cause=200;text="Call completed elsewhere"')
GIVEN_UP = Farewell(b"Reason: Q.850;cause=19")  # no answer from the user (RFC 3326)


class Ringing:
    """The outgoing legs of one call until one of them is answered."""

    __slots__ = (
        "_beside",
        "_caller",
        "_decided",
        "_events",
        "_facts",
        "_first_rang",
        "_group_rang",
        "_invite",
        "_move_at",
        "_path",
        "_received",
        "_retired",
        "_ring_s",
        "_ringing",
        "_services",
        "_session_field",
        "_triggered",
        "_unresolved",
        "_until",
        "attempt",
        "farewell",
        "holder",
        "may_name",
        "told",
    )

    def __init__(
        self,
        services: CallServices,
        caller: Incoming,
        events: EventQueue,
        path: CallPath,
        facts: CallFacts,
    ) -> None:
        self._services = services
        self._caller = caller
        self._invite = caller.invite or NO_MESSAGE
        self._events = events
        self._path = path
        self._facts = facts
        self._ringing: dict[Outgoing, Branch] = {}  # the legs of the current attempt
        self._unresolved: set[Branch] = set()  # of it, those whose name is being resolved
        self._move_at = math.inf  # loop time at which one is given up, or its silent server is
        self._beside = False  # some of them ring beside a line's phones
        self._retired: dict[Outgoing, None] = {}  # cancelled legs that may still answer
        self.attempt = Attempt(facts)  # its failures so far
        self._first_rang = 0.0  # loop time of its first 18x
        self._group_rang = 0.0  # and of the first one of the legs that ring now
        self._ring_s = 0.0  # how long the call waits from then on
        self._until = math.inf  # loop time until which `wait` sleeps; infinite if it does not sleep
        self._session_field = session_expires.request_field(
            self._invite, services.config.timers.session_expires_s
        )
        self._received = time.perf_counter()
        self._decided = False
        self._triggered = 0.0
        self.holder: Party | None = None  # the leg whose far end rings, if known
        self.told = b""  # the Reason for a caller that is refused because the call must end
        self.may_name: May = anybody  # the dialogs that the caller may name
        self.farewell = NOTHING  # what the engine sends to all when it ends the call itself

    @property
    def no_phones(self) -> bool:
        """The caller requires a privacy towards phones that the engine cannot provide (RFC 3323
        5)."""
        return bool(self._caller.wish.undone)

    def dial(self, branch: Branch) -> None:
        """Ring one more contact or target in the current attempt. It is skipped if it cannot be
        rung, or if its `contact` leads to a server instead of a phone. Raises Over for a phone if
        there may be `no_phones`."""
        services, contact = self._services, branch.contact
        if self._caller.wish.undone and not branch.trusted:
            raise Over(Outcome.REJECTED, 500, "privacy")
        proxy = services.config.sip.outbound_proxy
        if proxy and not (branch.routes and same_place(branch.routes[0], proxy)):
            branch.routes = (f"<{proxy}>", *branch.routes)
        if branch.forward is not None:
            self._give_time(branch)
        if contact is not None:
            why = services.dialled.bars(contact)
            if why is not None:
                self._bar(branch, why)
                return
            names = services.dialled.names_of(contact, branch.place())
            if names:
                self._unresolved.add(branch)
                services.dialled.look_up(
                    contact, names, lambda why: self._events.put(Checked(branch, why))
                )
                return
        self._find(branch)

    def _give_time(self, branch: Branch) -> None:
        """Of a target of a list, or one beside a line: it has its own time from now on."""
        self._beside |= branch.beside is not None
        branch.until = self._services.loop.time() + branch.ring_s
        self._move_at = min(self._move_at, branch.until)

    def _bar(self, branch: Branch, why: str) -> None:
        error = DocumentError("contact", branch.uri, why)
        self._services.rejections.document(registrations_key(branch.number), error)

    def _find(self, branch: Branch) -> None:
        """Resolve it, unless it is an IP address."""
        services, place = self._services, branch.place()
        if place is None:
            self._place(branch)
            return
        servers = services.endpoint.names.known(place)
        if servers is None:
            self._unresolved.add(branch)
            services.endpoint.names.tell(
                place, lambda found: self._events.put(Resolved(branch, found))
            )
        else:
            self._resolved(branch, servers)

    def _resolved(self, branch: Branch, servers: Sequence[Address]) -> None:
        why = None
        if branch.contact is not None and not self._services.config.sip.outbound_proxy:
            why = self._services.dialled.bars_servers(branch.contact, servers)
        if why is not None:
            self._bar(branch, why)
        elif servers:
            branch.servers = list(servers)
            self._place_at_next(branch)
        else:
            self._services.log.warning("call.unresolved", call=self._facts.id, uri=branch.uri)

    def _place_at_next(self, branch: Branch) -> None:
        """Send it to the next of its servers, which has some time to respond."""
        branch.server = branch.servers.pop(0)
        branch.move_at = math.inf
        if branch.servers:
            timers = self._services.config.timers
            branch.move_at = self._services.loop.time() + timers.next_server_s
            self._move_at = min(self._move_at, branch.move_at)
        self._place(branch)

    def _place(self, branch: Branch) -> None:
        services, invite, diverted = self._services, self._invite, self._path.diverted
        if branch.beside is not None:
            diverted = [*diverted, branch.beside]
        block = crossing.invite_block(
            invite,
            trusted=branch.trusted,
            diverted=diverted,
            target=branch.uri,
            host=services.endpoint.host,
            branch=branch.turn or 1,
            reliable=branch.alone and self._caller.reliable is not None,
            extra=self._session_field,
        )
        body, content_type = body_told(invite, to_trusted=branch.trusted)
        if invite.tells_dialogs:
            end = End(branch.uri, branch.routes, self.holder)
            block = services.endpoint.dialog_names.pass_on(block, end, self.may_name)
        try:
            leg = services.endpoint.dial(
                branch.uri,
                from_=crossing.caller_shown(invite, trusted=branch.trusted),
                to=headers.without_tag(invite.first(b"to") or b""),
                block=block,
                body=body,
                content_type=content_type,
                max_forwards=self._caller.max_forwards - 1,
                routes=branch.routes,
                call=self._facts.call_id,
                server=branch.server,
                trusted=branch.trusted,
                alone=branch.alone,
                features=features(invite, to_trusted=branch.trusted),
                listener=self._hear,
            )
        except DialError as error:
            services.log.warning("call.undialled", call=self._facts.id, error=str(error))
            self.attempt.too_large |= isinstance(error, TooLarge)
            return
        leg.owner = self._facts
        self._ringing[leg] = branch
        if branch.forward is not None:
            self._facts.offer(leg, branch.forward)
        self._facts.dialled(leg, branch.role, branch.number)
        self._measure()

    def _measure(self) -> None:
        now, metrics = time.perf_counter(), self._services.metrics
        if not self._decided:
            self._decided = True
            metrics.decision.observe(now - self._received)
        condition = self._facts.condition
        if self._triggered and condition != "none":
            metrics.forward_delay[condition].observe(now - self._triggered)
        self._triggered = 0.0

    def triggered(self) -> None:
        """A condition was met, or the call reached a line: start measuring the forward's delay."""
        self._triggered = time.perf_counter()

    async def wait(
        self, pre_s: float, ring_s: float, *, most_s: float = math.inf, group_s: float = math.inf
    ) -> Outgoing | Condition | None:
        """Wait for an answer from the legs that ring now. Returns the leg that answered; NO_ANSWER
        if `ring_s` ran out, UNREACHABLE if none sent an 18x; None if every leg failed or rang for
        `group_s` without answer (`attempt` has the failures).

        A leg has `pre_s` from its INVITE until its first 18x. From the attempt's first 18x on the
        call waits `ring_s`, and never longer than `most_s` from the INVITE. With a finite `group_s`
        others will follow: legs beside the line neither end nor extend the group's time, and go on.
        Raises Over if the caller cancels.
        """
        loop, facts = self._services.loop, self._facts
        start = loop.time()
        self._group_rang, self._ring_s = 0.0, min(ring_s, group_s)
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
        self._ringing.pop(winner, None)
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
        if self._first_rang:
            rang_s = self._services.loop.time() - self._first_rang
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
        if event.code == 199:  # one early dialog of several has ended (RFC 6228), not the caller's
            return
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
            self.told, self.farewell = event.reason, Farewell(event.reason)
            raise Over(Outcome.FAILED, event.code, event.why)
        if isinstance(event, Answered):
            self._services.metrics.race("answer_after_cancel")
            event.leg.hangup()
        elif isinstance(event, Failed):
            self._retired.pop(event.leg, None)
            self._facts.leg_ended(event.leg, event.code)

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
    """Whether an 18x means ringing or progress, not a forward (forwarding-rules.md 1.5)."""
    return 180 <= code <= 189 and code != 181
