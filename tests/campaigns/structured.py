"""Structured hostile SIP: `python -m tests.campaigns.structured [--messages N] [--seed S]`.

Messages with unclosed quotes and brackets, header fields hidden behind them, false line ends and
invalid hosts, over UDP and TCP (whole, in pieces, joined), from strangers and from peers, outside
and inside calls, as requests of callers and as responses of phones. The engine is an ordinary
process, observed through its sockets, `/metrics`, `/calls` and its log: it must survive, log no
error, connect a plain call afterwards and keep no state.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from random import Random

from tests.campaigns import packet
from tests.campaigns.crowd import Crowd
from tests.campaigns.fuzz import Broken, keep
from tests.campaigns.hose import Hose
from tests.campaigns.packet import Packet
from tests.campaigns.stream_crowd import StreamCrowd
from tests.campaigns.wounds import wound
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup
from tests.scenarios.sipp import HOST, free_port

WILDNESS = 0.3  # the share of messages of calls that are damaged
STRANGER = "127.0.0.9"
METHODS = (
    b"INVITE", b"OPTIONS", b"REGISTER", b"BYE", b"ACK", b"CANCEL", b"UPDATE", b"INFO", b"FOO",
)  # fmt: skip
SETTLE_S = 150.0  # 64*T1 for what never answers, twice, and the longest call
# Gauges that are zero when nothing is in progress.
GAUGES = ("active_calls", "legs", "sip_dialogs", "sip_transactions", "call_tasks", "cdr_backlog",
          "connections")  # fmt: skip
PLAIN, BUSY, AWAY, ALWAYS, TWO = (f"+3397210020{n}" for n in range(5))


def settings(udp: int, tcp: int) -> dict[str, dict[str, object]]:
    """An engine with trusted peers and strangers, and with short calls."""
    return {
        "sip": {
            "listen": [f"udp:{HOST}:{udp}", f"tcp:{HOST}:{tcp}"],
            "nameservers": ["127.0.0.1:1"],
        },
        "timers": {"pre_ringing_s": 1, "max_ring_s": 2, "max_call_s": 5, "drain_s": 1},
        "limits": {"forwards_per_line": 0, "wait_s": 0},
    }


class Ground:
    """The engine, its Redis and its peers."""

    def __init__(self, directory: Path, chance: Random) -> None:
        self.tcp = free_port(socket.SOCK_STREAM)
        self.server = RedisServer(directory)
        self.engine = Engine(directory, self.server.url, settings(free_port(), self.tcp))
        self.directory = directory
        self.chance = chance
        self.trail: deque[bytes] = deque(maxlen=4000)
        self.crowds: list[Crowd] = []
        self.thrown = 0

    @property
    def sent(self) -> int:
        return self.thrown + sum(crowd.sent for crowd in self.crowds)

    def write_line(self, number: str, contacts: tuple[str, ...], **fields: object) -> None:
        document = {"number": number, "fleet": "acme", **fields}
        self.server.client.set(f"line:{number}", json.dumps(document))
        for uri in contacts:
            self.server.client.zadd(f"reg:{number}", {uri: time.time() + 36_000})

    def write_lines(self, phones: tuple[str, ...]) -> list[bytes]:
        """Write lines for the ways that a call can take."""
        outside = {"on": True, "to": {"kind": "number", "number": "+33186000001"}}
        voicemail = {"on": True, "to": {"kind": "voicemail", "number": PLAIN}}
        self.write_line(PLAIN, phones[:1])
        self.write_line(BUSY, phones[2:], forwards={"busy": outside})
        self.write_line(AWAY, (), forwards={"unreachable": voicemail})
        self.write_line(ALWAYS, (), forwards={"unconditional": outside})
        self.write_line(TWO, phones, forwards={"busy": voicemail, "unreachable": outside})
        return [line.encode() for line in (PLAIN, BUSY, AWAY, ALWAYS, TWO)]

    def check(self, doing: str) -> None:
        """Raise Broken unless the engine runs, answers and has logged no error."""
        if (status := self.engine.status()) is not None:
            raise Broken(f"{doing}: the engine ended with {status}\n{self.engine.log[-1500:]}")
        if self.engine.get("/healthz")[0] != 200:
            raise Broken(f"{doing}: no /healthz")
        if complaints := self.engine.complaints():
            raise Broken(f"{doing}: {complaints[0]}")

    def standing(self) -> dict[str, float]:
        """The gauges that are not zero, and the calls of `/calls`."""
        left = {name: self.engine.metric(f"renvoi_{name}") for name in GAUGES}
        shown = json.loads(self.engine.get("/calls")[1])
        left["calls"] = len(shown if isinstance(shown, list) else shown.get("calls", ()))
        return {name: value for name, value in left.items() if value}

    async def settle(self) -> None:
        """Wait until nothing is in progress."""
        deadline = time.monotonic() + SETTLE_S
        while standing := self.standing():
            if time.monotonic() > deadline:
                raise Broken(f"left after {SETTLE_S} s: {standing}")
            await asyncio.sleep(0.5)

    # -- the messages -----------------------------------------------------------------------------

    def alone(self, crowd: Crowd, called: bytes) -> Packet:
        """A request that belongs to no call."""
        chance = self.chance
        made = packet.request(
            crowd.own, self.engine.address, called, chance.choice(METHODS),
            chance.choice((b"", packet.SDP)),
        )  # fmt: skip
        if chance.random() < 0.2:
            made.set(b"To", made.get(b"To") + b";tag=x")
        return made

    def over_tcp(self, called: bytes) -> bytes:
        """A message that was sent over UDP, or a new request, for a TCP connection."""
        chance = self.chance
        if self.trail and chance.random() < 0.5:
            return chance.choice(self.trail).replace(b"SIP/2.0/UDP", b"SIP/2.0/TCP", 1)
        made = packet.request((HOST, 9), (HOST, self.tcp), called, chance.choice(METHODS))
        made.set(b"Via", made.get(b"Via").replace(b"UDP", b"TCP"))
        made.set(b"Contact", b"<sip:x@127.0.0.1:9;transport=tcp>")
        return wound(chance, made) if chance.random() < 0.8 else made.render()

    async def rage(self, messages: int, pace: int) -> None:
        """Send `messages` messages, about `pace` per second."""
        chance, address = self.chance, self.engine.address
        loop = asyncio.get_running_loop()
        ports = (0, 0, 0, *self.engine.ports.values())
        for port in ports:
            crowd = await Crowd.open(chance, address, WILDNESS, self.trail, port, wound)
            self.crowds.append(crowd)
        stranger = await Crowd.open(chance, address, 1.0, self.trail, 0, wound, STRANGER)
        self.crowds.append(stranger)
        callers, *phones = self.crowds[:3]
        stream = await StreamCrowd.listen(chance, (HOST, self.tcp), WILDNESS, self.trail, wound)
        self.crowds.append(stream)
        phones.append(stream)
        lines = self.write_lines(tuple(phone.uri() for phone in phones))
        hose = Hose(chance, (HOST, self.tcp))
        began, looked = loop.time(), loop.time()
        try:
            while self.sent < messages and self.engine.status() is None:
                line = chance.choice(lines)
                callers.call(line)
                if chance.random() < 0.3:
                    stream.call(line)
                for crowd in (callers, stranger):
                    for _ in range(3):
                        crowd.say(self.alone(crowd, line), 0.9)
                await hose.throw(self.over_tcp(line))
                self.thrown += 1
                ahead_s = self.sent / pace - (loop.time() - began)
                await asyncio.sleep(max(0.0, ahead_s))
                if loop.time() - looked > 5.0:
                    looked = loop.time()
                    await asyncio.to_thread(self.check, f"after {self.sent} messages")
            await asyncio.sleep(1.0)
        finally:
            await hose.close()
            for crowd in self.crowds:
                crowd.close()
            await stream.gone()

    async def probe(self) -> None:
        """A plain call from end to end."""
        with_servers = RunningEngine(self.engine, self.server.client, self.directory)
        async with with_servers.endpoints() as servers, Setup(with_servers, servers) as setup:
            line, phone = await setup.line_with_phone()
            call = await setup.call(line)
            ring = await phone.incoming()
            ring.respond(200, body=packet.SDP)
            call.ack(await call.receive(200))
            await ring.receive("ACK")
            await call.hang_up()


def run(messages: int, seed: int, *, pace: int = 1500, trails: Path | None = None) -> str:
    """Run the campaign; returns a summary in one line. Raises Broken at the first failure."""
    with tempfile.TemporaryDirectory(prefix="structured-") as name:
        ground = Ground(Path(name), Random(seed))
        ground.server.start()
        try:
            ground.engine.start()
            try:
                return asyncio.run(_run(ground, messages, seed, pace))
            except Broken as broken:
                where = keep(trails / f"seed-{seed}", list(ground.trail)) if trails else "not kept"
                raise Broken(f"seed {seed}: {broken} (last messages: {where})") from None
            finally:
                ground.engine.stop()
        finally:
            ground.server.stop()


async def _run(ground: Ground, messages: int, seed: int, pace: int) -> str:
    began = time.monotonic()
    await ground.rage(messages, pace)
    took_s = time.monotonic() - began
    ground.check("the last message")
    await ground.settle()
    ground.check("settling")
    await ground.probe()
    metric = ground.engine.metric
    streamed = ground.thrown + sum(
        crowd.sent for crowd in ground.crowds if isinstance(crowd, StreamCrowd)
    )
    answered = metric("renvoi_calls_total", outcome="answered")
    refused = metric("renvoi_rejected_total", reason="malformed")
    if answered * 1000 < messages or refused * 10 < messages:
        raise Broken(f"only {answered:.0f} answered, {refused:.0f} malformed: this proves little")
    return (
        f"structured: seed {seed}, {ground.sent} messages in {took_s:.0f} s, {streamed} of "
        f"them over TCP; {refused:.0f} malformed, {answered:.0f} calls answered; no death, "
        "no error, nothing left"
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000, help="how many to send")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pace", type=int, default=1500, help="messages a second, about")
    parser.add_argument("--trails", type=Path, help="where to keep the messages before a death")
    options = parser.parse_args()
    try:
        print(run(options.messages, options.seed, pace=options.pace, trails=options.trails))
    except Broken as broken:
        print(f"structured: {broken}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
