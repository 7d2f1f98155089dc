"""The core without sockets: `python -m tests.campaigns.inside [--messages N] [--seed S]`.

The crowd of `tests.campaigns.structured` in one process with the core, thousands of messages a
second, on a clock that jumps: callers and phones on UDP and TCP, strangers, whole dialogs with some
hostile messages in both directions. `RENVOI_SIP_CORE` selects the build. At the end every table
must be empty. Exceptions are reported once per place.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from sip import layer as layer_module
from sip.address import Address
from sip.connection_limits import PeerKind
from sip.endpoint import Endpoint
from sip.flow import Flow
from sip.names import Place
from sip.screening import Rejection
from sip.settings import Settings
from sip.streams import Connection, Kind
from tests.campaigns import packet
from tests.campaigns.board import Board
from tests.campaigns.crowd import Crowd
from tests.campaigns.mutation import mutate
from tests.campaigns.packet import Packet
from tests.campaigns.quick_loop import QuickLoop
from tests.campaigns.wounds import wound

ENGINE = ("127.0.0.1", 5080)
TCP_PORT = 5081
STRANGER = "127.0.0.9"
METHODS = (
    b"INVITE", b"OPTIONS", b"REGISTER", b"BYE", b"ACK", b"CANCEL", b"UPDATE", b"INFO", b"FOO",
    b"PRACK", b"NOTIFY", b"REFER",
)  # fmt: skip
CALLED = b"+33972100200"
SETTLE_S = 400.0  # of simulated time
TURN_S = 0.02  # simulated time between two turns of the crowd


def change(chance: Random, made: Packet) -> bytes:
    """A damaged copy: in its quotes and brackets, or at random."""
    return wound(chance, made) if chance.random() < 0.6 else mutate(chance, made)


class Wire:
    """The network: the endpoint at each address, and the messages between them."""

    def __init__(self, loop: QuickLoop, chance: Random) -> None:
        self.loop, self.chance = loop, chance
        self.there: dict[int, Talker] = {}
        self.ways: dict[tuple[str, int], Line] = {}

    def carry(self, data: bytes, port: int) -> None:
        """Deliver a message of the engine; some are lost, some come twice."""
        far, draw = self.there.get(port), self.chance.random()
        if far is not None and draw > 0.01:
            self.loop.call_soon(far.datagram_received, data, ENGINE)
            if draw > 0.99:
                self.loop.call_later(0.5, far.datagram_received, data, ENGINE)


class Line:
    """A way over UDP."""

    reliable = is_gone = False
    carried = None
    transport = "udp"
    via = b"SIP/2.0/UDP %s:%d" % (ENGINE[0].encode(), ENGINE[1])
    contact = b"sip:renvoi@%s:%d" % (ENGINE[0].encode(), ENGINE[1])
    local = ENGINE
    most = 65_507  # bytes of a message

    def __init__(self, wire: Wire, host: str, port: int) -> None:
        self._wire, self.host, self.port = wire, host.encode(), port

    @property
    def flow(self) -> Flow:
        return Flow("udp", self.host.decode(), self.port)

    def prove(self) -> None:
        """Nothing to prove."""

    def with_port(self, port: int) -> Line:
        return Socket(self._wire).way_to(self.host.decode(), port)

    def send(self, data: bytes) -> bool:
        self._wire.carry(data, self.port)
        return self._wire.chance.random() > 0.002  # sometimes the kernel refuses


class Socket:
    """The engine's UDP socket."""

    ipv6 = False
    via, contact = Line.via, Line.contact

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def way_to(self, host: str, port: int) -> Line:
        ways = self._wire.ways
        if (host, port) not in ways:
            ways[host, port] = Line(self._wire, host, port)
        return ways[host, port]


class Pipe:
    """The engine's end of a connection, as an asyncio transport; `far` gets what it writes."""

    def __init__(self, loop: QuickLoop, far: Talker, port: int) -> None:
        self._loop, self.far, self.port = loop, far, port
        self._buffer = b""
        self.protocol: Any = None
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", TCP_PORT) if name == "sockname" else default

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        if not self.closed:
            self._loop.call_soon(self.far.datagram_received, data, ENGINE)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def say(self, data: bytes) -> None:
        """Bytes from the far end."""
        if not self.closed:
            self.protocol.data_received(data)


class Talker(Crowd):
    """Callers and phones at one address, on UDP."""

    def __init__(
        self, inside: Inside, host: str, port: int, wildness: float, trail: deque[bytes]
    ) -> None:
        super().__init__(inside.chance, ENGINE, wildness, trail, change)
        self._inside = inside
        self.own = (host, port)
        inside.wire.there[port] = self
        self._transport = Any  # type: ignore[assignment]

    def put(self, raw: bytes) -> None:
        if raw:
            self._trail.append(raw)
            self.sent += 1
            self._inside.loop.call_soon(self._inside.hear, raw[:65000], self.own)

    def close(self) -> None:
        """Nothing to close."""


class StreamTalker(Talker):
    """The same on TCP: its own connections, and those that the engine opens."""

    pipes: list[Pipe]

    def uri(self) -> str:
        return super().uri() + ";transport=tcp"

    def put(self, raw: bytes) -> None:
        chance = self._chance
        if not raw:
            return
        raw = raw.replace(b"SIP/2.0/UDP", b"SIP/2.0/TCP").replace(
            b"@127.0.0.1:%d>" % self.own[1], b"@127.0.0.1:%d;transport=tcp>" % self.own[1]
        )
        self._trail.append(raw)
        self.sent += 1
        self.pipes = [pipe for pipe in self.pipes if not pipe.closed]
        if len(self.pipes) < 6:
            self.pipes.append(self._inside.accept(self))
        pipe = chance.choice(self.pipes)
        cut = chance.randrange(len(raw)) if chance.random() < 0.3 else len(raw)
        loop = self._inside.loop
        loop.call_soon(pipe.say, raw[:cut])
        if chance.random() > 0.02:  # otherwise the rest never comes
            loop.call_soon(pipe.say, raw[cut:])
        if chance.random() < 0.01:
            loop.call_soon(pipe.close)


class AdmissionPolicy:
    """Admits nearly every call."""

    draining = False

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def ask(self, source: bytes, target: bytes) -> Rejection | None:
        return Rejection("overload", 503, 2) if self._chance.random() < 0.02 else None

    def waited(self, seconds: float) -> None:
        """Ignored."""


class Inside:
    """The endpoint, its board and its peers."""

    def __init__(self, loop: QuickLoop, chance: Random) -> None:
        self.loop, self.chance = loop, chance
        self.trail: deque[bytes] = deque(maxlen=200)
        self.wrong: dict[str, str] = {}
        self.times: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.wire = Wire(loop, chance)
        self.udp = [Talker(self, "127.0.0.1", 6001 + n, 0.35, self.trail) for n in range(5)]
        self.tcp = StreamTalker(self, "127.0.0.1", 6101, 0.35, self.trail)
        self.tcp.pipes = []
        self.stranger = Talker(self, STRANGER, 6201, 1.0, self.trail)
        phones = [talker.uri() for talker in (*self.udp[3:], self.tcp)]
        self.board = Board(chance, [*phones, *phones, "sip:x@name.invalid", "sip:x@127.0.0.1:9"])
        self.endpoint = self._endpoint()
        self.board.endpoint = self.endpoint
        loop.set_exception_handler(lambda _, context: self._on_context(context))
        loop.connect = self._connect

    def _endpoint(self) -> Endpoint:
        endpoint = Endpoint(
            Settings(
                listen=(), advertise=None, trusted_peers=("127.0.0.1/32",),
                registrar_peers=("127.0.0.0/8",), outbound_proxy=None,
                nameservers=(("127.0.0.1", 1),), connections=60,
            ),
            on_invite=self.board.on_invite,
            policy=AdmissionPolicy(self.chance),
            on_rejected=self._on_rejected,
            on_register=self.board.on_register,
            on_race=lambda what: None,
            on_connection=lambda reason, detail: self.rejected.update([reason]),
            on_error=lambda error, call_id: self.note(error),
            on_message=lambda seen: None,
        )  # fmt: skip
        transports: Any = endpoint.transports
        transports._by_family[False] = Socket(self.wire)
        kind = Kind(
            "tcp",
            False,
            b"SIP/2.0/TCP 127.0.0.1:%d" % TCP_PORT,
            b"sip:renvoi@127.0.0.1:%d;transport=tcp" % TCP_PORT,
            "127.0.0.1",
        )
        streams: Any = endpoint.streams
        streams._kinds["tcp", False] = self.kind = kind
        names: Any = endpoint.names
        names.known, names.tell = lambda place: None, self._resolve
        return endpoint

    def _resolve(self, place: Place, found: Callable[[list[Address]], None]) -> None:
        """A slow name server with few names."""
        known = [Address("udp", "127.0.0.1", 6004)] if self.chance.random() < 0.3 else []
        self.loop.call_later(self.chance.choice((0.1, 3.0)), found, known)

    def _on_rejected(self, reason: str, detail: Callable[[], str], source: bytes) -> None:
        self.rejected[reason] += 1
        detail()

    def note(self, error: BaseException) -> None:
        """An exception in the core: kept once per place, with the messages before it."""
        frames = traceback.extract_tb(error.__traceback__)
        place = (
            f"{type(error).__name__} {frames[-1].name if frames else ''}:"
            f"{frames[-1].lineno if frames else ''}"
        )
        self.times[place] += 1
        if place not in self.wrong:
            text = "".join(traceback.format_exception(error))
            self.wrong[place] = f"{text}\nlast: {self.trail[-1] if self.trail else b''!r}"

    def _on_context(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.note(error if error is not None else RuntimeError(context["message"]))

    # -- what crosses -----------------------------------------------------------------------------

    def hear(self, raw: bytes, source: tuple[str, int]) -> None:
        self.endpoint.receive(raw, Socket(self.wire).way_to(*source))

    def accept(self, talker: StreamTalker) -> Pipe:
        """A connection from a talker."""
        streams = self.endpoint.streams
        port = 20_000 + self.chance.randrange(40_000)
        place = streams.room.take("127.0.0.1", PeerKind.PEER)
        pipe = Pipe(self.loop, talker, port)
        if isinstance(place, str):
            pipe.closed = True
            return pipe
        made = Connection(streams, self.kind, ("127.0.0.1", port), "", PeerKind.PEER, place)
        pipe.protocol = made
        made.connection_made(pipe)  # type: ignore[arg-type]
        return pipe

    def _connect(self, make: Callable[[], Any], host: str, port: int) -> None:
        if port != self.tcp.own[1] or self.chance.random() < 0.05:
            raise ConnectionRefusedError("nobody there")
        pipe = Pipe(self.loop, self.tcp, port)
        pipe.protocol = make()
        self.tcp.pipes.append(pipe)
        pipe.protocol.connection_made(pipe)

    @property
    def sent(self) -> int:
        return sum(talker.sent for talker in self.wire.there.values())

    def standing(self) -> dict[str, int]:
        """Tables that are not empty."""
        layer, streams = self.endpoint.layer, self.endpoint.streams
        counts = {
            "legs": len(layer.legs), "servers": len(layer.servers), "clients": len(layer.clients),
            "merged": len(layer.merged), "past": len(layer.past), "timers": layer.wheel.waiting,
            "waiting": len(self.endpoint.waiting), "connections": len(streams.connections),
            "places": streams.room.count, "sources": len(streams.room.sources),
        }  # fmt: skip
        return {name: count for name, count in counts.items() if count}

    def examples(self) -> str:
        """Some of the remaining transactions."""
        layer = self.endpoint.layer
        left = [*layer.clients.values(), *layer.servers.values()][:10]
        return "\n".join(
            f"{one.method!r} in state {one.state} of {one.user!r}, {one.cseq}" for one in left
        )

    async def rage(self, messages: int) -> None:
        """Send `messages` messages, then be silent until nothing is in progress."""
        chance = self.chance
        await self.endpoint.start()
        callers = [*self.udp[:3], self.tcp]
        while self.sent < messages:
            for caller in callers:
                caller.call(CALLED)
            for talker in (self.stranger, chance.choice(callers)):
                made = packet.request(
                    talker.own,
                    ENGINE,
                    CALLED,
                    chance.choice(METHODS),
                    chance.choice((b"", packet.SDP)),
                )
                talker.say(made, 0.9)
            await asyncio.sleep(TURN_S)
        await asyncio.sleep(120)
        for pipe in self.tcp.pipes:
            pipe.close()
        await asyncio.sleep(SETTLE_S)


def run(messages: int, seed: int) -> tuple[str, dict[str, str]]:
    """Run the campaign; returns a summary in one line, and the faults by place."""
    began, clock = time.monotonic(), layer_module._now_ms
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        loop: Any = runner.get_loop()

        async def main() -> Inside:
            layer_module._now_ms = lambda: int(loop.time() * 1000)
            inside = Inside(loop, Random(seed))
            await inside.rage(messages)
            return inside

        try:
            inside = runner.run(main())
        finally:
            layer_module._now_ms = clock
    took_s = time.monotonic() - began
    wrong = {f"{place} ({inside.times[place]} times)": text for place, text in inside.wrong.items()}
    if left := inside.standing():
        wrong[f"left over: {left}"] = inside.examples()
    odd = dict(inside.endpoint.illegal_counts)
    build = "compiled" if layer_module.__file__.endswith(".so") else "uncompiled"
    return (
        f"inside ({build}): seed {seed}, {inside.sent} messages in {took_s:.0f} s "
        f"({inside.sent / took_s:.0f} a second), {inside.tcp.sent} over TCP; "
        f"{inside.rejected['malformed']} malformed, {inside.board.answered} calls answered, "
        f"{inside.board.registers} registrations; odd {odd}", wrong,
    )  # fmt: skip


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=50_000, help="how many to send")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, help="where to write the faults")
    options = parser.parse_args()
    summary, wrong = run(options.messages, options.seed)
    print(summary)
    text = "\n\n".join(f"== {place}\n{text}" for place, text in wrong.items())
    print(text if options.report is None else "\n".join(wrong), file=sys.stderr)
    if options.report is not None:
        options.report.write_text(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
