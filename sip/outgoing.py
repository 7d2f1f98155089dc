"""A callee's side of a call: a dialog that begins with an INVITE of this engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sip import headers
from sip.bodies import ack_body
from sip.bye import Bye, say
from sip.dialog import Dialog, routes_back
from sip.end_of_call import NOTHING, Farewell
from sip.events import Answered, Ended, Failed, Progress
from sip.leg import Leg
from sip.leg_state import LegState, dialog_of, wish_of
from sip.message import Message
from sip.reliable import Earlies
from sip.state import ANSWERED, CALLING, CANCELLING, CONFIRMED, EARLY, State
from sip.transaction import Client

if TYPE_CHECKING:
    from sip.interfaces import Host

MOST_EARLY = 50  # early dialogs of one INVITE; a forking proxy has a handful
# 199: an early dialog has ended (RFC 6228). Those of the other phones of the fork continue.
NO_PROGRESS = (100, 199)


class Outgoing(Leg):
    """A callee. `uri` is the Request-URI, `routes` the Route values of its INVITE."""

    __slots__ = (
        "_ack",
        "_ack_tag",
        "_client",
        "_declined",
        "_early",
        "_invited",
        "_said",
        "alone",
        "earlies",
        "invite_cseq",
        "is_cancelled",
        "provisional",
        "routes",
        "uri",
    )

    def __init__(self, endpoint: Host, dialog: Dialog, uri: str, routes: tuple[str, ...]) -> None:
        super().__init__(endpoint, dialog, CALLING)
        self._client: Client | None = None  # the INVITE's transaction while it may still fail
        self._ack: tuple[bytes, bytes] | None = None  # body and media type of the ACK that was sent
        self._ack_tag: bytes | None = b""  # whose 2xx it acknowledged
        self._declined: set[bytes] | None = None  # To tags of 2xx that got their BYE
        self._early: set[bytes] | None = None  # To tags received, if there are several
        self._invited = dialog  # the dialog whose siblings the other branches of a forked call are
        self._said = NOTHING  # with the CANCEL
        self.alone = False  # no other target can follow, so its early answer is final
        self.earlies: Earlies | None = None  # 100rel was offered
        self.invite_cseq = 0
        self.is_cancelled = False  # by another process, which this one continues
        self.provisional = False  # some response came, so a CANCEL may be sent
        self.routes = routes
        self.uri = uri

    @classmethod
    def continued(cls, endpoint: Host, kept: LegState) -> Outgoing:
        """A callee of another process. If it has not answered, its INVITE has a transaction again,
        which may be cancelled: a provisional response may have been lost."""
        leg = cls(endpoint, dialog_of(kept), kept.uri, kept.routed)
        leg.trusted, leg.last_source, leg.wish = kept.trusted, kept.last_source, wish_of(kept)
        leg.alone, leg.invite_cseq, leg._ack = kept.alone, kept.invite_cseq, kept.ack
        leg._ack_tag = kept.remote_tag or None
        leg.state = State(kept.state)
        leg.is_cancelled = leg.state is CANCELLING
        if leg.state < ANSWERED:
            leg.state, leg.provisional = EARLY, True
            layer, dialog = endpoint.layer, leg.dialog
            way = endpoint.way_back(kept, kept.port) if kept.host else layer.way_of(dialog)
            client = Client(
                layer.clients, layer.wheel, way, kept.branch, b"INVITE", kept.invite_cseq
            )
            client.resume(kept.parts)
            client.user = leg
            leg.sent(client)
            if kept.offers_100rel:
                leg.earlies = Earlies()
        return leg

    @property
    def is_plain(self) -> bool:
        return self.earlies is None or not self.earlies.are_heard

    def snapshot(self) -> LegState:
        kept: LegState = super().snapshot()
        kept.uri, kept.routed, kept.alone = self.uri, self.routes, self.alone
        kept.invite_cseq, kept.ack = self.invite_cseq, self._ack
        client = self._client
        if client is not None:
            kept.branch, kept.parts = client.key, client.parts
            if client.way.host:  # it is known
                kept.transport, kept.host, kept.port, _ = client.way.flow
                kept.socket = self._endpoint.socket_of(client.way)
            kept.offers_100rel = self.earlies is not None
        return kept

    def __repr__(self) -> str:
        return f"<Outgoing to {self.uri} {self.state.name.lower()}>"

    # -- actions ----------------------------------------------------------------------------------

    def sent(self, client: Client) -> None:
        """The INVITE was sent."""
        self._client = client
        self.invite_cseq = client.cseq

    def abandon(self) -> None:
        """Release a leg whose INVITE was never sent."""
        self._release()

    def accept(self, ack: Message | None = None) -> None:
        """Acknowledge the 2xx, with the body of the caller's `ack` if it contained the offer (late
        offer)."""
        if self.state is not ANSWERED:
            self._endpoint.illegal("accept")
            return
        self.state = CONFIRMED
        self._ack = answer = ack_body(ack, to_trusted=self.trusted)
        self._layer.acknowledge(self.dialog, self.invite_cseq, *answer)

    def cancel(self, farewell: Farewell = NOTHING) -> None:
        """Cancel with `farewell` in the CANCEL. The leg still reports its end: a 200 may cross the
        CANCEL.
        """
        if self.state not in (CALLING, EARLY):
            return
        self.state = CANCELLING
        self._said = farewell
        if self.provisional:  # RFC 3261 9.1: not before a provisional response
            self._send_cancel()

    def _hang_up(self, farewell: Farewell) -> bool:
        """CANCEL, ACK and BYE, or BYE."""
        if self.state is ANSWERED:
            self.accept()
        if self.state is CONFIRMED:
            say(self, farewell)
            self._release()
            return True
        self.cancel(farewell)
        return False

    def _send_cancel(self) -> None:
        if self._client is not None:
            tries = self._said.tries(self, cancel=True)
            if any(self._client.cancel(*attempt) for attempt in tries):
                self._layer.count_out(b"CANCEL")

    # -- events of the dialog ---------------------------------------------------------------------

    @property
    def reached(self) -> tuple[str, tuple[str, ...]]:
        return self.uri, self.routes

    def is_of(self, message: Message) -> bool:
        """Whether a request that names our tag is in this leg's dialog, or an early one of it."""
        dialog = self.dialog
        if dialog is None or message.raw_call_id != dialog.call_id:
            return False
        tag = message.from_tag or b""
        if tag == dialog.remote_tag or (self._early is not None and tag in self._early):
            return True
        # A request may overtake the 18x with its sender's tag.
        return not dialog.remote_tag and self.state < ANSWERED

    def on_response(self, client: Client, code: int, message: Message | None) -> None:
        """A response to the initial INVITE, or to a request sent for the other side; no message if
        none will come any more."""
        if client is not self._client:
            super().on_response(client, code, message)
            return
        if message is None:
            self._on_failed(487 if self.state is CANCELLING else code)
            return
        self.mark(message)
        if 180 <= code < 300:
            self.last_source = message.way.host.decode("ascii")
        if code < 200:
            first, self.provisional = not self.provisional, True
            if code not in NO_PROGRESS:
                self._learn(message)
            elif code == 199:
                self._on_early_end(message)
            if self.state is CANCELLING:
                if first:
                    self._send_cancel()
            elif code not in NO_PROGRESS:
                self._on_progress(code, message)
        elif code < 300:
            self._learn(message)
            self._client = None
            if message.to_tag is not None:
                self._early = None
            self._ack_tag = message.to_tag
            self.state = ANSWERED
            self.tell(Answered(self, code, message))
        else:
            self._on_failed(code, message)

    def on_failed_response(self, client: Client, message: Message) -> None:
        """A final response whose handling raised an exception. A callee that answered gets an ACK
        and a BYE; the call continues without it."""
        if client is self._client and message.status < 300:
            self._decline(message, client.cseq)
            self._on_failed(500)
        elif self.state is ANSWERED:
            self.hangup()
            self.tell(Ended(self, "transport", None))
        else:
            super().on_failed_response(client, message)

    def _learn(self, message: Message) -> None:
        dialog = self.dialog
        known = dialog.remote_tag
        dialog.learn(message)
        if known and known != dialog.remote_tag:
            if self._early is None:
                self._early = {known}
            if len(self._early) < MOST_EARLY:
                self._early.add(dialog.remote_tag)

    def _on_progress(self, code: int, message: Message) -> None:
        early = None
        rseq = headers.rseq(message) if self.earlies is not None else 0
        if rseq and self.earlies is not None:
            early = self.earlies.hear(self, rseq, message)
            if early is None:
                return
        self.state = EARLY
        self.tell(Progress(self, code, message, early))

    def _on_early_end(self, message: Message) -> None:
        """A 199, which the caller does not get. A reliable one gets its PRACK from here, because
        its phone would repeat it for 64*T1 (RFC 3262 3, 4)."""
        rseq = headers.rseq(message) if self.earlies is not None else 0
        if not rseq or self.earlies is None:
            return
        early = self.earlies.hear(self, rseq, message)
        if early is not None:
            dialog = self._invited
            ended = dialog.sibling(message.to, early.tag, early.contact, early.routes)
            self._layer.ask(ended, b"PRACK", None, fields=early.rack)
            dialog.sent = ended.sent

    def _on_failed(self, code: int, message: Message | None = None) -> None:
        """The INVITE is over without an answer."""
        self._client = None
        if self.state < ANSWERED:
            self._release()
            self.tell(Failed(self, code, message))

    def on_2xx_again(self, client: Client, message: Message) -> None:
        """A retransmitted 2xx: the ACK was lost (RFC 3261 13.2.2.4). One of another branch of a
        forked call gets its ACK and a BYE."""
        if client.cseq != self.invite_cseq:
            super().on_2xx_again(client, message)
        elif message.to_tag == self._ack_tag:
            if self._ack is not None:
                self._layer.race("ack_lost")
                self._layer.acknowledge(self._invited, client.cseq, *self._ack)
        else:
            self._end_fork(message)

    def _end_fork(self, message: Message) -> None:
        if self._decline(message, message.cseq):
            self._layer.race("fork_answered_late")

    def _decline(self, message: Message, cseq: int) -> bool:
        """ACK and BYE to the sender of a 2xx that nobody needs; False if it is a copy, which gets
        its ACK alone."""
        tag = message.to_tag or b""
        fork = self._invited.sibling(message.to, tag, message.contact, routes_back(message))
        self._layer.acknowledge(fork, cseq)
        if self._declined is None:
            self._declined = set()
        if tag in self._declined or len(self._declined) >= MOST_EARLY:
            return False
        self._declined.add(tag)
        self._layer.bye(fork)
        return True

    def ack_of(self, cseq: int) -> tuple[bytes, bytes]:
        return (self._ack or (b"", b"")) if cseq == self.invite_cseq else super().ack_of(cseq)

    def on_orphan(self, message: Message) -> None:
        other = (message.to_tag or b"") != self.dialog.remote_tag and self.state is CONFIRMED
        if (
            other
            and message.cseq == self.invite_cseq
            and message.raw_call_id == self.dialog.call_id
        ):
            self._end_fork(message)
        else:
            super().on_orphan(message)

    def on_bye(self, message: Message, bye: Bye | None) -> None:
        """A BYE: it is answered already, or `bye` waits for the other side's response."""
        if self.state < ANSWERED:
            if bye is not None:
                bye.answer(200)
            self._endpoint.illegal("bye")  # the callee must answer the INVITE, not end it
        else:
            if self.state is ANSWERED:
                self.accept()  # its 2xx is repeated until the ACK
            super().on_bye(message, bye)

    # -- inside -----------------------------------------------------------------------------------

    def _believes(self, message: Message) -> bool:
        return self.trusted or self._believes_contact(message, self.uri, direct=not self.routes)

    def _forget(self) -> None:
        self._early = None
