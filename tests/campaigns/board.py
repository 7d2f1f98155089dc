"""A small engine on top of an endpoint, which handles calls at random: reject, forward, ring
several phones at once or in turn, cancel, hang up, answer late."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from sip.end_of_call import NOTHING, Farewell
from sip.endpoint import Endpoint
from sip.events import Acked, Answered, Cancelled, Ended, Failed, Progress
from sip.outgoing import Outgoing
from sip.relayed_fields import Diverted, invite_block
from sip.settings import DialError
from sip.state import EARLY, ENDED

CODES = (404, 408, 480, 486, 487, 488, 500, 503, 603)
LONGEST_S = 60.0
ELSEWHERE = Farewell(b'Reason: SIP;cause=200;text="Call completed elsewhere"')


@dataclass(eq=False)
class Call:
    """A caller with its callees: the connected one and the remaining targets."""

    caller: Any
    left: list[str]  # targets that are not dialled yet
    legs: list[Any] = field(default_factory=list)
    spoken: Any = None  # the leg that answered
    diverted: list[Diverted] = field(default_factory=list)


class Board:
    """All calls of an endpoint. `targets` are URIs that can be called."""

    def __init__(self, chance: Random, targets: list[str]) -> None:
        self.chance = chance
        self.targets = targets
        self.endpoint: Endpoint | None = None
        self.calls: set[Call] = set()
        self.answered = 0
        self.registers = 0

    def _later(self, delay_s: float, do: Any, *given: Any) -> None:
        assert self.endpoint is not None
        self.endpoint.loop.call_later(delay_s, do, *given)

    def on_register(self, request: Any) -> None:
        self.registers += 1
        code = self.chance.choice((200, 200, 401, 403, 423, 503))
        block = b"Contact: <sip:x@127.0.0.1:9>;expires=60" if code == 200 else b""
        if self.chance.random() < 0.95:
            self._later(self.chance.choice((0.0, 0.1, 2.0)), request.respond, code, block)
        else:
            self._later(40.0, request.respond, 500)

    def on_invite(self, leg: Any) -> None:
        chance = self.chance
        if chance.random() < 0.05:
            leg.reject(chance.choice(CODES), extra=b"Retry-After: 3")
            return
        call = Call(leg, chance.sample(self.targets, chance.choice((1, 1, 2, 3))))
        leg.listener = lambda event: self._on_caller(call, event)
        leg.owner = call
        self.calls.add(call)
        if chance.random() < 0.1:
            leg.is_phone("sip:x@127.0.0.1:9")
        if chance.random() < 0.2:
            self._later(chance.choice((0.01, 0.5, 5.0)), self._forward, call)
        self._later(LONGEST_S, self._end, call)
        for _ in range(len(call.left) if chance.random() < 0.4 else 1):
            self._dial(call)

    def _dial(self, call: Call) -> None:
        assert self.endpoint is not None
        caller, chance = call.caller, self.chance
        invite = caller.invite
        target = call.left.pop()
        if invite is None or caller.state is ENDED:
            return
        trusted = chance.random() < 0.5
        try:
            leg = self.endpoint.dial(
                target,
                from_=invite.first(b"from") or b"",
                to=invite.first(b"to") or b"",
                block=invite_block(
                    invite, trusted=trusted, diverted=call.diverted, target=target,
                    host="127.0.0.1", reliable=chance.random() < 0.6,
                ),
                body=invite.body,
                content_type=invite.content_type,
                max_forwards=caller.max_forwards - 1,
                routes=("<sip:127.0.0.1:9;lr>",) if chance.random() < 0.05 else (),
                call=invite.call_id,
                trusted=trusted,
                alone=not call.left,
                listener=lambda event: self._on_leg(call, event),
            )  # fmt: skip
        except DialError:
            self._next(call, 500, None)
            return
        leg.owner = call
        call.legs.append(leg)

    def _forward(self, call: Call) -> None:
        """The line did not answer: dial another target."""
        if call.spoken is not None or call.caller.state > EARLY:
            return
        for leg in call.legs:
            leg.cancel(ELSEWHERE)
        call.diverted.append(Diverted("+33972100200", "no-answer", 408))
        call.caller.progress(181)
        call.left.append(self.chance.choice(self.targets))
        self._dial(call)

    def _next(self, call: Call, code: int, message: Any) -> None:
        if call.spoken is not None or call.caller.state > EARLY:
            return
        if call.left:
            self._dial(call)
        elif all(leg.state is ENDED for leg in call.legs):
            call.caller.reject(code, message)
            self.calls.discard(call)

    def _end(self, call: Call, farewell: Farewell = NOTHING) -> None:
        self.calls.discard(call)
        for leg in (call.caller, *call.legs):
            leg.hangup(farewell)
            if self.chance.random() < 0.5:
                leg.detach()

    def _on_leg(self, call: Call, event: Any) -> None:
        leg, caller = event.leg, call.caller
        if isinstance(event, Progress):
            if call.spoken is None and caller.state <= EARLY:
                leg.peer, caller.peer = caller, leg
                caller.progress(event.code, event.message, event.early, alone=not call.left)
        elif isinstance(event, Answered):
            self._on_answer(call, event)
        elif isinstance(event, Failed):
            call.legs.remove(leg)
            code = event.code if event.code not in (401, 407) else 480
            self._next(call, code, event.message)
        elif isinstance(event, Ended) and leg is call.spoken:
            self._end(call, leg.farewell)

    def _on_answer(self, call: Call, event: Answered[Outgoing]) -> None:
        leg, caller = event.leg, call.caller
        if call.spoken is not None or caller.state > EARLY:
            leg.hangup()
            return
        call.spoken = leg
        if caller.invite is None or caller.invite.body or self.chance.random() < 0.3:
            leg.accept()
        if not caller.answer(event.code, event.message, b"Session-Expires: 1800"):
            self._end(call)
            return
        self.answered += 1
        leg.peer, caller.peer = caller, leg
        for other in call.legs:
            if other is not leg:
                other.cancel(ELSEWHERE)

    def _on_caller(self, call: Call, event: Any) -> None:
        if isinstance(event, Acked):
            if call.spoken is not None and call.spoken.dialog is not None:
                call.spoken.accept(event.message)
        elif isinstance(event, (Cancelled, Ended)):
            self._end(call, event.leg.farewell)
