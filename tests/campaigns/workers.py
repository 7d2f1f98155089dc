"""Workers under load: one is killed, all are reloaded, restarted in turn and drained; no call is
lost.

`python -m tests.campaigns.workers [--rate 300] [--stage-s 10] [--workers 2] [--hold-s 1.5]`.
Callers distribute their calls over the workers as a dispatcher would: after a 503 they try another
one. In every stage:

- the killed worker is back within a second, its calls continue and end by their own BYE, and the
  other workers are not affected;
- at a reload, a rolling restart and a drain every call in progress is ended by its caller or
  callee;
- each call has one record, and no line keeps a lease.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import redis
import uvloop

from tests.campaigns.packet import SDP
from tests.campaigns.party import Message, Party, Side
from tests.scenarios.processes import RedisServer
from tests.scenarios.worker_pool import WorkerPool

LINES = [f"+33972140{n:03d}" for n in range(40)]
BACK_S = 1.0  # a killed worker takes calls again within
ANSWER_S = 10.0  # a caller whose INVITE was read by a worker that died gives up
PATIENCE_S = 20.0
SETTINGS: dict[str, Any] = {
    "limits": {"calls": 0, "wait_s": 0},
    "timers": {"drain_s": 30, "max_call_s": 600},
    "log": {"level": "info"},
}


_WORKER = re.compile(rb"(?:SIP/2\.0/UDP |sip:renvoi@)([\d.]+):(\d+)")


class Wrong(AssertionError):
    """A call was lost, or a requirement was not met."""


class Phones(Party):
    """All phones on one socket, for all workers: a response goes to the worker in its topmost Via,
    a request to the one in its Request-URI."""

    def put(self, raw: bytes) -> None:
        found = _WORKER.search(raw)
        if found is not None:
            self.engine = found[1].decode(), int(found[2])
        super().put(raw)


class Placed:
    """One call on its caller's side. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.tried: list[str] = []  # Call-IDs, the last is the one that was not refused
        self.worker = 0
        self.asked_at = self.answered_at = self.ended_at = 0.0
        self.ended = ""


class Load:
    """Callers that place calls at a rate until they are stopped."""

    def __init__(
        self, pool: WorkerPool, client: redis.Redis, rate: float, hold_s: float = 1.5
    ) -> None:
        self.pool, self.redis, self.rate, self.hold_s = pool, client, rate, hold_s
        self.calls: list[Placed] = []
        self.problems: list[str] = []
        self.killed_at = 0.0  # worker 1
        self.draining = False  # all workers: refusals are expected
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers: list[Party] = []

    async def open(self, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        _, self._phones = await loop.create_datagram_endpoint(
            lambda: Phones("phone", lambda side, invite: self._start(self._answer(side, invite))),
            local_addr=("127.0.0.1", 0),
        )
        self._phones.outer = self._phones.address
        for worker in range(self.pool.workers):
            _, party = await loop.create_datagram_endpoint(
                lambda: Party("caller", None), local_addr=("127.0.0.1", 0)
            )
            party.engine, party.outer = self.pool.address_of(worker), party.address
            self._callers.append(party)
        for party in (self._phones, *self._callers):
            stack.callback(party.close)
        for place, number in enumerate(LINES):
            line = {"number": number, "fleet": "acme", "max_calls": 1000 if place % 2 else None}
            self.redis.set(f"line:{number}", json.dumps(line))
            host, port = self._phones.outer
            self.redis.zadd(f"reg:{number}", {f"sip:phone@{host}:{port}": time.time() + 3600})

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(repr(error))

    async def _answer(self, side: Side, invite: Message) -> None:
        side.respond(invite, 180)
        side.respond(invite, 200, SDP)

    async def place(self, seconds: float) -> None:
        """Place calls for `seconds`."""
        began, turn = time.monotonic(), len(self.calls)
        count = 0
        while time.monotonic() - began < seconds:
            self._start(self._call(turn + count))
            count += 1
            await asyncio.sleep(max(0.0, began + count / self.rate - time.monotonic()))

    async def _call(self, turn: int) -> None:
        placed = Placed()
        self.calls.append(placed)
        for attempt in range(self.pool.workers):
            placed.worker = (turn + attempt) % self.pool.workers
            party = self._callers[placed.worker]
            placed.asked_at = time.monotonic()
            side, asked = party.call(LINES[turn % len(LINES)].encode(), party.engine)
            placed.tried.append(side.call_id.decode())
            await asyncio.wait([asked.answer], timeout=ANSWER_S)
            final = asked.answer.result() if asked.answer.done() else None
            if final is None or final.code != 503:
                break
        if final is None and placed.worker == 1 and placed.asked_at < self.killed_at:
            placed.ended = "its worker was killed"
            return
        code = final.code if final is not None else 0
        if code != 200:
            placed.ended = f"refused {code}"
            if not self.draining:
                self.problems.append(f"{side!r} to worker {placed.worker}: {code}, not answered")
            return
        placed.answered_at = time.monotonic()
        await asyncio.wait([side.ended], timeout=self.hold_s)
        if side.ended.done():
            placed.ended = side.ended.result()
        else:
            bye = await side.ask(b"BYE").answer
            placed.ended = f"bye {bye.code if bye is not None else 0}"
        placed.ended_at = time.monotonic()

    async def finish(self) -> None:
        """Wait until every call has ended."""
        deadline = time.monotonic() + PATIENCE_S + self.hold_s
        while self._tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if self._tasks:
            self.problems.append(f"{len(self._tasks)} calls without an end")

    def standing(self, at: float) -> list[Placed]:
        """The calls in progress at a moment, by their callers."""
        return [
            call for call in self.calls
            if call.answered_at and call.answered_at < at < (call.ended_at or at + 1)
        ]  # fmt: skip


async def kill(load: Load, stage_s: float) -> str:
    """SIGKILL of worker 1 under load."""
    pool = load.pool
    await load.place(stage_s / 2)
    known = len(load.problems)
    killed_at, pid = time.monotonic(), pool.kill(1)
    load.killed_at = killed_at
    await load.place(stage_s / 2)
    await load.finish()
    first = min(
        (c.answered_at for c in load.calls if c.worker == 1 and c.asked_at > killed_at),
        default=0.0,
    )
    started = await pool.replaced(1, pid)
    back_s = _logged_back_after(pool, pid)
    if not first:
        raise Wrong("the killed worker never took a call again")
    if back_s > BACK_S:
        raise Wrong(f"the killed worker was back after {back_s:.2f} s only (waited {started:.1f})")
    (death,) = pool.logged("worker.died", pid=pid)
    (taken,) = pool.logged("calls.taken_over", worker=1)
    stood = load.standing(killed_at)
    mine = [call for call in stood if call.worker == 1]
    records = by_call_id(load.redis)
    for call in stood:
        found = [(r["outcome"], r["why"]) for r in records[call.tried[-1]]]
        if found != [("answered", "bye")] or call.ended != "bye 200":
            load.problems.append(f"a call of worker {call.worker}: {found}, {call.ended}")
    moved = sum(r["takeovers"] != "0" for rs in records.values() for r in rs)
    if taken["lost"] or moved != taken["continued"] + taken["ended"] or not mine:
        load.problems.append(f"{taken}, and {moved} records of such calls")
    if len(load.problems) == known:
        return (
            f"kill: {len(mine)} calls active by their callers, {death['calls']} by the journal; "
            f"{taken['continued']} went on, {taken['ended']} were ended; back after "
            f"{back_s:.2f} s, first call answered {first - killed_at:.2f} s after the kill"
        )
    return "kill: wrong"


def _logged_back_after(pool: WorkerPool, pid: int) -> float:
    """Seconds from a process's death until another replaced it, by the supervisor's log."""
    moments = {}
    for event in pool.events():
        if event["event"] == "worker.died" and event["pid"] == pid:
            moments["died"] = _seconds(event["timestamp"])
        elif event["event"] == "worker.start" and "died" in moments:
            return _seconds(event["timestamp"]) - moments["died"]
    return float("inf")


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


async def reload(load: Load, stage_s: float) -> str:
    """Change live settings under load."""
    pool = load.pool
    await load.place(stage_s / 3)
    pool.change(timers={"max_call_s": 599})
    pool.signal(signal.SIGHUP)
    await load.place(stage_s / 3)
    applied = len(pool.logged("reload.done", keys=["timers.max_call_s"]))
    if applied != pool.workers + 1:
        raise Wrong(f"reload: logged {applied} times")
    return "reload: applied in every worker"


async def roll(load: Load, stage_s: float) -> str:
    """A rolling restart under load: it ends no call, and none is refused."""
    pool = load.pool
    await load.place(max(stage_s / 3, load.hold_s))
    stood, began = load.standing(time.monotonic()), time.monotonic()
    pool.signal(signal.SIGHUP)
    while not pool.logged("roll.done"):
        if time.monotonic() - began > PATIENCE_S + 4 * stage_s:
            raise Wrong(f"roll: not done\n{pool.log}")
        await load.place(0.5)
    took_s = time.monotonic() - began
    each_s = [
        _seconds(pool.logged("worker.restarted", worker=worker)[-1]["timestamp"])
        - _seconds(pool.logged("roll.worker", worker=worker)[-1]["timestamp"])
        for worker in range(pool.workers)
    ]
    await load.place(stage_s / 3)
    await load.finish()
    cut = [call for call in stood if call.ended != "bye 200"]
    load.problems += [f"roll: {call.ended}" for call in cut[:5]]
    taken = pool.logged("calls.taken_over")[-pool.workers :]
    return (
        f"roll: {pool.workers} workers replaced in {took_s:.1f} s, each in "
        f"{min(each_s):.2f} to {max(each_s):.2f} s; {len(stood)} active calls, "
        f"{sum(one['continued'] for one in taken)} went on in another process, "
        f"{sum(one['ended'] for one in taken)} were ended, {sum(one['lost'] for one in taken)} lost"
    )


async def drain(load: Load, stage_s: float) -> str:
    """SIGTERM under load."""
    await load.place(stage_s / 3)
    load.draining = True
    at = time.monotonic()
    load.pool.signal(signal.SIGTERM)
    await load.place(min(1.0, stage_s / 3))
    await load.finish()
    status = await load.pool.exited(PATIENCE_S)
    if status != 0:
        raise Wrong(f"drain: exit status {status}")
    stood = load.standing(at)
    lost = [call for call in stood if call.ended != "bye 200"]
    load.problems += [f"drain: {call.ended}" for call in lost[:5]]
    return f"drain: {len(stood)} active calls ended on their own, {time.monotonic() - at:.1f} s"


def by_call_id(client: redis.Redis) -> dict[str, list[dict[str, str]]]:
    """The records by Call-ID."""
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    entries: list[tuple[str, dict[str, str]]] = client.xrange("cdr")  # type: ignore[assignment]
    for _, fields in entries:
        found[fields["call_id"]].append(fields)
    return found


def check(load: Load) -> str:
    """Check that each call has one record, and that no lease is left."""
    records = by_call_id(load.redis)
    ids = Counter(record["id"] for found in records.values() for record in found)
    twice = [id_ for id_, count in ids.items() if count > 1]
    load.problems += [f"{id_}: recorded twice" for id_ in twice[:5]]
    for call in load.calls:
        if not call.answered_at and call.ended != "its worker was killed":
            continue
        found = records[call.tried[-1]]
        whys = [record["why"] for record in found]
        # A caller whose INVITE was lost with the killed worker repeats it to the next one.
        if len(found) != 1 and (len(found) != 2 or "worker_died" not in whys):
            load.problems.append(f"{call.tried[-1]}: {len(found)} records {whys}, {call.ended}")
        elif call.ended == "bye 200" and "bye" not in whys and "worker_died" not in whys:
            load.problems.append(f"{call.tried[-1]}: {whys}, {call.ended}")
    strange = [r for found in records.values() for r in found if r["outcome"] != "answered"]
    load.problems += [f"not answered: {record}" for record in strange[:5]]
    leases = sum(int(load.redis.zcard(key)) for key in load.redis.scan_iter("live:*"))
    if leases:
        load.problems.append(f"{leases} leases are left")
    outcomes = Counter(f"{r['outcome']} ({r['why']})" for found in records.values() for r in found)
    return f"{len(load.calls)} calls, {sum(ids.values())} records: {dict(outcomes)}"


async def campaign(load: Load, stage_s: float) -> str:
    lines = []
    async with AsyncExitStack() as stack:
        await load.open(stack)
        await asyncio.sleep(1.0)
        for stage in (kill, reload, roll, drain):
            lines.append(await stage(load, stage_s))
            print(f"workers: {lines[-1]}", file=sys.stderr)
        lines.append(check(load))
    if load.problems:
        some = "\n".join(f"  {problem}" for problem in load.problems[:20])
        raise Wrong("\n".join(lines) + f"\n{len(load.problems)} problems, the first:\n{some}")
    return "\n".join(lines)


def run(rate: float, stage_s: float, hold_s: float = 1.5, workers: int = 2) -> str:
    """Run the campaign, with calls of `hold_s`; returns a summary. Raises Wrong."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        directory = Path(name)
        server = RedisServer(directory)
        server.start()
        pool = WorkerPool(directory, server.url, workers, SETTINGS)
        try:
            pool.start()
            time.sleep(1.5)  # the warm spare has to be ready
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(campaign(Load(pool, server.client, rate, hold_s), stage_s))
        finally:
            pool.stop()
            server.stop()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=300.0, help="new calls a second")
    parser.add_argument("--stage-s", type=float, default=10.0, help="length of each stage")
    parser.add_argument("--workers", type=int, default=2, help="number of workers")
    parser.add_argument("--hold-s", type=float, default=1.5, help="length of a call")
    options = parser.parse_args()
    try:
        print(run(options.rate, options.stage_s, options.hold_s, options.workers))
    except Wrong as wrong:
        print(f"workers: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
