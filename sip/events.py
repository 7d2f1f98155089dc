"""The events that a leg reports to its listener."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sip.incoming import Incoming
    from sip.leg import Leg
    from sip.message import Message
    from sip.outgoing import Outgoing
    from sip.reliable import Early


@dataclass(slots=True)
class Progress:
    """The far side of an outgoing leg is trying or ringing: a provisional response above 100.

    `early` is set if it was sent reliably; each is reported once (RFC 3262).
    """

    leg: Outgoing
    code: int
    message: Message
    early: Early | None = None


@dataclass(slots=True)
class Answered:
    """An outgoing leg was answered with a 2xx, which is not acknowledged yet: call `accept` or
    `hangup`."""

    leg: Outgoing
    code: int
    message: Message


@dataclass(slots=True)
class Failed:
    """An outgoing leg ended without an answer.

    `code` is the final response, 408 if none came (Timer B) and 503 if the transport failed or the
    request could not be sent; then there is no message.
    """

    leg: Outgoing
    code: int
    message: Message | None


@dataclass(slots=True)
class Cancelled:
    """The caller cancelled before an answer; CANCEL and INVITE have been answered (200 and 487)."""

    leg: Incoming
    message: Message | None


@dataclass(slots=True)
class Acked:
    """The caller acknowledged the answer; the body is set if the offer was late."""

    leg: Incoming
    message: Message


@dataclass(slots=True)
class Ended:
    """A leg is over. `why`: "bye", "ack_timeout" (no ACK in 64*T1), "transport", or, before the
    answer, "prack_timeout" (no PRACK in 64*T1)."""

    leg: Leg
    why: str
    message: Message | None


@dataclass(slots=True)
class Refreshed:
    """A 2xx to re-INVITE or UPDATE: the session expires in so many seconds, 0 = never (RFC 4028).
    """

    leg: Leg
    seconds: int


Event = Progress | Answered | Failed | Cancelled | Acked | Ended | Refreshed
