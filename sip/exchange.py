"""Requests inside a call, relayed: what one side asks, the other side answers.

Every method is relayed the same way (re-INVITE, UPDATE, INFO, MESSAGE and whatever comes): a
request received on one leg is sent on the other with its headers and body, and the final response
goes back. Only INVITE has more to it: its ACK travels too, and two of them may not cross (glare).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sip import pjsip, session, unrelayed, wire
from sip.bodies import body_told
from sip.crossing import crossing
from sip.events import Refreshed
from sip.farewell import NOTHING, Farewell
from sip.headers import requires_100rel
from sip.message import Message
from sip.pjsip import lib
from sip.replaces import End, names_dialogs
from sip.response import Response
from sip.state import CONFIRMED, EARLY

if TYPE_CHECKING:
    from sip.leg import Leg
    from sip.reliable import Early

# Methods are case-sensitive, but PJSIP knows these in any case.
_KNOWN = frozenset((b"invite", b"bye", b"options"))
# RFC 3261 14.2: a second INVITE before the first is answered; RFC 3261 14.1: ours crossed theirs.
RETRY_LATER = b"Retry-After: 3"
_AS_IT_IS: frozenset[bytes] = frozenset()
_REFER_TO = frozenset((b"refer-to",))


class Exchange:
    """One request under way from `asker` to its peer."""

    __slots__ = (
        "answered",
        "asked",
        "asker",
        "cancelled",
        "cseq",
        "early",
        "invite",
        "method",
        "on_refused",
        "provisional",
        "quiet",
        "refer_to",
        "refreshes",
        "response",
        "tdata",
        "tsx",
    )

    def __init__(
        self, asker: Leg, method: bytes, tsx: Any, response: Response, asked: Message
    ) -> None:
        self.asker = asker
        response.leg = asker
        self.asked = asked
        self.method = method.upper() if method.lower() in _KNOWN else method
        self.invite = tsx.method.id == pjsip.INVITE
        self.tsx = tsx  # the asker's server transaction; None when it is over
        self.refreshes = False  # the session: a re-INVITE or UPDATE
        self.response = response
        self.cseq = 0  # of the request on the peer's side
        self.answered = False
        self.provisional = False  # the peer's far end has said something: a CANCEL may be sent
        self.cancelled = NOTHING  # what the asker said when it gave its INVITE up
        self.quiet = False  # a re-INVITE that wants reliable provisional responses gets none
        self.early: Early | None = None  # a PRACK: what it acknowledges
        self.on_refused: Callable[[], None] | None = None  # a REFER: what it led to is undone
        self.refer_to = b""  # and where it leads, a whole field
        self.tdata: Any = None  # the INVITE sent on the peer's side, for a CANCEL

    def answer(self, code: int, message: Message | None, extra: bytes = b"") -> None:
        """Send the response to the asker, once if it is final."""
        dlg = self.asker.dialog
        if self.answered or dlg is None or self.tsx is None:
            return
        if self.refreshes and message is not None and 200 <= code < 300:
            extra, expires_s = session.response_fields(self.asked, message)
            self.asker.tell(Refreshed(self.asker, expires_s))
        shown = self.asker.trusted
        sent = self.response.send(dlg, self.tsx, code, message, extra, to_trusted=shown)
        if not sent and message is not None:
            # Too large for a packet: a provisional one is dropped, a final one becomes a refusal.
            if code < 200:
                return
            code = 500
            self.response.send(dlg, self.tsx, code, None)
        self.answered = code >= 200
        if self.answered and not (self.invite and code < 300):
            self.done()

    def done(self) -> None:
        """Nothing more will be sent to the asker."""
        if self.tsx is not None:
            self.tsx = None
            self.response.close()
            if self.asker.exchanges is not None:
                self.asker.exchanges.asked.remove(self)
        self.drop_tdata()

    def drop_tdata(self) -> None:
        if self.tdata is not None:
            lib.pjsip_tx_data_dec_ref(self.tdata)
            self.tdata = None


class Exchanges:
    """The requests under way on one leg: `asked` by its far end, `sent` to it (by transaction)."""

    __slots__ = ("asked", "last_ack", "leg", "sending", "sent", "unacked")

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        self.asked: list[Exchange] = []
        self.sent: dict[Any, Exchange] = {}  # by client transaction
        self.last_ack = (b"", b"")  # body and media type of the last ACK passed to this leg
        self.sending: Exchange | None = None
        self.unacked: Exchange | None = None  # an INVITE sent to this leg whose 2xx awaits its ACK

    # -- the asker's side -------------------------------------------------------------------------

    def on_request(self, method: bytes, tsx: Any, rdata: Any, message: Message) -> None:
        """A request from this leg's far end: pass it to the peer or refuse it."""
        leg = self.leg
        exchange = Exchange(leg, method, tsx, Response(leg.dialog, rdata), message)
        self.asked.append(exchange)
        if message.truncated:
            exchange.answer(513, None)
            return
        if method == b"PRACK":
            self._on_prack(exchange, message)
            return
        refusal = self._refusal(exchange)
        if refusal is not None:
            exchange.answer(*refusal)
            return
        if method == b"REFER":
            referral = leg.endpoint.on_refer(leg, message)
            if referral.code:
                exchange.answer(referral.code, None)
                return
            exchange.refer_to, exchange.on_refused = referral.refer_to, referral.refused
        exchange.refreshes = exchange.invite or method == b"UPDATE"
        exchange.quiet = exchange.invite and requires_100rel(message)
        peer = leg.peer
        assert peer is not None  # _refusal saw to it
        self._relay(exchange, peer, message)

    def _on_prack(self, exchange: Exchange, message: Message) -> None:
        """The caller acknowledges a reliable provisional response (RFC 3262 3)."""
        reliable = self.leg.reliable
        known = reliable.on_prack(message) if reliable is not None else False
        if isinstance(known, bool):
            exchange.answer(200 if known else 481, None)
        elif known.leg.dialog is None:
            exchange.answer(200, None)
        else:
            exchange.early = known
            self._relay(exchange, known.leg, message)
        if known and reliable is not None:
            reliable.after_prack()

    def _relay(self, exchange: Exchange, peer: Leg, message: Message) -> None:
        if peer.exchanges is None:
            peer.exchanges = Exchanges(peer)
        if not peer.exchanges.send(exchange, message):
            exchange.answer(513, None)

    def _refusal(self, exchange: Exchange) -> tuple[int, Message | None, bytes] | None:
        peer = self.leg.peer
        ready = CONFIRMED if exchange.invite else EARLY
        if peer is None or peer.dialog is None or min(self.leg.state, peer.state) < ready:
            return self.unrelayed(exchange)
        if exchange.invite:
            if any(known.invite for known in self.asked if known is not exchange):
                self.leg.endpoint.race("reinvite_overlap")
                return 500, None, RETRY_LATER
            if self.has_invite_sent:
                self.leg.endpoint.race("glare")
                return 491, None, b""
        return None

    def unrelayed(self, exchange: Exchange) -> tuple[int, Message | None, bytes]:
        """What this leg's far end is answered for what it asked and nobody else can answer."""
        leg = self.leg
        owes_answer = leg.is_caller and leg.state <= EARLY
        code, fields = unrelayed.answer(exchange.method, exchange.asked, owes_answer=owes_answer)
        return code, None, fields

    @property
    def has_invite_sent(self) -> bool:
        return self.unacked is not None or any(known.invite for known in self.sent.values())

    def on_ack(self, message: Message) -> None:
        """The ACK of a relayed INVITE: end the repetition here and pass it on."""
        number = message.cseq
        for exchange in self.asked:
            if exchange.invite and exchange.answered and exchange.tsx.cseq == number:
                tsx = exchange.tsx
                exchange.done()
                lib.pjsip_tsx_terminate(tsx, 200)
                peer = self.leg.peer
                if peer is not None and peer.exchanges is not None:
                    peer.exchanges.pass_ack(message)
                return

    def on_cancel(self, message: Message) -> None:
        """The asker gave its re-INVITE up."""
        peer = self.leg.peer
        for exchange in self.asked:
            if exchange.invite and not exchange.answered and not exchange.cancelled:
                exchange.cancelled = Farewell(message=message)
                if peer is not None and peer.exchanges is not None:
                    peer.exchanges.cancel(exchange)
                return

    def cancel(self, exchange: Exchange) -> None:
        """CANCEL the INVITE sent to this leg, once a provisional response allows it (9.1)."""
        leg = self.leg
        if exchange.provisional and exchange.tdata is not None and leg.dialog is not None:
            tries = exchange.cancelled.tries(leg, cancel=True)
            wire.send_cancel(leg.endpoint.endpt, leg.dialog, exchange.tdata, tries)
            leg.endpoint.loop.call_later(wire.CANCEL_TIMEOUT_S, self._give_up, exchange)

    def _give_up(self, exchange: Exchange) -> None:
        """64*T1 after the CANCEL: the INVITE counts as cancelled, whatever the far end does."""
        for tsx, known in list(self.sent.items()):
            if known is exchange:
                lib.pjsip_tsx_terminate(tsx, 487)

    def on_server_gone(self, tsx: Any) -> bool:
        """A server transaction of this leg ended by itself; True if it was a relayed INVITE whose
        2xx was never acknowledged."""
        for exchange in self.asked:
            if exchange.tsx == tsx:
                unacked = exchange.invite and exchange.answered
                exchange.done()
                return unacked
        return False

    # -- the peer's side --------------------------------------------------------------------------

    def send(self, exchange: Exchange, message: Message) -> bool:
        """Send an exchange's request to this leg's far end; False when it does not fit a packet."""
        leg = self.leg
        early, again = exchange.early, _REFER_TO if exchange.refer_to else _AS_IT_IS
        block = crossing(message, to_trusted=leg.trusted, also_not=again)
        if names_dialogs(message):
            block = leg.endpoint.dialog_names.pass_on(block, End(leg=leg))
        if exchange.refer_to:
            block = block + b"\r\n" + exchange.refer_to if block else exchange.refer_to
        if early is not None:
            block = early.rack + b"\r\n" + block if block else early.rack
        tdata = wire.create_request(
            leg.dialog,
            wire.method(exchange.method),
            block,
            *body_told(message, to_trusted=leg.trusted),
            measure=True,
        )
        if tdata is None:
            return False
        if early is not None:
            wire.readdress(tdata, early.tag, early.contact)
        if exchange.invite:
            lib.pjsip_tx_data_add_ref(tdata)
            exchange.tdata = tdata
        self.sending = exchange
        sent = wire.send_request(leg.dialog, tdata, wire.kind_of(exchange.method))
        self.sending = None
        if not sent and not exchange.answered:
            exchange.answer(503, None)
        return True

    def on_sent(self, tsx: Any) -> None:
        """PJSIP made the client transaction of the request that is being sent."""
        if self.sending is not None:
            self.sending.cseq = tsx.cseq
            self.sent[tsx] = self.sending
            self.sending = None

    def on_response(self, tsx: Any, code: int, message: Message | None) -> bool:
        """A response on the peer's side; False if the transaction is none of ours."""
        exchange = self.sent.get(tsx)
        if exchange is None:
            return False
        if code < 200:
            first, exchange.provisional = not exchange.provisional, True
            if first and exchange.cancelled:
                self.cancel(exchange)
            if exchange.invite and code > 100 and not exchange.quiet:
                exchange.answer(code, message)
            return True
        del self.sent[tsx]
        exchange.drop_tdata()
        if exchange.on_refused is not None and code >= 300 and message is not None:
            exchange.on_refused()
        if code == 481 and self.leg.state < CONFIRMED and exchange.asker.exchanges is not None:
            # One early dialog of a fork is over: the asker's own stands.
            code, message, fields = exchange.asker.exchanges.unrelayed(exchange)
            exchange.answer(code, message, fields)
            return True
        if exchange.invite and code == 491:
            self.leg.endpoint.race("glare")
        if exchange.invite and code < 300:
            if exchange.asker.dialog is None:
                wire.send_ack(self.leg.dialog, exchange.cseq, b"", b"")
                return True
            self.unacked = exchange
        exchange.answer(code, message)
        if self.unacked is exchange and exchange.tsx is None:
            self.pass_ack(None)  # the answer did not fit and was refused: end it here too
        return True

    def pass_ack(self, message: Message | None) -> None:
        """Acknowledge the 2xx of the INVITE sent to this leg, with what the asker's ACK holds."""
        exchange, self.unacked = self.unacked, None
        if exchange is not None and self.leg.dialog is not None:
            self.last_ack = message.answer if message else (b"", b"")
            wire.send_ack(self.leg.dialog, exchange.cseq, *self.last_ack)

    # -- the end ----------------------------------------------------------------------------------

    def close(self, dlg: Any) -> None:
        """The leg is over: answer what its far end still waits for, forget what it was asked."""
        if self.has_invite_sent:
            self.leg.endpoint.race("bye_in_reinvite")
        if self.unacked is not None:
            wire.send_ack(dlg, self.unacked.cseq, b"", b"")
            self.unacked = None
        for exchange in list(self.asked):
            if not exchange.answered:
                exchange.response.send(dlg, exchange.tsx, 487, None)
            exchange.done()
        sent, self.sent = self.sent, {}
        for tsx, exchange in sent.items():
            exchange.answer(487, None)  # RFC 3261 15.1.2
            exchange.drop_tdata()
            if exchange.invite:  # no timer of PJSIP's ends it once a provisional response came
                lib.pjsip_tsx_terminate(tsx, 408)
