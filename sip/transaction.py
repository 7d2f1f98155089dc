# cython: language_level=3, boundscheck=True, wraparound=False, nonecheck=True
"""The four transaction machines of RFC 3261 17, with RFC 6026, as tables.

A table has one row for each state and event: the next state and the actions. Events without a row
are ignored. The machines do not depend on dialogs: they send, repeat, acknowledge refusals and call
their user. Times in milliseconds.

The user of a client transaction gets `on_response(client, code, message)` for each response;
without a message, 408 means timeout and 503 that the transport failed. It gets
`on_2xx_again(client, message)` for a 2xx to INVITE that is repeated, or comes from another branch
of a forked call. The user of an INVITE server transaction gets `on_gone(server, code)` if its 2xx
was never acknowledged (408) or nothing can be sent (503).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cython

from sip.timers import Wheel

if TYPE_CHECKING:
    from sip.message import Message

T1 = cython.declare(cython.int, 500)  # RFC 3261 17.1.1.1
T2 = cython.declare(cython.int, 4000)
T4 = cython.declare(cython.int, 5000)
TIMED_OUT = cython.declare(cython.int, 408)
UNSENT = cython.declare(cython.int, 503)
NEVER = cython.declare(cython.longlong, -1)

# -- states

CALLING, TRYING, PROCEEDING, COMPLETED, CONFIRMED, ACCEPTED, ACKNOWLEDGED, TERMINATED = range(8)
STATES = cython.declare(cython.int, 8)
# The same as C integers, which other modules cannot import.
_CALLING = cython.declare(cython.int, CALLING)
_TRYING = cython.declare(cython.int, TRYING)
_PROCEEDING = cython.declare(cython.int, PROCEEDING)
_COMPLETED = cython.declare(cython.int, COMPLETED)
_ACCEPTED = cython.declare(cython.int, ACCEPTED)
_TERMINATED = cython.declare(cython.int, TERMINATED)

# -- events

(
    PROVISIONAL, SUCCESS, REFUSAL,  # a client: a response came; a server: one is sent
    REQUEST,  # the request was retransmitted
    ACK,  # to a refusal
    ACKED,  # the 2xx was acknowledged, as reported by the user
    AGAIN,  # timers A, E, G, and that of a 2xx
    LATE,  # timers B, D, F, H, I, J, K, L, M
    BROKEN,  # the transport failed
) = range(9)  # fmt: skip
EVENTS = cython.declare(cython.int, 9)
_PROVISIONAL = cython.declare(cython.int, PROVISIONAL)
_SUCCESS = cython.declare(cython.int, SUCCESS)
_REFUSAL = cython.declare(cython.int, REFUSAL)
_REQUEST = cython.declare(cython.int, REQUEST)
_ACK = cython.declare(cython.int, ACK)
_ACKED = cython.declare(cython.int, ACKED)
_AGAIN = cython.declare(cython.int, AGAIN)
_LATE = cython.declare(cython.int, LATE)
_BROKEN = cython.declare(cython.int, BROKEN)

# -- actions, in the order in which they are done

STOP = 1  # stop repeating
FORGET = 2  # drop the request or the response
SEND = 4  # send what the event brought, and keep it
RESEND = 8  # what was kept
ACKNOWLEDGE = 16  # a refusal (17.1.1.3)
REPEAT = 32  # start repeating at T1, on an unreliable transport
INSIST = 64  # start repeating at T1 on any transport: a 2xx (13.3.1.4)
DOUBLE = 128  # repeat after twice the time
SLOWLY = 256  # repeat every T2 from now on
WAIT = 512  # 64*T1 until LATE
LINGER = 1024  # until LATE: while copies may be in transit, none on a reliable transport
PAUSE = 2048  # T4 until LATE, none on a reliable transport
UNBOUND = 4096  # no LATE
TELL = 8192  # report the response to the user
TELL_AGAIN = 16384  # report one more 2xx to the user
TELL_LATE = 32768  # report the timeout to the user
TELL_BROKEN = 65536

_STOP = cython.declare(cython.int, STOP)
_FORGET = cython.declare(cython.int, FORGET)
_SEND = cython.declare(cython.int, SEND)
_RESEND = cython.declare(cython.int, RESEND)
_ACKNOWLEDGE = cython.declare(cython.int, ACKNOWLEDGE)
_REPEAT = cython.declare(cython.int, REPEAT)
_INSIST = cython.declare(cython.int, INSIST)
_DOUBLE = cython.declare(cython.int, DOUBLE)
_SLOWLY = cython.declare(cython.int, SLOWLY)
_WAIT = cython.declare(cython.int, WAIT)
_LINGER = cython.declare(cython.int, LINGER)
_PAUSE = cython.declare(cython.int, PAUSE)
_UNBOUND = cython.declare(cython.int, UNBOUND)
_TELL = cython.declare(cython.int, TELL)
_TELL_AGAIN = cython.declare(cython.int, TELL_AGAIN)
_TELL_LATE = cython.declare(cython.int, TELL_LATE)
_TELL_BROKEN = cython.declare(cython.int, TELL_BROKEN)

Table = dict[tuple[int, int], tuple[int, int]]

# RFC 3261 figure 5, RFC 6026 figure 1. It begins in CALLING, with its request sent.
INVITE_CLIENT: Table = {
    (CALLING, PROVISIONAL): (PROCEEDING, STOP | UNBOUND | TELL),
    (CALLING, SUCCESS): (ACCEPTED, STOP | FORGET | WAIT | TELL),
    (CALLING, REFUSAL): (COMPLETED, STOP | FORGET | ACKNOWLEDGE | LINGER | TELL),
    (CALLING, AGAIN): (CALLING, RESEND | DOUBLE),  # timer A
    (CALLING, LATE): (TERMINATED, TELL_LATE),  # timer B
    (CALLING, BROKEN): (TERMINATED, TELL_BROKEN),
    (PROCEEDING, PROVISIONAL): (PROCEEDING, TELL),
    (PROCEEDING, SUCCESS): (ACCEPTED, FORGET | WAIT | TELL),
    (PROCEEDING, REFUSAL): (COMPLETED, FORGET | ACKNOWLEDGE | LINGER | TELL),
    (PROCEEDING, LATE): (TERMINATED, TELL_LATE),  # 64*T1 after its CANCEL (9.1)
    (PROCEEDING, BROKEN): (TERMINATED, TELL_BROKEN),
    (COMPLETED, REFUSAL): (COMPLETED, ACKNOWLEDGE),
    (COMPLETED, LATE): (TERMINATED, 0),  # timer D
    (COMPLETED, BROKEN): (TERMINATED, 0),
    (ACCEPTED, SUCCESS): (ACCEPTED, TELL_AGAIN),
    (ACCEPTED, LATE): (TERMINATED, 0),  # timer M
}

# RFC 3261 figure 6. It begins in TRYING, with its request sent.
CLIENT: Table = {
    (TRYING, PROVISIONAL): (PROCEEDING, SLOWLY | TELL),
    (TRYING, SUCCESS): (COMPLETED, STOP | FORGET | PAUSE | TELL),
    (TRYING, REFUSAL): (COMPLETED, STOP | FORGET | PAUSE | TELL),
    (TRYING, AGAIN): (TRYING, RESEND | DOUBLE),  # timer E
    (TRYING, LATE): (TERMINATED, TELL_LATE),  # timer F
    (TRYING, BROKEN): (TERMINATED, TELL_BROKEN),
    (PROCEEDING, PROVISIONAL): (PROCEEDING, TELL),
    (PROCEEDING, SUCCESS): (COMPLETED, STOP | FORGET | PAUSE | TELL),
    (PROCEEDING, REFUSAL): (COMPLETED, STOP | FORGET | PAUSE | TELL),
    (PROCEEDING, AGAIN): (PROCEEDING, RESEND | SLOWLY),
    (PROCEEDING, LATE): (TERMINATED, TELL_LATE),
    (PROCEEDING, BROKEN): (TERMINATED, TELL_BROKEN),
    (COMPLETED, LATE): (TERMINATED, 0),  # timer K
}

# RFC 3261 figure 7, RFC 6026 figure 2. It begins in PROCEEDING.
INVITE_SERVER: Table = {
    (PROCEEDING, REQUEST): (PROCEEDING, RESEND),
    (PROCEEDING, PROVISIONAL): (PROCEEDING, SEND),
    (PROCEEDING, SUCCESS): (ACCEPTED, SEND | INSIST | WAIT),
    (PROCEEDING, REFUSAL): (COMPLETED, SEND | REPEAT | WAIT),
    (PROCEEDING, BROKEN): (TERMINATED, TELL_BROKEN),
    (COMPLETED, REQUEST): (COMPLETED, RESEND),
    (COMPLETED, ACK): (CONFIRMED, STOP | FORGET | PAUSE),
    (COMPLETED, AGAIN): (COMPLETED, RESEND | DOUBLE),  # timer G
    (COMPLETED, LATE): (TERMINATED, 0),  # timer H
    (COMPLETED, BROKEN): (TERMINATED, 0),
    (CONFIRMED, LATE): (TERMINATED, 0),  # timer I
    (ACCEPTED, ACKED): (ACKNOWLEDGED, STOP | FORGET),
    (ACCEPTED, AGAIN): (ACCEPTED, RESEND | DOUBLE),
    (ACCEPTED, LATE): (TERMINATED, TELL_LATE),  # timer L, and no ACK
    (ACKNOWLEDGED, LATE): (TERMINATED, 0),  # timer L
}

# RFC 3261 figure 8. It begins in TRYING.
SERVER: Table = {
    (TRYING, PROVISIONAL): (PROCEEDING, SEND),
    (TRYING, SUCCESS): (COMPLETED, SEND | LINGER),
    (TRYING, REFUSAL): (COMPLETED, SEND | LINGER),
    (TRYING, BROKEN): (TERMINATED, TELL_BROKEN),
    (PROCEEDING, REQUEST): (PROCEEDING, RESEND),
    (PROCEEDING, PROVISIONAL): (PROCEEDING, SEND),
    (PROCEEDING, SUCCESS): (COMPLETED, SEND | LINGER),
    (PROCEEDING, REFUSAL): (COMPLETED, SEND | LINGER),
    (PROCEEDING, BROKEN): (TERMINATED, TELL_BROKEN),
    (COMPLETED, REQUEST): (COMPLETED, RESEND),
    (COMPLETED, LATE): (TERMINATED, 0),  # timer J
    (COMPLETED, BROKEN): (TERMINATED, 0),
}


def _flat(table: Table) -> list[int]:
    """The table as an array of numbers: actions and next state, -1 for no row."""
    rows = [-1] * (STATES * EVENTS)
    for (state, event), (target, actions) in table.items():
        rows[state * EVENTS + event] = actions * STATES + target
    return rows


_INVITE_CLIENT: list[int] = cython.declare(list, _flat(INVITE_CLIENT))
_CLIENT: list[int] = cython.declare(list, _flat(CLIENT))
_INVITE_SERVER: list[int] = cython.declare(list, _flat(INVITE_SERVER))
_SERVER: list[int] = cython.declare(list, _flat(SERVER))


@cython.cfunc
@cython.inline
def _event(code: cython.int) -> cython.int:
    """The event for a response with that code."""
    if code < 200:
        return _PROVISIONAL
    return _SUCCESS if code < 300 else _REFUSAL


@cython.cclass
class Transaction:
    """The common part of the four machines. `way` is where it sends, `user` gets its reports (None:
    nobody).

    `key` is its key in `table`, from which it removes itself at its end. Until then it is one of
    those that a way that may be lost carries (`way.carried`, None for others).
    """

    key: bytes = cython.declare(bytes, visibility="public")
    method: bytes = cython.declare(bytes, visibility="public")
    state: int = cython.declare(cython.int, visibility="public")
    cseq: int = cython.declare(cython.longlong, visibility="public")
    way: Any = cython.declare(object, visibility="public")
    user: Any = cython.declare(object, visibility="public")
    _wheel: Any
    _table: dict[bytes, Any]
    _rows: list[int]
    _last: Any  # bytes to repeat, or None
    _interval: cython.int
    _again_at: cython.longlong
    _late_at: cython.longlong
    _is_invite_client: cython.bint
    _is_bound: cython.bint

    def __init__(
        self, table: dict[bytes, Any], wheel: Wheel, way: Any, key: bytes, method: bytes, cseq: int
    ) -> None:
        self._table = table
        self._wheel = wheel
        self.way = way
        self.key = key
        self.method = method
        self.cseq = cseq
        self.user = self._last = None
        self._interval = 0
        self._again_at = self._late_at = NEVER
        self._is_invite_client = self._is_bound = False
        if key:
            table[key] = self
            self._join()

    @property
    def is_over(self) -> bool:
        return self.state == _TERMINATED

    def on_tick(self, tick: int) -> None:
        """Called by the wheel: one of the two timers is due, or was stopped."""
        now: cython.longlong = tick
        if self._late_at == now:
            self._late_at = NEVER
            self._on(_LATE, b"", 0, None)
        if self._again_at == now:
            self._again_at = NEVER
            self._on(_AGAIN, b"", 0, None)

    def on_broken(self) -> None:
        """The transport reports that a message was not delivered."""
        self._on(_BROKEN, b"", 0, None)

    def end(self) -> None:
        """End the transaction at once, without a report."""
        self.user = None
        self._finish()

    @cython.cfunc
    def _finish(self) -> None:
        self.state = _TERMINATED
        self._again_at = self._late_at = NEVER
        self._last = self.user = None
        if self.key:
            self._table.pop(self.key, None)
            self._leave()

    @cython.cfunc
    def _join(self) -> None:
        carried: Any = self.way.carried
        if carried is not None:
            carried[self] = None

    @cython.cfunc
    def _leave(self) -> None:
        carried: Any = self.way.carried
        if carried is not None:
            carried.pop(self, None)

    def move(self, way: Any) -> None:
        """Send on another way from now on."""
        self._leave()
        self.way = way
        self._join()

    @cython.cfunc
    def _after(self, ms: cython.int) -> cython.longlong:
        tick: cython.longlong = self._wheel.after(self, ms)
        return tick

    @cython.cfunc
    def _transmit(self, data: bytes) -> None:
        if not self.way.send(data):
            self._on(_BROKEN, b"", 0, None)

    @cython.cfunc
    def _on(self, event: cython.int, data: bytes, code: cython.int, message: Any) -> None:
        """Handle an event: look the row up, change the state, do the actions."""
        row: cython.int = self._rows[self.state * EVENTS + event]
        if row < 0:
            return
        user: Any = self.user
        acts: cython.int = row // STATES
        self.state = row % STATES
        if acts & (_STOP | _FORGET | _RESEND | _SEND | _ACKNOWLEDGE):
            if acts & _STOP:
                self._again_at = NEVER
            if acts & _FORGET:
                self._last = None
            if acts & _SEND:
                self._last = data
                self._transmit(data)
            if acts & _RESEND and self._last is not None:
                self._transmit(self._last)
            if acts & _ACKNOWLEDGE:
                self._acknowledge(message)
        if acts & (_REPEAT | _INSIST | _DOUBLE | _SLOWLY) and self.state != _TERMINATED:
            self._schedule(acts)
        if acts & (_WAIT | _LINGER | _PAUSE | _UNBOUND) and self.state != _TERMINATED:
            self._bound(acts)
        if self.state == _TERMINATED:
            self._finish()
        if user is None:
            return
        if acts & _TELL:
            user.on_response(self, code, message)
        elif acts & _TELL_AGAIN:
            user.on_2xx_again(self, message)
        elif acts & (_TELL_LATE | _TELL_BROKEN):
            self.user = None
            self._hopeless(user, TIMED_OUT if acts & _TELL_LATE else UNSENT)

    @cython.cfunc
    def _schedule(self, acts: cython.int) -> None:
        if acts & _DOUBLE:
            self._interval *= 2
            if self._interval > T2 and not self._is_invite_client:
                self._interval = T2
        elif acts & _SLOWLY:
            self._interval = T2
        else:
            self._interval = T1
        if (
            self.way.reliable
            and not acts & _INSIST
            and not (acts & _DOUBLE and self.state == _ACCEPTED)
        ):
            return
        self._again_at = self._after(self._interval)

    @cython.cfunc
    def _bound(self, acts: cython.int) -> None:
        if acts & _UNBOUND:
            if not self._is_bound:
                self._late_at = NEVER
        elif acts & _WAIT:
            self._late_at = self._after(64 * T1)
        elif self.way.reliable:
            self.state = _TERMINATED
        elif acts & _LINGER:
            self._late_at = self._after(64 * T1)
        else:
            self._late_at = self._after(T4)

    @cython.cfunc
    def _acknowledge(self, message: Any) -> None:
        """For clients only."""

    @cython.cfunc
    def _hopeless(self, user: Any, code: cython.int) -> None:
        """Report to the user that no response will come."""


@cython.final
@cython.cclass
class Client(Transaction):
    """A client transaction. Its key is the branch, by which responses find it.

    `parts` are the parts of its request that an ACK and a CANCEL repeat (17.1.1.3, 9.1):
    Request-URI, Via value, Route fields, From, To, Call-ID.
    """

    parts: Any = cython.declare(object, visibility="public")
    canceller: Any = cython.declare(object, visibility="public")

    def __init__(
        self, table: dict[bytes, Any], wheel: Wheel, way: Any, key: bytes, method: bytes, cseq: int
    ) -> None:
        Transaction.__init__(self, table, wheel, way, key, method, cseq)
        self._is_invite_client = method == b"INVITE"
        self._rows = _INVITE_CLIENT if self._is_invite_client else _CLIENT
        self.state = _CALLING if self._is_invite_client else _TRYING
        self.parts = self.canceller = None

    def start(self, request: bytes, parts: tuple[bytes, ...] | None = None) -> bool:
        """Send the request. False if it cannot be sent; there is no report then."""
        self.parts = parts
        self._last = request
        if not self.way.send(request):
            self.end()
            return False
        self._schedule(_REPEAT)
        self._late_at = self._after(64 * T1)
        return True

    def resume(self, parts: tuple[bytes, ...]) -> None:
        """Continue the INVITE of another process: its request was sent and may have had a
        provisional response. It waits like one that had, and may be cancelled."""
        self.parts = parts
        self.state = _PROCEEDING

    @property
    def repeated(self) -> bytes:
        """The INVITE while it is repeated: there was no response yet. Otherwise empty."""
        return self._last if self.state == _CALLING and self._last is not None else b""

    def receive(self, message: Message) -> bool:
        """Handle a response. False if it is a retransmission."""
        code: cython.int = message.status
        before: cython.int = self.state
        self._on(_event(code), b"", code, message)
        return before < _COMPLETED

    def cancel(self, fields: bytes = b"", body: bytes = b"", content_type: bytes = b"") -> bool:
        """Send a CANCEL with these header fields and this body, once. False if it is too early or
        too late (9.1), or fits into no packet. The INVITE then has 64*T1 to end."""
        if self.state != _PROCEEDING or self.parts is None or self.canceller is not None:
            return False
        if body:
            kind = b"Content-Type: " + (content_type or b"application/octet-stream")
            fields = fields + b"\r\n" + kind if fields else kind
        request: bytes = self._like(b"CANCEL", self.parts[4], fields, body)
        if len(request) > self.way.most:
            return False
        canceller = Client({}, self._wheel, self.way, b"", b"CANCEL", self.cseq)
        self.canceller = canceller
        self._late_at = self._after(64 * T1)
        canceller.start(request)
        return True

    def bound(self) -> None:
        """Give it 64*T1 to end from now on, despite provisional responses."""
        self._is_bound = True
        self._late_at = self._after(64 * T1)

    @cython.cfunc
    def _like(self, name: bytes, to: bytes, fields: bytes, body: bytes) -> bytes:
        """An ACK or CANCEL: the same request except for method and To."""
        target, via, routes, sender, _, call_id = self.parts
        return b"".join(
            (
                name, b" ", target, b" SIP/2.0\r\nVia: ", via, b"\r\n", routes, b"From: ", sender,
                b"\r\nTo: ", to, b"\r\nCall-ID: ", call_id, b"\r\nCSeq: %d " % self.cseq, name,
                b"\r\nMax-Forwards: 70\r\n", fields + b"\r\n" if fields else b"",
                b"Content-Length: %d\r\n\r\n" % len(body), body,
            )
        )  # fmt: skip

    @cython.cfunc
    def _acknowledge(self, message: Any) -> None:
        if self.parts is not None and message is not None:
            ack: bytes = self._like(b"ACK", message.to, b"", b"")
            self.way.send(ack)

    @cython.cfunc
    def _hopeless(self, user: Any, code: cython.int) -> None:
        user.on_response(self, code, None)


@cython.final
@cython.cclass
class Server(Transaction):
    """A server transaction. `head` are the header fields that its responses repeat, To last and
    without our tag; `tagged`: To has a tag already. `back` is the port of the first Via, 0 without
    one, for responses after the connection is lost."""

    head: bytes = cython.declare(bytes, visibility="public")
    tagged: bool = cython.declare(cython.bint, visibility="public")
    back: int = cython.declare(cython.int, visibility="public")
    _merge_key: bytes
    _merged: Any

    def __init__(
        self, table: dict[bytes, Any], wheel: Wheel, way: Any, key: bytes, method: bytes, cseq: int
    ) -> None:
        Transaction.__init__(self, table, wheel, way, key, method, cseq)
        invite: cython.bint = method == b"INVITE"
        self._rows = _INVITE_SERVER if invite else _SERVER
        self.state = _PROCEEDING if invite else _TRYING
        self.head = self._merge_key = b""
        self._merged = None
        self.tagged = False
        self.back = 0

    def merge(self, merged: dict[bytes, Any], key: bytes) -> None:
        """Add it to `merged` under this key until it ends."""
        merged[key] = self
        self._merged = merged
        self._merge_key = key

    @cython.cfunc
    def _finish(self) -> None:
        Transaction._finish(self)
        if self._merged is not None:
            self._merged.pop(self._merge_key, None)
            self._merged = None

    @property
    def is_answered(self) -> bool:
        """Whether its final response was sent, or can no longer be."""
        return self.state > _PROCEEDING

    def respond(self, code: int, data: bytes) -> bool:
        """Send a response. False if it is too late, or the transport failed."""
        if self.state > _PROCEEDING:
            return False
        self._on(_event(code), data, code, None)
        return self.state != _TERMINATED or (code >= 200 and bool(self.way.reliable))

    def receive_again(self) -> None:
        """Handle a retransmission of its request."""
        self._on(_REQUEST, b"", 0, None)

    def receive_ack(self) -> None:
        """Handle the ACK of its refusal."""
        self._on(_ACK, b"", 0, None)

    def acknowledged(self) -> None:
        """The ACK of its 2xx arrived, or a BYE instead: stop repeating the 2xx. Copies of the
        INVITE are taken in until timer L (RFC 6026)."""
        self._on(_ACKED, b"", 0, None)

    @cython.cfunc
    def _hopeless(self, user: Any, code: cython.int) -> None:
        user.on_gone(self, code)
