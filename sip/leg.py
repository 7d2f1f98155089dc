"""One side of a call: a small state machine over one PJSIP dialog. Actions in, events out.

This file holds what both sides share: the end, and requests inside the dialog. `incoming.py` is the
caller's side, which goes TRYING, EARLY, ANSWERED, CONFIRMED, ENDED; `outgoing.py` a callee's, which
goes CALLING, EARLY, CANCELLING or ANSWERED, CONFIRMED, ENDED. An action that does not fit the state
is ignored and counted, never an error: the two sides of a call race by nature. `exchange.py` relays
what happens inside a dialog, `wire.py` writes the messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sip import wire
from sip.events import Answered, Ended, Event
from sip.exchange import Exchanges
from sip.farewell import NOTHING, Farewell
from sip.headers import tag_of
from sip.message import Message
from sip.names import is_address, place_of
from sip.pjsip import lib
from sip.privacy import NO_WISH, VOUCHED, kept
from sip.state import ENDED, State

if TYPE_CHECKING:
    from sip.byes import Bye
    from sip.endpoint import Endpoint
    from sip.reliable import Reliable


class Leg:
    """One dialog. `listener` gets its events; None lets the leg end itself quietly."""

    is_caller = False  # it began with an INVITE to this engine

    __slots__ = (
        "_dlg",
        "_endpoint",
        "_invite",
        "exchanges",
        "farewell",
        "listener",
        "owner",
        "peer",
        "reliable",
        "state",
        "trusted",
        "wish",
    )

    def __init__(self, endpoint: Endpoint, dlg: Any, state: State) -> None:
        self._endpoint = endpoint
        self._dlg = dlg
        self._invite: Any = None  # the initial INVITE's transaction while it lives
        self.exchanges: Exchanges | None = None
        self.farewell = NOTHING  # what its far end said when it ended the call
        self.listener: Callable[[Event], None] | None = None
        self.owner: object | None = None  # whose leg it is, for who finds nothing but the leg
        self.peer: Leg | None = None  # the other side of the call, while both may talk
        self.reliable: Reliable | None = None  # a caller that knows 100rel
        self.trusted = True  # its far end may be told all (RFC 3325): all but phones
        self.wish = NO_WISH  # what its far end wants kept private
        self.state = state
        endpoint.legs[dlg] = self

    # -- actions ----------------------------------------------------------------------------------

    def hangup(self, farewell: Farewell = NOTHING) -> None:
        """End the leg by what its state asks for, and say `farewell` with it."""
        if not self._hang_up(farewell) and farewell.bye is not None and not farewell.bye.teller:
            farewell.bye.answer(200)

    def _hang_up(self, farewell: Farewell) -> bool:
        """Whether a BYE was sent, or will be."""
        raise NotImplementedError

    def detach(self) -> None:
        """Nobody listens any more: whatever still comes, the leg ends itself."""
        if self.farewell.bye is not None and self.farewell.bye.teller is None:
            self.farewell.bye.answer(200)
        self.listener = None
        self.owner = None
        self.peer = None

    # -- what the dialog tells (called by the endpoint only) --------------------------------------

    def on_ack(self, message: Message) -> None:
        """An ACK from the far end: that of a relayed INVITE."""
        if self.exchanges is not None:
            self.exchanges.on_ack(message)

    def on_2xx_again(self, cseq: int) -> None:
        """A retransmitted 2xx: the ACK of a relayed INVITE was lost (RFC 3261 13.2.2.4)."""
        exchanges = self.exchanges
        if exchanges is not None and exchanges.unacked is None:
            wire.send_ack(self._dlg, cseq, *exchanges.last_ack)

    def on_cancel(self, message: Message) -> None:
        """A CANCEL, itself answered already: of a relayed INVITE."""
        if self.exchanges is not None:
            self.exchanges.on_cancel(message)

    def on_bye(self, message: Message, bye: Bye | None) -> None:
        """A BYE: it is answered already, or `bye` waits for what the other side says."""
        self.farewell = Farewell(message=message, bye=bye)
        self._end("bye", message)

    def on_request(self, method: bytes, tsx: Any, rdata: Any, message: Message) -> None:
        """Any other request inside the dialog: the other side answers it."""
        if self.exchanges is None:
            self.exchanges = Exchanges(self)
        self.exchanges.on_request(method, tsx, rdata, message)

    def on_server_gone(self, tsx: Any) -> None:
        """A server transaction ended by itself. A relayed INVITE without its ACK ends the call
        (RFC 3261 14.2)."""
        if self.exchanges is not None and self.exchanges.on_server_gone(tsx):
            self._endpoint.race("ack_missing")
            self._endpoint.byes.say(self, NOTHING)
            self._end("ack_timeout")

    def mark(self, message: Message) -> Message:
        """A message of this leg's far end, which was received just now, marked with whether it is
        believed and with what its sender wants kept private, as it said then or before."""
        message.untrusted = not self._believes(message)
        # Whatever asks for privacy later than the INVITE has that word in it.
        if self.wish is not NO_WISH or message.head.lower().find(b"privacy") >= 0:
            self.wish = message.wish = kept(self.wish, message)
        return message

    def _believes(self, message: Message) -> bool:
        """Whether a message comes from a node of the trust domain: by the address that sent it."""
        return wire.source() in self._endpoint.trusted

    def _believes_contact(self, message: Message, uri: str, *, direct: bool) -> bool:
        """Whether a message of who is at a contact is believed. It is when that is a server itself:
        at an address of the trust domain, and the message came from one. That it came through one
        is not enough, for an edge passes on what its phones say; `direct`: there is no edge."""
        trusted = self._endpoint.trusted
        if wire.source() not in trusted or not message.has_any(VOUCHED):
            return False  # or it says nothing that would have to be believed
        place = place_of(uri)
        return place.host.encode() in trusted if is_address(place) else direct

    # -- inside -----------------------------------------------------------------------------------

    @property
    def dialog(self) -> Any:
        """PJSIP's dialog, None when the leg is over."""
        return self._dlg

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    @property
    def name(self) -> tuple[bytes, bytes, bytes]:
        """The dialog as its far end sees it: Call-ID, the far end's tag, ours."""
        request = wire.sample(self._dlg)
        if request is None:
            return b"", b"", b""
        ours, theirs = (tag_of(request.first(name) or b"") for name in (b"from", b"to"))
        return request.call_id.encode("latin-1"), theirs, ours

    @property
    def reached(self) -> tuple[str, tuple[str, ...]]:
        """The URI and the Route values by which the far end was called; empty for who called."""
        return "", ()

    def _end(self, why: str, message: Message | None = None) -> None:
        self._release()
        self.tell(Ended(self, why, message))

    def tell(self, event: Event) -> None:
        """Tell the listener; without one the leg ends itself."""
        if self.listener is not None:
            self.listener(event)
        elif isinstance(event, Answered):
            self.hangup()  # nobody wants this answer any more: ACK and BYE

    def _forget(self) -> None:
        """Let go of what the role holds; the leg is over."""
        raise NotImplementedError

    def _release(self) -> None:
        """Let PJSIP's dialog go; its transactions end on their own. Idempotent."""
        if self.state is ENDED:
            return
        self.state = ENDED
        dlg, self._dlg = self._dlg, None
        if self.exchanges is not None:
            self.exchanges.close(dlg)
            self.exchanges = None
        if self.reliable is not None:
            self.reliable.close()
            self.reliable = None
        self._forget()
        self._endpoint.legs.pop(dlg, None)
        lib.pjsip_dlg_dec_session(dlg, self._endpoint.usage)
