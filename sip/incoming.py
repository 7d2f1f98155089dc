"""The caller's side of a call: a dialog that began with an INVITE to this engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sip.bye import Bye, say
from sip.dialog import Dialog, record_route_lines, token
from sip.end_of_call import NOTHING, Farewell
from sip.events import Acked, Cancelled
from sip.flow import Flow
from sip.headers import supports_100rel
from sip.leg import Leg
from sip.leg_state import LegState, dialog_of, wish_of
from sip.message import Message
from sip.reliable import Reliable
from sip.state import ANSWERED, CONFIRMED, EARLY, TRYING, State
from sip.transaction import Server

if TYPE_CHECKING:
    from sip.interfaces import Host
    from sip.reliable import Early


class Incoming(Leg):
    """A caller. `invite` is its INVITE until the ACK, `source` the IP address it came from, `flow`
    the way."""

    is_caller = True

    __slots__ = (
        "_answer",
        "_owed",
        "_phone",
        "_routes",
        "_server",
        "_socket",
        "flow",
        "invite",
        "max_forwards",
        "source",
    )

    def __init__(
        self,
        endpoint: Host,
        dialog: Dialog,
        server: Server | None,
        invite: Message | None,
        flow: Flow | None = None,
    ) -> None:
        """`flow` is that of the INVITE, None: it is the way on which the INVITE came."""
        super().__init__(endpoint, dialog, TRYING)
        self._server: Server | None = server
        self._routes = record_route_lines(invite) if invite is not None else b""
        self._owed: Farewell | None = None  # a BYE to send when the ACK arrives
        self._answer = b""  # the 2xx, until its ACK
        self._socket = -1  # the number of the listening UDP address, once it is asked for
        self.invite: Message | None = invite
        self.max_forwards = invite.max_forwards if invite is not None else 70
        if flow is None and invite is not None:
            flow = invite.way.flow
        self.flow: Flow | None = flow
        self.source: str = flow.host if flow is not None else ""
        self.last_source = self.source
        self._phone = ""  # the Contact, if the caller is a phone of ours
        if server is not None:
            server.user = self

    @classmethod
    def continued(cls, endpoint: Host, kept: LegState) -> Incoming:
        """A caller of another process. If it waits for our 2xx to be repeated, or for any final
        response, its INVITE has a transaction again. Raises ValueError if it cannot be reached."""
        server = invite = None
        layer = endpoint.layer
        if kept.invite:
            invite = Message(kept.invite)
            invite.way = endpoint.way_back(kept, invite.port)
            server = layer.serve(invite, invite.way, invite.key(b"INVITE"))
            layer.note(server, invite)
        leg = cls(endpoint, dialog_of(kept), server, invite, kept.flow)
        leg.trusted, leg.last_source, leg.wish = kept.trusted, kept.last_source, wish_of(kept)
        leg._phone, leg._socket = kept.phone, kept.socket
        leg.max_forwards = kept.max_forwards
        leg.state = State(kept.state)
        if leg.state <= EARLY and invite is not None and supports_100rel(invite):
            leg.reliable = Reliable(leg, invite)
        if leg.state is ANSWERED and server is not None:
            leg._answer = kept.answer
            server.respond(int(kept.answer[8:11]), kept.answer)
        return leg

    @classmethod
    def gone(cls, endpoint: Host) -> Incoming:
        """A caller of another process that had hung up."""
        leg = cls(endpoint, Dialog(b"", b"", token(), b""), None, None)
        leg._release()
        return leg

    def snapshot(self) -> LegState:
        kept: LegState = super().snapshot()
        flow, invite = self.flow, self.invite
        if flow is not None:
            kept.transport, kept.host, kept.port = flow.transport, flow.host, flow.port
        kept.max_forwards, kept.phone = self.max_forwards, self._phone
        if invite is not None:
            if self._socket < 0:
                self._socket = self._endpoint.socket_of(invite.way)
            kept.socket = self._socket
            kept.invite, kept.answer = invite.data, self._answer
        return kept

    def is_phone(self, contact: str) -> None:
        """The far end is a phone of ours at this Contact, although a server passed the call on."""
        self.trusted, self._phone = False, contact

    def __repr__(self) -> str:
        return f"<Incoming from {self.source} {self.state.name.lower()}>"

    # -- actions ----------------------------------------------------------------------------------

    def trying(self, *, again: bool = False) -> None:
        """Send 100 if nothing else was sent yet, to stop retransmissions of the INVITE. `again`:
        copies of the INVITE get it from now on, whatever another process sent."""
        if (self.state is TRYING or again) and self._server is not None and self.invite is not None:
            self._layer.respond(self._server, 100, fields=self.invite.timestamp)

    def progress(
        self,
        code: int,
        message: Any = None,
        early: Early | None = None,
        *,
        alone: bool = False,
    ) -> None:
        """Send a provisional response (101 to 199), with the headers and body of `message`.

        `early` and `alone` describe the leg that the message came from: the reliable response
        there, and whether no other leg may answer.
        """
        if self.state > EARLY:
            self._endpoint.illegal("progress")
            return
        self.state = EARLY
        if self.reliable is None or not self.reliable.send(code, message, early, alone=alone):
            self._respond(code, message)

    def answer(self, code: int, message: Any, extra: bytes = b"") -> bool:
        """Send the 2xx, with `extra` header fields; it is repeated until the ACK (RFC 3261
        13.3.1.4).

        It may have to wait for a PRACK; the leg stays EARLY until then. False if it cannot be sent.
        """
        if self.state > EARLY:
            self._endpoint.illegal("answer")
            return False
        if self.reliable is not None and self.reliable.holds(code, message, extra):
            return True
        before, self.state = self.state, ANSWERED
        if not self._respond(code, message, extra, self._keep) or self.dialog is None:
            if self.state is ANSWERED:
                self.state = before
            return False
        if self.reliable is not None:
            self.reliable.close()
        return True

    def _keep(self, answer: bytes) -> None:
        """The 2xx is about to be sent."""
        self._answer = answer
        self._endpoint.on_kept(self)

    def answer_held(self, code: int, message: Any, extra: bytes) -> None:
        """Send the 2xx that waited for a PRACK (RFC 3262 3)."""
        if not self.answer(code, message, extra):
            self.reject(500)
            self.tell(Cancelled(self, None))

    def reject(self, code: int, message: Any = None, extra: bytes = b"") -> None:
        """Send a final response of 300 and above; the leg is over."""
        if self.state > EARLY:
            self._endpoint.illegal("reject")
            return
        self._respond(code, message, extra)
        self._release()

    def _hang_up(self, farewell: Farewell) -> bool:
        """480 or BYE. Before the ACK, the BYE waits for it (RFC 3261 15)."""
        if self.state is CONFIRMED:
            say(self, farewell)
            self._release()
            return True
        if self.state is ANSWERED:
            self._owed = self._owed or farewell
            return True
        if self.state <= EARLY:
            self.reject(480, extra=farewell.fields)
        return False

    # -- events of the dialog ---------------------------------------------------------------------

    def on_ack(self, message: Message) -> None:
        """The caller's ACK: stop repeating the 2xx."""
        server = self._server
        if self.state is not ANSWERED or server is None or message.cseq != server.cseq:
            super().on_ack(message)
            return
        self.state = CONFIRMED
        self._end_invite()
        self._forget_invite()
        if self._owed is not None:
            say(self, self._owed)
            self._release()
            return
        self.tell(Acked(self, message))

    def on_cancel(self, message: Message) -> None:
        """The caller's CANCEL, already answered; the INVITE gets its 487."""
        if self.state <= EARLY:
            self._give_up(message)
            return
        if self.state is ANSWERED:
            self._layer.race("cancel_after_answer")
        super().on_cancel(message)

    def on_bye(self, message: Message, bye: Bye | None) -> None:
        """A BYE. One before the answer ends the early dialog (15.1.2)."""
        if self.state <= EARLY:
            if bye is not None:
                bye.answer(200)
            self._give_up(message)
            return
        if self.state is ANSWERED:
            self._layer.race("bye_before_ack")
            self._end_invite()  # BYE instead of ACK: stop repeating the 2xx
        super().on_bye(message, bye)

    def _give_up(self, message: Message) -> None:
        self.farewell = Farewell(message=message)
        self._respond(487, None)
        self._release()
        self.tell(Cancelled(self, message))

    def on_prack_missing(self) -> None:
        """The caller never acknowledged a reliable provisional response (RFC 3262 3)."""
        if self.state <= EARLY:
            self._respond(504, None)
            self._end("prack_timeout")

    def on_gone(self, server: Server, code: int) -> None:
        """The INVITE's server transaction ended by itself: no ACK in 64*T1, or the transport."""
        if server is not self._server:
            super().on_gone(server, code)
            return
        self._server = None
        if self.state is ANSWERED:
            self._layer.race("ack_missing")
            # RFC 3261 13.3.1.4: the session is over, but send BYE.
            say(self, self._owed or NOTHING)
            self._end("ack_timeout")
        elif self.state < ANSWERED:
            self._release()
            self.tell(Cancelled(self, None))

    # -- inside -----------------------------------------------------------------------------------

    def _believes(self, message: Message) -> bool:
        if self.trusted:
            return super()._believes(message)
        return self._believes_contact(message, self._phone, direct=False)

    def respond_reliably(self, code: int, message: Any, extra: bytes) -> bool:
        """Send a provisional response with its RSeq; False when it cannot be sent."""
        return self._respond(code, message, extra)

    def _respond(
        self,
        code: int,
        message: Any,
        extra: bytes = b"",
        before: Callable[[bytes], None] | None = None,
    ) -> bool:
        server = self._server
        return server is not None and self.respond(
            server, code, message, extra, self._routes, before
        )

    def _end_invite(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.user = None
            server.acknowledged()

    def _forget_invite(self) -> None:
        """A call in progress does not keep its INVITE."""
        self.invite = None
        self._routes = self._answer = b""

    def _forget(self) -> None:
        if self._server is not None:
            self._server.user = None
        self._forget_invite()
