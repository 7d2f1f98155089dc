"""The cost of a flood of chosen identifiers: `python -m tests.campaigns.chosen [--messages N]`.

INVITEs, and messages that belong to no call: once with random Call-IDs, tags and branches and once
with chosen ones. These have long common prefixes, differ in one byte, end in counters, have the
maximum length, or collide in hash tables without a key (FNV and DJB2 families, and Python's own
hash with a known seed). Prints CPU per message and the ratio to random identifiers, the best of
several turns. In a table that degrades the ratio grows with N.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import secrets
import sys
import time
from collections.abc import Iterator

from sip import layer as layer_module
from tests.campaigns.quick_loop import QuickLoop
from tests.sip.house import CALLER, House

TURNS = 3


def random_names() -> Iterator[str]:
    while True:
        yield secrets.token_hex(12)


def counted() -> Iterator[str]:
    return (f"{'a' * 16}{n:08d}" for n in itertools.count())


def one_byte() -> Iterator[str]:
    return (f"{n >> 12:04x}{'a' * 16}{n & 0xFFF:04x}" for n in itertools.count())


def djb2() -> Iterator[str]:
    """Pairs of letters that collide under DJB2 and similar hashes (h * 33 + c)."""
    pairs = itertools.product(("Ez", "FY"), repeat=12)
    return itertools.cycle("".join(one) for one in pairs)


def sums() -> Iterator[str]:
    """Strings of twelve letters with the same sum."""
    return (
        "".join(chr(97 + (n >> 2 * k & 3)) + chr(100 - (n >> 2 * k & 3)) for k in range(12))
        for n in itertools.count()
    )


def one_place() -> Iterator[str]:
    """Names that this process hashes to 1 of 64 slots: no outside attacker can do better."""
    return (name for name in counted() if hash(name.encode()) & 63 == 0)


NAMES = {
    "random": random_names, "counted": counted, "one byte": one_byte, "djb2": djb2, "sums": sums,
    "one place of 64": one_place,
}  # fmt: skip


def messages(kind: str, count: int) -> list[bytes]:
    """Half of them calls, the rest requests and responses that belong to no call."""
    names = NAMES[kind]()
    made = []
    for n, name in enumerate(itertools.islice(names, count)):
        method = ("INVITE", "BYE", "INVITE", "CANCEL")[n % 4]
        start = f"{method} sip:b@example.com SIP/2.0" if n % 8 != 5 else "SIP/2.0 200 OK"
        made.append(
            f"{start}\r\nVia: SIP/2.0/UDP 127.0.0.1:{CALLER};rport;branch=z9hG4bK{name}\r\n"
            f"From: <sip:a@example.com>;tag={name}\r\nTo: <sip:b@example.com>"
            f"{';tag=' + name if method == 'BYE' else ''}\r\nCall-ID: {name}\r\n"
            f"CSeq: 1 {method}\r\nMax-Forwards: 70\r\n"
            f"Contact: <sip:a@127.0.0.1:{CALLER}>\r\n\r\n".encode()
        )
    return made


async def cost_us(raw: list[bytes]) -> float:
    """CPU per message; all calls are in progress at the end."""
    home = House()
    home.dials = False
    line = home.line(CALLER)
    began = time.process_time()
    for one in raw:
        home.endpoint.receive(one, line)
        line.sent.clear()
    return (time.process_time() - began) * 1e6 / len(raw)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=40_000)
    options = parser.parse_args()
    layer_module._now_ms = lambda: 0
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        floods = {kind: messages(kind, options.messages) for kind in NAMES}
        costs = {
            kind: min(runner.run(cost_us(raw)) for _ in range(TURNS))
            for kind, raw in floods.items()
        }
    for kind, cost in costs.items():
        print(f"{kind:16} {cost:6.1f} us a message, {cost / costs['random']:.2f} x random")
    return 0


if __name__ == "__main__":
    sys.exit(main())
