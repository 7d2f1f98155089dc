"""Workers are killed during calls of every kind, and each call continues to its own end.

`python -m tests.campaigns.continued [--standing 500] [--rate 200] [--kills 10] [--seed 1]`. Long
calls (plain, held and resumed, forwarded from a plan, with a limit, under a cap, transferred) send
requests inside the call at random; new calls come at a rate; a worker gets SIGKILL at random
moments. A model has for each call who hung up, how long it lasted and who pays:

- each call that was answered ends by its own BYE, through the engine, on both sides;
- it has one record, with its seconds and its payer;
- a call that rang when its worker died continues to ring, or it was refused with 503, is tried
  again, and has a record of that;
- the usage of the lines is the sum of their records, and nothing is counted any more.

For every kill it prints how soon the worker's next process answered a new call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import redis
import uvloop

from tests.campaigns.packet import SDP
from tests.campaigns.party import Asked, Fields, Message, Party, Side
from tests.campaigns.workers import Wrong, by_call_id
from tests.scenarios.processes import RedisServer
from tests.scenarios.worker_pool import WorkerPool

WORKERS = 2
KINDS = ("plain", "held", "forwarded", "limited", "capped", "transferred")
EACH = 10  # lines of each kind and worker
MOBILE = "+336123450{:02d}"
CAP_S = 10_000_000
ROOM = 1 << 22  # bytes that may wait in a socket while this process does not run
ANSWER_S = 40.0  # a caller gives up after 64*T1; the next process reads its INVITE before
PATIENCE_S = 60.0
LEASE_S = 62.0  # a little longer than the lifetime of a lease
RINGS_ON = 0.3  # seconds that phones ring before they answer
AT_THE_KILL_S = 1.0  # a call that ends so close to a kill may be over before or after it
SETTINGS: dict[str, Any] = {
    "limits": {"calls": 0, "wait_s": 0, "forwards_per_line": 0, "forwards_per_line_per_hour": 0},
    "timers": {"max_call_s": 3600, "pre_ringing_s": 20, "max_ring_s": 60},
}
_PORT = re.compile(
    rb"^(?:SIP/2.0 [^\r]*\r\nVia: SIP/2.0/UDP |[A-Z]+ sip:[^@ ]*@)([\d.]+):(\d+)", re.I
)


class Everybody(Party):
    """The endpoints of all workers on one socket: a message goes to the worker that it names."""

    def put(self, raw: bytes) -> None:
        found = _PORT.match(raw)
        assert found is not None, raw[:80]
        if self._transport is not None:
            self._transport.sendto(raw, (found[1].decode(), int(found[2])))

    def begin(self, worker: tuple[str, int], called: str, caller: str, more: Fields) -> Made:
        """Begin a call from a number to another."""
        call_id = secrets.token_hex(10).encode() + b"@continued.example"
        uri = b"sip:%s@%s:%d" % (called.encode(), worker[0].encode(), worker[1])
        local = b"<sip:%s@c.example>;tag=%s" % (caller.encode(), secrets.token_hex(5).encode())
        side = Side(self, call_id, local, b"<" + uri + b">", uri)
        self.sides[call_id] = side
        return side, side.ask(b"INVITE", SDP, more)


Made = tuple[Side, Asked]


class Talk:
    """An answered call of the model. Times are monotonic seconds."""

    def __init__(self, kind: str, worker: int, line: str, caller: Side, asked_at: float) -> None:
        self.kind, self.worker, self.line, self.caller = kind, worker, line, caller
        self.asked_at = asked_at
        self.callee: Side | None = None
        self.payer = line if kind in ("forwarded", "capped", "transferred") else ""
        self.answered_at = time.monotonic()
        self.ended_at = self.over_at = 0.0  # the BYE, and its response
        self.ended = ""
        self.is_referred = False

    def __repr__(self) -> str:
        return f"<{self.kind} {self.caller.call_id.decode()} of worker {self.worker} {self.ended}>"


class Crowd:
    """All callers and callees, and the model of their calls."""

    def __init__(self, pool: WorkerPool, client: redis.Redis, seed: int) -> None:
        self.pool, self.redis = pool, client
        self.chance = random.Random(seed)
        self.talks: list[Talk] = []
        self.attempts: dict[str, str] = {}  # Call-IDs of calls that were not answered, and why
        self.kills: list[tuple[float, int]] = []
        self.problems: list[str] = []
        self.requests: Counter[str] = Counter()
        self.is_over = False
        self._called: dict[str, asyncio.Future[Side]] = {}  # by the token of their caller
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = self._targets = 0

    async def open(self, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        ports = {"caller": 0, "phone": 0, "number": self.pool.ports["number"]}
        made = {}
        for name, port in ports.items():
            transport, party = await loop.create_datagram_endpoint(
                partial(Everybody, name, self._on_call if name != "caller" else None),
                local_addr=("127.0.0.1", port),
            )
            party.outer = party.address
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
            made[name] = party
            stack.callback(party.close)
        self._callers, self._phones, self._mobiles = made["caller"], made["phone"], made["number"]
        self.redis.set("fleet:capped", json.dumps({"name": "capped", "cap_seconds": CAP_S}))
        host, at = self._phones.outer
        for kind in KINDS:
            for place in range(WORKERS * EACH):
                number = self.line(kind, place)
                document: dict[str, Any] = {"number": number, "fleet": "acme"}
                if kind in ("forwarded", "capped", "transferred"):
                    to = {"kind": "number", "number": MOBILE.format(place)}
                    document["forwards"] = {"unconditional": {"on": True, "to": to}}
                    document["offer"] = {"mobile": "hours", "mobile_hours": 100}
                if kind == "limited":
                    document["max_calls"] = 10_000
                if kind == "capped":
                    document["fleet"] = "capped"
                self.redis.set(f"line:{number}", json.dumps(document))
                self.redis.zadd(f"reg:{number}", {f"sip:phone@{host}:{at}": time.time() + 7200})

    def line(self, kind: str, place: int) -> str:
        """A line of that kind; even places belong to worker 0, odd ones to worker 1."""
        return f"+339721{KINDS.index(kind)}5{place:03d}"

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(repr(error))

    def _on_call(self, side: Side, invite: Message) -> None:
        token = invite.one(b"x-token").decode()
        waiting = self._called.pop(token, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(side)
        side.respond(invite, 180)
        if self.chance.random() < RINGS_ON:
            self.start(self._pick_up(side, invite))
        else:
            side.respond(invite, 200, SDP)

    async def _pick_up(self, side: Side, invite: Message) -> None:
        """Answer after a while, unless the call has ended."""
        await asyncio.wait([side.ended], timeout=self.chance.uniform(0.1, 1.5))
        if side.state == "early":
            side.respond(invite, 200, SDP)

    # -- one call ---------------------------------------------------------------------------------

    async def connect(
        self, kind: str, worker: int, line: str, party: Everybody, caller: str, more: Fields
    ) -> Talk | None:
        """Call until a phone answers; after a 503 try again, as a server does."""
        for _ in range(8):
            token = secrets.token_hex(8)
            called = self._called[token] = asyncio.get_running_loop().create_future()
            fields = [*more, (b"X-Token", token.encode())]
            asked_at = time.monotonic()
            side, asked = party.begin(self.pool.address_of(worker), line, caller, fields)
            await asyncio.wait([asked.answer], timeout=ANSWER_S)
            final = asked.answer.result() if asked.answer.done() else None
            if final is not None and final.code == 200:
                talk = Talk(kind, worker, line, side, asked_at)
                self.talks.append(talk)
                # The phone's side: the one that answered this caller's INVITE.
                talk.callee = await asyncio.wait_for(called, ANSWER_S)
                return talk
            call_id = side.call_id.decode()
            self.attempts[call_id] = f"{final.code if final is not None else 'nothing'}"
            # A call that is younger than 50 ms may not be in the journal. If its caller has a
            # provisional response already, it does not repeat its INVITE.
            unheard = final is None and any(
                w == worker and 0 < at - asked_at < AT_THE_KILL_S for at, w in self.kills
            )
            if not unheard and (final is None or final.code != 503):
                self.problems.append(f"{kind} {call_id}: {self.attempts[call_id]}, not answered")
                return None
            await asyncio.sleep(0.05)
        self.problems.append(f"{kind}: refused eight times")
        return None

    async def place(self, kind: str, standing: bool, hold_s: float = 0.0) -> None:
        """A whole call: it lasts until the end of the campaign, or for `hold_s`."""
        self._turn += 1
        chance = random.Random(self.chance.random())
        place = self._turn % (WORKERS * EACH)
        worker, line = place % WORKERS, self.line(kind, place)
        talk = await self.connect(kind, worker, line, self._callers, "+33140000001", [])
        if talk is None:
            return
        if standing:
            while not self.is_over:
                await asyncio.sleep(chance.uniform(0.5, 6.0))
                await self._act(talk, chance)
            await asyncio.sleep(chance.uniform(0.0, 3.0))  # not all at the same moment
        else:
            await asyncio.sleep(hold_s)
        if kind == "transferred" and standing:
            await self._transfer(talk, place)
        await self._hang_up(talk, chance.random() < 0.5)

    async def _act(self, talk: Talk, chance: random.Random) -> None:
        """A request inside the call by one of its sides; it must be answered, however long that
        takes."""
        assert talk.callee is not None
        side = chance.choice([talk.caller, talk.callee])
        method = b"INVITE" if talk.kind == "held" and chance.random() < 0.7 else b"INFO"
        body = SDP if method == b"INVITE" else b""
        answer = await side.ask(method, body).answer
        code = answer.code if answer is not None else 0
        self.requests[f"{method.decode()} {code}"] += 1
        if code not in (200, 491, 500):  # two requests crossed
            self.problems.append(f"{talk!r}: {method.decode()} got {code}")

    async def _transfer(self, talk: Talk, place: int) -> None:
        """The caller transfers the mobile to a plain line; the forwarding line pays for that
        call."""
        assert talk.callee is not None
        target = self._target()  # a separate one: one REFER, one call
        to = b"<sip:%s@office.example>" % target.encode()
        answer = await talk.caller.ask(b"REFER", b"", [(b"Refer-To", to)]).answer
        if answer is None or answer.code != 202:
            self.problems.append(f"{talk!r}: REFER got {answer and answer.code}")
            return
        talk.is_referred = True
        mobile = MOBILE.format(place)
        identity = [(b"P-Asserted-Identity", b"<sip:%s@office.example>" % mobile.encode())]
        onward = await self.connect("onward", talk.worker, target, self._mobiles, mobile, identity)
        if onward is not None:
            onward.payer = talk.line
            self.start(self._hang_up_later(onward))

    def _target(self) -> str:
        """Write a new line."""
        self._targets += 1
        number = f"+3397219{self._targets:04d}"
        host, at = self._phones.outer
        self.redis.set(f"line:{number}", json.dumps({"number": number, "fleet": "acme"}))
        self.redis.zadd(f"reg:{number}", {f"sip:phone@{host}:{at}": time.time() + 7200})
        return number

    async def _hang_up_later(self, talk: Talk) -> None:
        await asyncio.sleep(1.5)
        await self._hang_up(talk, by_caller=True)

    async def _hang_up(self, talk: Talk, by_caller: bool) -> None:
        assert talk.callee is not None
        one, other = (talk.caller, talk.callee) if by_caller else (talk.callee, talk.caller)
        talk.ended_at = time.monotonic()
        answer = await one.ask(b"BYE").answer
        code, talk.over_at = answer.code if answer is not None else 0, time.monotonic()
        await asyncio.wait([other.ended], timeout=20.0)
        other_end = other.ended.result() if other.ended.done() else "nothing"
        talk.ended = f"BYE {code}, other side {other_end}"
        near = any(talk.ended_at - AT_THE_KILL_S < at < talk.over_at for at, _ in self.kills)
        if other_end != "bye received" or code not in ((200, 481) if near else (200,)):
            self.problems.append(repr(talk))

    # -- all --------------------------------------------------------------------------------------

    async def load(self, seconds: float, rate: float) -> None:
        """Place new calls for `seconds`."""
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            kind = self.chance.choice(KINDS[:-1])
            self.start(self.place(kind, standing=False, hold_s=self.chance.uniform(0.2, 2.0)))
            count += 1
            await asyncio.sleep(max(0.0, began + count / rate - time.monotonic()))

    async def kill(self, rate: float) -> float:
        """SIGKILL of one worker under load, at a random moment; returns the seconds until its next
        process answers a new call."""
        await self.load(self.chance.uniform(1.0, 3.0), rate)
        worker = self.chance.randrange(WORKERS)
        pid = self.pool.kill(worker)
        at = time.monotonic()
        self.kills.append((at, worker))
        while True:
            await self.load(0.25, rate)
            first = [t.answered_at for t in self.talks if t.worker == worker and t.answered_at > at]
            if self.pool.pid_of(worker) != pid and first:
                return min(first) - at
            if time.monotonic() - at > PATIENCE_S:
                raise Wrong(f"worker {worker} never took a call again\n{self.pool.log}")

    async def finish(self) -> None:
        """Hang up all calls."""
        self.is_over = True
        deadline = time.monotonic() + PATIENCE_S
        while self._tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if self._tasks:
            self.problems.append(f"{len(self._tasks)} calls without an end")

    async def check(self) -> str:
        """Compare the records with the model."""
        deadline = time.monotonic() + 10
        expected = {talk.caller.call_id.decode(): talk for talk in self.talks}
        while not expected.keys() <= (records := by_call_id(self.redis)).keys():
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        used: Counter[str] = Counter()
        lost = continued = 0
        for call_id, talk in expected.items():
            found = records.get(call_id, [])
            if len(found) != 1:
                self.problems.append(f"{talk!r}: {len(found)} records")
                lost += 1
                continue
            lost += self._differs(talk, found[0])
            continued += found[0]["takeovers"] != "0"
            if talk.payer:
                used[talk.payer] += int(found[0]["seconds"])
        for call_id, why in self.attempts.items():
            recorded = [(r["outcome"], r["why"]) for r in records.get(call_id, [])]
            if recorded not in ([("failed", "worker_died")], []):
                self.problems.append(f"{call_id} ({why}): {recorded}")
        ids = Counter(r["id"] for found in records.values() for r in found)
        self.problems += [f"{id_}: recorded twice" for id_, n in ids.items() if n > 1][:5]
        await self._check_counts(used)
        asked = ", ".join(f"{count} {what}" for what, count in sorted(self.requests.items()))
        return (
            f"{len(expected)} calls were answered, {continued} of them continued, {lost} lost; "
            f"{len(self.attempts)} rang at a kill and were tried again; "
            f"{sum(ids.values())} records; requests inside calls: {asked}"
        )

    def _differs(self, talk: Talk, record: dict[str, str]) -> bool:
        # By the caller's clock: from the INVITE or the answer to the BYE or its response. On a busy
        # machine, or over a death, the engine may read each at any moment in between.
        least_s, most_s = talk.ended_at - talk.answered_at, talk.over_at - talk.asked_at
        hits = [at for at, worker in self.kills if worker == talk.worker]
        least = sum(talk.answered_at < at < talk.ended_at for at in hits)
        most = sum(talk.asked_at - AT_THE_KILL_S < at < talk.over_at for at in hits)
        got = record["outcome"], record["why"], record["payer"]
        wrong = []
        if got != ("answered", "bye", talk.payer):
            wrong.append(f"{got}, not by BYE and paid by {talk.payer!r}")
        if not least_s - 1.5 < int(record["seconds"]) < most_s + 1.5:
            wrong.append(f"{record['seconds']} s, not {least_s:.1f} to {most_s:.1f}")
        if not least <= int(record["takeovers"]) <= most:
            wrong.append(f"{record['takeovers']} takeovers, {least} to {most} kills")
        self.problems += [f"{talk!r}: {each}" for each in wrong]
        return bool(wrong)

    def _leases(self) -> list[str]:
        now = time.time()
        live = [k for k in self.redis.scan_iter("live:*") if self.redis.zcount(k, now, "+inf")]
        forwards = [k for k in self.redis.scan_iter("forwards:*") if ":hour:" not in str(k)]
        return [str(k) for k in live] + [
            str(k) for k in forwards if self.redis.zcount(k, now, "+inf")
        ]

    async def _check_counts(self, used: Counter[str]) -> None:
        # Those of calls that were younger than 50 ms when a worker died expire.
        deadline = time.monotonic() + LEASE_S
        while (leases := self._leases()) and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
        if leases:
            self.problems.append(f"{len(leases)} leases are left: {leases[:3]}")
        totals: dict[str, int] = defaultdict(int)
        for key in self.redis.scan_iter("usage:+*"):
            fields: dict[str, str] = self.redis.hgetall(key)  # type: ignore[assignment]
            totals[str(key).split(":")[1]] += sum(map(int, fields.values()))
        if totals != {line: seconds for line, seconds in used.items() if seconds}:
            some = {line for line in totals | used if totals[line] != used[line]}
            self.problems.append(f"usage of {len(some)} lines differs, as of {sorted(some)[:3]}")
        if active := self.pool.metric("renvoi_active_calls"):
            self.problems.append(f"{active} calls are still active: {self.pool.calls()[:3]}")


async def campaign(crowd: Crowd, standing: int, rate: float, kills: int) -> str:
    async with AsyncExitStack() as stack:
        await crowd.open(stack)
        await asyncio.sleep(1.0)
        for number in range(standing):
            crowd.start(crowd.place(KINDS[number % len(KINDS)], standing=True))
            await asyncio.sleep(0.005)
        while len(crowd.talks) < standing and not crowd.problems:
            await asyncio.sleep(0.05)
        soon = [await crowd.kill(rate) for _ in range(kills)]
        await crowd.load(1.0, rate)
        await crowd.finish()
        found = await crowd.check()
    taken = Counter[str]()
    for event in crowd.pool.logged("calls.taken_over"):
        taken.update({name: event[name] for name in ("continued", "ended", "lost")})
    shown = ", ".join(f"{s:.2f}" for s in soon)
    summary = f"{found}\n{kills} kills: {dict(taken)}; a new call was answered {shown} s after each"
    if crowd.problems or taken["lost"]:
        some = "\n".join(f"  {problem}" for problem in crowd.problems[:20])
        raise Wrong(f"{summary}\n{len(crowd.problems)} problems, the first:\n{some}")
    return summary


def run(standing: int, rate: float, kills: int, seed: int, log: Path | None = None) -> str:
    """Run the campaign; returns a summary. The engine's log is copied to `log`. Raises Wrong."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        directory = Path(name)
        server = RedisServer(directory)
        server.start()
        pool = WorkerPool(directory, server.url, WORKERS, SETTINGS)
        try:
            pool.start()
            time.sleep(1.5)  # the spare process
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                crowd = Crowd(pool, server.client, seed)
                return runner.run(campaign(crowd, standing, rate, kills))
        finally:
            pool.stop()
            server.stop()
            if log is not None:
                shutil.copy(directory / "engine.log", log)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--standing", "--calls", type=int, default=500, help="calls that stand")
    parser.add_argument("--rate", type=float, default=200.0, help="new calls a second")
    parser.add_argument("--kills", type=int, default=10, help="SIGKILLs, at random moments")
    parser.add_argument("--seed", type=int, default=1, help="of what is random")
    parser.add_argument("--log", type=Path, help="where to copy the engine's log")
    options = parser.parse_args()
    try:
        print(run(options.standing, options.rate, options.kills, options.seed, options.log))
    except Wrong as wrong:
        print(f"continued: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
