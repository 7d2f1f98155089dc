"""What becomes of a REFER (RFC 3515) inside a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sip.leg import Leg
    from sip.message import Message


def nothing() -> None:
    """Nothing has to be undone."""


class Referral(NamedTuple):
    """`code` refuses the REFER; 0 = it is passed on, with `refer_to` as its one Refer-To field.
    `refused` is called when the other side refuses to go."""

    code: int = 0
    refer_to: bytes = b""
    refused: Callable[[], None] = nothing


OnRefer = Callable[["Leg", "Message"], Referral]


def refer_to_of(message: Message) -> bytes:
    """The Refer-To field as it came."""
    return next((line for name, line, _ in message.fields if name == b"refer-to"), b"")


def anywhere(leg: Leg, message: Message) -> Referral:
    """Everybody may send the other side anywhere."""
    return Referral(refer_to=refer_to_of(message))
