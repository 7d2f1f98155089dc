"""Ringing: the legs a call has dialled, who answers first, and the races between them.

Legs that were given up may still answer (a 200 crosses our CANCEL): they are `_retired`, not gone,
until the call is over. Who picks up on one wins while nobody else has (domain.md 2).
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from engine.mailbox import Mailbox, Stop
from engine.outcome import Outcome, Over
from engine.route import Route
from engine.story import Story
from rules.model import Condition
from rules.outcome import Failure, stops_all
from sip import headers, session
from sip.endpoint import DialError
from sip.events import Answered, Cancelled, Ended, Event, Failed, Progress
from sip.incoming import Incoming
from sip.message import Message
from sip.outgoing import Outgoing
from sip.state import State

if TYPE_CHECKING:
    from engine.worker import Worker

NO_MESSAGE = Message(b"")
ELSEWHERE = b'Reason: SIP;cause=200;text="Call completed elsewhere"'
GIVEN_UP = b"Reason: Q.850;cause=19"  # no answer from the user (RFC 3326)


class Ringing:
    """The outgoing legs of one call until one of them is answered."""

    __slots__ = (
        "_caller",
        "_decided",
        "_failures",
        "_first_rang",
        "_given_up",
        "_invite",
        "_mailbox",
        "_received",
        "_retired",
        "_ringing",
        "_route",
        "_session_field",
        "_story",
        "_triggered",
        "_worker",
        "farewell",
        "session_s",
    )

    def __init__(
        self, worker: Worker, caller: Incoming, mailbox: Mailbox, route: Route, story: Story
    ) -> None:
        assert caller.invite is not None
        self._worker = worker
        self._caller = caller
        self._invite = caller.invite
        self._mailbox = mailbox
        self._route = route
        self._story = story
        self._ringing: dict[Outgoing, None] = {}  # the legs of the current attempt
        self._retired: dict[Outgoing, None] = {}  # legs given up that may still answer
        self._failures: list[Failed] = []  # of the current attempt
        self._given_up: list[Failure] = []  # legs of it that nobody answered in time
        self._first_rang = 0.0  # loop time of its first 18x
        self._session_field = session.request_field(
            self._invite, worker.config.timers.session_expires_s
        )
        self.session_s = 0  # seconds until the answered session expires, 0 = never (RFC 4028)
        self._received = time.perf_counter()
        self._decided = False
        self._triggered = 0.0
        self.farewell = b""  # the caller's Reason, for the legs that its CANCEL ends

    def dial(
        self,
        role: str,
        number: str,
        uri: str,
        routes: tuple[str, ...] = (),
        *,
        trusted: bool,
        alone: bool,
    ) -> None:
        """Place one leg of the current attempt; one that cannot be made counts as none.

        `alone` says that no other target can follow it: only then may it promise its answer before
        it answers, by a reliable provisional response (RFC 3262).
        """
        worker, invite = self._worker, self._invite
        if worker.config.sip.outbound_proxy:
            routes = (f"<{worker.config.sip.outbound_proxy}>", *routes)
        try:
            leg = worker.endpoint.dial(
                uri,
                from_=headers.caller_shown(invite, trusted=trusted),
                to=headers.without_tag(invite.first(b"to") or b""),
                block=headers.invite_block(
                    invite,
                    trusted=trusted,
                    diverted=self._route.diverted,
                    target=uri,
                    host=worker.endpoint.host,
                    reliable=alone and self._caller.reliable is not None,
                    extra=self._session_field,
                ),
                body=invite.body,
                content_type=invite.content_type,
                max_forwards=self._caller.max_forwards - 1,
                routes=routes,
                trusted=trusted,
                alone=alone,
                listener=self._mailbox.put,
            )
        except DialError as error:
            worker.log.warning("call.undialled", call=self._story.id, error=str(error))
            return
        self._ringing[leg] = None
        self._story.dialled(leg, role, number)
        self._measure()

    def _measure(self) -> None:
        now, metrics = time.perf_counter(), self._worker.metrics
        if not self._decided:
            self._decided = True
            metrics.decision.observe(now - self._received)
        if self._triggered and self._story.forwards:
            condition = self._story.forwards[-1].condition
            metrics.forward_delay[condition].observe(now - self._triggered)
        self._triggered = 0.0

    def triggered(self) -> None:
        """A condition was met, or the call reached a line: the forward's delay begins."""
        self._triggered = time.perf_counter()

    async def wait(
        self, pre_s: float, ring_s: float, *, most_s: float = math.inf, group_s: float = math.inf
    ) -> Outgoing | Condition | None:
        """Wait for an answer from the legs that ring now. The leg that answered; NO_ANSWER when
        `ring_s` ran out, UNREACHABLE when none showed a sign; None when every leg failed or rang
        for `group_s` in vain (`failures` tells how).

        A leg has `pre_s` from its INVITE to show a first 18x; from the attempt's first one on the
        call waits `ring_s`, and never longer than `most_s` from the INVITE. Raises Over when the
        caller gives up.
        """
        loop, story = self._worker.loop, self._story
        start = loop.time()
        group_rang = 0.0
        while self._ringing:
            # Legs that have never rung do not keep those that do, nor those that are gone.
            rings = group_rang > 0 and any(map(story.has_rung, self._ringing))
            line_until = self._first_rang + ring_s if self._first_rang else math.inf
            until = min(line_until, group_rang + group_s if rings else start + pre_s)
            event = await self._mailbox.get(min(until, start + most_s))
            if event is None:
                self._give_up()
                if until == line_until:
                    return Condition.NO_ANSWER
                if rings and until <= start + most_s:
                    return None
                return Condition.NO_ANSWER if rings else Condition.UNREACHABLE
            if isinstance(event, Answered) and (
                event.leg in self._ringing or event.leg in self._retired
            ):
                return self._take(event)
            if isinstance(event, Progress) and event.leg in self._ringing:
                if _is_ringing(event.code):
                    story.leg_rang(event.leg)
                    group_rang = group_rang or loop.time()
                    self._first_rang = self._first_rang or group_rang
                self._on_progress(event)
            elif isinstance(event, Failed) and event.leg in self._ringing:
                self._on_failed(event)
            else:
                self.on_late(event)
        return None

    def _take(self, event: Answered) -> Outgoing:
        """Somebody picked up: everybody else is called off, the caller gets the answer."""
        winner, caller = event.leg, self._caller
        self._ringing.pop(winner, None)
        if winner in self._retired:
            # The no-answer race: who was given up wins while the target has not answered.
            del self._retired[winner]
            self._worker.metrics.race("line_won")
            self._route.take_back(self._story.overtaken(winner))
        self._retire(ELSEWHERE)
        self._story.leg_answered(winner, event.code)
        if self._invite.body:
            winner.accept()
        extra, self.session_s = session.response_fields(
            self._invite, event.message, self._worker.config.timers.session_expires_s
        )
        if not caller.answer(event.code, event.message, extra):
            winner.hangup()
            self.check_caller()
            raise Over(Outcome.FAILED, 500, "answer_not_sent")
        if caller.state is State.ANSWERED:  # not if the 2xx waits for a PRACK
            self._story.answered = time.time()
        self._invite = NO_MESSAGE  # a standing call keeps little
        self._failures.clear()
        winner.peer, caller.peer = caller, winner
        return winner

    def _on_progress(self, event: Progress) -> None:
        message: Message | None = None  # several phones' early media would contradict one another
        if len(self._ringing) == 1:
            event.leg.peer, self._caller.peer = self._caller, event.leg
            message = event.message
        if event.code == 199:  # one early dialog of several is over (RFC 6228): not the caller's
            return
        delay_s = self._story.caller_rang()
        if delay_s is not None:
            self._worker.metrics.post_dial_delay.observe(delay_s)
        self._caller.progress(event.code, message, event.early, alone=event.leg.alone)

    def _on_failed(self, event: Failed) -> None:
        del self._ringing[event.leg]
        self._failures.append(event)
        self._story.leg_ended(event.leg, event.code, headers.q850_cause(event.message))
        if stops_all(event.code):
            self._retire(b"")

    def on_late(self, event: Event | Stop | None) -> None:
        """Whatever the current stage of the call has no use for. Raises Over for its end."""
        if isinstance(event, Cancelled):
            self.farewell = headers.reason_field(event.message)
            raise Over(Outcome.CANCELLED, 487, "caller")
        if isinstance(event, Ended) and event.leg is self._caller:
            raise Over(Outcome.FAILED, 504, event.why)
        if isinstance(event, Stop):
            raise Over(Outcome.FAILED, event.code, event.why)
        if isinstance(event, Answered):
            self._worker.metrics.race("answer_after_cancel")
            event.leg.hangup()
        elif isinstance(event, Failed):
            self._retired.pop(event.leg, None)
            self._story.leg_ended(event.leg, event.code)

    def _give_up(self) -> None:
        """The time of the legs that ring is over: that is how they failed."""
        for leg in self._ringing:
            rang = self._story.has_rung(leg)
            self._given_up.append(Failure(408, rang=rang, transport=not rang))
        self._retire(GIVEN_UP)

    def _retire(self, reason: bytes) -> None:
        """Give up every ringing leg; until the call is over they may still answer."""
        for leg in self._ringing:
            leg.peer = None
            leg.cancel(reason)
        self._retired.update(self._ringing)
        self._ringing.clear()
        self._caller.peer = None

    def check_caller(self, race: str = "caller_gone_in_forward") -> None:
        """The caller's CANCEL beats everything, also what waits in front of it. Raises Over."""
        if self._caller.state is State.ENDED:
            self._worker.metrics.race(race)
            raise Over(Outcome.CANCELLED, 487, "caller")

    # -- how the current attempt failed -----------------------------------------------------------

    def next_attempt(self) -> None:
        """Another line or target is tried."""
        self._failures.clear()
        self._given_up.clear()
        self._first_rang = 0.0

    def failures(self) -> list[Failure]:
        """The legs of the current attempt that failed, for the rules' tables."""
        return self._given_up + [
            Failure(
                code=failed.code,
                q850=headers.q850_cause(failed.message),
                rang=self._story.has_rung(failed.leg),
                transport=failed.message is None,
            )
            for failed in self._failures
        ]

    def response_with(self, code: int) -> Message | None:
        """A response of the current attempt with this code, whose headers the caller may see."""
        for failed in self._failures:
            if failed.code == code:
                return failed.message
        return None

    def decline(self) -> Failed | None:
        """A phone's 6xx, which speaks for the person."""
        for failed in self._failures:
            if stops_all(failed.code):
                return failed
        return None


def _is_ringing(code: int) -> bool:
    """An 18x that tells of ringing or progress, not of a forward (domain.md 1.5)."""
    return 180 <= code <= 189 and code != 181
