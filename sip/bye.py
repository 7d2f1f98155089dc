"""BYEs and their responses.

The side that hangs up gets the far side's response, or a 200 of the engine's own: after `ANSWER_S`,
if the far side hangs up too, if it cannot be reached, or if there is no far side.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from sip.dialog import Dialog
from sip.end_of_call import ANSWER_S, Farewell
from sip.message import Message
from sip.settings import TooLarge
from sip.status import CHALLENGES, passed_on
from sip.transaction import Client, Server

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from sip.interfaces import Party


class Bye:
    """A BYE from `asker`'s far end that waits for its response; `sender` is the leg that passes it
    on. It is the user of both transactions."""

    __slots__ = ("_dialog", "_server", "_timer", "asker", "sender")

    def __init__(self, leg: Party, server: Server) -> None:
        self._server: Server | None = server
        self._dialog: Dialog | None = None  # that passes the BYE on
        self.asker = leg
        self.sender: Party | None = None
        endpoint = leg.endpoint
        self._timer: TimerHandle = endpoint.loop.call_later(ANSWER_S, self.answer, 200)
        endpoint.byes.add(self)
        server.user = self

    def goes_by(self, leg: Party) -> None:
        """The BYE goes to the far end of this leg."""
        self.sender, self._dialog = leg, leg.dialog
        leg.dialog.bye = self

    def answer(self, code: int, message: Message | None = None) -> None:
        """Send the final response, once."""
        server = self._server
        if server is None:
            return
        if code in CHALLENGES:  # a hang-up needs no authorization
            code, message = 200, None
        code = passed_on(code)
        self.drop()
        if not self.asker.respond(server, code, message):
            self.asker.respond(server, code, None)  # it is too large

    def drop(self) -> None:
        """Forget it: it is answered, or its transaction is over."""
        if self._server is not None:
            self._server.user = None
            self._server = None
            self._timer.cancel()
            self.asker.endpoint.byes.discard(self)
        if self._dialog is not None:
            self._dialog.bye = None

    def on_gone(self, server: Server, code: int) -> None:
        self.drop()

    def on_failed_response(self, client: Client, message: Message) -> None:
        """Its response could not be passed on."""
        self.answer(200)

    def on_response(self, client: Client, code: int, message: Message | None) -> None:
        """The far side's response to the BYE; 200 if there is none."""
        if message is None:
            self.answer(200)
        elif code >= 200:
            assert self.sender is not None  # `goes_by` set it
            self.answer(code, self.sender.mark(message))


def receive(leg: Party, server: Server) -> Bye | None:
    """Handle a BYE on a leg. None if there is no far side and it is answered here."""
    peer = leg.peer
    if leg.listener is None or peer is None or peer.dialog is None:
        leg.layer.respond(server, 200)
        return None
    return Bye(leg, server)


def say(leg: Party, farewell: Farewell) -> None:
    """Send a BYE to the leg's far end; its response goes to the side that hung up."""
    bye: Any = farewell.bye
    if bye is not None and bye.sender is None:
        bye.goes_by(leg)
    else:
        bye = None
    client: Client | None = None
    for fields, body, kind in farewell.tries(leg):
        with contextlib.suppress(TooLarge):
            client = leg.layer.ask(
                leg.dialog, b"BYE", bye, fields=fields, body=body, content_type=kind
            )
            break
    if client is None and bye is not None:
        bye.answer(200)
