"""Relays requests inside a call from one side to the other.

Every method is relayed the same way (re-INVITE, UPDATE, INFO, MESSAGE and any other): a request
received on one leg is sent on the other with its headers and body, and the final response goes
back. Only INVITE is special: its ACK is relayed too, and two of them may not cross (glare).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sip import session_expires, unrelayed
from sip.bodies import ack_body, passing_body
from sip.dialog import Dialog
from sip.end_of_call import NOTHING, Farewell
from sip.events import Refreshed
from sip.features import features
from sip.headers import requires_100rel
from sip.late_notify import introduce
from sip.leg_state import Asked, Asking
from sip.message import Message
from sip.relayed_fields import relayed
from sip.replaces import End
from sip.settings import TooLarge
from sip.state import CONFIRMED, EARLY
from sip.status import passed_on
from sip.timers import Wheel
from sip.transaction import COMPLETED, Client, Server

if TYPE_CHECKING:
    from sip.interfaces import Party
    from sip.reliable import Early

# RFC 3261 14.2: a second INVITE before the first is answered; RFC 3261 14.1: ours crossed theirs.
RETRY_LATER = b"Retry-After: 3"
_AS_IT_IS: frozenset[bytes] = frozenset()
_REFER_TO = frozenset((b"refer-to",))
TIMER_C_MS = 181_000  # RFC 3261 16.6 11: more than three minutes
LOOKS = 10
MOST_AT_ONCE = 20  # requests of one side that wait for their response
REFRESHES = (b"INVITE", b"UPDATE")  # their Contact becomes the remote target


class Exchange:
    """One request in progress from `asker` to its peer."""

    __slots__ = (
        "answered",
        "asked",
        "asker",
        "cancelled",
        "client",
        "early",
        "invite",
        "method",
        "on_refused",
        "provisional",
        "quiet",
        "refer_to",
        "refreshes",
        "response",
        "server",
    )

    def __init__(self, asker: Party, method: bytes, server: Server, asked: Message) -> None:
        self.asker = asker
        self.asked = asked
        self.method = method
        self.invite = method == b"INVITE"
        self.server: Server | None = server  # None when it is over
        self.client: Client | None = None  # on the peer's side, until its final response or ACK
        self.refreshes = method in REFRESHES  # the session
        self.answered = False
        self.provisional = False  # the peer's far end has responded: a CANCEL may be sent
        self.cancelled = NOTHING  # the asker's CANCEL of its INVITE
        self.quiet = False  # a re-INVITE that wants reliable provisional responses gets none
        self.early: Early | None = None  # a PRACK: the response that it acknowledges
        self.on_refused: Callable[[], None] | None = None  # a REFER: undoes its effect
        self.refer_to = b""  # and its Refer-To, a whole field
        self.response = b""  # to an INVITE: our 2xx, until its ACK

    def answer(self, code: int, message: Message | None, extra: bytes = b"") -> None:
        """Send the response to the asker, once if it is final."""
        if self.answered or self.server is None or self.asker.dialog is None:
            return
        code = passed_on(code)
        expires_s = None
        if self.refreshes and message is not None and 200 <= code < 300:
            extra, expires_s = session_expires.response_fields(self.asked, message)
        keeps = self._keep if self.invite and 200 <= code < 300 else None
        is_sent = self.asker.respond(self.server, code, message, extra, before=keeps)
        if not is_sent and 200 <= code < 300:
            code, expires_s = 500, None  # it is too large
            self.asker.respond(self.server, code, None)
        self.answered = code >= 200
        if self.answered and not (self.invite and code < 300):
            self.done()
        if expires_s is not None:
            self.asker.tell(Refreshed(self.asker, expires_s))

    def expire(self) -> None:
        """Nobody has answered in time, so that the asker has given up too: but for an INVITE there
        is no 408 (RFC 4320 4.2)."""
        server = self.server
        self.done()
        if server is not None:
            server.end()

    def _keep(self, response: bytes) -> None:
        self.response = response

    def done(self) -> None:
        """End it: nothing more will be sent to the asker."""
        if self.server is not None:
            self.server = None
            if self.asker.exchanges is not None:
                self.asker.exchanges.asked.remove(self)


class Exchanges:
    """The requests in progress on one leg: `asked` by its far end, `sent` to it (by
    transaction)."""

    __slots__ = ("asked", "last_ack", "leg", "sent", "unacked", "unacked_cseq")

    def __init__(self, leg: Party) -> None:
        self.leg = leg
        self.asked: list[Exchange] = []
        self.sent: dict[Client, Exchange] = {}
        self.last_ack = (b"", b"")  # body and media type of the last ACK passed to this leg
        self.unacked: Exchange | None = None  # an INVITE sent to this leg, 2xx without ACK
        self.unacked_cseq = 0

    # -- the asker's side -------------------------------------------------------------------------

    def on_request(self, method: bytes, server: Server, message: Message) -> None:
        """Handle a request from this leg's far end: pass it to the peer or refuse it."""
        leg = self.leg
        exchange = Exchange(leg, method, server, message)
        self.asked.append(exchange)
        server.user = leg
        if len(self.asked) > MOST_AT_ONCE:
            exchange.answer(500, None, RETRY_LATER)
            return
        if message.max_forwards == 0:
            exchange.answer(483, None)
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
        moved = exchange.refreshes and leg.dialog.retarget(message.contact)
        exchange.quiet = exchange.invite and requires_100rel(message)
        peer = leg.peer
        assert peer is not None  # checked by _refusal
        if method == b"REFER":
            introduce(leg, peer)
        self._relay(exchange, peer, message)
        if exchange.invite or moved:
            leg.endpoint.on_kept(leg)
        else:
            leg.endpoint.on_changed(leg)
        if exchange.invite:
            # Now the asker does not repeat it any more, and another process would know of it.
            leg.layer.respond(server, 100, fields=message.timestamp)

    def _on_prack(self, exchange: Exchange, message: Message) -> None:
        """The caller acknowledges a reliable provisional response (RFC 3262 3)."""
        reliable = self.leg.reliable
        known: Any = reliable.on_prack(message) if reliable is not None else False
        if isinstance(known, bool):
            exchange.answer(200 if known else 481, None)
        elif known.is_over:
            exchange.answer(200, None)  # a 481 of it would end the caller's own dialog
        else:
            exchange.early = known
            self._relay(exchange, known.leg, message)
        if known and reliable is not None:
            reliable.after_prack()

    def _relay(self, exchange: Exchange, peer: Party, message: Message) -> None:
        if peer.exchanges is None:
            peer.exchanges = Exchanges(peer)
        peer.exchanges.send(exchange, message)

    def _refusal(self, exchange: Exchange) -> tuple[int, Message | None, bytes] | None:
        peer = self.leg.peer
        ready = CONFIRMED if exchange.invite else EARLY
        if peer is None or peer.dialog is None or min(self.leg.state, peer.state) < ready:
            return self.unrelayed(exchange)
        if exchange.invite:
            if any(known.invite for known in self.asked if known is not exchange):
                self.leg.layer.race("reinvite_overlap")
                return 500, None, RETRY_LATER
            if self.has_invite_sent:
                self.leg.layer.race("glare")
                return 491, None, b""
        return None

    def unrelayed(self, exchange: Exchange) -> tuple[int, Message | None, bytes]:
        """The engine's own response to a request of this leg's far end that nobody else can
        answer."""
        leg = self.leg
        owes_answer = leg.is_caller and leg.state <= EARLY
        code, fields = unrelayed.answer(exchange.method, exchange.asked, owes_answer=owes_answer)
        return code, None, fields

    @property
    def has_invite_sent(self) -> bool:
        return self.unacked is not None or any(known.invite for known in self.sent.values())

    def on_ack(self, message: Message) -> None:
        """Handle the ACK of a relayed INVITE: stop retransmitting the 2xx and pass it on."""
        for exchange in self.asked:
            server = exchange.server
            if exchange.invite and exchange.answered and server is not None:
                if server.cseq != message.cseq:
                    continue
                exchange.done()
                server.user = None
                server.acknowledged()
                peer = self.leg.peer
                if peer is not None and peer.exchanges is not None:
                    peer.exchanges.pass_ack(message, self.leg)
                else:
                    self.leg.endpoint.on_kept(self.leg)
                return

    def on_cancel(self, message: Message) -> None:
        """The asker cancelled its re-INVITE, which may be another one than that in progress: one
        that was refused before its CANCEL arrived."""
        for exchange in self.asked:
            server = exchange.server
            if server is None or server.cseq != message.cseq:
                continue
            if exchange.invite and not exchange.answered and not exchange.cancelled:
                exchange.cancelled = Farewell(message=message)
                if exchange.provisional:
                    self._cancel(exchange)
                return

    def _cancel(self, exchange: Exchange) -> None:
        """CANCEL the INVITE sent for it, once a provisional response allows it (9.1)."""
        peer = exchange.asker.peer
        if exchange.client is not None and peer is not None:
            tries = exchange.cancelled.tries(peer, cancel=True)
            if any(exchange.client.cancel(*attempt) for attempt in tries):
                self.leg.layer.count_out(b"CANCEL")

    def on_gone(self, server: Server) -> bool:
        """A server transaction of this leg ended by itself; True if it was a relayed INVITE whose
        2xx was never acknowledged."""
        for exchange in self.asked:
            if exchange.server is server:
                unacked = exchange.invite and exchange.answered
                exchange.done()
                return unacked
        return False

    # -- the peer's side --------------------------------------------------------------------------

    def send(self, exchange: Exchange, message: Message) -> None:
        """Send an exchange's request to this leg's far end."""
        leg = self.leg
        dialog: Dialog = leg.dialog
        early, again = exchange.early, _REFER_TO if exchange.refer_to else _AS_IT_IS
        block = relayed(message, to_trusted=leg.trusted, also_not=again)
        if message.tells_dialogs:
            block = leg.endpoint.dialog_names.pass_on(block, End(leg=leg))
        if exchange.refer_to:
            block = block + b"\r\n" + exchange.refer_to if block else exchange.refer_to
        if early is not None:
            block = early.rack + b"\r\n" + block if block else early.rack
            if early.tag != dialog.remote_tag:
                to = _with_tag(dialog.remote, dialog.remote_tag, early.tag)
                dialog = dialog.sibling(to, early.tag, early.contact, early.routes)
        body, kind = passing_body(message, to_trusted=leg.trusted)
        try:
            client = leg.layer.ask(
                dialog,
                exchange.method,
                leg,
                fields=block,
                body=body,
                content_type=kind,
                max_forwards=message.max_forwards - 1,
                features=features(message, to_trusted=leg.trusted),
            )
        except TooLarge:
            exchange.answer(513, None)
            return
        finally:
            leg.dialog.sent = dialog.sent
        if client is None:
            exchange.answer(503, None)
            return
        exchange.client = client
        self.sent[client] = exchange
        if exchange.invite:
            leg.layer.wheel.after(_TimerC(leg.layer.wheel, client), TIMER_C_MS // LOOKS)

    def on_response(self, client: Client, code: int, message: Message | None) -> None:
        """A response on the peer's side; no message if none will come any more."""
        exchange = self.sent.get(client)
        if exchange is None:
            return
        if message is not None:
            self.leg.mark(message)
        if code < 200:
            first, exchange.provisional = not exchange.provisional, True
            if first and exchange.cancelled:
                self._cancel(exchange)
            if exchange.invite and code > 100 and not exchange.quiet:
                exchange.answer(code, message)
            return
        del self.sent[client]
        try:
            self._on_final(exchange, client, code, message)
        except Exception:
            self._on_error(exchange)
            raise

    def _on_final(
        self, exchange: Exchange, client: Client, code: int, message: Message | None
    ) -> None:
        answered = exchange.invite and code < 300
        exchange.client = client if answered else None  # until its ACK
        if message is None and code == 408 and not exchange.invite:
            exchange.expire()
            return
        if message is None and exchange.cancelled:
            code = 487
        if exchange.on_refused is not None and code >= 300 and message is not None:
            exchange.on_refused()
        if code == 481 and self.leg.state < CONFIRMED and exchange.asker.exchanges is not None:
            # One early dialog of a fork has ended; the asker's own continues.
            exchange.answer(*exchange.asker.exchanges.unrelayed(exchange))
            return
        if exchange.invite and code == 491:
            self.leg.layer.race("glare")
        refreshes = code < 300 and exchange.method in REFRESHES
        if refreshes and message is not None and self.leg.dialog.retarget(message.contact):
            self.leg.endpoint.on_kept(self.leg)
        if exchange.invite:
            self.leg.endpoint.on_changed(self.leg)
        if answered:
            self.unacked, self.unacked_cseq = exchange, client.cseq
            if exchange.asker.dialog is None:
                self.pass_ack(None)
                return
        exchange.answer(code, message)
        if self.unacked is exchange and exchange.server is None:
            self.pass_ack(None)  # the asker got a failure and acknowledges nothing

    def _on_error(self, exchange: Exchange) -> None:
        """Passing on a final response raised an exception. The asker gets a 500, unless it has the
        response already, and its 2xx waits for the ACK."""
        server = exchange.server
        if server is not None and server.is_answered:
            return
        if self.unacked is exchange:
            self.unacked = None
        exchange.answer(500, None)

    def pass_ack(self, message: Message | None, asker: Party | None = None) -> None:
        """Acknowledge the 2xx of the INVITE sent to this leg, with the content of the ACK of
        `asker`. It is kept before it is sent: another process would repeat an INVITE that the far
        end has completed, but acknowledges a 2xx that comes again."""
        exchange, self.unacked = self.unacked, None
        dialog = self.leg.dialog if exchange is not None else None
        if dialog is not None:
            self.last_ack = ack_body(message, to_trusted=self.leg.trusted)
        if asker is not None:
            asker.endpoint.on_kept(asker)
        if dialog is not None and exchange is not None:
            self._acknowledge(exchange, dialog, self.last_ack)

    def _acknowledge(self, exchange: Exchange, dialog: Dialog, ack: tuple[bytes, bytes]) -> None:
        """Send the ACK, and again for each copy of the 2xx, after the end of the leg too: the far
        end repeats it, whatever else it got (RFC 3261 13.3.1.4)."""
        layer, client = self.leg.layer, exchange.client
        layer.acknowledge(dialog, self.unacked_cseq, *ack)
        if client is not None:  # it is not another process's
            client.user = _Late(layer, dialog, ack)
            exchange.client = None

    # -- another process --------------------------------------------------------------------------

    def waits_for_ack(self, cseq: int) -> bool:
        """Whether the INVITE with this CSeq number was sent to this leg and answered, and the
        asker's ACK has not come yet."""
        return self.unacked is not None and self.unacked_cseq == cseq

    def snapshot(self) -> tuple[Asked | None, Asking | None]:
        """What another process needs to continue the INVITEs of this leg. Other requests are
        repeated until they are answered."""
        asked = asking = None
        for exchange in self.asked:
            if exchange.invite and exchange.server is not None:
                way = exchange.asked.way
                transport, host, port, _ = way.flow
                socket = self.leg.endpoint.socket_of(way)
                asked = Asked(exchange.asked.data, transport, host, port, socket, exchange.response)
        if self.unacked_cseq:
            asking = Asking(self.unacked_cseq, ack=None if self.unacked else self.last_ack)
        for client, exchange in self.sent.items():
            if exchange.invite:
                asking = Asking(client.cseq, client.key, client.parts, request=client.repeated)
        return asked, asking

    def resume(self, asked: Asked, peer: Party, asking: Asking | None) -> None:
        """Continue an INVITE of this leg's far end where another process left off: `asking` is what
        it has sent to the other side."""
        leg = self.leg
        layer, invite = leg.layer, Message(asked.invite)
        invite.way = leg.endpoint.way_back(asked, invite.port)
        server = layer.serve(invite, invite.way, invite.key(b"INVITE"))
        exchange = Exchange(leg, b"INVITE", server, leg.mark(invite))
        exchange.quiet = requires_100rel(invite)
        server.user = leg
        self.asked.append(exchange)
        if peer.exchanges is None:
            peer.exchanges = Exchanges(peer)
        if asked.answer:
            exchange.answered, exchange.response = True, asked.answer
            if asking is not None and asking.ack is None:
                peer.exchanges.unacked, peer.exchanges.unacked_cseq = exchange, asking.cseq
            server.respond(int(asked.answer[8:11]), asked.answer)
        elif asking is not None and asking.parts:
            peer.exchanges.await_again(exchange, asking)
        else:
            exchange.answer(491, None)  # it may be lost: the asker tries again (14.1)

    def await_again(self, exchange: Exchange, asking: Asking) -> None:
        """Wait for the response to an INVITE that another process sent to this leg."""
        layer = self.leg.layer
        way = layer.way_of(self.leg.dialog)
        client = Client(layer.clients, layer.wheel, way, asking.branch, b"INVITE", asking.cseq)
        client.user = self.leg
        if not asking.request:
            client.resume(asking.parts)
        elif not client.start(asking.request, asking.parts):
            exchange.answer(491, None)
            return
        exchange.client, exchange.provisional = client, not asking.request
        self.sent[client] = exchange
        layer.wheel.after(_TimerC(layer.wheel, client), TIMER_C_MS // LOOKS)

    # -- the end ----------------------------------------------------------------------------------

    def close(self, dialog: Dialog) -> None:
        """The leg is over: answer the pending requests of its far end, forget those sent to it."""
        layer = self.leg.layer
        if self.has_invite_sent:
            layer.race("bye_in_reinvite")
        unacked, self.unacked = self.unacked, None
        if unacked is not None:
            self._acknowledge(unacked, dialog, (b"", b""))
        for exchange in list(self.asked):
            server = exchange.server
            if server is not None:
                server.user = None
                if not exchange.answered:
                    layer.respond(server, 487)
                elif self.leg.has_left:
                    server.acknowledged()  # BYE instead of ACK
                else:
                    dialog.unacked = server
            exchange.done()
        sent, self.sent = self.sent, {}
        for client, exchange in sent.items():
            exchange.answer(487, None)  # RFC 3261 15.1.2
            client.user = _Late(layer, dialog) if exchange.invite else None
            if exchange.invite:
                client.bound()


class _TimerC:
    """Ends a relayed INVITE that nobody answers (RFC 3261 16.8): a CANCEL, and 408 to the asker if
    no final response comes within 64*T1. It checks periodically, so that it does not long outlast
    an answered INVITE."""

    __slots__ = ("_client", "_left", "_wheel")

    def __init__(self, wheel: Wheel, client: Client) -> None:
        self._wheel, self._client, self._left = wheel, client, LOOKS

    def on_tick(self, tick: int) -> None:
        self._left -= 1
        if self._client.state >= COMPLETED:
            return
        if self._left:
            self._wheel.after(self, TIMER_C_MS // LOOKS)
        else:
            self._client.cancel()


class _Late:
    """The user of a relayed INVITE that no leg waits for any more: its 2xx has its ACK, or the leg
    is over. Each copy of a 2xx gets that ACK (RFC 3261 13.2.2.4)."""

    __slots__ = ("_ack", "_dialog", "_layer")

    def __init__(self, layer: Any, dialog: Dialog, ack: tuple[bytes, bytes] = (b"", b"")) -> None:
        self._layer, self._dialog, self._ack = layer, dialog, ack

    def on_response(self, client: Client, code: int, message: Message | None) -> None:
        if message is not None and 200 <= code < 300:
            self._layer.acknowledge(self._dialog, client.cseq, *self._ack)

    def on_failed_response(self, client: Client, message: Message) -> None:
        """Nothing depends on it."""

    def on_2xx_again(self, client: Client, message: Message) -> None:
        self._layer.race("ack_lost")
        self._layer.acknowledge(self._dialog, client.cseq, *self._ack)


def _with_tag(value: bytes, old: bytes, new: bytes) -> bytes:
    """A To value with another tag."""
    if not old:  # the null tag of a phone that gives none
        return value + b";tag=" + new
    head, found, rest = value.rpartition(old)
    return head + new + rest if found else value + b";tag=" + new
