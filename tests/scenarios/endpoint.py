"""A scripted SIP endpoint on a raw UDP socket, for timing that SIPp scenarios cannot express.

By itself it only does what transactions require: it repeats its answer to a repeated request,
acknowledges refusals, and (unless switched off) answers BYE and CANCEL. `Call.received` keeps all
received messages, in order, for the assertions.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Sequence

from tests.patience import within
from tests.scenarios.mailbox import Mailbox
from tests.scenarios.message import Message, address_of, build, parse, untagged, user_of

Address = tuple[str, int]
Headers = Sequence[tuple[str, str]]
WAIT_S = 10.0
REASONS = {
    100: "Trying", 180: "Ringing", 181: "Call Is Being Forwarded", 183: "Session Progress",
    199: "Early Dialog Terminated", 200: "OK", 480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist", 486: "Busy Here", 487: "Request Terminated",
    488: "Not Acceptable Here", 491: "Request Pending", 603: "Decline",
}  # fmt: skip
METHODS = "INVITE, ACK, CANCEL, BYE, UPDATE, INFO, OPTIONS, PRACK, REFER, NOTIFY, MESSAGE"
numbers = itertools.count(1)


class Call:
    """One endpoint's side of a dialog, or of an attempt at one."""

    def __init__(self, endpoint: Endpoint, peer: Address, first: Message, *, caller: bool) -> None:
        self.endpoint = endpoint
        self.peer = peer
        self.first = first
        self.call_id = first.call_id
        self.tag = first.from_tag if caller else secrets.token_hex(6)
        self.is_caller = caller
        self.remote = first.one("To" if caller else "From")
        self.local = first.one("From") if caller else f"{first.one('To')};tag={self.tag}"
        self.target = first.uri
        if not caller and first.has("Contact"):
            self.target = address_of(first.one("Contact"))
        self.routes: Headers = ()  # Route fields of the requests within the dialog
        self.cseq = first.cseq[0] if caller else next(numbers) * 10
        self.automatic = {"BYE", "CANCEL"}
        self.received: list[Message] = []
        self.sent: list[Message] = []
        self.repeats = 0
        self.state = "early"
        self._inbox: Mailbox[Message] = Mailbox()
        self._answers: dict[tuple[str, str], bytes] = {}
        self._acks: dict[tuple[int, str], bytes] = {}

    def __repr__(self) -> str:
        role = "to" if self.is_caller else "from"
        return f"<Call {role} {self.first.uri} {self.state}: {self.received}>"

    # Receiving

    async def receive(
        self, wanted: int | str, method: str = "INVITE", wait_s: float = WAIT_S
    ) -> Message:
        """Wait for a request of that method (str) or a response of that code to `method` (int)."""
        if isinstance(wanted, str):
            return await self._take(lambda m: not m.code and m.method == wanted, wait_s, wanted)
        return await self._take(
            lambda m: m.code == wanted and m.method == method, wait_s, f"{wanted} to {method}"
        )

    async def final(self, method: str = "INVITE", wait_s: float = WAIT_S) -> Message:
        """Wait for the final response to `method`, whatever its code."""
        return await self._take(
            lambda m: m.code >= 200 and m.method == method, wait_s, f"final answer to {method}"
        )

    async def _take(self, matches: Callable[[Message], bool], wait_s: float, what: str) -> Message:
        try:
            return await self._inbox.take(matches, wait_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self!r}") from None

    async def heard_above_100(self) -> None:
        """Wait for any response to INVITE but 100."""
        deadline = time.monotonic() + within(WAIT_S)
        while not self.codes():
            assert time.monotonic() < deadline, f"no response: {self!r}"
            await asyncio.sleep(0.02)

    async def copies(self, count: int, code: int) -> list[Message]:
        """Wait until a response to INVITE has come `count` times; returns all copies."""
        deadline = time.monotonic() + within(WAIT_S)
        while len(found := [m for m in self.received if m.code == code]) < count:
            assert time.monotonic() < deadline, f"{len(found)} copies of {code}: {self!r}"
            await asyncio.sleep(0.02)
        return found

    def codes(self, method: str = "INVITE") -> list[int]:
        """The codes received for that method, in order, without 100 and repeats."""
        seen = [m.code for m in self.received if m.code > 100 and m.method == method]
        return [code for code, _ in itertools.groupby(seen)]

    def requests(self, method: str) -> list[Message]:
        """The requests of that method received so far, including repeats."""
        return [m for m in self.received if not m.code and m.method == method]

    def arrive(self, message: Message, sender: Address) -> None:
        """Handle one datagram of this call: repeat, acknowledge, answer, and store it."""
        self.received.append(message)
        repeated = self._is_repeat(message, self.received[:-1])
        if message.code:
            self._arrive_response(message)
        else:
            self.peer = sender
            answer = self._answers.get((message.branch, message.method))
            if repeated and answer:
                self.endpoint.send(answer, self.peer)
        if repeated:
            self.repeats += 1
            return
        self._inbox.put(message)
        if not message.code and message.method in self.automatic:
            self._answer(message)

    def _is_repeat(self, message: Message, before: list[Message]) -> bool:
        if not message.code:
            key = (message.branch, message.method)
            return any(not m.code and (m.branch, m.method) == key for m in before)
        if message.code < 200:
            return False
        answer = (message.code, message.cseq, message.to_tag)
        return any((m.code, m.cseq, m.to_tag) == answer for m in before)

    def _arrive_response(self, message: Message) -> None:
        if message.to_tag and message.code > 100:
            self.remote = message.one("To")
        if message.has("Contact") and message.method == "INVITE" and message.code < 300:
            self.target = address_of(message.one("Contact"))
        if message.method == "INVITE" and message.code >= 200:
            key = (message.cseq[0], message.to_tag)
            if key in self._acks:
                self.endpoint.send(self._acks[key], self.peer)
            elif message.code >= 300:
                self._refuse_politely(message, key)
            else:
                self.state = "answered"

    def _refuse_politely(self, message: Message, key: tuple[int, str]) -> None:
        """Acknowledge a refusal: same branch as the INVITE (RFC 3261 17.1.1.3)."""
        if message.cseq == self.first.cseq:
            self.state = "ended"
        headers = [
            ("Via", message.one("Via")),
            ("From", message.one("From")),
            ("To", message.one("To")),
            ("Call-ID", self.call_id),
            ("CSeq", f"{message.cseq[0]} ACK"),
            ("Max-Forwards", "70"),
        ]
        uri = next(m.uri for m in self.sent if not m.code and m.cseq == message.cseq)
        self._acks[key] = build(f"ACK {uri} SIP/2.0", headers)
        self.endpoint.send(self._acks[key], self.peer)

    def _answer(self, request: Message) -> None:
        self.respond(200, to=request)
        if request.method == "BYE":
            self.state = "ended"
        elif self.state == "early":
            self.respond(487)

    # Sending

    def respond(
        self,
        code: int,
        *,
        to: Message | None = None,
        headers: Headers = (),
        body: bytes = b"",
        content_type: str = "application/sdp",
    ) -> Message:
        """Answer a request (by default the INVITE). 2xx and refusals change the call's state."""
        request = to or self.first
        tag = f";tag={self.tag}" if code > 100 and self.tag else ""
        local = untagged(request.one("To")) + tag
        lines = [("Via", via) for via in request.every("Via")]
        lines += [("Record-Route", route) for route in request.every("Record-Route")]
        lines += [("From", request.one("From")), ("To", local), ("Call-ID", self.call_id)]
        contact = f"<{self.endpoint.uri()}>{self.endpoint.features}"
        lines += [("CSeq", request.one("CSeq")), ("Contact", contact)]
        lines += headers
        if body:
            lines.append(("Content-Type", content_type))
        reason = REASONS.get(code, "Because")
        raw = build(f"SIP/2.0 {code} {reason}", lines, body)
        if request is self.first and code >= 200:
            self.state = "answered" if code < 300 else "ended"
        self._answers[request.branch, request.method] = raw
        return self._send(raw)

    def request(
        self,
        method: str,
        *,
        headers: Headers = (),
        body: bytes = b"",
        content_type: str = "application/sdp",
    ) -> Message:
        """Send a new request inside the dialog."""
        self.cseq += 1
        if method == "BYE":
            self.state = "ended"
        return self._send(
            self._within(method, self.cseq, headers=headers, body=body, content_type=content_type)
        )

    def ack(
        self,
        answer: Message,
        *,
        body: bytes = b"",
        headers: Headers = (),
        content_type: str = "application/sdp",
    ) -> Message:
        """Acknowledge a 2xx; from now on repeated 2xx are acknowledged automatically."""
        cseq = answer.cseq[0]
        raw = self._within("ACK", cseq, headers=headers, body=body, content_type=content_type)
        self._acks[answer.cseq[0], answer.to_tag] = raw
        return self._send(raw)

    def cancel(self, *, headers: Headers = ()) -> Message:
        """Cancel the INVITE this endpoint sent: same branch and number (RFC 3261 9.1)."""
        first = self.first
        lines = [(name, first.one(name)) for name in ("Via", "From", "To", "Call-ID")]
        lines += [("CSeq", f"{first.cseq[0]} CANCEL"), ("Max-Forwards", "70"), *headers]
        self.state = "cancelled"
        return self._send(build(f"CANCEL {first.uri} SIP/2.0", lines))

    def repeat(self, message: Message) -> None:
        """Send the same bytes again, as a retransmission."""
        self.endpoint.send(message.raw, self.peer)

    async def hang_up(self) -> None:
        """Send BYE and wait for its 200."""
        self.request("BYE")
        await self.receive(200, "BYE")

    def abandon(self) -> None:
        """End the call in any state, also after a failed scenario."""
        if self.state == "answered":
            self.request("BYE")
        elif self.state == "early" and self.first.method == "INVITE":
            if self.is_caller:
                self.cancel()
            else:
                self.respond(480)

    def _within(
        self,
        method: str,
        cseq: int,
        *,
        headers: Headers,
        body: bytes,
        content_type: str = "application/sdp",
    ) -> bytes:
        lines = [
            ("Via", self.endpoint.via()),
            ("From", self.local),
            ("To", self.remote),
            ("Call-ID", self.call_id),
            ("CSeq", f"{cseq} {method}"),
            ("Max-Forwards", "70"),
            *self.routes,
        ]
        if method in ("INVITE", "UPDATE"):
            lines.append(("Contact", f"<{self.endpoint.uri()}>{self.endpoint.features}"))
        lines += headers
        if body:
            lines.append(("Content-Type", content_type))
        return build(f"{method} {self.target} SIP/2.0", lines, body)

    def _send(self, raw: bytes) -> Message:
        self.endpoint.send(raw, self.peer)
        message = parse(raw)
        self.sent.append(message)
        return message


class Endpoint(asyncio.DatagramProtocol):
    """One UDP socket and the calls on it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.stray: list[Message] = []
        self.heard: list[Message] = []  # all messages received on this socket
        self._transport: asyncio.DatagramTransport | None = None
        self._arrivals: Mailbox[Call] = Mailbox()
        self.features = ""  # parameters of its Contact
        self.host, self.port = "", 0  # as Via and Contact show them
        self.rport = True

    @classmethod
    async def open(cls, host: str = "127.0.0.1", port: int = 0) -> Endpoint:
        """Bind a socket; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        transport, endpoint = await loop.create_datagram_endpoint(cls, local_addr=(host, port))
        endpoint._transport = transport
        endpoint.host, endpoint.port = transport.get_extra_info("sockname")[:2]
        return endpoint

    def close(self) -> None:
        """End every remaining call, then close the socket."""
        for call in self.calls:
            call.abandon()
        if self._transport is not None:
            self._transport.close()

    def uri(self, user: str = "ua") -> str:
        """A URI that reaches this socket."""
        return f"sip:{user}@{bracketed(self.host)}:{self.port}"

    def show(self, other: Endpoint) -> None:
        """From now on Via and Contact show the other endpoint's address. Messages of a call that
        arrive there belong to that call, too."""
        self.host, self.port = other.host, other.port
        other.calls = self.calls

    def requests(self) -> list[str]:
        """The methods of the requests received on this socket, in order, without repeats."""
        seen = {(m.branch, m.method): m.method for m in self.heard if not m.code}
        return list(seen.values())

    def via(self) -> str:
        """A fresh Via for a new transaction."""
        branch = f"z9hG4bK{secrets.token_hex(8)}"
        rport = ";rport" if self.rport else ""
        return f"SIP/2.0/UDP {bracketed(self.host)}:{self.port}{rport};branch={branch}"

    def send(self, raw: bytes, peer: Address) -> None:
        """Send bytes."""
        assert self._transport is not None
        self._transport.sendto(raw, peer)

    def start(
        self,
        peer: Address,
        called: str,
        *,
        method: str = "INVITE",
        caller: str = "+33140000001",
        from_: str = "",
        max_forwards: int = 70,
        to: str = "",
        uri: str = "",
        contact: bool = True,
        headers: Headers = (),
        body: bytes = b"",
        content_type: str = "application/sdp",
        send: bool = True,
    ) -> Call:
        """Send a first request to `peer` for the number `called` there, or for `uri`; returns the
        call."""
        uri = uri or f"sip:{called}@{bracketed(peer[0])}:{peer[1]}"
        sender = from_ or f'"Caller" <sip:{caller}@caller.example>'
        lines = [
            ("Via", self.via()),
            ("From", f"{sender};tag={secrets.token_hex(6)}"),
            ("To", to or f'"Called" <sip:{called}@office.example>'),
            ("Call-ID", f"{secrets.token_hex(10)}@caller.example"),
            ("CSeq", f"{next(numbers)} {method}"),
            ("Max-Forwards", str(max_forwards)),
        ]
        if contact:
            lines.append(("Contact", f"<{self.uri(caller)}>{self.features}"))
        lines += [*headers, ("Allow", METHODS)]
        if body:
            lines.append(("Content-Type", content_type))
        first = parse(build(f"{method} {uri} SIP/2.0", lines, body))
        call = Call(self, peer, first, caller=True)
        call.sent.append(first)
        self.calls.append(call)
        if send:
            self.send(first.raw, peer)
        return call

    async def incoming(self, user: str = "", wait_s: float = WAIT_S) -> Call:
        """Wait for a new INVITE, to that user part when one is given."""
        wanted = f"INVITE for {user or 'anyone'} at {self.host}:{self.port}"
        return await self._arrivals.take(
            lambda call: not user or call.first.user == user, wait_s, wanted
        )

    def invited(self, user: str = "") -> list[Call]:
        """The calls received so far, for that user part when one is given."""
        return [
            call
            for call in self.calls
            if not call.is_caller and (not user or call.first.user == user)
        ]

    # asyncio.DatagramProtocol

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Pass a datagram to its call, or begin one."""
        if len(data.strip()) == 0:
            return
        message = parse(data)
        self.heard.append(message)
        for call in self.calls:
            if call.call_id == message.call_id:
                call.arrive(message, addr)
                return
        if message.method == "INVITE" and not message.code and not message.to_tag:
            call = Call(self, addr, message, caller=False)
            call.received.append(message)
            self.calls.append(call)
            self._arrivals.put(call)
            return
        self.stray.append(message)
        if not message.code and message.method != "ACK":
            Call(self, addr, message, caller=False).respond(481)


def bracketed(host: str) -> str:
    """A host in the form for a URI or a Via."""
    return f"[{host}]" if ":" in host else host


__all__ = ["METHODS", "WAIT_S", "Address", "Call", "Endpoint", "Headers", "bracketed", "user_of"]
