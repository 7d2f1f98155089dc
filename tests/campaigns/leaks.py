"""Many plain calls, then nothing may be left: `python -m tests.campaigns.leaks [--calls N]`.

The calls take every ordinary way through the engine. Afterwards nothing of them may be left: calls,
legs, dialogs, transactions, tasks, leases, descriptors. Its memory must have stopped growing, and
each call must have exactly one record.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter, deque
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.campaigns import packet
from tests.campaigns.packet import Packet
from tests.campaigns.site import Site, open_site
from tests.campaigns.switchboard import Switchboard

LINGER_S = 32.0  # a transaction outlives its call by this time (RFC 3261 17.2.2, Timer J)
HURRIED_LINGER_S = 2.0
# Of resident memory, from half of the calls to all of them. Half of them must take longer than
# the linger, otherwise the first transactions have not expired yet: choose the rate accordingly.
GROWTH = 1.05
POOLED = 4  # connections that a busy moment may add to the pool of Redis
SLACK_KB = 2048  # allocators grow in steps: allowed growth of a small process in a short run
ANSWER_S = 20.0  # the longest a call may take


@dataclass(frozen=True)
class Way:
    """One ordinary way of a call: the called number, the caller's actions, and the expected
    code."""

    number: str
    code: int
    cancels: bool = False


def to(kind: str, number: str) -> dict[str, object]:
    """A forward that is on."""
    return {"on": True, "to": {"kind": kind, "number": number}}


NUMBERS = [f"+33972110{n:03d}" for n in range(10)]
ANSWERS, HANGS_UP, RINGS, BUSY, AWAY, REFUSES, ALWAYS, NOBODY, MAILBOX, CHAIN = NUMBERS
WAYS = {
    "answered, the caller hangs up": Way(ANSWERS, 200),
    "answered, the phone hangs up": Way(HANGS_UP, 200),
    "cancelled while ringing": Way(RINGS, 487, cancels=True),
    "busy, forwarded to a number": Way(BUSY, 200),
    "no registration": Way(AWAY, 480),
    "refused by the phone": Way(REFUSES, 488),
    "all calls to voicemail": Way(ALWAYS, 200),
    "unknown line": Way(NOBODY, 404),
    "no registration, forwarded to voicemail": Way(MAILBOX, 200),
    "forwarded to a line that is busy and forwards": Way(CHAIN, 200),
}


class Leaked(AssertionError):
    """State is left, or a call failed."""


def write_lines(site: Site, phones: Switchboard) -> None:
    """Write a line for each way; the contact's user part selects the phone's behaviour."""
    outside = to("number", "+33186000001")
    voicemail = to("voicemail", ANSWERS)
    site.write_line(ANSWERS, (phones.uri("answer"),), max_calls=100_000)
    site.write_line(HANGS_UP, (phones.uri("bye"),), max_calls=100_000)
    site.write_line(RINGS, (phones.uri("ring"),), max_calls=100_000)
    site.write_line(BUSY, (phones.uri("busy"),), forwards={"busy": outside})
    site.write_line(AWAY)
    site.write_line(REFUSES, (phones.uri("refuse"),))
    site.write_line(ALWAYS, forwards={"unconditional": voicemail})
    site.write_line(MAILBOX, forwards={"unreachable": voicemail})
    site.write_line(CHAIN, forwards={"unconditional": to("number", BUSY)})


async def place(site: Site, calls: int, rate: float) -> tuple[list[str], int]:
    """Place the calls; returns their Call-IDs, and the resident memory at half of them."""
    engine = site.engine
    ways = list(WAYS.items())
    placed: list[str] = []
    async with AsyncExitStack() as stack:
        caller = await Switchboard.open(engine.address)
        stack.callback(caller.close)
        phones = await Switchboard.open(engine.address)
        stack.callback(phones.close)
        for port in engine.ports.values():
            stack.callback((await Switchboard.open(engine.address, port)).close)
        write_lines(site, phones)
        await asyncio.sleep(1.0)
        start = time.monotonic()
        half_kb = 0
        for turn in range(calls):
            name, way = ways[turn % len(ways)]
            invite: Packet = packet.request(caller.own, engine.address, way.number.encode())
            placed.append(caller.call(name, invite, way.code, cancels=way.cancels))
            if turn == calls // 2:
                half_kb = engine.resident_kb
            ahead_s = start + (turn + 1) / rate - time.monotonic()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            if engine.status() is not None:
                raise Leaked(engine.death())
        deadline = time.monotonic() + ANSWER_S
        while caller.pending and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        if caller.pending or caller.surprises:
            left = Counter(name for name, _ in caller.pending.values())
            odd = list(deque(caller.surprises, maxlen=3))
            raise Leaked(f"calls without their end: {dict(left)}; unexpected ends: {odd}")
    return placed, half_kb


def look(site: Site, placed: list[str], before: int, half_kb: int, linger_s: float) -> str:
    """Wait for the linger, then check that nothing is left; returns a summary. Raises Leaked."""
    engine = site.engine
    full_kb = engine.resident_kb
    problems = []
    if standing := engine.settle(linger_s + 10):
        problems.append(f"standing {standing}, open {engine.counts()['open']}")
    if active := engine.metric("renvoi_active_calls"):
        problems.append(f"renvoi_active_calls {active:.0f}")
    if leases := sum(site.redis.zcard(key) for key in site.redis.scan_iter("live:*")):
        problems.append(f"{leases} leases")
    if (after := engine.descriptors) > before + POOLED:
        problems.append(f"{after} descriptors, {before} before")
    if full_kb > max(half_kb * GROWTH, half_kb + SLACK_KB):
        problems.append(f"memory grew from {half_kb} KB at half of the calls to {full_kb} KB")
    entries: list[tuple[str, dict[str, str]]] = site.redis.xrange("cdr")  # type: ignore[assignment]
    records = Counter(entry["call_id"] for _, entry in entries)
    wrong = {call_id: records[call_id] for call_id in placed if records[call_id] != 1}
    if wrong or len(records) != len(placed):
        some = dict(list(wrong.items())[:5])
        problems.append(f"{len(records)} calls recorded of {len(placed)}; not once: {some}")
    if trouble := engine.trouble():
        problems.append(trouble[0])
    if problems:
        raise Leaked("; ".join(problems))
    return f"{len(placed)} calls; memory {half_kb} KB at half, {full_kb} KB at the end"


def run(calls: int, rate: float, *, hurry: bool = False) -> str:
    """Run the campaign; returns a summary in one line. Raises Leaked."""
    settings = {"limits": {"forwards_per_line": 0, "calls": 0}, "log": {"level": "warning"}}
    with open_site(settings, hurry=hurry) as site:
        before = site.engine.descriptors
        placed, half_kb = asyncio.run(place(site, calls, rate))
        linger_s = HURRIED_LINGER_S if hurry else LINGER_S
        return "leaks: " + look(site, placed, before, half_kb, linger_s)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=100.0, help="new calls a second")
    options = parser.parse_args()
    try:
        print(run(options.calls, options.rate))
    except Leaked as leaked:
        print(f"leaks: {leaked}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
