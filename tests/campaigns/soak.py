"""Mixed calls over a network that loses packets: `python -m tests.campaigns.soak [--calls N]`.

A relay on each side of the engine loses 1 % of what it carries. Callers, phones and destinations
retransmit as RFC 3261 says. Every call must end correctly: one record on the engine, an end on each
endpoint that still exists, an ACK of each final response, and all counts back at zero.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random
from socket import socket
from typing import Any

import uvloop

from tests.campaigns.lossy import Lossy
from tests.campaigns.packet import SDP
from tests.campaigns.party import Asked, Message, Party, Side
from tests.campaigns.roomy import dropped, open_udp
from tests.campaigns.site import Site, open_site

# Longer than any call here lasts or rings, so that only calls that were cut off reach them.
SETTINGS: dict[str, Any] = {
    "timers": {"pre_ringing_s": 4, "max_ring_s": 30, "max_call_s": 15},
    "limits": {"forwards_per_line": 0},
}
AFTER_S = 5  # the shortest no-answer time
# The maximum duration of a call (no answer, target, cut off), and then 64*T1 for losses.
LAST_S = 60.0
# A caller that vanished and whose ACK was lost: the 200 is repeated for 64*T1, then the BYE.
SETTLE_S = 75.0
# Not shortened: endpoints repeat a 2xx after 0.5, 1.5 and 3.5 s, also after the end of the call.
PATIENCE_S = 20.0  # for the next step of the other endpoint
HOLD = SDP + b"a=sendonly\r\n"
# No timer repeats a provisional response. Sent three times, at least one arrives (all but 1e-6).
RINGING_S = (0.0, 0.15, 0.3)


@dataclass(frozen=True)
class Kind:
    """One kind of call: what its phone does (the user part of its contact; "" for none), its
    forwards, the caller's actions after the answer, and the expected result."""

    phone: str
    code: int
    outcome: str
    condition: str = "none"
    destination: str = "line"
    then: str = "hang up"
    forwards: dict[str, str] | None = None


KINDS = {
    "answered, caller hangs up": Kind("answer", 200, "answered"),
    "answered, phone hangs up": Kind("bye", 200, "answered", then="wait"),
    "cancelled": Kind("ring", 487, "cancelled", then="cancel"),
    "busy": Kind("busy", 486, "busy"),
    "busy, to voicemail": Kind(
        "busy", 200, "answered", "busy", "voicemail", forwards={"busy": "voicemail"}
    ),
    "no answer, to a number": Kind(
        "ring", 200, "answered", "no_answer", "number", forwards={"no_answer": "number"}
    ),
    "no registration, to voicemail": Kind(
        "", 200, "answered", "unreachable", "voicemail", forwards={"unreachable": "voicemail"}
    ),
    "silent phone, to voicemail": Kind(
        "dead", 200, "answered", "unreachable", "voicemail", forwards={"unreachable": "voicemail"}
    ),
    "all calls, to a number": Kind(
        "", 200, "answered", "unconditional", "number", forwards={"unconditional": "number"}
    ),
    "held and resumed": Kind("hold", 200, "answered", then="hold"),
    "transferred": Kind("transfer", 200, "answered", then="transfer"),
    "caller cut off": Kind("answer", 200, "answered", then="vanish"),
    "phone cut off": Kind("vanish", 200, "answered", then="hang up late"),
}
NUMBERS = {name: f"+339721200{place:02d}" for place, name in enumerate(KINDS)}
OUTSIDE, MAILBOX = "+33186000001", NUMBERS["answered, caller hangs up"]


# Above this delay of the endpoints, or this number of seconds' worth of calls in progress (two are
# usual), the load is not realistic: no new calls until both are below.
BEHIND_S = 0.2
UNDER_WAY_S = 3.0


class Wrong(AssertionError):
    """The soak found a fault."""


class Soak:
    """The endpoints, their relays, and the state of each call."""

    def __init__(self, site: Site, loss: float, seed: int, *, hurry: bool = False) -> None:
        self._site = site
        self._loss = loss
        self._hurry = hurry
        self._chance = Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.kinds: dict[str, str] = {}  # by Call-ID of the caller
        self.problems: list[str] = []
        self.parties: dict[str, Party] = {}
        self.relays: dict[str, Lossy] = {}
        self._sockets: list[socket] = []
        self.dropped = 0  # packets that the kernel dropped at the endpoints' own sockets

    async def open(self, stack: AsyncExitStack) -> None:
        engine = self._site.engine
        plays: dict[str, Callable[[Side, Message], None] | None] = {
            "caller": None,
            "phone": lambda side, invite: self._start(self._phone(side, invite)),
        }
        for kind in ("voicemail", "fax", "number"):
            plays[kind] = lambda side, invite: self._start(self._target(side, invite))
        loop = asyncio.get_running_loop()
        for name, play in plays.items():
            sock = open_udp()
            _, party = await loop.create_datagram_endpoint(
                lambda name=name, play=play: Party(name, play),  # type: ignore[misc]
                sock=sock,
            )
            relay = await Lossy.open(
                engine.address, party.address, self._loss, self._chance, engine.ports.get(name, 0)
            )
            party.engine, party.outer = relay.inner, relay.outer
            self.parties[name], self.relays[name] = party, relay
            self._sockets += [sock, *relay.sockets]
            stack.callback(relay.close)
            stack.callback(party.close)
        self._write_lines()

    def _write_lines(self) -> None:
        host, port = self.parties["phone"].outer
        targets = {"number": OUTSIDE, "voicemail": MAILBOX}
        for name, kind in KINDS.items():
            contacts = (f"sip:{kind.phone}@{host}:{port}",) if kind.phone else ()
            forwards = {
                condition: {"on": True, "to": {"kind": to, "number": targets[to]}}
                | ({"after_s": AFTER_S} if condition == "no_answer" else {})
                for condition, to in (kind.forwards or {}).items()
            }
            self._site.write_line(NUMBERS[name], contacts, forwards=forwards)

    # -- the calls --------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(repr(error))

    @property
    def under_way(self) -> int:
        return len(self._tasks)

    def place(self, name: str) -> None:
        """Place one call of that kind."""
        side, asked = self.parties["caller"].call(NUMBERS[name].encode(), self._site.engine.address)
        self.kinds[side.call_id.decode()] = name
        self._start(self._caller(KINDS[name], side, asked))

    async def _caller(self, kind: Kind, side: Side, asked: Asked) -> None:
        if kind.then == "cancel":
            await asyncio.wait([side.rang], timeout=3)
            await asyncio.sleep(0.1)
            side.cancel()
        final = await asked.answer
        code = final.code if final is not None else 0
        if code != kind.code:
            self.problems.append(f"{side!r}: {code} instead of {kind.code}")
        if code != 200:
            return
        if kind.then == "vanish":
            await asyncio.sleep(0.3)
            side.vanish()
        elif kind.then.startswith("hang up"):
            await asyncio.sleep(1.0 if kind.then.endswith("late") else self._chance.random())
            await side.hang_up()
        elif kind.then == "hold":
            await asyncio.sleep(0.2)
            await self._reinvite(side, HOLD)
        elif kind.then == "transfer":
            await self._happens(side, side.referred, "REFER")
            # The phone hangs up when it has both requests. The answer to the second may be lost;
            # then the end of the call answers it (487, RFC 3261 15.1.2).
            for state, codes in ((b"active", (200,)), (b"terminated", (200, 487))):
                fields = [(b"Event", b"refer"), (b"Subscription-State", state)]
                await self._expect(side, side.ask(b"NOTIFY", b"SIP/2.0 200 OK", fields), *codes)

    async def _phone(self, side: Side, invite: Message) -> None:
        role = invite.uri.partition(b"@")[0].removeprefix(b"sip:").decode()
        if role == "dead":
            side.vanish()
            return
        if role == "busy":
            side.respond(invite, 486)
            return
        await self._ring(side, invite)
        if role == "ring" or side.state != "early":
            return
        await self._answer(side, invite)
        if role == "vanish":
            side.vanish()
        elif role == "bye":
            await asyncio.sleep(self._chance.random())
            await side.hang_up()
        elif role == "hold":
            await self._happens(side, side.reinvited, "re-INVITE")
            await asyncio.sleep(0.2)
            await self._reinvite(side, SDP)
            await side.hang_up()
        elif role == "transfer":
            to = [(b"Refer-To", b"<sip:+33186000002@soak.example>")]
            await self._expect(side, side.ask(b"REFER", b"", to), 202)
            deadline = time.monotonic() + PATIENCE_S
            while side.notified < 2 and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            if side.notified != 2:
                self.problems.append(f"{side!r}: {side.notified} NOTIFYs instead of 2")
            await side.hang_up()

    async def _target(self, side: Side, invite: Message) -> None:
        await self._ring(side, invite)
        if side.state == "early":
            await self._answer(side, invite)

    async def _ring(self, side: Side, invite: Message) -> None:
        for wait_s in RINGING_S:
            await asyncio.sleep(wait_s)
            if side.state == "early":
                side.respond(invite, 180)

    async def _answer(self, side: Side, invite: Message) -> None:
        side.respond(invite, 200, SDP)
        await self._happens(side, side.acked, "ACK")

    async def _reinvite(self, side: Side, body: bytes) -> None:
        """A re-INVITE that comes before the repetition of a lost ACK, or crosses another one, is
        tried again (RFC 3261 14.1)."""
        for _ in range(10):
            answer = await side.ask(b"INVITE", body).answer
            if answer is not None and answer.code == 200:
                return
            if answer is None or answer.code not in (491, 500):
                break
            await asyncio.sleep(2 * self._chance.random())
        self.problems.append(f"{side!r}: re-INVITE refused")

    async def _expect(self, side: Side, asked: Asked, *codes: int) -> None:
        answer = await asked.answer
        if answer is None or answer.code not in codes:
            got = answer.code if answer is not None else "nothing"
            self.problems.append(f"{side!r}: {asked.method.decode()} got {got}, not {codes}")

    async def _happens(self, side: Side, what: asyncio.Future[None], name: str) -> None:
        done, _ = await asyncio.wait([what], timeout=PATIENCE_S)
        if not done:
            self.problems.append(f"{side!r}: no {name}")

    # -- the end ----------------------------------------------------------------------------------

    def standing(self) -> list[Side]:
        """The sides whose call has not ended."""
        return [
            side
            for party in self.parties.values()
            for side in party.sides.values()
            if side.state not in ("ended", "vanished")
        ]

    def _is_ack_owed(self) -> bool:
        """Whether a side waits for an ACK, and complains if none comes. A hurried engine forgets
        its INVITEs before three copies of a 2xx have come, so then it is not waited for."""
        sides = (side for party in self.parties.values() for side in party.sides.values())
        return not self._hurry and any(side.is_owed_ack for side in sides)

    async def finish(self) -> None:
        """Wait until all sides have ended and have their ACKs; what remains is a problem."""
        deadline = time.monotonic() + LAST_S
        while (
            self.under_way or self.standing() or self._is_ack_owed()
        ) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        self.problems += [f"{side!r}: stands" for side in self.standing()]
        if self._is_ack_owed():
            self.problems.append("a final response still waits for its ACK")
        for party in self.parties.values():
            self.problems += party.complaints
        self.dropped = sum(map(dropped, self._sockets))

    def check_records(self, expected: dict[str, Kind]) -> Counter[str]:
        """Check that each call has one record, with the result of its kind; returns how many are
        right, by kind."""
        entries: list[tuple[str, dict[str, str]]] = self._site.redis.xrange("cdr")  # type: ignore[assignment]
        found: dict[str, list[dict[str, str]]] = {}
        for _, fields in entries:
            found.setdefault(fields["call_id"], []).append(fields)
        right: Counter[str] = Counter()
        for call_id, name in self.kinds.items():
            records, kind = found.get(call_id, []), expected[name]
            if len(records) != 1:
                self.problems.append(f"{call_id} ({name}): {len(records)} records")
                continue
            got = tuple(records[0][key] for key in ("outcome", "condition", "destination"))
            if got != (kind.outcome, kind.condition, kind.destination):
                self.problems.append(f"{call_id} ({name}): {got}, {records[0]['why']}")
            else:
                right[name] += 1
        if len(found) != len(self.kinds):
            self.problems.append(f"{len(found)} calls recorded, {len(self.kinds)} placed")
        return right


class Lag:
    """The delay of the endpoints: they share one event loop, and the machine with other
    processes."""

    def __init__(self) -> None:
        self.now_s = self.most_s = 0.0
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.02)
            self.now_s = time.monotonic() - before - 0.02
            self.most_s = max(self.most_s, self.now_s)

    def stop(self) -> None:
        self._task.cancel()


async def play(
    site: Site, soak: Soak, calls: int, rate: float, names: Sequence[str]
) -> tuple[float, float]:
    """Place the calls, each kind in turn, at `rate` a second or as fast as engine and endpoints
    allow; returns the rate reached, and the maximum delay of the endpoints in seconds."""
    start = shown = due = time.monotonic()
    lag = Lag()
    for turn in range(calls):
        while lag.now_s > BEHIND_S or soak.under_way > rate * UNDER_WAY_S:
            await asyncio.sleep(0.1)
        soak.place(names[turn % len(names)])
        now = time.monotonic()
        if now - shown >= 5:
            shown = now
            print(f"soak: {now - start:4.0f} s, {turn + 1} calls placed, {soak.under_way} sides "
                  f"under way, {len(soak.problems)} problems", file=sys.stderr)  # fmt: skip
        if site.engine.status() is not None:
            raise Wrong(site.engine.death())
        due = max(due + 1 / rate, now - BEHIND_S)  # no burst after a delay
        await asyncio.sleep(max(0.0, due - now))
    reached = calls / (time.monotonic() - start)
    await soak.finish()
    lag.stop()
    return reached, lag.most_s


def run(
    calls: int,
    rate: float,
    loss: float,
    seed: int,
    *,
    hurry: bool = False,
    names: Sequence[str] = tuple(KINDS),
    expected: dict[str, Kind] = KINDS,
) -> str:
    """Run the soak; returns a summary. Raises Wrong. `hurry` shortens the time for which state is
    kept for late copies."""
    with open_site(SETTINGS, hurry=hurry) as site:
        soak = Soak(site, loss, seed, hurry=hurry)

        async def whole() -> tuple[float, float]:
            async with AsyncExitStack() as stack:
                await soak.open(stack)
                await asyncio.sleep(1.0)
                return await play(site, soak, calls, rate, names)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            reached, late_s = runner.run(whole())
        if standing := site.engine.settle(SETTLE_S):
            soak.problems.append(f"the engine still has {standing}")
        if leases := sum(site.redis.zcard(key) for key in site.redis.scan_iter("live:*")):
            soak.problems.append(f"{leases} leases")
        soak.problems += site.engine.trouble()
        right = soak.check_records(expected)
        report = summary(site, soak, right, reached, late_s)
        if soak.problems:
            some = "\n".join(f"  {problem}" for problem in soak.problems[:20])
            raise Wrong(f"{report}\n{len(soak.problems)} problems, the first:\n{some}")
        return report


def summary(site: Site, soak: Soak, right: Counter[str], reached: float, late_s: float) -> str:
    """The final table."""
    placed = Counter(soak.kinds.values())
    lines = [f"{'kind':34} {'placed':>7} {'right':>7}"]
    lines += [f"{name:34} {placed[name]:7} {right[name]:7}" for name in KINDS]
    for name, relay in soak.relays.items():
        carried, lost, back, lost_back = relay.counts()
        lines.append(f"{name}: {lost} of {carried + lost} lost to the engine, "
                     f"{lost_back} of {back + lost_back} from it, "
                     f"{soak.parties[name].repeated} repeated")  # fmt: skip
    races = {
        kind: count
        for kind in ("line_won", "answer_after_cancel", "cancel_after_answer", "ack_lost",
                     "ack_missing", "glare", "invite_again", "byes_crossed", "bye_before_ack")
        if (count := int(site.engine.metric("renvoi_races_total", kind=kind)))
    }  # fmt: skip
    lines.append(f"races: {races}")
    lines.append(f"{sum(placed.values())} calls at {reached:.0f}/s, {sum(right.values())} right, "
                 f"the engine's memory {site.engine.resident_kb // 1024} MB; "
                 f"the endpoints were late by {late_s:.2f} s at most, "
                 f"and had no room for {soak.dropped} packets")  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=150.0, help="new calls a second")
    parser.add_argument("--loss", type=float, default=0.01, help="share of packets lost, each way")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        print(run(options.calls, options.rate, options.loss, options.seed))
    except Wrong as wrong:
        print(f"soak: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
