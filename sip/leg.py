"""One side of a call: a small state machine over one PJSIP dialog. Actions in, events out.

This file holds the machine: an incoming leg goes TRYING, EARLY, ANSWERED, CONFIRMED, ENDED; an
outgoing one CALLING, EARLY, CANCELLING or ANSWERED, CONFIRMED, ENDED. An action that does not fit
the state is ignored and counted, never an error: the two sides of a call race by nature.
`exchange.py` relays what happens inside a dialog, `wire.py` writes the messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sip import headers, wire
from sip.events import Acked, Answered, Cancelled, Ended, Event, Failed, Progress
from sip.exchange import Exchanges
from sip.message import Message
from sip.pjsip import lib
from sip.reliable import Earlies, Early, Reliable
from sip.state import State

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from sip.endpoint import Endpoint


class Leg:
    """One dialog. `listener` gets its events; None lets the leg end itself quietly."""

    __slots__ = (
        "_ack",
        "_cancel_reason",
        "_cancel_timer",
        "_dlg",
        "_endpoint",
        "_hangup_reason",
        "_invite",
        "_invite_cseq",
        "_response",
        "_tdata",
        "alone",
        "earlies",
        "exchanges",
        "incoming",
        "invite",
        "invite_known",
        "listener",
        "max_forwards",
        "peer",
        "provisional",
        "reliable",
        "source",
        "state",
        "trusted",
        "uri",
    )

    def __init__(self, endpoint: Endpoint, dlg: Any, *, incoming: bool) -> None:
        self._endpoint = endpoint
        self._dlg = dlg
        self._invite: Any = None  # the INVITE's transaction while it lives
        self._invite_cseq = 0
        self._tdata: Any = None  # outgoing: the INVITE as sent, which a CANCEL needs
        self._response: wire.Response | None = None  # incoming: the INVITE's response
        self._ack = (b"", b"")  # body and media type of the ACK sent, for its repetition
        self._cancel_reason: bytes = b""
        self._cancel_timer: TimerHandle | None = None
        self._hangup_reason: bytes | None = None  # BYE owed as soon as the ACK is there
        self.exchanges: Exchanges | None = None
        self.incoming = incoming
        self.invite: Message | None = None  # incoming: the INVITE received
        self.invite_known = False  # outgoing: PJSIP has made the INVITE's transaction
        self.max_forwards = 70  # incoming: as received
        self.listener: Callable[[Event], None] | None = None
        self.peer: Leg | None = None  # the other side of the call, while both may talk
        self.provisional = False  # outgoing: some response came, so a CANCEL may be sent
        self.reliable: Reliable | None = None  # incoming: the caller knows 100rel
        self.earlies: Earlies | None = None  # outgoing: 100rel was offered
        self.alone = False  # outgoing: no other target can follow, what it says early holds
        self.trusted = True  # inside the trust domain (RFC 3325): all but phones
        self.source = ""  # incoming: the sender's IP address
        self.uri = ""  # outgoing: the Request-URI
        self.state = State.TRYING if incoming else State.CALLING
        endpoint.legs[dlg] = self

    def __repr__(self) -> str:
        side = "from " + self.source if self.incoming else "to " + self.uri
        return f"<Leg {side} {self.state.name.lower()}>"

    # -- actions of an incoming leg ---------------------------------------------------------------

    def progress(
        self,
        code: int,
        message: Message | None = None,
        early: Early | None = None,
        *,
        alone: bool = False,
    ) -> None:
        """Send a provisional response (101 to 199), with the headers and body of `message`.

        `early` and `alone` tell of the leg that the message came from: whether it was reliable
        there, and whether it is the only one that may answer.
        """
        if self.state > State.EARLY or not self.incoming:
            self._endpoint.illegal("progress")
            return
        self.state = State.EARLY
        if self.reliable is None or not self.reliable.send(code, message, early, alone=alone):
            self._respond(code, message)

    def answer(self, code: int, message: Message) -> bool:
        """Send the 2xx; PJSIP repeats it until the ACK (RFC 3261 13.3.1.4).

        False when it cannot be sent, because it does not fit a packet: `reject` is still possible.
        """
        if self.state > State.EARLY or not self.incoming:
            self._endpoint.illegal("answer")
            return False
        if self.reliable is not None and self.reliable.holds(code, message):
            return True
        if not self._respond(code, message) or self._dlg is None:
            return False  # without dialog: the transport broke while it was sent
        self.state = State.ANSWERED
        if self.reliable is not None:
            self.reliable.close()
        return True

    def answer_held(self, code: int, message: Message) -> None:
        """Send the 2xx that waited for a PRACK (RFC 3262 3)."""
        if not self.answer(code, message):
            self.reject(500)
            self._tell(Cancelled(self, None))

    def reject(self, code: int, message: Message | None = None, extra: bytes = b"") -> None:
        """Send a final response of 300 and above; the leg is over."""
        if self.state > State.EARLY or not self.incoming:
            self._endpoint.illegal("reject")
            return
        self._respond(code, message, extra)
        self._release()

    # -- actions of an outgoing leg ---------------------------------------------------------------

    def accept(self, body: bytes = b"", content_type: bytes = b"") -> None:
        """Acknowledge the 2xx, with a body when the offer came in it (late offer)."""
        if self.state is not State.ANSWERED or self.incoming:
            self._endpoint.illegal("accept")
            return
        self.state = State.CONFIRMED
        if body:
            self._ack = (body, content_type)
        wire.send_ack(self._dlg, self._invite_cseq, body, content_type)

    def cancel(self, reason: bytes = b"") -> None:
        """Give up an outgoing leg. `reason` is a whole Reason header field, or empty.

        The leg still tells how it ends: a 200 may cross the CANCEL.
        """
        if self.state not in (State.CALLING, State.EARLY):
            return
        self.state = State.CANCELLING
        self._cancel_reason = reason
        self._cancel_timer = self._endpoint.loop.call_later(
            wire.CANCEL_TIMEOUT_S, self._cancel_expired
        )
        if self.provisional:  # RFC 3261 9.1: not before a provisional response
            self._send_cancel()

    def _send_cancel(self) -> None:
        if self._tdata is not None and self._invite is not None:
            wire.send_cancel(self._endpoint.endpt, self._dlg, self._tdata, self._cancel_reason)

    def _cancel_expired(self) -> None:
        if self._invite is not None:
            lib.pjsip_tsx_terminate(self._invite, 487)
        self.on_invite_failed(487)

    # -- actions of both --------------------------------------------------------------------------

    def hangup(self, reason: bytes = b"") -> None:
        """End the leg by what its state asks for: CANCEL, 480, ACK and BYE, or BYE.

        A caller who has not acknowledged yet gets the BYE after the ACK (RFC 3261 15).
        """
        if self.state is State.CONFIRMED:
            wire.send_bye(self._dlg, reason)
            self._release()
        elif self.state is State.ANSWERED:
            if self.incoming:
                self._hangup_reason = self._hangup_reason or reason
            else:
                self.accept()
                wire.send_bye(self._dlg, reason)
                self._release()
        elif self.incoming and self.state <= State.EARLY:
            self.reject(480, extra=reason)
        else:
            self.cancel(reason)

    def detach(self) -> None:
        """Nobody listens any more: whatever still comes, the leg ends itself."""
        self.listener = None
        self.peer = None

    def abandon(self) -> None:
        """Let go of a leg whose INVITE was never sent."""
        self._release()

    # -- what the dialog tells (called by the endpoint only) --------------------------------------

    def on_invite_sent(self, tsx: Any) -> None:
        """PJSIP made the client transaction of an outgoing leg's INVITE."""
        self.invite_known = True
        self._invite = tsx
        self._invite_cseq = tsx.cseq

    def on_invite_response(self, code: int, message: Message) -> None:
        """A response to the initial INVITE of an outgoing leg, each seen once."""
        if code < 200:
            first, self.provisional = not self.provisional, True
            if self.state is State.CANCELLING:
                if first:
                    self._send_cancel()
            elif self.state <= State.EARLY and code > 100:
                self._on_progress(code, message)
        elif code < 300:
            self._invite = None
            if self.state < State.ANSWERED:
                self.state = State.ANSWERED
                self._drop_tdata()
                self._tell(Answered(self, code, message))
        else:
            self.on_invite_failed(code, message)

    def _on_progress(self, code: int, message: Message) -> None:
        early = None
        rseq = headers.rseq(message) if self.earlies is not None else 0
        if rseq and self.earlies is not None:
            early = self.earlies.hear(self, rseq, message)
            if early is None:
                return
        self.state = State.EARLY
        self._tell(Progress(self, code, message, early))

    def on_invite_failed(self, code: int, message: Message | None = None) -> None:
        """The outgoing INVITE is over without an answer."""
        self._invite = None
        if self.state < State.ANSWERED:
            self._release()
            self._tell(Failed(self, code, message))

    def on_2xx_again(self, cseq: int) -> None:
        """A retransmitted 2xx: the ACK was lost (RFC 3261 13.2.2.4)."""
        if self.incoming or cseq != self._invite_cseq:
            exchanges = self.exchanges
            if exchanges is not None and exchanges.unacked is None:
                wire.send_ack(self._dlg, cseq, *exchanges.last_ack)
        elif self.state is State.CONFIRMED:
            wire.send_ack(self._dlg, cseq, *self._ack)

    def on_ack(self, message: Message) -> None:
        """The caller's ACK; PJSIP's repetition of the 2xx ends with its transaction."""
        if self.state is not State.ANSWERED or not self.incoming:
            if self.exchanges is not None:
                self.exchanges.on_ack(message)
            return
        self.state = State.CONFIRMED
        if self.invite is not None:
            self._endpoint.door.remember(self.invite)
        self._end_invite(200)
        self._forget_invite()
        if self._hangup_reason is not None:
            wire.send_bye(self._dlg, self._hangup_reason)
            self._release()
            return
        self._tell(Acked(self, message))

    def on_prack_missing(self) -> None:
        """The caller never acknowledged a reliable provisional response (RFC 3262 3)."""
        if self.state <= State.EARLY:
            self._respond(504, None)
            self._end("prack_timeout")

    def on_invite_server_gone(self) -> None:
        """The INVITE's server transaction ended by itself: no ACK in 64*T1, or the transport."""
        self._invite = None
        if self.state is State.ANSWERED:
            # RFC 3261 13.3.1.4: the session is over; say BYE all the same.
            wire.send_bye(self._dlg, self._hangup_reason or b"")
            self._end("ack_timeout")
        elif self.state < State.ANSWERED:
            self._release()
            self._tell(Cancelled(self, None))

    def on_server_gone(self, tsx: Any) -> None:
        """A relayed request's server transaction ended by itself. An INVITE without its ACK ends
        the call (RFC 3261 14.2)."""
        if self.exchanges is not None and self.exchanges.on_server_gone(tsx):
            wire.send_bye(self._dlg, b"")
            self._end("ack_timeout")

    def on_cancel(self, message: Message) -> None:
        """The caller's CANCEL, itself answered already; the INVITE gets its 487."""
        if self.state <= State.EARLY and self.incoming:
            self._respond(487, None)
            self._release()
            self._tell(Cancelled(self, message))
        elif self.exchanges is not None:
            self.exchanges.on_cancel()

    def on_bye(self, message: Message) -> None:
        """A BYE, itself answered already. One before the answer ends the early dialog (15.1.2)."""
        if self.incoming and self.state <= State.EARLY:
            self._respond(487, None)
            self._release()
            self._tell(Cancelled(self, message))
        elif not self.incoming and self.state < State.ANSWERED:
            self._endpoint.illegal("bye")  # the callee must answer the INVITE, not end it
        else:
            if self.incoming and self.state is State.ANSWERED:
                self._end_invite(200)  # BYE instead of ACK: stop repeating the 2xx
            self._end("bye", message)

    def on_request(self, method: bytes, tsx: Any, rdata: Any, message: Message) -> None:
        """Any other request inside the dialog: the other side answers it."""
        if self.exchanges is None:
            self.exchanges = Exchanges(self)
        self.exchanges.on_request(method, tsx, rdata, message)

    def mark(self, message: Message) -> Message:
        """A message of this leg's far end, marked with how far it may be believed."""
        message.untrusted = not self.trusted
        return message

    # -- inside -----------------------------------------------------------------------------------

    @property
    def dialog(self) -> Any:
        """PJSIP's dialog, None when the leg is over."""
        return self._dlg

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def attach_incoming(self, tsx: Any, response: wire.Response, invite: Message) -> None:
        self._invite = tsx
        self._response = response
        self.invite = invite

    def attach_outgoing(self, tdata: Any, uri: str) -> None:
        self._tdata = tdata
        self.uri = uri

    @property
    def invite_cseq(self) -> int:
        """The CSeq number of an outgoing leg's INVITE."""
        return self._invite_cseq

    @property
    def invite_tsx(self) -> Any:
        """The initial INVITE's transaction, None when it is over."""
        return self._invite

    def respond_reliably(self, code: int, message: Message | None, extra: bytes) -> bool:
        """Send a provisional response with its RSeq; False when it does not fit a packet."""
        return self._respond(code, message, extra)

    def _respond(self, code: int, message: Message | None, extra: bytes = b"") -> bool:
        if self._response is None or self._invite is None:
            return False
        if self._response.send(self._dlg, self._invite, code, message, extra):
            return True
        self._endpoint.illegal("response_not_sent")
        if code >= 300 and self._response is not None:
            # An INVITE is never left without its final response.
            self._response.send(self._dlg, self._invite, code, None)
        return False

    def _end_invite(self, code: int) -> None:
        tsx, self._invite = self._invite, None
        if tsx is not None:
            lib.pjsip_tsx_terminate(tsx, code)

    def _end(self, why: str, message: Message | None = None) -> None:
        self._release()
        self._tell(Ended(self, why, message))

    def _tell(self, event: Event) -> None:
        if self.listener is not None:
            self.listener(event)
        elif isinstance(event, Answered):
            self.hangup()  # nobody wants this answer any more: ACK and BYE

    def _forget_invite(self) -> None:
        """A standing call keeps neither the INVITE nor the memory of its response."""
        self.invite = None
        if self._response is not None:
            self._response.close()
            self._response = None

    def _drop_tdata(self) -> None:
        if self._tdata is not None:
            lib.pjsip_tx_data_dec_ref(self._tdata)
            self._tdata = None
        if self._cancel_timer is not None:
            self._cancel_timer.cancel()
            self._cancel_timer = None

    def _release(self) -> None:
        """Let PJSIP's dialog go; its transactions end on their own. Idempotent."""
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        dlg, self._dlg = self._dlg, None
        if self.reliable is not None:
            self.reliable.close()
            self.reliable = None
        if self.exchanges is not None:
            self.exchanges.close(dlg)
            self.exchanges = None
        self._drop_tdata()
        self._forget_invite()
        self._endpoint.legs.pop(dlg, None)
        lib.pjsip_dlg_dec_session(dlg, self._endpoint.usage)
