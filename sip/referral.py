"""How the decision on a REFER (RFC 3515) inside a call reaches SIP. Which targets are allowed is in
engine/refer_targets.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sip.interfaces import Party
    from sip.message import Message


def nothing() -> None:
    """Nothing to undo."""


class Referral(NamedTuple):
    """`code` refuses the REFER; 0 = it is passed on, with `refer_to` as its one Refer-To field.
    `refused` is called if the other side refuses it."""

    code: int = 0
    refer_to: bytes = b""
    refused: Callable[[], None] = nothing


def refer_to_of(message: Message) -> bytes:
    """The Refer-To field as received."""
    return next((line for name, line, _ in message.fields if name == b"refer-to"), b"")


def anywhere(leg: Party, message: Message) -> Referral:
    """Allow every REFER."""
    return Referral(refer_to=refer_to_of(message))
