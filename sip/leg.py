"""One side of a call: a small state machine over one dialog. Actions in, events out.

This file holds what both sides share: the end, and requests inside the dialog. `incoming.py` is the
caller's side, with the states TRYING, EARLY, ANSWERED, CONFIRMED, ENDED. `outgoing.py` is a
callee's, with CALLING, EARLY, CANCELLING or ANSWERED, CONFIRMED, ENDED. An action that does not fit
the state is ignored and counted and is no error, because the two sides of a call race.
`exchange.py` relays requests inside a dialog.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sip import bye
from sip.bodies import passing_body
from sip.bye import Bye, say
from sip.dialog import Dialog
from sip.end_of_call import NOTHING, Farewell
from sip.events import Answered, Ended
from sip.exchange import Exchanges
from sip.features import features
from sip.leg_state import LegState
from sip.message import Message
from sip.names import is_address, place_of
from sip.privacy import ASKING, NO_WISH, TRUSTED_ONLY, kept
from sip.relayed_fields import relayed
from sip.replaces import NULL_TAG, End, names_dialogs
from sip.state import CONFIRMED, ENDED, State

if TYPE_CHECKING:
    from sip.interfaces import Host, Party
    from sip.layer import Layer
    from sip.reliable import Reliable
    from sip.transaction import Client, Server


class Leg:
    """One dialog. `listener` gets its events; with None the leg ends itself."""

    is_caller = False  # it began with an INVITE to this engine

    __slots__ = (
        "_endpoint",
        "_layer",
        "dialog",
        "exchanges",
        "farewell",
        "last_source",
        "listener",
        "owner",
        "peer",
        "reliable",
        "state",
        "trusted",
        "wish",
    )

    def __init__(self, endpoint: Host, dialog: Dialog, state: State) -> None:
        self._endpoint = endpoint
        self._layer: Layer = endpoint.layer
        self.dialog: Any = dialog  # a Dialog; None when the leg is over
        self.exchanges: Exchanges | None = None
        self.farewell = NOTHING  # the message with which its far end ended the call
        self.last_source = ""  # the source IP address of the far end's last message
        self.listener: Callable[[Any], None] | None = None
        self.owner: object | None = None  # the owner of the leg, for code that only has the leg
        self.peer: Party | None = None  # the other side of the call, while both may talk
        self.reliable: Reliable | None = None  # a caller that knows 100rel
        self.trusted = True  # its far end may learn everything (RFC 3325): all but phones
        self.wish = NO_WISH  # what its far end wants to be private
        self.state = state
        self._layer.legs[dialog.local_tag] = self

    @property
    def is_plain(self) -> bool:
        """Whether no reliable provisional response is part of its state (RFC 3262): another process
        does not know their numbers."""
        return self.reliable is None or not self.reliable.is_used

    def snapshot(self) -> LegState:
        """What another process needs to continue this leg, which is not over."""
        dialog: Dialog = self.dialog
        kept = LegState(
            self.state,
            dialog.call_id,
            dialog.local,
            dialog.remote,
            dialog.local_tag,
            dialog.remote_tag,
            dialog.target,
            dialog.contact,
            dialog.routes,
            dialog.sent,
            dialog.seen,
            dialog.is_confirmed,
            self.trusted,
            self.last_source,
            self.wish if self.wish is not NO_WISH else None,
        )
        kept.referred = dialog.twin is not None
        if self.exchanges is not None:
            kept.asked, kept.asking = self.exchanges.snapshot()
        return kept

    # -- actions ----------------------------------------------------------------------------------

    def hangup(self, farewell: Farewell = NOTHING) -> None:
        """End the leg as its state requires, and send `farewell` with it."""
        bye = farewell.bye
        if not self._hang_up(farewell) and bye is not None and bye.sender is None:
            bye.answer(200)

    def _hang_up(self, farewell: Farewell) -> bool:
        """Whether a BYE was sent, or will be."""
        raise NotImplementedError

    def detach(self) -> None:
        """Remove the listener; the leg ends itself, whatever still arrives."""
        if self.farewell.bye is not None and self.farewell.bye.sender is None:
            self.farewell.bye.answer(200)
        self.farewell = NOTHING  # its BYE refers to the leg, and the collector finds no old cycle
        self.listener = None
        self.owner = None
        self.peer = None

    def leave(self) -> None:
        """Another process has this leg: forget it here, without a message."""
        self.detach()
        self._release()

    # -- events of the dialog (called by the layer only) ------------------------------------------

    @property
    def reached(self) -> tuple[str, tuple[str, ...]]:
        """The URI and the Route values with which the far end was called; empty for the caller."""
        return "", ()

    @property
    def name(self) -> tuple[bytes, bytes, bytes]:
        """The dialog from its far end's point of view: Call-ID, the far end's tag, ours."""
        dialog = self.dialog
        return dialog.call_id, dialog.remote_tag or NULL_TAG, dialog.local_tag

    def is_of(self, message: Message) -> bool:
        """Whether a request that names our tag is in this leg's dialog."""
        dialog = self.dialog
        return dialog is not None and dialog.is_of(message)

    @property
    def has_left(self) -> bool:
        """Whether its far end has ended the call."""
        return self.farewell.message is not None

    def on_ack(self, message: Message) -> None:
        """An ACK from the far end: that of a relayed INVITE."""
        if self.exchanges is not None:
            self.exchanges.on_ack(message)

    def on_orphan(self, message: Message) -> None:
        """A 2xx to an INVITE that another process sent in this leg's dialog."""
        dialog = self.dialog
        known = (message.to_tag or b"") == dialog.remote_tag and self.state is CONFIRMED
        if known and message.raw_call_id == dialog.call_id:
            exchanges = self.exchanges
            if exchanges is not None and exchanges.waits_for_ack(message.cseq):
                return  # the other side's is repeated, until its ACK
            self._layer.race("ack_lost")
            self._layer.acknowledge(dialog, message.cseq, *self.ack_of(message.cseq))

    def on_cancel(self, message: Message) -> None:
        """A CANCEL, already answered, of a relayed INVITE."""
        if self.exchanges is not None:
            self.exchanges.on_cancel(message)

    def receive_bye(self, message: Message, server: Server | None) -> None:
        """A BYE; without a server transaction it is answered already."""
        self.on_bye(message, bye.receive(self, server) if server is not None else None)

    def on_bye(self, message: Message, bye: Bye | None) -> None:
        """A BYE: it is answered already, or `bye` waits for the other side's response."""
        self.farewell = Farewell(message=message, bye=bye)
        self._end("bye", message)

    def on_request(self, method: bytes, server: Server, message: Message) -> None:
        """Any other request inside the dialog, for the other side to answer."""
        if self.exchanges is None:
            self.exchanges = Exchanges(self)
        self.exchanges.on_request(method, server, message)

    def on_gone(self, server: Server, code: int) -> None:
        """A server transaction ended by itself. A relayed INVITE without its ACK ends the call
        (RFC 3261 14.2)."""
        if self.exchanges is not None and self.exchanges.on_gone(server):
            self._layer.race("ack_missing")
            say(self, NOTHING)
            self._end("ack_timeout")

    def on_response(self, client: Client, code: int, message: Message | None) -> None:
        """A response to a request that was sent for the other side."""
        if self.exchanges is not None:
            self.exchanges.on_response(client, code, message)

    def on_failed_response(self, client: Client, message: Message) -> None:
        """A final response whose handling raised an exception: handled as a 500, and a 2xx to
        INVITE gets its ACK."""
        if client.method == b"INVITE" and message.status < 300 and self.dialog is not None:
            self._layer.acknowledge(self.dialog, client.cseq)
        self.on_response(client, 500, None)

    def on_2xx_again(self, client: Client, message: Message) -> None:
        """A repeated 2xx to a relayed INVITE whose ACK has not come from the other side yet, or
        whose handling raised an exception. All others are those of `Exchanges`."""
        exchanges = self.exchanges
        if exchanges is not None and exchanges.unacked is None:
            self._layer.race("ack_lost")
            self._layer.acknowledge(self.dialog, client.cseq)

    def ack_of(self, cseq: int) -> tuple[bytes, bytes]:
        """Body and media type of the ACK of the INVITE that has this CSeq number."""
        exchanges = self.exchanges
        if exchanges is not None and cseq == exchanges.unacked_cseq:
            return exchanges.last_ack
        return b"", b""

    def mark(self, message: Message) -> Message:
        """Mark a message just received from this leg's far end with whether it is believed, and
        with what its sender wants to be private, by this or an earlier message."""
        message.untrusted = not self._believes(message)
        # After the INVITE only these fields can ask for privacy.
        if self.wish is not NO_WISH or message.has_any(ASKING):
            self.wish = message.wish = kept(self.wish, message)
        return message

    def _believes(self, message: Message) -> bool:
        """Whether the source address of a message is in the trust domain."""
        return bool(self._endpoint.trusted[message.way.host])

    def _believes_contact(self, message: Message, uri: str, *, direct: bool) -> bool:
        """Whether a message of a contact is believed: if the contact itself is at an address of the
        trust domain, and the message came from one. The latter alone is not enough, because an edge
        passes on what its phones send. `direct`: there is no edge."""
        trusted = self._endpoint.trusted
        if not trusted[message.way.host] or not message.has_any(TRUSTED_ONLY):
            return False  # or it has nothing to be believed
        place = place_of(uri)
        return place.host.encode() in trusted if is_address(place) else direct

    def respond(
        self,
        server: Server,
        code: int,
        message: Any,
        extra: bytes = b"",
        routes: bytes = b"",
        before: Callable[[bytes], None] | None = None,
    ) -> bool:
        """Answer this leg's far end with the crossing fields of `message` and the fields `extra`;
        False if it is too late, or cannot be sent. A 2xx that did not arrive whole or fits into no
        packet is not sent at all, other responses are sent without the crossing fields. `before`
        gets the response before it is sent."""
        dialog = self.dialog  # None: a BYE that waited for its response
        tag, contact = (dialog.local_tag, dialog.contact) if dialog is not None else (b"", b"")
        phrase = body = kind = able = b""
        own = extra
        if message is not None:
            if message.lost and 200 <= code < 300:
                return False
            fields = relayed(message, to_trusted=self.trusted)
            if names_dialogs(message):
                fields = self._endpoint.dialog_names.pass_on(fields, End(leg=self))
            extra = extra + b"\r\n" + fields if extra and fields else extra or fields
            body, kind = passing_body(message, to_trusted=self.trusted)
            phrase = message.phrase
            if code < 300:
                able = features(message, to_trusted=self.trusted)
        is_sent = self._layer.respond(
            server, code, tag=tag, phrase=phrase, contact=contact,
            routes=routes, fields=extra, body=body, content_type=kind, features=able,
            before=before,
        )  # fmt: skip
        if is_sent or message is None or 200 <= code < 300 or server.is_answered:
            return is_sent
        return self._layer.respond(
            server, code, tag=tag, contact=contact, routes=routes, fields=own
        )

    # -- inside -----------------------------------------------------------------------------------

    @property
    def endpoint(self) -> Host:
        return self._endpoint

    @property
    def layer(self) -> Layer:
        return self._layer

    def _end(self, why: str, message: Message | None = None) -> None:
        self._release()
        self.tell(Ended(self, why, message))

    def tell(self, event: Any) -> None:
        """Send an event to the listener; without one the leg ends itself."""
        if self.listener is not None:
            self.listener(event)
        elif isinstance(event, Answered):
            self.hangup()  # nobody needs this answer any more: ACK and BYE

    def _forget(self) -> None:
        """Release what the role holds; the leg is over."""
        raise NotImplementedError

    def _release(self) -> None:
        """Release the dialog; its transactions end by themselves. Idempotent."""
        if self.state is ENDED:
            return
        self.state = ENDED
        dialog, self.dialog = self.dialog, None
        if self.exchanges is not None:
            self.exchanges.close(dialog)
            self.exchanges = None
        if self.reliable is not None:
            self.reliable.close()
            self.reliable = None
        self._forget()
        self._layer.legs.pop(dialog.local_tag, None)
        self._layer.retire(dialog)
