"""The end of a call, passed from one side to the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sip.bodies import passing_body
from sip.message import Message
from sip.relayed_fields import relayed
from sip.replaces import End, names_dialogs

if TYPE_CHECKING:
    from sip.interfaces import Party

# A BYE or its response may be lost twice on UDP (0.5 s, 1.5 s) and still arrive in time.
ANSWER_S = 3.0
_NOT_IN_CANCEL = frozenset((b"require",))  # RFC 3261 9.1


class Farewell:
    """What goes with the BYE or CANCEL that ends a leg: header fields of the engine's own, or the
    BYE or CANCEL of the other side. `bye` waits for the answer."""

    __slots__ = ("bye", "fields", "message")

    def __init__(
        self, fields: bytes = b"", message: Message | None = None, bye: Any = None
    ) -> None:
        self.fields = fields
        self.message = message
        self.bye = bye

    def __bool__(self) -> bool:
        return bool(self.fields) or self.message is not None

    def tries(self, leg: Party, *, cancel: bool = False) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Header text, body and media type for this leg's far end: first all of it, then less, in
        case it does not fit into a packet."""
        message, block = self.message, self.fields
        if message is not None:
            not_in = _NOT_IN_CANCEL if cancel else frozenset()
            passing = relayed(message, to_trusted=leg.trusted, also_not=not_in)
            if names_dialogs(message):
                passing = leg.endpoint.dialog_names.pass_on(passing, End(leg=leg))
            block = block + b"\r\n" + passing if block and passing else block or passing
            whole = (
                (b"", b"") if message.truncated else passing_body(message, to_trusted=leg.trusted)
            )
            yield block, *whole
            reasons = [line for name, line, _ in message.fields if name == b"reason"]
            block = b"\r\n".join(reasons)
        if block:
            yield block, b"", b""
        yield b"", b"", b""


NOTHING = Farewell()
