# cython: language_level=3, boundscheck=True, wraparound=False, nonecheck=True
"""Finds the transaction or dialog of a message (RFC 3261 17, 12.2.2).

Every message comes through `receive`, which never raises: an exception is counted, reported,
answered 500 once, and ends nothing else. All keys of the tables contain a random part of ours, or
use Python's keyed hash, so that chosen names cannot slow them down.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from os import urandom
from typing import Any, Protocol

from sip import late_notify, unrelayed
from sip.ambiguity import fault_of
from sip.dialog import Dialog, new_branch, response
from sip.grammar import is_closed, user_of
from sip.message import Message
from sip.settings import TooLarge
from sip.speakers import Speaker, Speakers
from sip.state import ANSWERED, CALLING, State
from sip.timers import Wheel
from sip.transaction import ACCEPTED, Client, Server

# The reason for the counter, a text for the log that is made only if it is asked for, and the IP
# address of the sender.
OnRejected = Callable[[str, Callable[[], str], bytes], None]

_METHODS = (
    "INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS", "INFO", "UPDATE", "PRACK",
    "REFER", "NOTIFY", "MESSAGE", "SUBSCRIBE", "PUBLISH",
)  # fmt: skip
_IN = {name.encode(): ("in", name) for name in _METHODS}
_OUT = {name.encode(): ("out", name) for name in _METHODS}
_OTHER = ("in", "other"), ("out", "other")
_RESPONSES = ("other", "1xx", "2xx", "3xx", "4xx", "5xx", "6xx")
_RESPONSES_IN = tuple(("in", kind) for kind in _RESPONSES)
_RESPONSES_OUT = tuple(("out", kind) for kind in _RESPONSES)
INVITE = b"INVITE"
PAST_MS = 32_000  # 64*T1
MOST_PAST = 200_000
LARGE = 60_000  # bytes of a message; the head of a smaller one need not be measured
ANSWER_ROOM = 2048  # bytes of a response besides what it repeats of its request
STRANGERS_S = 500  # malformed messages of all strangers together that are answered per second
SHOWN = 1500  # bytes shown of a message that raised an exception
_LETTERS = bytes(range(65, 91)) + bytes(range(97, 123)) + bytes(range(128, 256))
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_SHAPES = bytes.maketrans(b"123456789" + _LETTERS, b"0" * 9 + b"x" * len(_LETTERS))


def described(message: Message, way: Any) -> str:
    """The start line and source of a message, for logs."""
    line = message.start_line[:80].decode("latin-1")
    return f"{line!r} from {way.host.decode('ascii')}:{way.port}"


def shape(data: bytes, way: Any) -> str:
    """The source of a message and the shape of its head: names of fields, and their values with an
    x for each letter and a 0 for each digit. It contains no personal data."""
    head = data[:SHOWN].partition(b"\r\n\r\n")[0]
    lines = (line.partition(b":") for line in head.split(b"\r\n"))
    shown = b"\r\n".join(name[:40].translate(_DIGITS) + colon + value.translate(_SHAPES)
                        if colon and n else (name + colon + value).translate(_SHAPES)
                        for n, (name, colon, value) in enumerate(lines))  # fmt: skip
    return f"{way.host.decode('ascii')}:{way.port} {len(data)} bytes {shown.decode('latin-1')!r}"


class DialogUser(Speaker, Protocol):
    """Whose dialog it is: a leg."""

    state: State

    def is_of(self, message: Message) -> bool:
        """Whether a request that names our tag is in this dialog."""

    def mark(self, message: Message) -> Message:
        """Note whether a message is believed, and what its sender wants kept private."""

    def on_ack(self, message: Message) -> None: ...

    def on_orphan(self, message: Message) -> None: ...

    def on_cancel(self, message: Message) -> None: ...

    def receive_bye(self, message: Message, server: Server | None) -> None: ...

    def on_request(self, method: bytes, server: Server, message: Message) -> None: ...


class Takes(Protocol):
    """Who takes requests outside any dialog."""

    def receive(self, message: Message, way: Any, key: bytes) -> None: ...


class _Lapse:
    """Removes an ended dialog from the table when its time is over."""

    __slots__ = ("_past", "_tag")

    def __init__(self, past: dict[bytes, Dialog], tag: bytes) -> None:
        self._past, self._tag = past, tag

    def on_tick(self, tick: int) -> None:
        dialog = self._past.pop(self._tag, None)
        if dialog is not None and dialog.twin is not None:
            late_notify.forget(dialog)


class Layer:
    """The transactions and dialogs of an endpoint, and the clock of both.

    Attributes:
        counts: SIP messages by (direction, kind), without retransmissions.
        legs: the legs by the local tag of their dialog.
        illegal: events that did not fit the state of their leg, and internal errors, by kind.
    """

    __slots__ = (
        "_find_way",
        "_key",
        "_on_error",
        "_on_rejected",
        "_packet_of",
        "_second",
        "_spent",
        "clients",
        "counts",
        "holds",
        "illegal",
        "legs",
        "merged",
        "orphans_until",
        "past",
        "race",
        "screening",
        "servers",
        "siblings",
        "speakers",
        "wheel",
    )  # fmt: skip

    def __init__(
        self,
        *,
        find_way: Callable[[bytes], Any],
        packet_of: Callable[[Message], Any],
        speakers: Speakers,
        on_rejected: OnRejected,
        on_error: Callable[[BaseException, str], None],
        on_race: Callable[[str], None],
    ) -> None:
        self.servers: dict[bytes, Server] = {}
        self.clients: dict[bytes, Client] = {}
        self.legs: dict[bytes, DialogUser] = {}
        self.past: dict[bytes, Dialog] = {}
        self.orphans_until = 0  # milliseconds: legs of another process were continued lately
        self.merged: dict[bytes, Server] = {}  # INVITEs by the common part of all their copies
        self.counts: Counter[tuple[str, str]] = Counter()
        self.illegal: Counter[str] = Counter()
        self.wheel = Wheel(_now_ms())
        self.wheel.on_error = lambda error: self.internal_error(error, "")
        # Whether a request of an unknown dialog is held, because the dialog may come yet.
        self.holds: Callable[[Message, Any], bool] | None = None
        self.race = on_race
        self.screening: Takes | None = None
        self.siblings: Any = None  # the other workers of this host, if there are any
        self.speakers = speakers
        self._find_way = find_way
        self._packet_of = packet_of
        self._key = urandom(16)
        self._on_rejected = on_rejected
        self._on_error = on_error
        self._second = 0.0  # the start of the second that `_spent` counts
        self._spent = 0  # answers to malformed messages of strangers in it

    # -- time -------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Run the timers that are due."""
        try:
            self.wheel.run(_now_ms())
        except Exception as error:
            self.internal_error(error, "")

    def internal_error(self, error: BaseException, call_id: str) -> None:
        """Count and report an internal error."""
        self.illegal["exception"] += 1
        self._on_error(error, call_id)

    def expect_orphans(self) -> None:
        """Legs of another process continue here. For 64*T1 the responses to its requests come."""
        self.orphans_until = _now_ms() + PAST_MS

    # -- receiving --------------------------------------------------------------------------------

    def receive(self, data: bytes, way: Any, *, lost: bool = False) -> None:
        """Handle one message; `lost`: only the head of one that is too large. Never raises."""
        message = None
        try:
            message = Message(data)
            message.way = way
            if not message.bad and not is_closed(data):
                self._look_closer(message, data)
            if message.bad:
                self._malformed(message, data, way)
            elif lost:
                self._oversize(message, way)
            elif message.status:
                self._response(message, way)
            elif len(data) > LARGE and message.head_size > way.most - ANSWER_ROOM:
                self._unanswerable(message, way)
            else:
                self._request(message, way)
        except Exception as error:
            error.add_note(shape(data, way))
            self.internal_error(error, message.call_id if message is not None else "")
            if message is not None:
                self._apologise(message, way)

    def _look_closer(self, message: Message, data: bytes) -> None:
        """Refuse what is not closed on its own line, because other parsers read on."""
        fault = fault_of(data)
        if fault is not None:
            message.fault = fault.phrase.decode("ascii", "replace")
            message.bad = -1 if message.status else 400

    def _malformed(self, message: Message, data: bytes, way: Any) -> None:
        if not data.strip(b"\r\n\0 "):
            return  # a keep-alive (RFC 5626 3.5.1)
        self._on_rejected(
            "too_large" if message.bad == 513 else "malformed",
            lambda: f"{message.fault}: {data[:80]!r} from {way.host.decode()}:{way.port}",
            way.host,
        )
        if message.bad > 0 and message.method != b"ACK" and self.may_answer(way):
            phrase = b""
            if message.bad == 400:
                phrase = b"Bad Request (%s)" % message.fault.encode("ascii", "replace")
            self.refuse(message, way, message.bad, phrase=phrase)

    def may_answer(self, way: Any) -> bool:
        """Whether the sender of a malformed message gets a response: peers always, strangers while
        all of them together stay within STRANGERS_S, because over UDP they can forge any
        address."""
        if self.speakers.is_peer(way.host):
            return True
        now = time.monotonic()
        if now - self._second >= 1.0:
            self._second, self._spent = now, 0
        self._spent += 1
        return self._spent <= STRANGERS_S

    def _unanswerable(self, message: Message, way: Any) -> None:
        """A request whose responses, which repeat much of its head, may fit into no packet. None of
        it is kept, because its transaction would wait for its final response for ever."""
        self._on_rejected("too_large", lambda: described(message, way), way.host)
        self._oversize(message, way)

    def _oversize(self, message: Message, way: Any) -> None:
        """Nothing is passed on in part: a request is refused, an ACK and a response continue
        without the body, and a 2xx counts as not sent (`Leg.respond`)."""
        message.lost = True
        if message.status:
            self._response(message, way)
        elif message.method == b"ACK":
            self._ack(message, way)
        else:
            self.refuse(message, way, 513)

    def _apologise(self, message: Message, way: Any) -> None:
        """500 to a request that raised an exception, unless it is answered already."""
        if message.status or message.method in (b"", b"ACK") or message.bad:
            return
        try:
            server = self.servers.get(message.key(message.method))
            if server is None:
                self.refuse(message, way, 500)
                return
            user, server.user = server.user, None
            if not server.is_answered:
                self.respond(server, 500)
            if user is not None:
                user.on_gone(server, 500)  # it sends no more responses
            leg = self.find(message)
            if leg is not None and message.method == b"BYE":
                leg.receive_bye(message, None)
        except Exception as error:
            self.internal_error(error, message.call_id)

    def _guarded(self, do: Callable[..., None], *given: Any) -> None:
        """Handling an exception may raise one, too."""
        try:
            do(*given)
        except Exception as error:
            self.internal_error(error, "")

    def _response(self, message: Message, way: Any) -> None:
        if message.vias != 1:  # not to us (8.1.3.3)
            self._on_rejected("malformed", lambda: f"Via: {described(message, way)}", way.host)
            return
        client = self.clients.get(message.branch)
        if client is None:
            if self.orphans_until and message.cseq_method == INVITE:
                self._orphan(message)
            return
        if message.cseq_method != client.method:
            client = client.canceller if message.cseq_method == b"CANCEL" else None
        if client is None or message.cseq != client.cseq:
            return
        if client.method == INVITE and 100 < message.status < 300 and message.steering_fault:
            fault = message.steering_fault
            self._on_rejected("malformed", lambda: f"{fault}: {described(message, way)}", way.host)
            return
        user = client.user
        try:
            if client.receive(message):
                self.counts[_RESPONSES_IN[message.status // 100]] += 1
        except Exception as error:
            error.add_note(shape(message.data, way))
            self.internal_error(error, message.call_id)
            if message.status >= 200 and user is not None:
                self._guarded(user.on_failed_response, client, message)

    def _orphan(self, message: Message) -> None:
        """A response to an INVITE of the process whose legs this one continues. A 2xx in their
        dialogs is acknowledged: its ACK was lost, or never sent (13.2.2.4)."""
        if _now_ms() > self.orphans_until:
            self.orphans_until = 0
            return
        leg = self.legs.get(message.from_tag or b"")
        if leg is not None and 200 <= message.status < 300:
            leg.on_orphan(message)

    def _request(self, message: Message, way: Any) -> None:
        method = message.method
        if self.siblings is not None and self.siblings.passes(
            message.raw_call_id, lambda: self._packet_of(message)
        ):
            return
        if method == b"ACK":
            self._ack(message, way)
            return
        key = message.key(method)
        server = self.servers.get(key)
        if server is not None:
            if method == INVITE and self.race is not None and server.state > 2:
                self.race("invite_again")
            server.receive_again()
        elif method == b"CANCEL":
            self._cancel(message, way, key)
        elif message.to_tag is not None:
            self._in_dialog(message, way, key)
        elif self.screening is not None:
            self.screening.receive(message, way, key)

    def _ack(self, message: Message, way: Any) -> None:
        server = self.servers.get(message.key(INVITE))
        leg = self.find(message)
        if leg is not None and not self._may_speak(leg, message, way):
            return
        if leg is not None or server is not None:
            self.counts["in", "ACK"] += 1
        if server is not None and server.state == 3:  # completed: a rejection's
            server.receive_ack()
        elif leg is not None:
            leg.mark(message)
            leg.on_ack(message)
        elif server is None:
            self._late_ack(message)

    def _late_ack(self, message: Message) -> None:
        """The ACK of a relayed INVITE that a BYE of the other side overtook: its 2xx is not
        repeated any more."""
        past = self.past.get(message.to_tag or b"")
        server = past.unacked if past is not None and past.is_of(message) else None
        if past is not None and server is not None and server.cseq == message.cseq:
            past.unacked = None
            self.counts["in", "ACK"] += 1
            server.acknowledged()

    def _cancel(self, message: Message, way: Any, key: bytes) -> None:
        """Answer 200 if its INVITE exists; the INVITE's user answers that (9.2)."""
        invite = self.servers.get(message.key(INVITE))
        if invite is None:
            self.refuse(message, way, 481)
            return
        self.count_in(b"CANCEL")
        leg = invite.user
        has_dialog = leg is not None and leg.dialog is not None
        if has_dialog and not self._may_speak(leg, message, way):
            return
        tag = leg.dialog.local_tag if has_dialog else b""
        self.respond(self.serve(message, way, key), 200, tag=tag)
        if leg is not None:
            leg.mark(message)
            leg.on_cancel(message)

    def _in_dialog(self, message: Message, way: Any, key: bytes) -> None:
        method = message.method
        leg = self.find(message)
        self.count_in(method)
        named = leg or self._named(message)
        if named is not None and not self._may_speak(named, message, way):
            return
        if leg is None:
            past = self.past.get(message.to_tag or b"")
            if method == b"BYE" and past is not None and past.is_of(message):
                self.race("byes_crossed")
                self.respond(self.serve(message, way, key), 200)
                if past.bye is not None:
                    past.bye.answer(200)  # both hung up at once
            elif past is not None and past.twin is not None and past.is_of(message):
                self._after_the_end(message, way, key, past)
            elif self.holds is None or not self.holds(message, way):
                # without a transaction, so that made-up tags cost nothing
                self.refuse(message, way, 481)
            return
        dialog = leg.dialog
        server = self.serve(message, way, key)
        known = (message.from_tag or b"") == dialog.remote_tag or leg.state is CALLING
        if leg.state < ANSWERED and not known:
            self._in_early_dialog(message, server)
            return
        if message.cseq <= dialog.seen:  # 12.2.2
            self.respond(server, 500)
            return
        dialog.seen = message.cseq
        leg.mark(message)
        if method == b"BYE":
            leg.receive_bye(message, server)
        else:
            leg.on_request(method, server, message)

    def _after_the_end(self, message: Message, way: Any, key: bytes, past: Dialog) -> None:
        """Handle a request in an ended dialog that had a transfer in it."""
        if not self._may_speak(past.twin, message, way):
            return
        server = self.serve(message, way, key)
        if message.method != b"NOTIFY":
            self.respond(server, 481)
        elif message.cseq <= past.seen:  # 12.2.2
            self.respond(server, 500)
        elif message.max_forwards == 0:
            self.respond(server, 483)
        else:
            past.seen = message.cseq
            late_notify.Notice(self, server, past.twin, message)

    def _in_early_dialog(self, message: Message, server: Server) -> None:
        """Handle a request in an early dialog that exists but is no longer followed, because
        another phone behind the contact has responded later."""
        if message.method == b"BYE":
            self.respond(server, 481)
            return
        code, fields = unrelayed.answer(message.method, message, owes_answer=False)
        if message.method == b"UPDATE" and code < 300:
            code, fields = 500, unrelayed.retry_after()  # for lack of a Contact (RFC 3311 5.2)
        self.respond(server, code, fields=fields)

    def _may_speak(self, leg: Speaker, message: Message, way: Any) -> bool:
        """Whether the sender of a request is part of the dialog; others are answered here."""
        known = self.speakers.may_speak(leg, way)
        if known:
            return True
        if known is None and not way.reliable:
            return False  # a name is being looked up; the retransmission finds the answer
        self._on_rejected("foreign", lambda: described(message, way), way.host)
        if message.method != b"ACK":
            self.refuse(message, way, 403)
        return False

    def broken(self, way: Any) -> None:
        """Report to its transactions that a connection is gone, or that a name leads nowhere."""
        carried = list(way.carried)
        for client in [one for one in carried if isinstance(one, Client)]:
            self._break(client)
        for server in [one for one in carried if isinstance(one, Server)]:
            # Requests are still answered, and a 2xx repeated, on a connection that the engine makes
            # (18.2.2).
            is_owed = not server.is_answered or server.state == ACCEPTED
            back = way.back_to(server.back) if is_owed else None
            if back is not None:
                server.move(back)
            else:
                self._break(server)

    def _break(self, transaction: Any) -> None:
        try:
            transaction.on_broken()
        except Exception as error:
            self.internal_error(error, "")

    # -- tables -----------------------------------------------------------------------------------

    def find(self, message: Message) -> DialogUser | None:
        """The leg of a request's dialog, None if there is none."""
        if message.to_tag is None:
            return None
        leg = self.legs.get(message.to_tag)
        return leg if leg is not None and leg.is_of(message) else None

    def _named(self, message: Message) -> DialogUser | None:
        """The leg with a request's Call-ID and tag, even if the request is in none of its
        dialogs."""
        leg = self.legs.get(message.to_tag or b"")
        is_named = leg is not None and leg.dialog.call_id == message.raw_call_id
        return leg if is_named else None

    def retire(self, dialog: Dialog) -> None:
        """End the leg of this dialog. Its name is kept for 64*T1 more, for messages that
        crossed."""
        if len(self.past) < MOST_PAST:
            self.past[dialog.local_tag] = dialog
            self.wheel.after(_Lapse(self.past, dialog.local_tag), PAST_MS)
        elif dialog.twin is not None:
            late_notify.forget(dialog)

    def serve(self, message: Message, way: Any, key: bytes) -> Server:
        """Make a server transaction for a request, whose responses go where 18.2.2 says."""
        back = way
        if not (way.reliable or message.rport):
            back = way.with_port(message.port or 5060) or way
        server = Server(self.servers, self.wheel, back, key, message.method, message.cseq)
        server.head = message.response_head(way.host, way.port)
        server.tagged = message.to_tag is not None
        server.back = message.port
        return server

    def note(self, server: Server, message: Message) -> bool:
        """Whether this INVITE is the first copy to arrive; a copy over another path is a loop or a
        merged fork (8.2.2.2). A proxy that forks to several lines calls each of them, at once or in
        turn: only the users differ."""
        called = user_of(message.target).encode()
        from_tag = message.from_tag or b""
        key = b"%b|%b|%d|%b" % (message.raw_call_id, from_tag, message.cseq, called)
        known = self.merged.get(key)
        if known is not None and not known.is_over:
            return False
        server.merge(self.merged, key)
        return True

    # -- sending ----------------------------------------------------------------------------------

    def count_in(self, method: bytes) -> None:
        self.counts[_IN.get(method, _OTHER[0])] += 1

    def count_out(self, method: bytes) -> None:
        self.counts[_OUT.get(method, _OTHER[1])] += 1

    def respond(
        self,
        server: Server,
        code: int,
        *,
        tag: bytes = b"",
        phrase: bytes = b"",
        contact: bytes = b"",
        routes: bytes = b"",
        fields: bytes = b"",
        body: bytes = b"",
        content_type: bytes = b"",
        features: bytes = b"",
        before: Callable[[bytes], None] | None = None,
    ) -> bool:
        """Send a response of a server transaction; False if it is too late, or cannot be sent.
        `before` gets it before it is sent."""
        data = response(
            server, code, tag=tag, phrase=phrase, contact=contact, routes=routes,
            fields=fields, body=body, content_type=content_type, features=features,
        )  # fmt: skip
        if len(data) > server.way.most:
            return False
        self.counts[_RESPONSES_OUT[code // 100]] += 1
        if before is not None and not server.is_answered:
            before(data)
        return server.respond(code, data)

    def refuse(
        self, message: Message, way: Any, code: int, *, phrase: bytes = b"", fields: bytes = b""
    ) -> None:
        """Answer a request without a transaction; each retransmission gets the same To tag
        (8.2.7)."""
        server = Server({}, self.wheel, way, b"", message.method, message.cseq)
        server.head = message.response_head(way.host, way.port)
        server.tagged = message.to_tag is not None or not message.to
        self.counts[_RESPONSES_OUT[code // 100]] += 1
        back = way
        if not (way.reliable or message.rport):
            back = way.with_port(message.port or 5060) or way
        tag = blake2b(
            b"|".join((message.branch, message.raw_call_id, message.sender)),
            digest_size=8,
            key=self._key,
        ).hexdigest()
        back.send(response(server, code, tag=tag.encode(), phrase=phrase, fields=fields))

    def way_of(self, dialog: Dialog) -> Any:
        """The way to the next hop of a dialog; if there is none, one that sends nothing."""
        if dialog.way is None or dialog.way.is_gone:
            dialog.way = self._find_way(dialog.hop)
        return dialog.way

    def ask(
        self,
        dialog: Dialog,
        method: bytes,
        user: Any,
        *,
        fields: bytes = b"",
        body: bytes = b"",
        content_type: bytes = b"",
        max_forwards: int = 70,
        features: bytes = b"",
    ) -> Client | None:
        """Send a request in a dialog; None when it cannot be sent. Raises TooLarge."""
        way = self.way_of(dialog)
        branch = new_branch()
        dialog.sent += 1
        parts = dialog.parts(branch)
        data = dialog.request(
            method, parts, dialog.sent, max_forwards, fields, body, content_type, features
        )
        if len(data) > way.most:
            raise TooLarge(f"a request of {len(data)} bytes fits no packet")
        client = Client(self.clients, self.wheel, way, branch, method, dialog.sent)
        client.user = user
        self.count_out(method)
        return client if client.start(data, parts) else None

    def acknowledge(
        self, dialog: Dialog, cseq: int, body: bytes = b"", content_type: bytes = b""
    ) -> None:
        """ACK a 2xx (13.2.2.4), with the INVITE's CSeq number."""
        way = self.way_of(dialog)
        self.count_out(b"ACK")
        parts = dialog.parts(new_branch())
        data = dialog.request(b"ACK", parts, cseq, 70, b"", body, content_type)
        if len(data) > way.most:
            data = dialog.request(b"ACK", parts, cseq)
        way.send(data)

    def bye(self, dialog: Dialog) -> None:
        """End a dialog that does not belong to a call."""
        self.ask(dialog, b"BYE", None)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
