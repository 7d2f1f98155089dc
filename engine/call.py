"""One call, from INVITE to record, top to bottom.

`Call.run` is the whole of it: find the line, ask the rules, ring or forward until somebody answers,
let the two sides talk, write down what happened. Every path ends in an `Over` with an outcome.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from engine.mailbox import Mailbox, Stop
from engine.outcome import Outcome, Over, of_code, refused
from engine.story import Story
from rules.decide import Decision, ForwardTo, Reject, Ring, Situation, decide
from rules.model import Condition, Line
from rules.outcome import Failure, stops_all, target_failure, verdict
from rules.store import Entry, Unavailable
from sip import headers
from sip.endpoint import DialError
from sip.events import Acked, Answered, Cancelled, Ended, Event, Failed, Progress
from sip.headers import Diverted
from sip.leg import Leg
from sip.message import Message
from sip.state import State

if TYPE_CHECKING:
    from engine.worker import Worker

ELSEWHERE = b'Reason: SIP;cause=200;text="Call completed elsewhere"'
NO_MESSAGE = Message(b"")
GIVEN_UP = b"Reason: Q.850;cause=19"  # RFC 3326: no answer from the user


class Call:
    """The call flow of one INVITE. Owns the caller's leg and every leg it dials."""

    def __init__(self, worker: Worker, leg: Leg, called: str) -> None:
        self._worker = worker
        self._caller = leg
        self._invite = message_of(leg)
        self._mailbox = Mailbox(worker.loop)
        leg.listener = self._mailbox.put
        self._received = time.perf_counter()
        self._who = worker.caller_of(self._invite)
        self._received_diversions = headers.diversions(self._invite)
        self._visited: tuple[str, ...] = ()
        self._diverted: list[Diverted] = []
        self._ringing: dict[Leg, None] = {}  # the legs of the current attempt
        self._retired: dict[Leg, None] = {}  # legs given up that may still answer
        self._failures: list[Failed] = []
        self._decided = False
        self._triggered = 0.0  # when the last condition was met
        self._farewell = b""  # the caller's Reason, for the legs that its CANCEL ends
        self.story = Story(worker.new_call_id(), self._invite.call_id, self._who or "", called)

    # -- the call, top to bottom ------------------------------------------------------------------

    async def run(self) -> None:
        """Never raises; the worker is told of the end on every path."""
        over = Over(Outcome.FAILED, 500, "internal")
        try:
            winner = await self._connect()
            over = await self._converse(winner)
        except Over as end:
            over = end
        except Exception:
            self._worker.log.exception("call.error", call=self.story.id)
        finally:
            self._mailbox.close()
            try:
                self._end_legs(over)
            except Exception:
                self._worker.log.exception("call.error", call=self.story.id)
            self._worker.on_call_over(self, over)

    async def _connect(self) -> Leg:
        """Follow the rules, from line to line, until somebody answers."""
        entry = await self._find(self.story.called)
        while True:
            line = self._line_of(entry)
            decision = await self._on_arrival(line, entry)
            if isinstance(decision, Ring):
                result = await self._ring_line(line, entry, decision.after_s)
                if isinstance(result, Leg):
                    return result
                decision = await self._decide(line, entry, result)
            if not isinstance(decision, ForwardTo):
                raise self._refusal(decision)
            self._forward(line, decision)
            if decision.kind != "line":
                return await self._ring_target(decision)
            entry = await self._find(decision.number)

    async def _converse(self, winner: Leg) -> Over:
        """From the answer until one side hangs up."""
        caller = self._caller
        self._invite = NO_MESSAGE  # a standing call keeps little
        self._failures.clear()
        deadline = self._worker.loop.time() + self._worker.config.timers.max_call_s
        while True:
            event = await self._mailbox.get(deadline)
            if isinstance(event, Acked):
                if winner.state is State.ANSWERED:  # late offer: the answer came in the ACK
                    winner.accept(event.message.body, event.message.content_type)
            elif isinstance(event, Ended) and event.leg in (caller, winner):
                self.story.leg_ended(winner, 0, headers.q850_cause(event.message))
                other = winner if event.leg is caller else caller
                other.hangup(headers.reason_field(event.message))
                return Over(Outcome.ANSWERED, 200, event.why)
            elif event is None:
                return Over(Outcome.ANSWERED, 200, "max_call")
            elif isinstance(event, Stop):
                return Over(Outcome.ANSWERED, 200, event.why)
            else:
                self._on_late(event)

    # -- the rules --------------------------------------------------------------------------------

    async def _find(self, number: str) -> Entry:
        """The line's rules and registrations, from memory if they are there."""
        store, metrics = self._worker.store, self._worker.metrics
        start = time.perf_counter()
        entry = store.peek(number)
        if entry is not None:
            metrics.lookup_memory.observe(time.perf_counter() - start)
            return entry
        try:
            entry = await store.look_up(number)
        except Unavailable:
            self._check_caller()
            if self._worker.config.rules.when_unavailable == "reject":
                raise Over(Outcome.FAILED, 503, "rules_unavailable") from None
            return await self._worker.entry_without_rules(number)
        metrics.lookup_redis.observe(time.perf_counter() - start)
        self._check_caller()
        return entry

    def _line_of(self, entry: Entry) -> Line:
        if entry.line is not None:
            return entry.line
        if entry.refused is not None:
            raise Over(Outcome.FAILED, 500, "bad_document")
        raise Over(Outcome.REJECTED, 404, "unknown_line")

    async def _on_arrival(self, line: Line, entry: Entry) -> Decision:
        """Decide for a call that reaches a line, counting it on the line if it is to ring."""
        self._visited += (line.number,)
        decision = await self._decide(line, entry, None)
        if isinstance(decision, ForwardTo) and decision.condition is Condition.UNCONDITIONAL:
            return decision
        live, call_id = self._worker.live, self.story.id
        if line.max_calls is not None and not line.suspended:
            found = await live.admit(line.number, call_id, line.max_calls)
            self._check_caller()
            if found is not None:
                return await self._decide(line, entry, None, calls_in_progress=found)
            if not isinstance(decision, Ring):
                live.leave(line.number, call_id)
        elif isinstance(decision, Ring):
            live.add(line.number, call_id)
        return decision

    async def _decide(
        self, line: Line, entry: Entry, trigger: Condition | None, calls_in_progress: int = 0
    ) -> Decision:
        """Ask the rules: when the call arrives, and again each time a condition is met."""
        worker = self._worker
        self._triggered = time.perf_counter()
        targets = worker.store.targets(entry)
        if targets is None:
            targets = await worker.store.load_targets(entry)
            self._check_caller()
        return decide(
            line,
            Situation(
                trigger=trigger,
                calls_in_progress=calls_in_progress,
                registered=bool(entry.live_contacts(time.time())),
                caller=self._who,
                visited=self._visited,
                diversions=self._received_diversions + len(self._diverted),
                max_diversions=worker.config.limits.max_diversions,
                forwards_in_progress=worker.forwards[line.number],
                forwards_per_line=worker.config.limits.forwards_per_line,
                plan_left_s=entry.plan_left_s(),
            ),
            targets,
        )

    def _refusal(self, decision: Decision) -> Over:
        """No forward saves the call: a phone's own no is passed on, else the condition's code."""
        assert isinstance(decision, Reject)
        over = refused(decision)
        if decision.why == "max_diversions":
            return over
        for failed in self._failures:
            if failed.message is not None and (
                stops_all(failed.code) or failed.code == decision.code
            ):
                over.code, over.message = failed.code, failed.message
        return over

    def _forward(self, line: Line, decision: ForwardTo) -> None:
        """The call leaves this line: the caller hears of it, the line is free again."""
        self._check_caller()  # a CANCEL may wait in the mailbox behind what led here
        self._diverted.append(Diverted(line.number, decision.reason, decision.cause))
        self.story.forwarded(line.number, decision)
        self._worker.forwards[line.number] += 1
        self._worker.live.leave(line.number, self.story.id)
        self._failures.clear()
        self._caller.progress(181)

    # -- ringing ----------------------------------------------------------------------------------

    async def _ring_line(
        self, line: Line, entry: Entry, after_s: int | None
    ) -> Leg | Condition:
        """Ring every registered contact; who answered, or the condition that was met.

        Raises Over when the caller is to hear the phone's own code.
        """
        timers = self._worker.config.timers
        for contact in entry.live_contacts(time.time()):
            routes = tuple(split_path(contact.path)) if contact.path else ()
            self._dial("line", line.number, contact.uri, routes, trusted=False)
        silent = dict(self._ringing)
        ring_s = after_s if after_s is not None else timers.max_ring_s
        result = await self._ring(timers.pre_ringing_s, ring_s)
        if isinstance(result, Leg):
            return result
        self._worker.live.leave(line.number, self.story.id)
        if result is Condition.NO_ANSWER:
            return result
        failures = [self._failure_of(failed) for failed in self._failures]
        for failed in self._failures:
            silent.pop(failed.leg, None)
        failures += [Failure(408, transport=True)] * len(silent)
        outcome = verdict(failures)
        if isinstance(outcome, Condition):
            return outcome
        raise Over(of_code(outcome), outcome, "passed_on", self._response_with(outcome))

    async def _ring_target(self, decision: ForwardTo) -> Leg:
        """Ring the target of a forward; if it fails, the caller gets its code and that is all."""
        uri = self._worker.uri_of(decision)
        max_ring_s = self._worker.config.timers.max_ring_s
        self._dial(decision.kind, decision.number, uri, (), trusted=True)
        result = await self._ring(max_ring_s, max_ring_s, max_ring_s)
        if isinstance(result, Leg):
            return result
        if result is not None:
            raise Over(Outcome(result.value), 480, "target_no_answer")
        if not self._failures:
            raise Over(Outcome.UNREACHABLE, 480, "target_undialled")
        failure = self._failure_of(self._failures[-1])
        code = target_failure(failure)
        outcome = of_code(code)
        if code == 480:
            unanswered = failure.code in (408, 480) and failure.rang
            outcome = Outcome.NO_ANSWER if unanswered else Outcome.UNREACHABLE
        raise Over(outcome, code, "target_failed", self._response_with(code))

    async def _ring(
        self, pre_s: float, ring_s: float, most_s: float = math.inf
    ) -> Leg | Condition | None:
        """Wait for an answer. The leg that answered; NO_ANSWER or UNREACHABLE when a timer ran
        out; None when every leg failed (see `_failures`).

        A leg has `pre_s` from its INVITE to show a first 18x; from then on the call waits
        `ring_s`, and never longer than `most_s` from the INVITE.
        """
        loop, story = self._worker.loop, self.story
        start = loop.time()
        first_rang: float | None = None
        while self._ringing:
            # Legs that have never rung do not keep those that do, nor those that are gone.
            rings = first_rang is not None and any(map(story.has_rung, self._ringing))
            deadline = first_rang + ring_s if rings and first_rang is not None else start + pre_s
            event = await self._mailbox.get(min(deadline, start + most_s))
            if event is None:
                self._retire(GIVEN_UP)
                return Condition.NO_ANSWER if rings else Condition.UNREACHABLE
            if isinstance(event, Answered) and (
                event.leg in self._ringing or event.leg in self._retired
            ):
                return self._take(event)
            if isinstance(event, Progress) and event.leg in self._ringing:
                if _is_ringing(event.code):
                    story.leg_rang(event.leg)
                    first_rang = first_rang or loop.time()
                self._on_progress(event)
            elif isinstance(event, Failed) and event.leg in self._ringing:
                self._on_failed(event)
            else:
                self._on_late(event)
        return None

    def _take(self, event: Answered) -> Leg:
        """Somebody picked up: everybody else is called off, the caller gets the answer."""
        winner = event.leg
        self._ringing.pop(winner, None)
        if winner in self._retired:
            # The no-answer race: who was given up wins while the target has not answered.
            del self._retired[winner]
            self._worker.metrics.race("line_won")
            self._take_back(self.story.overtaken(winner))
        self._retire(ELSEWHERE)
        self.story.leg_answered(winner, event.code)
        if self._invite.body:
            winner.accept()
        if not self._caller.answer(event.code, event.message):
            winner.hangup()
            self._check_caller()
            raise Over(Outcome.FAILED, 500, "answer_not_sent")
        self.story.answered = time.time()
        winner.peer, self._caller.peer = self._caller, winner
        return winner

    def _on_progress(self, event: Progress) -> None:
        if len(self._ringing) == 1:
            event.leg.peer, self._caller.peer = self._caller, event.leg
            message: Message | None = event.message
        else:
            message = None  # several phones: their early media would contradict one another
        if event.code != 199:
            self._tell_caller(event.code, message)

    def _on_failed(self, event: Failed) -> None:
        del self._ringing[event.leg]
        self._failures.append(event)
        self.story.leg_ended(event.leg, event.code, headers.q850_cause(event.message))
        if stops_all(event.code):
            self._retire(b"")

    def _on_late(self, event: Event | Stop | None) -> None:
        """Whatever the current stage has no use for."""
        if isinstance(event, Cancelled):
            self._farewell = headers.reason_field(event.message)
            raise Over(Outcome.CANCELLED, 487, "caller")
        if isinstance(event, Stop):
            raise Over(Outcome.FAILED, event.code, event.why)
        if isinstance(event, Answered):
            self._worker.metrics.race("answer_after_cancel")
            event.leg.hangup()
        elif isinstance(event, Failed):
            self._retired.pop(event.leg, None)
            self.story.leg_ended(event.leg, event.code)

    # -- legs -------------------------------------------------------------------------------------

    def _dial(
        self, role: str, number: str, uri: str, routes: tuple[str, ...], *, trusted: bool
    ) -> None:
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
                    diverted=self._diverted,
                    target=uri,
                    host=worker.endpoint.host,
                ),
                body=invite.body,
                content_type=invite.content_type,
                max_forwards=self._caller.max_forwards - 1,
                routes=routes,
                trusted=trusted,
                listener=self._mailbox.put,
            )
        except DialError as error:
            worker.log.warning("call.undialled", call=self.story.id, error=str(error))
            return
        now = time.perf_counter()
        if not self._decided:
            self._decided = True
            worker.metrics.decision.observe(now - self._received)
        if self._diverted and self._triggered:
            condition = self.story.forwards[-1].condition
            worker.metrics.forward_delay[condition].observe(now - self._triggered)
            self._triggered = 0.0
        self._ringing[leg] = None
        self.story.dialled(leg, role, number)

    def _retire(self, reason: bytes) -> None:
        """Give up every ringing leg; until the call is over they may still answer."""
        for leg in self._ringing:
            leg.peer = None
            leg.cancel(reason)
        self._retired.update(self._ringing)
        self._ringing.clear()
        self._caller.peer = None

    def _tell_caller(self, code: int, message: Message | None) -> None:
        delay = self.story.caller_rang()
        if delay is not None:
            self._worker.metrics.post_dial_delay.observe(delay)
        self._caller.progress(code, message)

    def _take_back(self, number: str) -> None:
        """The call is on this line again, and on none that it was forwarded to since."""
        live, call_id = self._worker.live, self.story.id
        for other in self._visited:
            live.leave(other, call_id)
        while self._diverted and self._diverted[-1].line != number:
            self._worker.release_forward(self._diverted.pop().line)
        if self._diverted:
            self._worker.release_forward(self._diverted.pop().line)
        entry = self._worker.store.peek(number)
        limited = entry is not None and entry.line is not None and entry.line.max_calls is not None
        live.add(number, call_id, lease=limited)

    def _check_caller(self) -> None:
        """After waiting for Redis: the caller's CANCEL beats everything."""
        if self._caller.state is State.ENDED:
            raise Over(Outcome.CANCELLED, 487, "caller")

    def _failure_of(self, failed: Failed) -> Failure:
        return Failure(
            code=failed.code,
            q850=headers.q850_cause(failed.message),
            rang=self.story.has_rung(failed.leg),
            transport=failed.message is None,
        )

    def _response_with(self, code: int) -> Message | None:
        for failed in self._failures:
            if failed.code == code:
                return failed.message
        return None

    def _end_legs(self, over: Over) -> None:
        """Whatever still stands is ended, and nobody listens any more. Idempotent."""
        caller = self._caller
        if caller.state <= State.EARLY:
            caller.reject(over.code if over.code >= 300 else 500, over.message)
        caller.detach()
        caller.hangup()
        for leg in self.story.legs:
            leg.detach()
            leg.hangup(self._farewell)

    @property
    def diverting_lines(self) -> list[str]:
        """The lines that forwarded this call, in order."""
        return [diverted.line for diverted in self._diverted]

    @property
    def lines(self) -> tuple[str, ...]:
        """Every line this call has met."""
        return self._visited

    def stop(self, code: int, why: str) -> None:
        """Ask the call to end: BYE when it is answered, else `code` to the caller."""
        self._mailbox.put(Stop(code, why))

    def now(self) -> dict[str, Any]:
        return self.story.now()


def _is_ringing(code: int) -> bool:
    """An 18x that tells of ringing or progress, not of a forward (domain.md 1.5)."""
    return 180 <= code <= 189 and code != 181


def split_path(path: str) -> list[str]:
    """The hops of a Path, in order (RFC 3327 5.2: a Route of the new leg)."""
    return [hop.decode() for hop in headers.split_list(path.encode())]


def message_of(leg: Leg) -> Message:
    """The INVITE of an incoming leg."""
    assert leg.invite is not None
    return leg.invite
