"""A scripted SIP endpoint on one UDP socket: it places calls, and answers calls by a script.

It plays the caller, the phones, the voicemail, the fax and the gateway of `renvoi demo`, and serves
in tests. Pure asyncio. Of the engine's SIP core it uses only the message parser, so that an error
of the core cannot hide itself here. It follows RFC 3261 17 like a real endpoint: requests and
responses are repeated until the other side reacts, repeats get the same response, final responses
get their ACK.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from sip.fake_message import (
    Fields,
    build,
    code_of,
    status_line,
    tag_of,
    text,
    transaction_of,
    uri_of,
    user_of,
)
from sip.message import Message

Address = tuple[str, int]
Script = Sequence[tuple[float, int]]  # what follows an INVITE: (delay in seconds, code to answer)

ANSWERS: Script = ((0.0, 180), (0.0, 200))
IS_BUSY: Script = ((0.0, 486),)
ONLY_RINGS: Script = ((0.0, 180),)
IS_SILENT: Script = ()

T1_S, T2_S, GIVE_UP_S = 0.5, 4.0, 32.0  # RFC 3261 17.1.1.1, 17.1.1.2
WAIT_S = 5.0
ALLOW = "INVITE, ACK, CANCEL, BYE, UPDATE, INFO, OPTIONS"


class Call:
    """One call as one endpoint sees it, placed or received.

    Attributes:
        invite: its INVITE.
        answers: the responses that a caller got, in order, without 100 and repeats.
        body: the body of this endpoint's 2xx.
        acked: set when a called endpoint got the ACK of its final response.
        ended: set when the call is over for this endpoint.
        started, answered: loop times in seconds of the INVITE and of its final answer.
    """

    def __init__(self, endpoint: FakeEndpoint, peer: Address, raw: bytes, *, placed: bool) -> None:
        self.invite = Message(raw)
        self.answers: list[Message] = []
        self.body = b""
        self.acked = asyncio.Event()
        self.ended = asyncio.Event()
        self.started = self.answered = asyncio.get_running_loop().time()
        self._endpoint = endpoint
        self._peer = peer
        self._proceeding = asyncio.Event()  # the other side reacted to our INVITE
        self._final = asyncio.Event()
        self._replies: dict[bytes, bytes] = {}  # by branch and method of the request
        self._ack = b""
        self._cseq = 1
        self._byes: dict[str, asyncio.Future[int]] = {}  # by CSeq
        caller, called = text(self.invite, b"from"), text(self.invite, b"to")
        self._local, self._remote = caller, called
        self._target = uri_of(self.invite.target.decode())
        if not placed:
            self._local, self._remote = f"{called};tag={secrets.token_hex(6)}", caller
            self._target = uri_of(text(self.invite, b"contact"))

    # What happened so far

    def codes(self) -> list[int]:
        """The codes a caller got for its INVITE, 100 and repeats left out."""
        return [code_of(answer) for answer in self.answers]

    def to_tags(self) -> set[str]:
        """The different To tags in those answers: one, unless the other side forked."""
        return {tag for answer in self.answers if (tag := tag_of(text(answer, b"to")))}

    async def final(self, wait_s: float = WAIT_S) -> int:
        """The final code a caller got. Raises TimeoutError after `wait_s`."""
        await asyncio.wait_for(self._final.wait(), wait_s)
        return self.codes()[-1]

    # What this endpoint does

    def reply(self, code: int, body: bytes = b"") -> None:
        """Answer the INVITE of a received call; a final answer is repeated until its ACK."""
        if self._final.is_set():
            return
        raw = self._reply_to(self.invite, code, body)
        if code >= 200:
            self.body = body
            self._final.set()
            self._endpoint.run(self._repeat(raw, self.acked))
        else:
            self._send(raw)
        if code >= 300:
            self.ended.set()

    def cancel(self) -> None:
        """Cancel a placed call that nobody has answered (RFC 3261 9.1)."""
        self._send(self._same_transaction("CANCEL", text(self.invite, b"to")))

    async def hang_up(self, wait_s: float = WAIT_S) -> int:
        """BYE; the code it was answered with. Raises TimeoutError after `wait_s`."""
        self.ended.set()
        self._cseq += 1
        cseq = f"{self._cseq} BYE"
        answered = self._byes[cseq] = asyncio.get_running_loop().create_future()
        done = asyncio.Event()
        answered.add_done_callback(lambda _: done.set())
        self._endpoint.run(self._repeat(self._within_dialog(cseq), done))
        return await asyncio.wait_for(answered, wait_s)

    async def invite_until_answered(self, raw: bytes) -> None:
        """Send the INVITE of a placed call and repeat it until a response comes."""
        await self._repeat(raw, self._proceeding)

    async def play(self, script: Script, body: bytes) -> None:
        """Answer a received call by the script, a 2xx with `body`."""
        for delay_s, code in script:
            await asyncio.sleep(delay_s)
            self.reply(code, body if 200 <= code < 300 else b"")

    # What comes in

    def receive(self, message: Message, sender: Address) -> None:
        """Take one datagram of this call."""
        if not code_of(message):
            self._receive_request(message, sender)
        elif text(message, b"cseq").endswith("INVITE"):
            self._receive_answer(message)
        elif code_of(message) >= 200:
            waiting = self._byes.pop(text(message, b"cseq"), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(code_of(message))

    def _receive_request(self, request: Message, sender: Address) -> None:
        self._peer = sender
        if request.method == b"ACK":
            self.acked.set()
            return
        known = self._replies.get(transaction_of(request))
        if known is not None:
            self._send(known)
        elif transaction_of(request) != transaction_of(self.invite):
            is_offer = request.method in (b"INVITE", b"UPDATE") and request.body
            self._send(self._reply_to(request, 200, self.body if is_offer else b""))
            if request.method == b"CANCEL":
                self.reply(487)
            elif request.method == b"BYE":
                self.ended.set()

    def _receive_answer(self, answer: Message) -> None:
        code = code_of(answer)
        self._proceeding.set()
        if self._final.is_set():
            if code >= 200:  # our ACK was lost
                self._send(self._ack)
            return
        if code == 100:
            return
        self.answers.append(answer)
        if code < 200:
            return
        self.answered = asyncio.get_running_loop().time()
        self._final.set()
        self._remote = text(answer, b"to")
        if code < 300:
            self._target = uri_of(text(answer, b"contact")) or self._target
            self._ack = self._within_dialog("1 ACK")
        else:
            self._ack = self._same_transaction("ACK", self._remote)
            self.ended.set()
        self._send(self._ack)

    # Messages

    def _reply_to(self, request: Message, code: int, body: bytes) -> bytes:
        to = text(request, b"to")
        fields = [("Via", via.decode("latin-1")) for via in request.values(b"via")]
        fields += [("From", text(request, b"from")), ("To", to if tag_of(to) else self._local)]
        fields += [("Call-ID", request.call_id), ("CSeq", text(request, b"cseq"))]
        fields += [("Contact", f"<{self._endpoint.uri()}>"), ("Allow", ALLOW)]
        raw = build(status_line(code), fields, body)
        self._replies[transaction_of(request)] = raw
        return raw

    def _within_dialog(self, cseq: str) -> bytes:
        fields = [("Via", self._endpoint.via()), ("From", self._local), ("To", self._remote)]
        fields += [("Call-ID", self.invite.call_id), ("CSeq", cseq), ("Max-Forwards", "70")]
        return build(f"{cseq.split()[1]} {self._target} SIP/2.0", fields)

    def _same_transaction(self, method: str, to: str) -> bytes:
        """A CANCEL, or the ACK of a refusal: the INVITE's own Via and number (17.1.1.3)."""
        fields = [("Via", text(self.invite, b"via")), ("From", self._local), ("To", to)]
        fields += [("Call-ID", self.invite.call_id), ("CSeq", f"1 {method}")]
        fields += [("Max-Forwards", "70")]
        return build(f"{method} {self.invite.target.decode()} SIP/2.0", fields)

    def _send(self, raw: bytes) -> None:
        self._endpoint.send(raw, self._peer)

    async def _repeat(self, raw: bytes, done: asyncio.Event) -> None:
        """Send now, after T1, then twice as long each time, up to T2 (timers A, E and G)."""
        wait_s, spent_s = T1_S, 0.0
        while not done.is_set() and spent_s < GIVE_UP_S:
            self._send(raw)
            try:
                await asyncio.wait_for(done.wait(), wait_s)
            except TimeoutError:
                spent_s, wait_s = spent_s + wait_s, min(2 * wait_s, T2_S)


class FakeEndpoint(asyncio.DatagramProtocol):
    """One UDP socket and the calls on it.

    `script_of` gives the script for the user part that is called, `body` is what a 2xx carries.
    """

    def __init__(self, script_of: Callable[[str], Script], body: bytes = b"") -> None:
        self.calls: dict[str, Call] = {}  # by Call-ID, in order of arrival
        self.host, self.port = "", 0
        self._script_of = script_of
        self._body = body
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Bind the socket; port 0 takes a free one. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(host, port)
        )
        self.host, self.port = self._transport.get_extra_info("sockname")[:2]

    def close(self) -> None:
        """Stop repeating and listening. Calls in progress are left as they are."""
        for task in self._tasks:
            task.cancel()
        if self._transport is not None:
            self._transport.close()

    def place(
        self, peer: Address, called: str, *, caller: str, body: bytes = b"", headers: Fields = ()
    ) -> Call:
        """Send an INVITE for the number `called` to `peer`; the call it begins."""
        fields = [
            ("Via", self.via()),
            ("From", f'"Caller" <sip:{caller}@caller.example>;tag={secrets.token_hex(6)}'),
            ("To", f"<sip:{called}@office.example>"),
            ("Call-ID", f"{secrets.token_hex(10)}@caller.example"),
            ("CSeq", "1 INVITE"),
            ("Max-Forwards", "70"),
            ("Contact", f"<{self.uri(caller)}>"),
            ("Allow", ALLOW),
            *headers,
        ]
        raw = build(f"INVITE sip:{called}@{peer[0]}:{peer[1]} SIP/2.0", fields, body)
        call = Call(self, peer, raw, placed=True)
        self.calls[call.invite.call_id] = call
        self.run(call.invite_until_answered(raw))
        return call

    def uri(self, user: str = "fake") -> str:
        """A URI that reaches this socket."""
        return f"sip:{user}@{self.host}:{self.port}"

    def via(self) -> str:
        """The Via of a new transaction."""
        branch = f"z9hG4bK{secrets.token_hex(8)}"
        return f"SIP/2.0/UDP {self.host}:{self.port};rport;branch={branch}"

    def send(self, raw: bytes, peer: Address) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(raw, peer)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the background until `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """asyncio.DatagramProtocol: hand a datagram to its call, or begin one."""
        message = Message(data)
        call = self.calls.get(message.call_id)
        if call is not None:
            call.receive(message, addr)
        elif message.method == b"INVITE":
            call = self.calls[message.call_id] = Call(self, addr, data, placed=False)
            self.run(call.play(self._script_of(user_of(call.invite)), self._body))
