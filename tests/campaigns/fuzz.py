"""Hostile SIP against a running engine: `python -m tests.campaigns.fuzz [--seconds N] [--seed S]`.

First the named cases and the torture messages, then a crowd of callers and phones whose messages
are damaged at random. The engine must survive, answer, log no internal error, connect a plain call
afterwards, and keep no state.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import time
from collections import deque
from contextlib import closing
from pathlib import Path
from random import Random

from tests.campaigns import packet
from tests.campaigns.cases import CASES
from tests.campaigns.crowd import Crowd
from tests.campaigns.hose import Hose
from tests.campaigns.mutation import mutate
from tests.campaigns.peer import Peer
from tests.campaigns.play import play, probe
from tests.campaigns.site import Site, open_site
from tests.campaigns.torture import TORTURES
from tests.scenarios.sipp import HOST, free_port

UDP, TCP = free_port(), free_port(socket.SOCK_STREAM)
SETTINGS = {
    "timers": {"pre_ringing_s": 0.4, "max_ring_s": 1.2, "max_call_s": 4, "drain_s": 1},
    "limits": {"forwards_per_line": 0},
    "sip": {
        "listen": [f"udp:{HOST}:{UDP}", f"tcp:{HOST}:{TCP}"],
        "nameservers": ["127.0.0.1:1"],
    },
}
SETTLE_S = 30.0
WILDNESS = 0.45  # the share of messages that are damaged
TRAIL = 4000  # messages kept for the report if the engine dies
PLAIN, BUSY, AWAY, ALWAYS, TWO, CHAIN = (f"+3397210010{n}" for n in range(6))


class Broken(AssertionError):
    """The engine failed a requirement."""


def check(site: Site, doing: str) -> None:
    """Raise Broken unless the engine runs, answers and has logged no error."""
    if site.engine.status() is not None:
        raise Broken(f"{doing}: {site.engine.death()}")
    if site.engine.get("/healthz")[0] != 200:
        raise Broken(f"{doing}: no /healthz")
    if trouble := site.engine.trouble():
        raise Broken(f"{doing}: {trouble[0]}")


def play_cases(site: Site, names: list[str]) -> None:
    """Play the named cases, one by one."""
    for name in names:
        if problem := play(site, name, settle=False):
            raise Broken(f"case {name}: {problem}")


def play_tortures(site: Site) -> None:
    """Send each torture message once."""
    with closing(Peer(site.engine.address)) as peer:
        for name, make in TORTURES.items():
            peer.send(make(peer.own, peer.engine, PLAIN.encode()))
            time.sleep(0.005)
            check(site, f"torture {name}")


def write_lines(site: Site, phones: list[str]) -> None:
    """Write lines for every way that a call can take."""
    outside = {"kind": "number", "number": "+33186000001"}
    voicemail = {"kind": "voicemail", "number": PLAIN}
    site.write_line(PLAIN, (phones[0],))
    site.write_line(BUSY, (phones[0],), forwards={"busy": {"on": True, "to": outside}})
    site.write_line(AWAY, (), forwards={"unreachable": {"on": True, "to": voicemail}})
    site.write_line(ALWAYS, (), forwards={"unconditional": {"on": True, "to": outside}})
    site.write_line(
        TWO,
        tuple(phones),
        max_calls=3,
        forwards={
            "busy": {"on": True, "to": {"kind": "number", "number": PLAIN}},
            "unreachable": {"on": True, "to": voicemail},
        },
    )
    site.write_line(
        CHAIN, (), forwards={"unconditional": {"on": True, "to": {"kind": "number", "number": TWO}}}
    )


async def rage(site: Site, chance: Random, seconds: float, rate: float) -> tuple[int, list[bytes]]:
    """Run the crowd; returns the number of messages sent, and the last of them."""
    engine = site.engine
    trail: deque[bytes] = deque(maxlen=TRAIL)
    opened = [
        await Crowd.open(chance, engine.address, WILDNESS, trail, port)
        for port in (0, 0, 0, *engine.ports.values())
    ]
    callers, phones = opened[0], opened[1:3]
    hose = Hose(chance, (HOST, TCP))
    write_lines(site, [phone.uri() for phone in phones])
    await asyncio.sleep(0.2)
    lines = [line.encode() for line in (PLAIN, BUSY, AWAY, ALWAYS, TWO, CHAIN)]
    until = time.monotonic() + seconds
    turn = 0
    try:
        while time.monotonic() < until and engine.status() is None:
            callers.call(chance.choice(lines))
            turn += 1
            if turn % 50 == 0:
                callers.put(
                    chance.choice(list(TORTURES.values()))(
                        callers.own, engine.address, PLAIN.encode()
                    )
                )
            if turn % 5 == 0 and trail:
                await hose.throw(over_tcp(chance, trail))
            await asyncio.sleep(1 / rate)
        await asyncio.sleep(1.0)
    finally:
        await hose.close()
        for crowd in opened:
            crowd.close()
    return sum(crowd.sent for crowd in opened), list(trail)


def over_tcp(chance: Random, trail: deque[bytes]) -> bytes:
    """A message that was sent over UDP, or a new request, in the form for TCP."""
    if chance.random() < 0.5:
        return chance.choice(trail).replace(b"SIP/2.0/UDP", b"SIP/2.0/TCP", 1)
    own = HOST, 9
    made = packet.request(own, (HOST, TCP), chance.choice((PLAIN, TWO, AWAY)).encode())
    made.set(b"Via", made.get(b"Via").replace(b"UDP", b"TCP"))
    made.set(b"Contact", b"<sip:x@127.0.0.1:9;transport=tcp>")
    return mutate(chance, made) if chance.random() < WILDNESS else made.render()


# Methods that the crowd must have sent, or the campaign proves little.
SAID = ("INVITE", "PRACK", "REFER", "UPDATE", "REGISTER", "OPTIONS", "BYE", "CANCEL")


def keep(directory: Path, trail: list[bytes]) -> Path:
    """Save the last messages, one file each, newest last; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for place, raw in enumerate(trail):
        (directory / f"{place:05d}.sip").write_bytes(raw)
    return directory


def run(
    seconds: float,
    seed: int,
    *,
    rate: float = 100.0,
    cases: list[str] | None = None,
    trails: Path | None = None,
) -> str:
    """Run the campaign; returns a summary in one line. Raises Broken at the first failure."""
    chance = Random(seed)
    with open_site(SETTINGS) as site:
        play_cases(site, list(CASES) if cases is None else cases)
        play_tortures(site)
        sent, trail = asyncio.run(rage(site, chance, seconds, rate))
        try:
            check(site, f"seed {seed}")
        except Broken as broken:
            where = keep(trails / f"seed-{seed}", trail) if trails is not None else "not kept"
            raise Broken(f"{broken} (last {len(trail)} messages: {where})") from None
        standing = site.engine.settle(SETTLE_S)
        check(site, f"seed {seed}, settling")
        if standing:
            open_ones = site.engine.counts()["open"]
            calls = site.engine.calls()[:3]
            raise Broken(
                f"seed {seed}: left after {SETTLE_S} s: {standing}; "
                f"open transactions {open_ones}; calls {calls}"
            )
        if problem := probe(site):
            raise Broken(f"seed {seed}: {problem}")
        answered = site.engine.metric("renvoi_calls_total", outcome="answered")
        if answered < seconds:
            raise Broken(f"seed {seed}: only {answered:.0f} calls answered: this proves little")
        for kind in SAID:
            if not site.engine.metric("renvoi_sip_messages_total", direction="in", kind=kind):
                raise Broken(f"seed {seed}: no {kind} came in: this proves little")
        odd = site.engine.counts()["odd"]
        if odd.get("exception"):
            raise Broken(f"seed {seed}: {odd['exception']} exceptions in callbacks")
        return (
            f"fuzz: seed {seed}, {sent} messages in {seconds:.0f} s, "
            f"{answered:.0f} calls answered, odd {odd}"
        )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of random messages")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100.0, help="new calls a second")
    parser.add_argument("--no-cases", action="store_true", help="only random messages")
    parser.add_argument("--trails", type=Path, help="where to keep the messages before a death")
    options = parser.parse_args()
    cases: list[str] | None = [] if options.no_cases else None
    try:
        print(
            run(
                options.seconds, options.seed, rate=options.rate, cases=cases, trails=options.trails
            )
        )
    except Broken as broken:
        print(f"fuzz: {broken}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
