"""Reliable provisional responses towards the caller (RFC 3262): sent, repeated, acknowledged.

A reliable response of an outgoing leg's far end is sent reliably to the caller: with an RSeq of
this dialog, repeated until the caller's PRACK, which goes to the far end with the far end's RSeq.
If the caller requires reliability, the engine's own responses and those of an unreliable far end
are sent reliably too; their PRACK is answered here.

Which outgoing leg is offered 100rel is decided where it is dialled: only one that no other target
can follow (`alone` of a `Branch`, engine/hunting.py).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sip import headers
from sip.dialog import routes_back
from sip.message import Message

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from sip.interfaces import Host

T1_S = 0.5
GIVE_UP_S = 64 * T1_S  # RFC 3262 3: then the INVITE is refused
MOST_WAITING = 20  # behind the one that waits for its PRACK; a phone sends a handful
MOST_EARLY = 50  # early dialogs of one INVITE


class Callee(Protocol):
    """An outgoing leg."""

    @property
    def dialog(self) -> Any: ...

    @property
    def invite_cseq(self) -> int: ...


class Caller(Protocol):
    """An incoming leg."""

    @property
    def endpoint(self) -> Host: ...

    def answer_held(self, code: int, message: Any, extra: bytes) -> None: ...

    def on_prack_missing(self) -> None: ...

    def respond_reliably(self, code: int, message: Any, extra: bytes) -> bool: ...


@dataclass(slots=True)
class Early:
    """A reliable provisional response of the far end, with the data for its PRACK."""

    leg: Callee
    rseq: int
    tag: bytes  # To tag: a forked call has several early dialogs (RFC 3261 12.1)
    contact: bytes
    routes: list[bytes]

    @property
    def is_over(self) -> bool:
        """Whether its far end is gone, or another early dialog of the fork was answered."""
        dialog = self.leg.dialog
        return dialog is None or (
            dialog.is_confirmed and dialog.remote_tag not in (b"", self.tag)  # b"": the null tag
        )

    @property
    def rack(self) -> bytes:
        """The RAck header field of its PRACK."""
        return b"RAck: %d %d INVITE" % (self.rseq, self.leg.invite_cseq)


@dataclass(slots=True)
class _Sent:
    rseq: int
    code: int
    message: Message | None
    early: Early | None  # None: the PRACK is answered here


class Reliable:
    """The reliable provisional responses of one incoming leg, whose caller knows 100rel.

    One is in progress at a time; the others wait for its PRACK (RFC 3262 3). A 2xx also waits while
    one with a session description is not acknowledged.
    """

    __slots__ = ("_cseq", "_held", "_leg", "_rseq", "_sent", "_timer", "_waiting", "required")

    def __init__(self, leg: Caller, invite: Message) -> None:
        self.required = headers.requires_100rel(invite)
        self._leg = leg
        self._cseq = invite.cseq
        self._rseq = 0
        self._sent: _Sent | None = None  # the one that waits for its PRACK
        self._waiting: deque[_Sent] = deque()
        self._held: tuple[int, Message, bytes] | None = None  # the 2xx that waits
        self._timer: TimerHandle | None = None

    @property
    def is_used(self) -> bool:
        """Whether any was sent."""
        return self._rseq > 0

    def send(self, code: int, message: Message | None, early: Early | None, *, alone: bool) -> bool:
        """Send a provisional response reliably; False if it need not be reliable.

        Unless its leg is `alone`, another target may follow, and its session description cannot be
        guaranteed to the caller (RFC 3261 13.2.1: the first reliable answer is the answer).
        """
        if early is None and not self.required:
            return False
        if len(self._waiting) >= MOST_WAITING:
            return True  # dropped
        if message is not None and not alone:
            message = message.without_body()
        self._rseq += 1
        self._waiting.append(_Sent(self._rseq, code, message, early))
        if self._sent is None:
            self._next()
        return True

    def holds(self, code: int, message: Message, extra: bytes = b"") -> bool:
        """Whether the 2xx must wait for a PRACK; it is then sent automatically."""
        if not any(one.message is not None and one.message.body for one in self._pending()):
            return False
        self._held = code, message, extra
        return True

    def _pending(self) -> list[_Sent]:
        return [*([self._sent] if self._sent is not None else ()), *self._waiting]

    def on_prack(self, message: Message) -> Early | bool:
        """The caller's PRACK. Returns the Early whose far end must get it, True if it is answered
        here, False if it matches nothing (481, RFC 3262 3)."""
        sent = self._sent
        if sent is None or headers.rack(message) != (sent.rseq, self._cseq, b"INVITE"):
            return False
        self._stop_timer()
        self._sent = None
        return sent.early or True

    def after_prack(self) -> None:
        """Send what waited for the PRACK: the next provisional response, or the 2xx."""
        self._next()
        held = self._held
        if held is not None and not self.holds(*held):
            self._held = None
            self._leg.answer_held(*held)

    def close(self) -> None:
        """Stop repeating, because a final response is sent or the leg is over.

        The PRACK of the last one may still come and is still recognised."""
        self._stop_timer()
        self._waiting.clear()
        self._held = None
        if self._sent is not None:
            self._sent.message = None

    def _next(self) -> None:
        while self._sent is None and self._waiting:
            self._sent = self._waiting.popleft()
            self._transmit(self._sent, T1_S)

    def _transmit(self, sent: _Sent, wait_s: float) -> None:
        extra = b"Require: 100rel\r\nRSeq: %d" % sent.rseq
        if not self._leg.respond_reliably(sent.code, sent.message, extra):
            self._sent = None  # it does not fit into a packet: as if it had not been sent
            return
        loop = self._leg.endpoint.loop
        self._timer = loop.call_later(wait_s, self._repeat, sent, wait_s)

    def _repeat(self, sent: _Sent, waited_s: float) -> None:
        if 2 * waited_s >= GIVE_UP_S:
            self.close()
            self._sent = None
            self._leg.on_prack_missing()
        else:
            self._transmit(sent, 2 * waited_s)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Earlies:
    """The reliable provisional responses received on one outgoing leg, by early dialog."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[bytes, int] = {}

    @property
    def are_heard(self) -> bool:
        """Whether any was received."""
        return bool(self._last)

    def hear(self, leg: Callee, rseq: int, message: Message) -> Early | None:
        """Note one; None if it is a retransmission or out of order, and is dropped silently (RFC
        3262 4), or if there are too many early dialogs."""
        tag = headers.tag_of(message.first(b"to") or b"")
        last = self._last.get(tag)
        if last is not None and rseq != last + 1:
            return None
        if last is None and len(self._last) >= MOST_EARLY:
            return None
        self._last[tag] = rseq
        contact = headers.uri_of(message.first(b"contact") or b"")
        return Early(leg, rseq, tag, contact, routes_back(message))
