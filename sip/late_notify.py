"""NOTIFYs of a transfer that arrive after the call.

A REFER makes a subscription that outlives the call in whose dialog it was sent (RFC 3515 2.4.4, RFC
5057 4.2): its sender may hang up and still learn the result of the transfer. So the two dialogs of
a call with a REFER stay linked for 64*T1 after their end. The far side answers if it still exists;
otherwise 481 ends the subscription (RFC 6665 4.1.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from sip.bodies import passing_body
from sip.privacy import kept
from sip.relayed_fields import relayed
from sip.settings import TooLarge
from sip.speakers import Speaker
from sip.status import passed_on

if TYPE_CHECKING:
    from sip.dialog import Dialog
    from sip.message import Message
    from sip.transaction import Client, Server


class Side(Speaker, Protocol):
    """A leg."""

    @property
    def trusted(self) -> bool: ...

    @property
    def wish(self) -> Any: ...


class Layer(Protocol):
    """What sends."""

    @property
    def ask(self) -> Callable[..., Client | None]: ...

    @property
    def respond(self) -> Callable[..., bool]: ...


class Twin:
    """The other dialog of a call, and the data of this dialog's far end that `Speakers.may_speak`
    needs after its leg has ended."""

    __slots__ = ("dialog", "last_source", "other", "trusted", "wish")

    reached: tuple[str, tuple[str, ...]] = ("", ())

    def __init__(self, leg: Side, peer: Side) -> None:
        self.dialog: Dialog = leg.dialog
        self.other: Dialog = peer.dialog
        self.last_source = leg.last_source
        self.trusted = leg.trusted  # its far end may learn everything
        self.wish = leg.wish


def introduce(leg: Side, peer: Side) -> None:
    """Link their dialogs, because a REFER crosses."""
    leg.dialog.twin, peer.dialog.twin = Twin(leg, peer), Twin(peer, leg)


def forget(dialog: Dialog) -> None:
    """Unlink this dialog."""
    twin, dialog.twin = dialog.twin, None
    if twin is not None:
        twin.other.twin = None


class Notice:
    """One NOTIFY in progress between two ended dialogs."""

    __slots__ = ("_asked", "_layer", "_server", "_to_trusted")

    def __init__(self, layer: Layer, server: Server, twin: Twin, message: Message) -> None:
        self._layer, self._server = layer, server
        self._to_trusted = twin.trusted
        # Its sender has no leg any more that could decide whether it is believed.
        message.untrusted = True
        message.wish = kept(twin.wish, message)
        other = twin.other
        to_trusted = other.twin is not None and other.twin.trusted
        body, kind = passing_body(message, to_trusted=to_trusted)
        client = None
        try:
            client = layer.ask(
                other,
                b"NOTIFY",
                self,
                fields=relayed(message, to_trusted=to_trusted),
                body=body,
                content_type=kind,
                max_forwards=message.max_forwards - 1,
            )
        except TooLarge:
            layer.respond(server, 513)
            return
        if client is None:
            layer.respond(server, 481)

    def on_response(self, client: Client, code: int, message: Message | None) -> None:
        """The far side's response; without one the subscription ends."""
        if code < 200:
            return
        if message is None or code in (401, 407):
            self._layer.respond(self._server, 481)
            return
        message.untrusted = True
        code = passed_on(code)
        fields, respond = relayed(message, to_trusted=self._to_trusted), self._layer.respond
        if not respond(self._server, code, phrase=message.phrase, fields=fields):
            respond(self._server, code)  # it is too large

    def on_failed_response(self, client: Client, message: Message) -> None:
        """Its response could not be passed on."""
        self._layer.respond(self._server, 481)

    def on_gone(self, server: Server, code: int) -> None:
        """Its own transaction ended because its transport broke."""

    @property
    def dialog(self) -> Any:
        return None
