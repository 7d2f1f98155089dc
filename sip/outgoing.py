"""A callee's side of a call: a dialog that begins with an INVITE of this engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sip import headers, wire
from sip.events import Answered, Failed, Progress
from sip.farewell import NOTHING, Farewell
from sip.leg import Leg
from sip.message import Message
from sip.pjsip import lib
from sip.reliable import Earlies
from sip.state import ANSWERED, CALLING, CANCELLING, CONFIRMED, EARLY

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from sip.byes import Bye
    from sip.endpoint import Endpoint


class Outgoing(Leg):
    """Somebody called. `uri` is the Request-URI, `routes` the Route values it was sent with."""

    __slots__ = (
        "_ack",
        "_cancel_timer",
        "_said",
        "_tdata",
        "_to",
        "alone",
        "earlies",
        "fork",
        "heard",
        "invite_cseq",
        "invite_known",
        "provisional",
        "routes",
        "uri",
    )

    def __init__(self, endpoint: Endpoint, dlg: Any, uri: str, routes: tuple[str, ...]) -> None:
        super().__init__(endpoint, dlg, CALLING)
        self._tdata: Any = None  # the INVITE as sent, which a CANCEL needs
        self._ack = (b"", b"")  # body and media type of the ACK sent, for its repetition
        self._said = NOTHING  # with the CANCEL
        self._cancel_timer: TimerHandle | None = None
        self._to = b""  # of the first sign
        self.fork: tuple[bytes, bytes] | None = None  # its key in the endpoint's `forks`
        self.alone = False  # no other target can follow, what it says early holds
        self.earlies: Earlies | None = None  # 100rel was offered
        self.heard = b""  # the IP address that the last 18x or 2xx came from
        self.invite_cseq = 0
        self.invite_known = False  # PJSIP has made the INVITE's transaction
        self.provisional = False  # some response came, so a CANCEL may be sent
        self.routes = routes
        self.uri = uri

    def __repr__(self) -> str:
        return f"<Outgoing to {self.uri} {self.state.name.lower()}>"

    # -- actions ----------------------------------------------------------------------------------

    def send_invite(self, tdata: Any) -> None:
        """Send the INVITE; a failure to send comes as a Failed event."""
        lib.pjsip_tx_data_add_ref(tdata)
        self._tdata = tdata
        if not wire.send_request(self._dlg, tdata, "INVITE"):
            self.on_invite_failed(503)

    def abandon(self) -> None:
        """Let go of a leg whose INVITE was never sent."""
        self._release()

    def accept(self, body: bytes = b"", content_type: bytes = b"") -> None:
        """Acknowledge the 2xx, with a body when the offer came in it (late offer)."""
        if self.state is not ANSWERED:
            self._endpoint.illegal("accept")
            return
        self.state = CONFIRMED
        if body:
            self._ack = (body, content_type)
        wire.send_ack(self._dlg, self.invite_cseq, body, content_type)

    def cancel(self, farewell: Farewell = NOTHING) -> None:
        """Give up, and say `farewell` with it.

        The leg still tells how it ends: a 200 may cross the CANCEL.
        """
        if self.state not in (CALLING, EARLY):
            return
        self.state = CANCELLING
        self._said = farewell
        self._cancel_timer = self._endpoint.loop.call_later(
            wire.CANCEL_TIMEOUT_S, self._cancel_expired
        )
        if self.provisional:  # RFC 3261 9.1: not before a provisional response
            self._send_cancel()

    def _hang_up(self, farewell: Farewell) -> bool:
        """CANCEL, ACK and BYE, or BYE."""
        if self.state is ANSWERED:
            self.accept()
        if self.state is CONFIRMED:
            self._endpoint.byes.say(self, farewell)
            self._release()
            return True
        self.cancel(farewell)
        return False

    def _send_cancel(self) -> None:
        if self._tdata is not None and self._invite is not None:
            tries = self._said.tries(self, cancel=True)
            wire.send_cancel(self._endpoint.endpt, self._dlg, self._tdata, tries)

    def _cancel_expired(self) -> None:
        if self._invite is not None:
            lib.pjsip_tsx_terminate(self._invite, 487)
        self.on_invite_failed(487)

    # -- what the dialog tells --------------------------------------------------------------------

    def on_invite_sent(self, tsx: Any) -> None:
        """PJSIP made the INVITE's client transaction."""
        self.invite_known = True
        self._invite = tsx
        self.invite_cseq = tsx.cseq

    def is_invite(self, tsx: Any) -> bool:
        """Whether this is the initial INVITE's transaction, and it is not over."""
        return bool(tsx == self._invite)

    def on_invite_response(self, code: int, message: Message) -> None:
        """A response to the initial INVITE. Provisional ones come as often as they are sent."""
        if code < 200:
            first, self.provisional = not self.provisional, True
            if self.state is CANCELLING:
                if first:
                    self._send_cancel()
            elif self.state <= EARLY and code > 100:
                self._on_progress(code, message)
        elif code < 300:
            self._invite = None
            if self.state < ANSWERED:
                self.state = ANSWERED
                self._drop_tdata()
                self.tell(Answered(self, code, message))
        else:
            self.on_invite_failed(code, message)

    def _on_progress(self, code: int, message: Message) -> None:
        early = None
        rseq = headers.rseq(message) if self.earlies is not None else 0
        if rseq and self.earlies is not None:
            early = self.earlies.hear(self, rseq, message)
            if early is None:
                return
        to = message.first(b"to") or b""
        self._to = self._to or to
        if to != self._to:
            self._on_fork(message, to)
        self.state = EARLY
        self.tell(Progress(self, code, message, early))

    def _on_fork(self, message: Message, to: bytes) -> None:
        """Another phone behind the contact shows a sign: PJSIP's dialog follows the newest, and
        the others are still there."""
        forks = self._endpoint.forks
        self.fork = self.fork or (
            message.call_id.encode("latin-1"), headers.tag_of(message.first(b"from") or b"")
        )  # fmt: skip
        known = forks.setdefault(self.fork, (self, {headers.tag_of(self._to)}))
        known[1].add(headers.tag_of(to))

    def on_invite_failed(self, code: int, message: Message | None = None) -> None:
        """The INVITE is over without an answer."""
        self._invite = None
        if self.state < ANSWERED:
            self._release()
            self.tell(Failed(self, code, message))

    def on_2xx_again(self, cseq: int) -> None:
        """A retransmitted 2xx: the ACK was lost (RFC 3261 13.2.2.4)."""
        if cseq != self.invite_cseq:
            super().on_2xx_again(cseq)
        elif self.state is CONFIRMED:
            wire.send_ack(self._dlg, cseq, *self._ack)

    def on_bye(self, message: Message, bye: Bye | None) -> None:
        if self.state < ANSWERED:
            self._endpoint.illegal("bye")  # the callee must answer the INVITE, not end it
            if bye is not None:
                bye.answer(200)
        else:
            super().on_bye(message, bye)

    # -- inside -----------------------------------------------------------------------------------

    @property
    def reached(self) -> tuple[str, tuple[str, ...]]:
        return self.uri, self.routes

    def _believes(self, message: Message) -> bool:
        return self.trusted or self._believes_contact(message, self.uri, direct=not self.routes)

    def _drop_tdata(self) -> None:
        if self._tdata is not None:
            lib.pjsip_tx_data_dec_ref(self._tdata)
            self._tdata = None
        if self._cancel_timer is not None:
            self._cancel_timer.cancel()
            self._cancel_timer = None

    def _forget(self) -> None:
        self._drop_tdata()
        if self.fork is not None:
            self._endpoint.forks.pop(self.fork, None)
