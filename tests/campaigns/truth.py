"""Random calls, changes of rules, crashes and fail-overs, compared with a simple model.

`python -m tests.campaigns.truth --examples 200`: after each run of random steps `live:`,
`forwards:`, `usage:` and the CDR stream must match the model: no call unbilled, none billed twice,
none counted forever, also when a call is taken over in a transfer.

The parts are the engine's own (rules, live counts, recorder, journal). There are several workers,
each with its own connections to real Redis servers; only SIP is missing. A crash of a worker stops
everything that it does at one moment: its memory is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import hypothesis.strategies as st
import redis.asyncio
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from engine import leases
from engine.call_ends import CallEnds
from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over
from engine.config import Limits
from engine.forwards import Forwards
from engine.leases import LiveCalls
from engine.processes.journal import Journal
from engine.records import recorder
from engine.records.record import CallRecord, read_entry
from engine.records.recorder import Recorder
from engine.records.writing_once import mark_of
from engine.telemetry.metrics import Metrics
from rules.decide import ForwardTo, Reject, Ring, Situation, at_limit, decide
from rules.model import Billing
from rules.numbers import Numbering
from store.fleets import Fleets
from store.lines import Store, Unavailable
from tests.campaigns.redis_pair import RedisPair
from tests.patience import within

ZONE = "Europe/Paris"
LEASE_S = 4.0
WORKERS = 3
MAX_CALLS = 2
# So few that no worker has a local quota: all are counted in Redis.
LIMITS = Limits(forwards_per_line=3)
PLAN_S = 180  # of the line with a plan
LINES = ("+33972101001", "+33972101002", "+33972101003")
OFFERS = (
    {"mobile": "hours", "mobile_hours": PLAN_S / 3600},
    {"mobile": "unlimited"},
    {"mobile": "none"},
)
MOBILE, FIXED, PREMIUM, CALLER = "+33612345678", "+33123456789", "+33899123456", "+33198765432"
# A line's unconditional forward, and the class of the leg it makes for each of OFFERS.
OUT, STANDARD, FREE = Billing.OUT_OF_PLAN, Billing.STANDARD, Billing.FREE
FORWARDS: dict[str, tuple[dict[str, Any] | None, Any]] = {
    "off": (None, None),
    "mobile": ({"kind": "number", "number": MOBILE}, (None, OUT, OUT)),
    "fixed": ({"kind": "number", "number": FIXED}, (STANDARD,) * 3),
    "voicemail": ({"kind": "voicemail"}, (FREE,) * 3),
    "premium": ({"kind": "number", "number": PREMIUM}, None),  # refused: counts as off
}
IN_FORCE_S = within(1.0)  # the promise for a change of the rules is one second
SETTLE_S = within(10.0)
LOOK_S = 0.05


@dataclass
class ActiveCall:
    """The model's state of a call in progress."""

    worker: int
    facts: CallFacts
    line: str | None  # the line on which it counts
    forwarded: str | None = None  # the line on whose forwards it counts
    carried: bool = False  # admitted by the forward of another call


@dataclass
class Truth:
    """The model: the expected content of each key at the end."""

    standing: dict[str, ActiveCall] = field(default_factory=dict)
    ended: dict[str, CallRecord] = field(default_factory=dict)
    crashed: dict[str, tuple[float, float]] = field(default_factory=dict)  # answered, crash
    forward: dict[str, str] = field(
        default_factory=lambda: dict(zip(LINES, ("mobile", "off", "off"), strict=True))
    )
    suspended: bool = False

    def on(self, line: str) -> set[str]:
        return {id_ for id_, call in self.standing.items() if call.line == line}

    def forwarded(self, line: str) -> set[str]:
        """The calls that were admitted as forwards of the line."""
        standing = self.standing.items()
        return {id_ for id_, c in standing if c.forwarded == line and not c.carried}


class Worker:
    """The parts of one engine process, without SIP."""

    def __init__(self, index: int, run: int, socket: Path, folder: Path) -> None:
        self.index = index
        self.epoch = f"{index}-{run:x}"
        self.serial = 0
        self.redis = redis.asyncio.Redis(unix_socket_path=str(socket), socket_timeout=1.0)
        self.store = Store(
            self.redis, numbering=Numbering("FR"), cache_lines=100, stale_max_s=60,
            timezone=ZONE, canary=self.epoch,
        )  # fmt: skip
        self.fleets = Fleets(self.redis, timezone=ZONE, numbering=Numbering("FR"))
        self.store.on_fleet = self.fleets.changed
        self.live = LiveCalls(self.redis, shared=True, lease_s=LEASE_S)
        self.forwards = Forwards(self.redis, lease_s=LEASE_S)
        self.forwards.workers = WORKERS
        self.journal = Journal(folder, self.epoch)
        self.recorder = Recorder(
            self.redis, timezone=ZONE, worker=self.epoch, spool=folder / f"cdr-{index}.spool",
            spill_after_s=0.1, on_safe=self.journal.safe,
        )  # fmt: skip

    async def start(self) -> None:
        self.journal.open()
        left = self.journal.take_over()
        await self.fleets.start()
        await self.store.start()
        await self.live.start()
        await self.forwards.start()
        await self.recorder.start()
        log: Any = SimpleNamespace(warning=lambda *_, **__: None)
        loop = asyncio.get_running_loop()
        ends = CallEnds(loop, log, Metrics(), self.journal, self.recorder, None)
        await ends.complete(left, self.live, self.forwards)

    async def crash(self) -> None:
        """As by SIGKILL: tasks stop at once, the kernel closes files and sockets."""
        counts = (self.live, *self.forwards.pools)
        for task in (self.recorder._task, *(count._task for count in counts)):
            while task is not None and not task.done():
                task.cancel()  # redis-py loses a cancellation together with a connection error
                await asyncio.wait({task}, timeout=0.02)
        for count in counts:
            if count._timer is not None:
                count._timer.cancel()
        self.recorder._spool.close()
        self.journal._slots["never"] = []  # the content of the file stays
        self.journal.close()
        for left in self.journal._left:  # the journals that it had taken over are free again
            os.close(left._descriptor)
        await self.store.close()
        await self.fleets.close()
        await self.redis.aclose()

    async def close(self) -> None:
        for part in (self.store, self.fleets, self.live, self.forwards, self.recorder):
            await part.close()
        self.journal.close()
        await self.redis.aclose()


F = TypeVar("F", bound=Callable[..., None])


def recorded(step: F) -> F:
    """Keep the facts, and the first fault: played again the run may pass, because the timing of
    events is not deterministic."""

    @functools.wraps(step)
    def play(machine: Machine, **given: Any) -> None:
        machine.facts.append(f"{step.__name__}({given or ''})")
        try:
            step(machine, **given)
        except Exception as error:
            if not Machine.failure:
                Machine.failure = f"{error!r}\nafter:\n  " + "\n  ".join(machine.facts)
            raise

    return play  # type: ignore[return-value]


class Machine(RuleBasedStateMachine):
    """Each rule is one event; the invariants are checked at rest and at the end."""

    pair: ClassVar[RedisPair]
    runs: ClassVar[int] = 0
    counts: ClassVar[Counter[str]] = Counter()
    failure: ClassVar[str] = ""  # the first facts that failed

    @initialize()
    def begin(self) -> None:
        type(self).runs += 1
        self.pair.reset()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="truth"))
        self.truth = Truth()
        self.disturbed = False  # since the last rest: live counts may be local
        self.starts = 0
        self.lossy = False  # data lost in a fail-over may not be written again yet
        self.one_copy = False  # writes of a dead worker may be only on the primary
        for line in LINES:
            self._write_line(line)
        self._write_fleet()
        self.workers = [self._make(index) for index in range(WORKERS)]
        for worker in self.workers:
            self._do(worker.start())
        self._do(self._rules_in_force())

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[str] = []

    def teardown(self) -> None:
        if not hasattr(self, "workers"):
            return
        try:
            self.rest()
            for id_ in list(self.truth.standing):
                self._do(self._end(id_, 7))
            self.rest()
        finally:
            self.pair.start()
            for worker in self.workers:
                self._do(worker.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- calls ------------------------------------------------------------------------------------

    @rule(index=st.integers(0, WORKERS - 1), line=st.sampled_from(LINES))
    @recorded
    def call(self, index: int, line: str) -> None:
        """A call arrives, and is forwarded, rung and answered, or refused."""
        self._do(self._call(self.workers[index], line))

    @rule(line=st.sampled_from(LINES), count=st.integers(2, 9))
    @recorded
    def burst(self, line: str, count: int) -> None:
        """Many calls at once, spread over the workers."""

        async def all_at_once() -> None:
            await asyncio.gather(
                *(self._call(self.workers[n % WORKERS], line) for n in range(count))
            )

        # Admitted by local counts, while Redis was away.
        before, forwards = len(self.truth.on(line)), len(self.truth.forwarded(line))
        alone = self._local_decisions()
        self._do(all_at_once())
        # Workers wait 90 ms for Redis; on a busy machine it may take longer.
        self.disturbed |= self._local_decisions() > alone
        if not self.disturbed:
            assert len(self.truth.on(line)) <= max(before, MAX_CALLS), "one too many was admitted"
            most = max(forwards, LIMITS.forwards_per_line)
            assert len(self.truth.forwarded(line)) <= most, "one too many was forwarded"

    @rule(steps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 90)), max_size=25))
    @recorded
    def traffic(self, steps: list[tuple[int, int]]) -> None:
        """Calls begin and end without a pause."""

        async def play() -> None:
            for pick, seconds in steps:
                standing = list(self.truth.standing)
                if pick % 2 and standing:
                    await self._end(standing[pick % len(standing)], seconds)
                else:
                    await self._call(self.workers[pick % WORKERS], LINES[pick % len(LINES)])

        self._do(play())

    @rule(pick=st.integers(0, 99), seconds=st.integers(0, 90))
    @recorded
    def hang_up(self, pick: int, seconds: int) -> None:
        # The calls in progress depend on timing, so the random choices must not depend on them.
        standing = list(self.truth.standing)
        if standing:
            self._do(self._end(standing[pick % len(standing)], seconds))

    @rule(pick=st.integers(0, 99), seconds=st.integers(0, 90))
    @recorded
    def take_over(self, pick: int, seconds: int) -> None:
        """A forwarded call is taken over from its caller's side: it continues in another call."""
        forwarded = [id_ for id_, call in self.truth.standing.items() if call.forwarded]
        if not forwarded:
            return
        self.counts["transfers"] += 1
        id_ = forwarded[pick % len(forwarded)]
        call = self.truth.standing[id_]
        worker = self.workers[call.worker]
        facts = self._facts(worker, call.facts.called)
        facts.pay([replace(f, condition="none", seconds=0) for f in call.facts.forwards])
        assert call.forwarded is not None
        worker.forwards.carry(call.forwarded)
        facts.talks()
        self.truth.standing[facts.id] = ActiveCall(
            worker.index, facts, None, call.forwarded, carried=True
        )
        self._do(self._end(id_, seconds))

    # -- rules ------------------------------------------------------------------------------------

    @precondition(lambda self: self.pair.is_up)
    @rule(line=st.sampled_from(LINES), forward=st.sampled_from(sorted(FORWARDS)))
    @recorded
    def change_rules(self, line: str, forward: str) -> None:
        self.truth.forward[line] = forward
        self._write_line(line)
        self._do(self._rules_in_force())

    @precondition(lambda self: self.pair.is_up)
    @rule()
    @recorded
    def suspend_or_resume(self) -> None:
        self.truth.suspended = not self.truth.suspended
        self._write_fleet()
        self._do(self._rules_in_force())

    # -- trouble ----------------------------------------------------------------------------------

    @rule(index=st.integers(0, WORKERS - 1), after_ms=st.sampled_from([0, 1, 5, 30]))
    @recorded
    def crash(self, index: int, after_ms: int) -> None:
        """A worker dies during its work, and another replaces it.

        Not while Redis loses confirmed data: then no process would have that data.
        """
        self.counts["crashes"] += 1
        if self.pair.is_up:
            self._do(self._loss_noticed())
            self.pair.attach()
        self.one_copy = not self.pair.is_up
        self._do(asyncio.sleep(after_ms / 1000))
        worker = self.workers[index]
        for id_, call in list(self.truth.standing.items()):
            if call.worker == index:
                del self.truth.standing[id_]
                self.truth.crashed[id_] = call.facts.answered or 0.0, time.time()
        # As a worker's loop does every 250 ms: reported facts are written to the journal.
        worker.journal.beat()
        worker.journal.flush(10_000)
        self._do(worker.crash())
        if self.pair.is_up:
            self.pair.replicate()
        self.workers[index] = self._make(index)
        self._do(self.workers[index].start())
        self.disturbed = True

    @precondition(lambda self: self.pair.is_up)
    @rule()
    @recorded
    def drop_connections(self) -> None:
        self.counts["drops"] += 1
        self.pair.drop_connections()
        self.disturbed = True

    @precondition(lambda self: self.pair.is_up)
    @rule()
    @recorded
    def redis_dies(self) -> None:
        self.counts["outages"] += 1
        self._do(self._loss_noticed())
        self.pair.kill()
        self.disturbed = True

    @precondition(lambda self: not self.pair.is_up)
    @rule()
    @recorded
    def redis_returns(self) -> None:
        self._start_redis()
        self._do(self._rules_in_force(SETTLE_S))

    @precondition(lambda self: self.pair.is_up and not self.pair.cut_off)
    @rule()
    @recorded
    def replica_lags(self) -> None:
        self.pair.cut()

    @precondition(lambda self: self.pair.is_up)
    @rule()
    @recorded
    def fail_over(self) -> None:
        """Writes since the replica lagged are lost; documents are written again."""
        self.counts["fail-overs"] += 1
        if not self.pair.cut_off:
            self.pair.cut()
        self.pair.fail_over()
        for line in LINES:
            self._write_line(line)
        self._write_fleet()
        self.pair.attach()
        self.disturbed = self.lossy = True
        self._do(self._rules_in_force(SETTLE_S))

    @rule(ms=st.sampled_from([0, 3, 20, 60, 200]))
    @recorded
    def time_passes(self, ms: int) -> None:
        self._do(asyncio.sleep(ms / 1000))

    @rule()
    @recorded
    def rest(self) -> None:
        """Redis is up and nothing is in progress: every key must match the model."""
        self._start_redis()
        self._do(self._settle())
        self._do(self._rules_in_force(SETTLE_S))
        self.disturbed = False

    @invariant()
    def nothing_is_lost(self) -> None:
        for worker in getattr(self, "workers", ()):
            assert worker.recorder.lost == 0
            assert worker.journal.full == 0

    # -- how ------------------------------------------------------------------------------------

    def _do(self, work: Any) -> None:
        self.loop.run_until_complete(work)

    def _make(self, index: int) -> Worker:
        self.starts += 1
        return Worker(index, self.runs << 12 | self.starts, self.pair.socket, self.folder)

    def _local_decisions(self) -> int:
        return sum(
            worker.live.local_decisions + worker.forwards.local_decisions for worker in self.workers
        )

    def _write_line(self, line: str) -> None:
        to = FORWARDS[self.truth.forward[line]][0]
        forwards = {"unconditional": {"on": True, "to": to}} if to else {}
        document = {
            "number": line, "fleet": "acme", "max_calls": MAX_CALLS,
            "offer": OFFERS[LINES.index(line)], "forwards": forwards,
        }  # fmt: skip
        with self.pair.client() as client:
            client.set(f"line:{line}", json.dumps(document))

    def _write_fleet(self) -> None:
        with self.pair.client() as client:
            document = {"name": "acme", "suspended": self.truth.suspended}
            client.set("fleet:acme", json.dumps(document))

    async def _loss_noticed(self) -> None:
        """A process writes data again that a fail-over has lost, as long as the process runs."""
        deadline = time.monotonic() + SETTLE_S
        while self.lossy and not all(map(self._has_all_of, self.workers)):
            assert time.monotonic() < deadline, "lost data is not written again"
            await asyncio.sleep(0.01)
        self.lossy = False

    def _has_all_of(self, worker: Worker) -> bool:
        """Whether Redis has every record that the worker has written or will write."""
        kept = [mark_of(entry.values[0]) for _, entry in worker.recorder._kept]
        with self.pair.client() as client:
            return not worker.recorder.backlog and all(client.getbit(*mark) for mark in kept)

    def _start_redis(self) -> None:
        self.pair.start()
        if self.one_copy:
            self.pair.attach()
            self.one_copy = False

    async def _rules_in_force(self, within_s: float = IN_FORCE_S) -> None:
        """A change is in force within a second on every worker; looking the line up makes it
        faster."""
        deadline = time.monotonic() + within_s
        for worker in self.workers if hasattr(self, "workers") else ():
            for line in LINES:
                while not await self._knows(worker, line):
                    assert time.monotonic() < deadline, f"{worker.epoch}: {line} not in force"
                    await asyncio.sleep(0.005)

    async def _knows(self, worker: Worker, line: str) -> bool:
        try:
            entry = await worker.store.look_up(line)
        except Unavailable:
            return False
        fleet = worker.fleets.find("acme") or await worker.fleets.load("acme")
        to = FORWARDS[self.truth.forward[line]][0]
        found = None if entry.line is None else next(iter(entry.line.forwards.values()), None)
        target = found.to.number if found is not None and found.to is not None else None
        wanted = None if to is None else to.get("number", line)
        known = entry.line is not None and fleet.fleet is not None
        return known and target == wanted and fleet.suspended == self.truth.suspended

    def _facts(self, worker: Worker, number: str) -> CallFacts:
        worker.serial += 1
        facts = CallFacts(
            f"{worker.epoch}-{worker.serial}", "c@peer", CALLER, number, worker.journal.changed
        )
        worker.journal.write(facts)
        return facts

    async def _call(self, worker: Worker, number: str) -> None:
        self.counts["calls"] += 1
        facts = self._facts(worker, number)
        try:
            entry = await worker.store.look_up(number)
        except Unavailable:  # a worker that started while Redis was away has no rules yet
            assert self.disturbed
            self._over(worker, facts, Over(Outcome.FAILED, 503, "rules_unavailable"))
            return
        fleet = worker.fleets.find("acme") or await worker.fleets.load("acme")
        assert entry.line is not None
        line = entry.line
        situation = Situation(
            caller=CALLER, visited=(number,), plan_left_s=entry.plan_left_s(),
            fleet_suspended=fleet.suspended, forwards_per_line=LIMITS.forwards_per_line,
        )  # fmt: skip
        decision = decide(line, situation, {})
        self._check_decision(number, decision)
        if isinstance(decision, ForwardTo) and not worker.forwards.begin(number, LIMITS):
            full = await worker.forwards.ask(number, facts.id, LIMITS)
            if full is not None:
                decision = decide(line, at_limit(situation, full), {})
        if isinstance(decision, Reject):
            self._over(worker, facts, Over(Outcome.REJECTED, 403, decision.why))
            return
        counts_on = forwarded = None
        if isinstance(decision, Ring):
            if not await self._admitted(worker, facts.id, number):
                self._over(worker, facts, Over(Outcome.BUSY, 486, "busy"))
                return
            counts_on = number
        else:
            assert isinstance(decision, ForwardTo)
            facts.forwarded(line, decision)
            forwarded = number
        facts.talks()
        self.truth.standing[facts.id] = ActiveCall(worker.index, facts, counts_on, forwarded)

    def _check_decision(self, line: str, decision: Any) -> None:
        """Check a decision by the last rules written: they are in force before the next event."""
        if self.truth.suspended:
            assert decision == Reject(403, None, "fleet_suspended")
            return
        classes = FORWARDS[self.truth.forward[line]][1]
        if classes is None:
            assert isinstance(decision, Ring)
            return
        assert isinstance(decision, ForwardTo)
        expected = classes[LINES.index(line)]
        if expected is None:  # depends on the rest of the plan, which ended calls may change
            assert decision.billing in (Billing.DEDUCTED, Billing.OUT_OF_PLAN)
        else:
            assert decision.billing is expected

    async def _admitted(self, worker: Worker, id_: str, line: str) -> bool:
        found = await worker.live.admit(line, id_, MAX_CALLS)
        return found is None

    async def _end(self, id_: str, seconds: int) -> None:
        """End the call after `seconds` of conversation."""
        call = self.truth.standing.pop(id_)
        worker, facts = self.workers[call.worker], call.facts
        assert facts.answered is not None
        facts.received -= seconds
        facts.answered -= seconds
        if call.line is not None:
            worker.live.leave(call.line, id_)
        if call.forwarded is not None:
            worker.forwards.end(call.forwarded, id_)
        self._over(worker, facts, Over(Outcome.ANSWERED, 200, "bye"))

    def _over(self, worker: Worker, facts: CallFacts, over: Over) -> None:
        record = facts.record(over)
        worker.journal.over(facts, record)
        worker.recorder.add(record)
        self.truth.ended[facts.id] = record

    # -- the comparison -------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Wait for a limited time until nothing is in progress; then everything must match."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            wrong = self._wrong()
            if wrong is None:
                return
            assert time.monotonic() < deadline, wrong
            await asyncio.sleep(0.01)

    def _wrong(self) -> str | None:
        """The first difference from the model, None without one."""
        with self.pair.client() as client:
            pipe = client.pipeline(transaction=True)
            pipe.xrange("cdr")
            for line in LINES:
                for kind in ("live", "forwards"):
                    pipe.zrangebyscore(f"{kind}:{line}", f"({time.time()}", "+inf")
            entries, *live = pipe.execute()
            records = [read_entry(fields) for _, fields in entries]
            return (
                self._wrong_ids(records)
                or self._wrong_live(live)
                or self._wrong_records(records)
                or self._wrong_usage(client, records)
            )

    def _wrong_ids(self, records: list[CallRecord]) -> str | None:
        found = Counter(record.id for record in records)
        wanted = Counter([*self.truth.ended, *self.truth.crashed])
        if found != wanted:
            return f"records: {dict(found - wanted)} too many, {dict(wanted - found)} missing"
        return None

    def _wrong_live(self, live: list[list[str]]) -> str | None:
        for line, *counted in zip(LINES, live[::2], live[1::2], strict=True):
            true = self.truth.on(line), self.truth.forwarded(line)
            for kind, members, wanted in zip(("live", "forwards"), counted, true, strict=True):
                if set(members) != wanted:
                    return f"{kind}:{line}: {sorted(members)}, true: {sorted(wanted)}"
        return None

    def _wrong_records(self, records: list[CallRecord]) -> str | None:
        for record in records:
            ended = self.truth.ended.get(record.id)
            if ended is not None:
                same = (ended.outcome, ended.seconds, ended.why) == (
                    record.outcome, record.seconds, record.why,
                )  # fmt: skip
                if not same or [f.billing for f in ended.forwards] != [
                    f.billing for f in record.forwards
                ]:
                    return f"record {record}, true: {ended}"
                continue
            answered, crash = self.truth.crashed[record.id]
            if (record.outcome, record.why) != ("failed", "worker_died"):
                return f"record {record} of a call whose worker died"
            if abs(record.seconds - (crash - answered)) > 1:
                return f"record {record}: {record.seconds} s, true: {crash - answered:.1f}"
        return None

    def _wrong_usage(self, client: Any, records: list[CallRecord]) -> str | None:
        fleet: Counter[str] = Counter()
        beyond_s = 0
        for line in LINES:
            seconds: Counter[str] = Counter()
            for record in records:
                for forward in record.forwards:
                    if forward.line == line:
                        seconds[forward.billing] += forward.seconds
            beyond = max(0, seconds["deducted"] - PLAN_S)
            seconds["deducted"] -= beyond
            seconds["out_of_plan"] += beyond
            beyond_s += seconds["out_of_plan"]
            fleet += seconds
            if (used := _sum(client, f"usage:{line}:*")) != +seconds:
                return f"usage of {line}: {used}, true: {+seconds}"
        if (used := _sum(client, "usage:fleet:acme:*")) != +fleet:
            return f"usage of the fleet: {used}, true: {+fleet}"
        told_s = sum(record.out_of_plan_s for record in records)
        return None if told_s == beyond_s else f"out_of_plan_s: {told_s}, true: {beyond_s}"


def _sum(client: Any, pattern: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for key in client.scan_iter(pattern):
        total.update({name: int(value) for name, value in client.hgetall(key).items()})
    return +total


def run_apart(examples: int, steps: int, seed: int) -> str:
    """`run` in a separate process: crashes in it leave sockets for the garbage collector."""
    command = [sys.executable, "-m", "tests.campaigns.truth", "--examples", str(examples)]
    ended = subprocess.run(
        [*command, "--steps", str(steps), "--seed", str(seed)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-6000:]
    return ended.stdout.splitlines()[-1]


def run(examples: int, steps: int, seed: int | None = None) -> str:
    """Play `examples` runs of `steps` steps each; a `seed` of None always takes the same ones.
    Returns a summary in one line. Raises AssertionError with the shortest failing facts."""
    Machine.counts.clear()
    Machine.failure = ""
    machine = type("Story", (Machine,), {})
    if seed is not None:
        from hypothesis import seed as seeded

        machine = seeded(seed)(machine)
    begun = time.monotonic()
    # Shorter waiting times of the parts.
    short = {
        (recorder, "_LOOK_S"): LOOK_S,
        (recorder, "_RETRY_S"): (0.01, 0.05),
        (leases, "_RETRY_S"): 0.05,
    }
    before = {place: getattr(*place) for place in short}
    try:
        for (module, name), value in short.items():
            setattr(module, name, value)
        with RedisPair() as pair:
            Machine.pair = pair
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    derandomize=seed is None,
                    database=None,
                    deadline=None,
                    print_blob=False,
                    verbosity=Verbosity.normal,
                    phases=(Phase.generate,),
                    suppress_health_check=list(HealthCheck),
                ),
            )
    except Exception as error:
        raise AssertionError(Machine.failure or repr(error)) from error
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)
    played = ", ".join(f"{count} {what}" for what, count in sorted(Machine.counts.items()))
    return f"truth: {examples} runs, {played}, {time.monotonic() - begun:.0f} s: nothing wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.campaigns.truth")
    parser.add_argument("--examples", type=int, default=200, help="runs")
    parser.add_argument("--steps", type=int, default=40, help="steps in a run, at most")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats a campaign")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    print(run(options.examples, options.steps, options.seed))


if __name__ == "__main__":
    main()
