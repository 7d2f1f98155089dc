"""Callers and phones that are mostly correct: whole dialogs with some hostile messages."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import cast

from tests.campaigns import extensions, packet
from tests.campaigns.mutation import mutate
from tests.campaigns.packet import Address, Packet
from tests.scenarios.message import Message, address_of, parse

KNOWN_CALLS = 4000
FINALS = (200, 200, 200, 200, 200, 200, 202, 486, 480, 404, 302, 500, 503, 603, 401, 407, 0, 0)
WITHIN = (b"INVITE", b"UPDATE", b"INFO", b"MESSAGE", b"REFER", b"OPTIONS", b"PRACK", b"NOTIFY")


@dataclass
class Dialog:
    """The state of one side of a call."""

    local: bytes
    remote: bytes
    call_id: bytes
    target: bytes
    cseq: int
    sent: Packet | None = None
    over: bool = False


class Crowd(asyncio.DatagramProtocol):
    """One socket with any number of callers and phones behind it.

    `wildness` is the probability that `change` damages a message before it is sent.
    """

    def __init__(
        self,
        chance: Random,
        engine: Address,
        wildness: float,
        trail: deque[bytes],
        change: Callable[[Random, Packet], bytes] = mutate,
    ) -> None:
        self._chance = chance
        self._engine = engine
        self._wildness = wildness
        self._trail = trail
        self._change = change
        self._transport: asyncio.DatagramTransport | None = None
        self._dialogs: OrderedDict[bytes, Dialog] = OrderedDict()
        self._timers: set[asyncio.TimerHandle] = set()
        self._nonce = ""  # of the last challenge
        self.own: Address = ("", 0)
        self.sent = 0

    @classmethod
    async def open(
        cls,
        chance: Random,
        engine: Address,
        wildness: float,
        trail: deque[bytes],
        port: int = 0,
        change: Callable[[Random, Packet], bytes] = mutate,
        host: str = "127.0.0.1",
    ) -> Crowd:
        """Bind a socket on the loopback."""
        _, crowd = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: cls(chance, engine, wildness, trail, change), local_addr=(host, port)
        )
        return crowd

    def close(self) -> None:
        """Cancel everything that is still scheduled."""
        for timer in self._timers:
            timer.cancel()
        if self._transport is not None:
            self._transport.close()

    def uri(self) -> str:
        """A URI that reaches this socket."""
        return f"sip:phone@{self.own[0]}:{self.own[1]}"

    # -- sending ----------------------------------------------------------------------------------

    def say(self, message: Packet, wildness: float | None = None) -> None:
        """Send a message, damaged or not."""
        wild = self._wildness if wildness is None else wildness
        changed = self._chance.random() < wild
        self.put(self._change(self._chance, message) if changed else message.render())

    def put(self, raw: bytes) -> None:
        """Send bytes as they are."""
        if self._transport is not None and not self._transport.is_closing() and raw:
            self._trail.append(raw)
            self.sent += 1
            self._transport.sendto(raw[:65000], self._engine)

    def _later(self, delay_s: float, message: Packet, wildness: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        handle = loop.call_later(delay_s, self.say, message, wildness)
        self._timers.add(handle)
        if len(self._timers) > KNOWN_CALLS:
            now = loop.time()
            self._timers = {timer for timer in self._timers if timer.when() > now}

    def call(self, number: bytes) -> None:
        """Begin a call, or send another request outside a dialog."""
        chance = self._chance
        method = b"INVITE"
        if chance.random() < 0.05:
            self.say(extensions.register(chance, self.own, self._engine, number, self._nonce))
            return
        if chance.random() < 0.15:
            method = chance.choice(
                (
                    b"OPTIONS",
                    b"REGISTER",
                    b"MESSAGE",
                    b"BYE",
                    b"ACK",
                    b"CANCEL",
                    b"SUBSCRIBE",
                    b"FOO",
                    b"UPDATE",
                    b"PRACK",
                )
            )
        invite = packet.request(self.own, self._engine, number, method)
        if chance.random() < 0.2:
            route = b"<sip:127.0.0.1:%d;lr;x=%s>" % (
                self.own[1],
                b"r" * chance.choice((1, 100, 400)),
            )
            invite.set(b"Record-Route", *[route] * chance.choice((1, 2, 5)))
        if chance.random() < 0.1:
            invite.body = b""
            invite.drop(b"Content-Type")
        if method == b"INVITE":
            extensions.adorn(chance, invite, self._names())
            self._keep(
                invite.get(b"Call-ID"),
                Dialog(
                    invite.get(b"From"),
                    invite.get(b"To"),
                    invite.get(b"Call-ID"),
                    b"",
                    int(invite.get(b"CSeq").split()[0]),
                    invite,
                ),
            )
        self.say(invite)
        if chance.random() < 0.2:
            self._later(chance.choice((0.0, 0.01, 0.1, 0.4)), packet.cancel(invite))
        if chance.random() < 0.05:
            self._later(0.02, invite)  # once more, as a retransmission or as a merged request

    def _names(self) -> list[bytes]:
        """Some active dialogs, as the far end would name them."""
        known = list(self._dialogs.values())[-20:]
        return [extensions.dialog_name(d.call_id, d.local, d.remote) for d in known if d.remote]

    def _keep(self, call_id: bytes, dialog: Dialog) -> None:
        self._dialogs[call_id] = dialog
        if len(self._dialogs) > KNOWN_CALLS:
            self._dialogs.popitem(last=False)

    # -- what arrives -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.own = transport.get_extra_info("sockname")[:2]

    def error_received(self, exc: Exception) -> None:
        """The port was closed: nothing to do."""

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Answer messages of the engine. An unreadable one is the result of a mutation."""
        try:
            message = parse(data)
            if message.code:
                self._on_response(message)
            else:
                self._on_request(message)
        except (KeyError, IndexError, ValueError):
            return

    def _on_response(self, answer: Message) -> None:
        if answer.code == 401:
            self._nonce = extensions.nonce_of(answer)
        dialog = self._dialogs.get(_raw(answer.call_id))
        if dialog is None or dialog.sent is None or answer.method != "INVITE":
            return
        if answer.code < 200:
            self._on_early(dialog.sent, answer)
            return
        own_invite = _raw(answer.one("CSeq")) == dialog.sent.get(b"CSeq")
        if answer.code >= 300:
            self.say(packet.refusal_ack(dialog.sent, answer))
            return
        dialog.remote = _raw(answer.one("To"))
        dialog.target = _raw(address_of(answer.one("Contact")))
        ack = packet.acknowledgement(dialog.sent, answer, self.own, dialog.target)
        if not own_invite:
            ack.set(b"CSeq", _raw(answer.one("CSeq")).split()[0] + b" ACK")
        if self._chance.random() < 0.9:
            self.say(ack)
        if own_invite and not dialog.over:
            self._talk(dialog)

    def _on_early(self, sent: Packet, answer: Message) -> None:
        if answer.code > 100 and self._chance.random() < 0.9:
            target = _raw(address_of(answer.one("Contact")))
            prack = extensions.prack(self._chance, self.own, sent, answer, target)
            if prack is not None:
                self.say(prack)

    def _talk(self, dialog: Dialog) -> None:
        """Some requests inside the dialog, then BYE."""
        chance = self._chance
        dialog.over = True
        delay_s = 0.0
        for _ in range(chance.choice((0, 0, 0, 1, 2, 4))):
            delay_s += chance.choice((0.0, 0.01, 0.05))
            self._later(delay_s, self._within(dialog, chance.choice(WITHIN)))
        if chance.random() < 0.85:
            self._later(delay_s + chance.choice((0.0, 0.05, 0.2)), self._within(dialog, b"BYE"))

    def _within(self, dialog: Dialog, method: bytes) -> Packet:
        dialog.cseq += 1
        made = packet.within(
            self.own, method, local=dialog.local, remote=dialog.remote, call_id=dialog.call_id,
            cseq=dialog.cseq, target=dialog.target, body=packet.SDP if method != b"BYE" else b"",
        )  # fmt: skip
        if method == b"REFER":
            refer_to = extensions.refer_to(self._chance, self.own, self._names())
            made.fields.append((b"Refer-To", refer_to))
        return made

    def _on_request(self, asked: Message) -> None:
        if asked.method == "INVITE" and not asked.to_tag:
            self._on_invite(asked)
        elif asked.method == "ACK":
            dialog = self._dialogs.get(_raw(asked.call_id))
            if dialog is not None and not dialog.over and self._chance.random() < 0.5:
                self._talk(dialog)
        elif self._chance.random() < 0.95:
            code = 200
            if asked.method not in ("BYE", "CANCEL"):
                code = self._chance.choice((200, 200, 200, 488, 491, 481, 500, 100, 180))
            self.say(packet.response(self.own, asked, code, b"q", packet.SDP))

    def _on_invite(self, asked: Message) -> None:
        """Ring and perhaps answer, with one tag or several."""
        chance = self._chance
        key = _raw(asked.call_id)
        if key in self._dialogs:
            return
        tag = b"t%d" % chance.randrange(1 << 30)
        self._keep(
            key,
            Dialog(
                _raw(asked.one("To")) + b";tag=" + tag,
                _raw(asked.one("From")),
                key,
                _raw(address_of(asked.one("Contact"))),
                chance.choice((1, 100, 2147483600)),
            ),
        )
        delay_s = 0.0
        for _ in range(chance.choice((0, 1, 1, 2))):
            code = chance.choice((100, 180, 180, 183, 181, 199))
            early = packet.response(self.own, asked, code, tag, packet.SDP)
            if code > 100 and chance.random() < 0.4:
                early.fields.append((b"Require", b"100rel"))
                early.fields.append((b"RSeq", b"%d" % chance.choice((1, 2, 3, 77, 2147483647))))
            self._later(delay_s, self._routed(early))
            delay_s += chance.choice((0.0, 0.02))
        final = chance.choice(FINALS)
        if not final:
            return
        answer = self._routed(packet.response(self.own, asked, final, tag, packet.SDP))
        self._later(delay_s, answer)
        if chance.random() < 0.1:
            other = packet.response(self.own, asked, 200, chance.choice((b"", b"other")))
            self._later(delay_s + 0.03, other)
        if chance.random() < 0.1:
            self._later(delay_s + 0.06, answer, 0.0)

    def _routed(self, answer: Packet) -> Packet:
        chance = self._chance
        if chance.random() < 0.15:
            route = b"<sip:127.0.0.1:%d;lr;x=%s>" % (
                self.own[1],
                b"r" * chance.choice((1, 200, 600)),
            )
            answer.set(b"Record-Route", *[route] * chance.choice((1, 3, 5)))
        return answer


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
