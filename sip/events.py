"""The events that a leg reports to its listener."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from sip.message import Message
from sip.reliable import Early

L = TypeVar("L")
"""The leg that reports it."""


@dataclass(slots=True)
class Progress(Generic[L]):
    """The far side of an outgoing leg is trying or ringing: a provisional response above 100.

    `early` is set if it was sent reliably; each is reported once (RFC 3262).
    """

    leg: L
    code: int
    message: Message
    early: Early | None = None


@dataclass(slots=True)
class Answered(Generic[L]):
    """An outgoing leg was answered with a 2xx, which is not acknowledged yet: call `accept` or
    `hangup`."""

    leg: L
    code: int
    message: Message


@dataclass(slots=True)
class Failed(Generic[L]):
    """An outgoing leg ended without an answer.

    `code` is the final response, 408 if none came (Timer B) and 503 if the transport failed or the
    request could not be sent; then there is no message.
    """

    leg: L
    code: int
    message: Message | None


@dataclass(slots=True)
class Cancelled(Generic[L]):
    """The caller cancelled before an answer; CANCEL and INVITE have been answered (200 and 487)."""

    leg: L
    message: Message | None


@dataclass(slots=True)
class Acked(Generic[L]):
    """The caller acknowledged the answer; the body is set if the offer was late."""

    leg: L
    message: Message


@dataclass(slots=True)
class Ended(Generic[L]):
    """A leg is over. `why`: "bye", "ack_timeout" (no ACK in 64*T1), "transport", or, before the
    answer, "prack_timeout" (no PRACK in 64*T1)."""

    leg: L
    why: str
    message: Message | None


@dataclass(slots=True)
class Refreshed(Generic[L]):
    """A 2xx to re-INVITE or UPDATE: the session expires in so many seconds, 0 = never, RFC 4028."""

    leg: L
    seconds: int
