"""Thousands of correct callers and phones on one socket."""

from __future__ import annotations

import asyncio
from typing import cast

from tests.campaigns import packet
from tests.campaigns.packet import Address, Packet
from tests.campaigns.roomy import open_udp
from tests.scenarios.message import Message, address_of, parse

# Meanwhile more calls begin than the engine's collector counts before it looks at the young objects
# (engine/collector.py): what a shorter call left behind would be freed.
TALK_S = 1.0


class Switchboard(asyncio.DatagramProtocol):
    """One socket. The user part selects how a call to it is treated: `answer` (also any number),
    `bye` (answers and hangs up), `ring`, `busy`, `refuse`."""

    def __init__(self, engine: Address) -> None:
        self._engine = engine
        self._transport: asyncio.DatagramTransport | None = None
        self._invites: dict[str, Packet] = {}  # own calls that have not ended
        self._answers: dict[tuple[str, str], bytes] = {}  # answers for repeated requests
        self._phones: dict[str, Message] = {}  # INVITEs that ring here
        self.own: Address = ("", 0)
        self.pending: dict[str, tuple[str, int]] = {}
        self.surprises: list[str] = []
        self._cancels: set[str] = set()

    @classmethod
    async def open(cls, engine: Address, port: int = 0) -> Switchboard:
        """Bind a socket on the loopback."""
        loop = asyncio.get_running_loop()
        _, board = await loop.create_datagram_endpoint(lambda: cls(engine), sock=open_udp(port))
        return board

    def close(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()

    def uri(self, user: str) -> str:
        """A URI that reaches this socket."""
        return f"sip:{user}@{self.own[0]}:{self.own[1]}"

    def call(self, name: str, invite: Packet, code: int, *, cancels: bool) -> str:
        """Place a call that must end with `code`; returns its Call-ID. It is pending until its
        end."""
        call_id = invite.get(b"Call-ID").decode()
        self._invites[call_id] = invite
        self.pending[call_id] = (name, code)
        if cancels:
            self._cancels.add(call_id)
        self._send(invite.render())
        return call_id

    def _send(self, raw: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(raw, self._engine)

    def _send_later(self, raw: bytes) -> None:
        """Hang up after some time."""
        asyncio.get_running_loop().call_later(TALK_S, self._send, raw)

    # -- asyncio.DatagramProtocol -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.own = transport.get_extra_info("sockname")[:2]

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Answer messages of the engine."""
        message = parse(data)
        if message.code:
            self._on_response(message)
        else:
            self._on_request(message)

    # -- the caller -------------------------------------------------------------------------------

    def _on_response(self, answer: Message) -> None:
        call_id = answer.call_id
        invite = self._invites.get(call_id)
        if answer.method == "BYE":
            self._over(call_id, 200)
        elif invite is None or answer.method != "INVITE":
            return
        elif answer.code == 180 and call_id in self._cancels:
            self._cancels.discard(call_id)
            self._send(packet.cancel(invite).render())
        elif 200 <= answer.code < 300:
            target = address_of(answer.one("Contact")).encode()
            self._send(packet.acknowledgement(invite, answer, self.own, target).render())
            if not invite.start.startswith(b"INVITE sip:+33972110001@"):  # that phone hangs up
                self._send_later(self._bye(invite, answer, target).render())
        elif answer.code >= 300:
            self._send(packet.refusal_ack(invite, answer).render())
            self._over(call_id, answer.code)

    def _bye(self, invite: Packet, answer: Message, target: bytes) -> Packet:
        return packet.within(
            self.own, b"BYE", local=invite.get(b"From"), remote=answer.one("To").encode(),
            call_id=invite.get(b"Call-ID"), cseq=int(invite.get(b"CSeq").split()[0]) + 1,
            target=target,
        )  # fmt: skip

    def _over(self, call_id: str, code: int) -> None:
        expected = self.pending.pop(call_id, None)
        if expected is not None and expected[1] != code:
            self.surprises.append(f"{expected[0]}: {code} instead of {expected[1]}")

    # -- the phone --------------------------------------------------------------------------------

    def _on_request(self, asked: Message) -> None:
        key = (asked.branch, asked.method)
        if key in self._answers:
            self._send(self._answers[key])
        elif asked.method == "INVITE":
            self._on_invite(asked)
        elif asked.method == "ACK":
            first = self._phones.pop(asked.call_id, None)
            if first is not None and first.user == "bye":
                self._hang_up(first)
        elif asked.method in ("BYE", "CANCEL"):
            self._answer(asked, 200)
            if asked.method == "CANCEL" and asked.call_id in self._phones:
                self._answer(self._phones[asked.call_id], 487)
            self._over(asked.call_id, 200)

    def _on_invite(self, asked: Message) -> None:
        user = asked.user
        self._phones[asked.call_id] = asked
        codes = {"ring": (180,), "busy": (486,), "refuse": (180, 488)}.get(user, (180, 200))
        for code in codes:
            self._answer(asked, code)

    def _answer(self, asked: Message, code: int) -> None:
        body = packet.SDP if code == 200 and asked.method == "INVITE" else b""
        raw = packet.response(self.own, asked, code, b"p" + asked.branch[-8:].encode(), body)
        if asked.method in ("INVITE", "CANCEL"):
            raw.set(b"To", asked.one("To").encode() + b";tag=p" + asked.call_id[:8].encode())
        self._answers[asked.branch, asked.method] = raw.render()
        self._send(raw.render())

    def _hang_up(self, first: Message) -> None:
        local = first.one("To").encode() + b";tag=p" + first.call_id[:8].encode()
        self._send_later(packet.within(
            self.own, b"BYE", local=local, remote=first.one("From").encode(),
            call_id=first.call_id.encode(), cseq=7,
            target=address_of(first.one("Contact")).encode(),
        ).render())  # fmt: skip
