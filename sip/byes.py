"""BYEs and their answers.

Whoever hangs up gets the far side's answer, or a 200 of the engine's own: after `ANSWER_S`, when
the far side hangs up itself, when it cannot be reached, or when there is nobody left to tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sip import pjsip, wire
from sip.farewell import ANSWER_S, CHALLENGES, Farewell
from sip.message import Message
from sip.pjsip import lib
from sip.response import Response

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from sip.endpoint import Endpoint
    from sip.leg import Leg

# How long an answered BYE is remembered for its retransmissions (those of 0.5, 1.5, 3.5 and 7.5 s).
# RFC 3261 17.2.2 has 32 s on UDP; a later copy finds no dialog and gets 481, which ends it as well.
# Each one holds its dialog, and PJSIP's table of dialogs has 511 chains for all of them.
MEMORY_S = 8.0


class Bye:
    """A BYE of `leg`'s far end that waits for its answer."""

    __slots__ = ("_asker", "_byes", "_dlg", "_response", "_timer", "_tsx", "teller")

    def __init__(self, byes: Byes, leg: Leg, tsx: Any, rdata: Any) -> None:
        self._byes = byes
        self._dlg = leg.dialog
        self._tsx = tsx
        self._response = Response(leg.dialog, rdata)
        self._response.leg = leg
        self._timer: TimerHandle = byes.loop.call_later(ANSWER_S, self.answer, 200)
        self._asker: Leg | None = leg  # None when it is answered: the leg keeps this object
        self.teller: Leg | None = None  # the leg whose far end is asked

    def answer(self, code: int, message: Message | None = None) -> None:
        """Send the final response, once."""
        tsx, asker = self._tsx, self._asker
        if tsx is None or asker is None:
            return
        if code in CHALLENGES:
            code, message = 200, None
        send, trusted = self._response.send, asker.trusted
        if not send(self._dlg, tsx, code, message, to_trusted=trusted) and message is not None:
            send(self._dlg, tsx, code, None)  # its fields or body did not fit a packet
        self.drop()
        if tsx.state == pjsip.TSX_COMPLETED:
            self._byes.answered[tsx] = self._byes.loop.time()

    def drop(self) -> None:
        """It is answered, or its transaction is over."""
        if self._tsx is not None:
            self._byes.waiting.pop(self._tsx, None)
            self._tsx = None
            self._timer.cancel()
            self._response.close()
            self._asker = self._response.leg = None


class Byes:
    """The BYEs under way: received ones that wait for their answer or are remembered, and those
    that were sent because of them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.loop = endpoint.loop
        self.waiting: dict[Any, Bye] = {}  # by server transaction
        self.answered: dict[Any, float] = {}  # by server transaction, with their loop time
        self._sending: Bye | None = None
        self._sent: dict[Any, tuple[Any, Bye]] = {}  # by client transaction, with its dialog

    def receive(self, leg: Leg, tsx: Any, rdata: Any) -> Bye | None:
        """A BYE on a leg. None when nobody else can be told, and it is answered here."""
        peer = leg.peer
        if leg.listener is None or peer is None or peer.dialog is None:
            self.refuse(leg.dialog, tsx, rdata)
            return None
        bye = self.waiting[tsx] = Bye(self, leg, tsx, rdata)
        return bye

    def refuse(self, dlg: Any, tsx: Any, rdata: Any) -> None:
        """Answer a BYE at once."""
        wire.answer(dlg, tsx, rdata, 200)
        if tsx.state == pjsip.TSX_COMPLETED:
            self.answered[tsx] = self.loop.time()
        for known, bye in list(self._sent.values()):
            if known == dlg:
                bye.answer(200)  # both hung up at once

    def say(self, leg: Leg, farewell: Farewell) -> None:
        """Send a BYE to the leg's far end; its answer goes to whoever hung up."""
        bye = farewell.bye
        if bye is not None and bye.teller is None:
            bye.teller = leg
            self._sending = bye
        wire.send_bye(leg.dialog, farewell.tries(leg))
        unsent, self._sending = self._sending, None
        if unsent is not None:
            unsent.answer(200)

    def on_client_state(self, tsx: Any, cause: int) -> None:
        """The transaction of a BYE that was sent has changed."""
        if self._sending is not None:
            self._sent[tsx] = lib.pjsip_tsx_get_dlg(tsx), self._sending
            self._sending = None
        if cause == pjsip.EVENT_TX or not self._sent or tsx not in self._sent:
            return
        code = tsx.status_code
        if cause == pjsip.EVENT_RX:
            if code >= 200:
                _, bye = self._sent.pop(tsx)
                assert bye.teller is not None  # `say` set it
                bye.answer(code, bye.teller.mark(wire.received()))
        elif tsx.state >= pjsip.TSX_COMPLETED:
            self._sent.pop(tsx)[1].answer(200)  # nobody answers, or nobody is there

    def on_server_gone(self, tsx: Any) -> None:
        """The transaction of a BYE that was received is over."""
        self.answered.pop(tsx, None)
        bye = self.waiting.get(tsx)
        if bye is not None:
            bye.drop()

    def forget(self) -> None:
        """End the transactions of BYEs that were answered long enough ago."""
        forgotten = self.loop.time() - MEMORY_S
        while self.answered:
            tsx = next(iter(self.answered))
            if self.answered[tsx] > forgotten:
                return
            del self.answered[tsx]
            lib.pjsip_tsx_terminate(tsx, 200)

    def close(self) -> None:
        """Nobody waits any longer."""
        for bye in list(self.waiting.values()):
            bye.answer(200)
