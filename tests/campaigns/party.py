"""Thousands of SIP endpoints on one UDP socket, with the retransmissions for a lossy network (RFC
3261 17): requests until they are answered, final responses to INVITE until the ACK."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import cast

from tests.campaigns.packet import SDP, Address

T1_S, T2_S = 0.5, 4.0
GIVE_UP_S = 64 * T1_S
Fields = list[tuple[bytes, bytes]]


class Message:
    """A message, parsed as far as an endpoint needs it."""

    __slots__ = ("body", "code", "cseq", "fields", "method", "uri")

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        self.fields = [(name.lower(), value.strip()) for name, _, value in
                       (line.partition(b":") for line in lines)]  # fmt: skip
        first, second, _ = start.split(b" ", 2)
        number, self.method = self.one(b"cseq").split()
        self.cseq = int(number)
        self.code = int(second) if first == b"SIP/2.0" else 0
        self.uri = b"" if self.code else second

    def one(self, name: bytes) -> bytes:
        return next((value for known, value in self.fields if known == name), b"")

    def every(self, name: bytes) -> Fields:
        return [(known, value) for known, value in self.fields if known == name]

    @property
    def branch(self) -> bytes:
        return self.one(b"via").partition(b"branch=")[2].partition(b";")[0]


class Repeated:
    """A message that is repeated at growing intervals until it is stopped or 64*T1 have passed."""

    __slots__ = ("_most_s", "_party", "_raw", "_started", "_timer", "_wait_s", "on_expired")

    def __init__(
        self, party: Party, raw: bytes, most_s: float, on_expired: Callable[[], None]
    ) -> None:
        self._party, self._raw, self._most_s = party, raw, most_s
        self.on_expired = on_expired
        self._wait_s = T1_S
        self._started = party.loop.time()
        party.put(raw)
        self._timer = party.loop.call_later(T1_S, self._again)

    def _again(self) -> None:
        if self._party.loop.time() - self._started >= GIVE_UP_S:
            self.on_expired()
            return
        self._party.put(self._raw)
        self._party.repeated += 1
        self._wait_s = min(2 * self._wait_s, self._most_s)
        self._timer = self._party.loop.call_later(self._wait_s, self._again)

    def stop(self) -> None:
        self._timer.cancel()


class Asked:
    """An own request and its client transaction. The result of `answer` is the final response, or
    None without one."""

    __slots__ = ("answer", "final", "method", "repeated", "sent")

    def __init__(self, party: Party, method: bytes, raw: bytes) -> None:
        self.method = method
        self.sent = Message(raw)
        self.final = b""  # the ACK of a refusal, for its repetitions
        self.answer: asyncio.Future[Message | None] = party.loop.create_future()
        most_s = GIVE_UP_S if method == b"INVITE" else T2_S
        self.repeated = Repeated(party, raw, most_s, self._expired)

    def _expired(self) -> None:
        if not self.answer.done():
            self.answer.set_result(None)


class Side:
    """One endpoint's side of a dialog. `state`: early, confirmed, ended or vanished. The result of
    `ended` is the cause of its end."""

    def __init__(self, party: Party, call_id: bytes, local: bytes, remote: bytes, uri: bytes):
        self.party = party
        self.call_id, self.local, self.remote = call_id, local, remote
        self.target = uri
        self.cseq = 1
        self.state = "early"
        self.ended: asyncio.Future[str] = party.loop.create_future()
        self.rang = party.loop.create_future()
        self.acked = party.loop.create_future()
        self.reinvited = party.loop.create_future()
        self.referred = party.loop.create_future()
        self.notified = 0
        self.invite: Message | None = None  # as received, on a callee's side
        self._asked: Asked | None = None  # the first INVITE, on a caller's side
        self._acks: dict[int, bytes] = {}
        self._finals: dict[int, Repeated] = {}  # own final responses to INVITE, by CSeq number

    # -- as a client ------------------------------------------------------------------------------

    def ask(self, method: bytes, body: bytes = b"", fields: Fields | None = None) -> Asked:
        """Send a request of this dialog."""
        self.cseq += 1
        branch = b"z9hG4bK" + secrets.token_hex(8).encode()
        asked = Asked(self.party, method, self._build(method, self.cseq, branch, body, fields))
        self.party.asked[branch] = asked, self
        if method == b"INVITE" and self._asked is None:
            self._asked = asked
        return asked

    def cancel(self) -> None:
        """Cancel the first INVITE."""
        assert self._asked is not None
        sent = self._asked.sent
        raw = self._build(b"CANCEL", sent.cseq, sent.branch, b"", None)
        self.party.asked[sent.branch + b"c"] = Asked(self.party, b"CANCEL", raw), self

    async def hang_up(self) -> None:
        answer = await self.ask(b"BYE").answer
        self.end("bye sent" if answer is not None else "bye unanswered")

    def on_final(self, asked: Asked, message: Message) -> None:
        """The final response to an own request: for an INVITE send the ACK."""
        if asked.method == b"INVITE":
            if message.code < 300:
                self.remote = message.one(b"to")
                self.target = uri_of(message.one(b"contact")) or self.target
                self.state = "confirmed" if self.state == "early" else self.state
                branch = b"z9hG4bK" + secrets.token_hex(8).encode()
                ack = self._acks[message.cseq] = self._build(b"ACK", message.cseq, branch)
            else:
                sent = asked.sent
                ack = asked.final = build(
                    b"ACK " + sent.uri + b" SIP/2.0",
                    [(b"Via", sent.one(b"via")), (b"From", self.local),
                     (b"To", message.one(b"to")), (b"Call-ID", self.call_id),
                     (b"CSeq", b"%d ACK" % message.cseq), (b"Max-Forwards", b"70")],
                )  # fmt: skip
                if self.state == "early":
                    self.end(f"refused {message.code}")
            self.party.put(ack)

    def on_2xx_again(self, message: Message) -> None:
        ack = self._acks.get(message.cseq)
        if ack is not None:
            self.party.put(ack)

    # -- as a server ------------------------------------------------------------------------------

    def respond(self, request: Message, code: int, body: bytes = b"") -> None:
        """Answer a request; a final answer to INVITE is repeated until its ACK."""
        to = request.one(b"to") if b";tag=" in request.one(b"to") else self.local
        fields = [*request.every(b"via"), (b"From", request.one(b"from")), (b"To", to),
                  (b"Call-ID", self.call_id), (b"CSeq", request.one(b"cseq")),
                  (b"Contact", b"<" + self.party.uri + b">")]  # fmt: skip
        raw = build(b"SIP/2.0 %d Because" % code, fields, body)
        self.party.answers[request.branch, request.method] = raw
        if request.method != b"INVITE" or code < 200:
            self.party.put(raw)
            return
        if request is self.invite and code < 300:
            self.state = "confirmed"
        elif request is self.invite:
            self.end(f"refused {code}")
        cseq = request.cseq
        self._finals[cseq] = Repeated(self.party, raw, T2_S, lambda: self._unacknowledged(cseq))

    @property
    def is_owed_ack(self) -> bool:
        """Whether it still repeats a final response, which may be after the end."""
        return bool(self._finals)

    def _unacknowledged(self, cseq: int) -> None:
        self._finals.pop(cseq, None)
        self.party.complaints.append(f"{self!r}: a final response was never acknowledged")

    def waits(self, message: Message) -> bool:
        """Whether it is a copy of the first INVITE, which has no response yet."""
        first, is_invite = self.invite, message.method == b"INVITE"
        return is_invite and first is not None and first.branch == message.branch

    def on_request(self, message: Message) -> None:
        """A new request in this dialog."""
        method = message.method
        if method == b"ACK":
            repeated = self._finals.pop(message.cseq, None)
            if repeated is not None:
                repeated.stop()
            if not self.acked.done():
                self.acked.set_result(None)
        elif method == b"CANCEL":
            self.respond(message, 200)
            if self.state == "early" and self.invite is not None:
                self.respond(self.invite, 487)
        elif method == b"INVITE":
            self.target = uri_of(message.one(b"contact")) or self.target
            self.respond(message, 200, SDP)
            if not self.reinvited.done():
                self.reinvited.set_result(None)
        elif method == b"REFER":
            self.respond(message, 202)
            if not self.referred.done():
                self.referred.set_result(None)
        else:
            self.respond(message, 200 if self.state != "ended" else 481)
            self.notified += method == b"NOTIFY"
            if method == b"BYE":
                self.end("bye received")

    # -- the end ----------------------------------------------------------------------------------

    def end(self, why: str) -> None:
        if self.state != "vanished":
            self.state = "ended"
            if not self.ended.done():
                self.ended.set_result(why)

    def vanish(self) -> None:
        """From now on receive and send nothing."""
        self.state = "vanished"
        for repeated in self._finals.values():
            repeated.stop()
        self._finals.clear()
        if not self.ended.done():
            self.ended.set_result("vanished")

    def _build(
        self, method: bytes, cseq: int, branch: bytes, body: bytes = b"",
        more: Fields | None = None,
    ) -> bytes:  # fmt: skip
        fields = [
            (b"Via", self.party.via(branch)), (b"From", self.local), (b"To", self.remote),
            (b"Call-ID", self.call_id), (b"CSeq", b"%d %s" % (cseq, method)),
            (b"Max-Forwards", b"70"), (b"Contact", b"<" + self.party.uri + b">"), *(more or ()),
        ]  # fmt: skip
        return build(b"%s %s SIP/2.0" % (method, self.target), fields, body)

    def __repr__(self) -> str:
        return f"<{self.party.name} {self.call_id.decode()} {self.state}>"


class Party(asyncio.DatagramProtocol):
    """All endpoints of one kind: callers, phones, a destination. `on_call` gets the side of each
    new INVITE and handles it."""

    def __init__(self, name: str, on_call: Callable[[Side, Message], None] | None) -> None:
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.sides: dict[bytes, Side] = {}
        self.asked: dict[bytes, tuple[Asked, Side]] = {}  # by branch
        self.answers: dict[tuple[bytes, bytes], bytes] = {}  # by branch and method of the request
        self.complaints: list[str] = []
        self.repeated = 0
        self.engine: Address = ("", 0)  # the relay's socket for the engine
        self.outer: Address = ("", 0)  # the relay's address for the engine
        self._on_call = on_call
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    @property
    def address(self) -> Address:
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    @property
    def uri(self) -> bytes:
        return b"sip:%s@%s:%d" % (self.name.encode(), self.outer[0].encode(), self.outer[1])

    def via(self, branch: bytes) -> bytes:
        host, port = self.outer
        return b"SIP/2.0/UDP %s:%d;rport;branch=%s" % (host.encode(), port, branch)

    def put(self, raw: bytes) -> None:
        if self._transport is not None:
            self._transport.sendto(raw, self.engine)

    def call(self, number: bytes, engine: Address) -> tuple[Side, Asked]:
        """Begin a call to a number of the engine."""
        call_id = secrets.token_hex(10).encode() + b"@soak.example"
        uri = b"sip:%s@%s:%d" % (number, engine[0].encode(), engine[1])
        local = b"<sip:+33140000001@soak.example>;tag=" + secrets.token_hex(5).encode()
        side = Side(self, call_id, local, b"<" + uri + b">", uri)
        self.sides[call_id] = side
        return side, side.ask(b"INVITE", SDP)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        message = Message(data)
        side = self.sides.get(message.one(b"call-id"))
        if side is not None and side.state == "vanished":
            return
        if message.code:
            self._on_response(message)
            return
        answer = self.answers.get((message.branch, message.method))
        if answer is not None:
            self.put(answer)
        elif side is not None:
            if not side.waits(message):
                side.on_request(message)
        elif message.method == b"INVITE" and self._on_call is not None:
            self._on_invite(message)

    def _on_invite(self, message: Message) -> None:
        call_id = message.one(b"call-id")
        local = message.one(b"to") + b";tag=" + secrets.token_hex(5).encode()
        target = uri_of(message.one(b"contact"))
        side = self.sides[call_id] = Side(self, call_id, local, message.one(b"from"), target)
        side.invite = message
        assert self._on_call is not None
        self._on_call(side, message)

    def _on_response(self, message: Message) -> None:
        key = message.branch + (b"c" if message.method == b"CANCEL" else b"")
        known = self.asked.get(key)
        if known is None:
            return
        asked, side = known
        if message.code < 200:
            if asked.method == b"INVITE":
                asked.repeated.stop()
            if message.code > 100 and not side.rang.done():
                side.rang.set_result(message.code)
            return
        asked.repeated.stop()
        if not asked.answer.done():
            side.on_final(asked, message)
            asked.answer.set_result(message)
        elif asked.method == b"INVITE":
            if message.code < 300:
                side.on_2xx_again(message)
            else:
                self.put(asked.final)

    def close(self) -> None:
        for asked, _ in self.asked.values():
            asked.repeated.stop()
        if self._transport is not None:
            self._transport.close()


def uri_of(contact: bytes) -> bytes:
    return contact.partition(b"<")[2].partition(b">")[0]


def build(start: bytes, fields: Fields, body: bytes = b"") -> bytes:
    lines = [start, *(name + b": " + value for name, value in fields)]
    if body:
        lines.append(b"Content-Type: application/sdp")
    lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])
