"""What several workers cost, and what `max_calls` costs, by how the front distributes the calls.

By the called number: all calls of a line reach one worker, whose own count is exact (`live_count:
local`). To any worker: Redis counts (`shared`), in one round trip.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.cases import Settings
from benchmarks.figures import Result
from benchmarks.load import Plan, Run, finish_all, report
from benchmarks.processes import BenchmarkError, CpuMeter, cpu_s, yardstick_ms
from benchmarks.rig import HOST, LINES, Rig, called, caller, nobody

RATE = 120.0  # calls/s over all workers: any machine carries it on the one core that they share
MAX_CALLS = 100  # never reached
WORKERS = (1, 2, 4)
MODES = {
    "plain": "no max_calls",
    "local": "max_calls, the front shards by called number",
    "shared": "max_calls, any worker, one round trip to Redis",
}
_IDLE_S = 3.0
_SETTLE_S = 4.0


@dataclass
class Case:
    """One engine, and what was measured on it: us of CPU per call."""

    workers: int
    mode: str
    rig: Rig
    idle_share: float = 0.0
    cpu_us: list[float] = field(default_factory=list)
    redis_us: list[float] = field(default_factory=list)
    calls: int = 0
    lost: int = 0

    @property
    def name(self) -> str:
        return f"sharding-{self.workers}-{self.mode}"


def run_sharding(settings: Settings) -> Iterator[Result]:
    """All modes of one number of workers run beside one plain worker and are measured in turn. Each
    is compared with the plain worker of the same round."""
    rounds = 1 if settings.quick else 3
    with contextlib.ExitStack() as stack:
        first = _open(stack, settings, 1, "plain")
        yardstick = yardstick_ms(first.rig.engine_core)
        for workers in WORKERS[:2] if settings.quick else WORKERS:
            with contextlib.ExitStack() as these:
                cases = [
                    first
                    if (workers, mode) == (first.workers, first.mode)
                    else _open(these, settings, workers, mode)
                    for mode in MODES
                ]
                first.cpu_us.clear()
                first.redis_us.clear()
                turn = cases if first in cases else [first, *cases]
                for number in range(rounds):
                    for case in turn:
                        _measure(case, settings)
                        report(f"{case.name} {number + 1}/{rounds}: {case.cpu_us[-1]:.0f} us/call")
                for case in cases:
                    yield _result(case, cases[0], first, yardstick)


def _open(stack: contextlib.ExitStack, settings: Settings, workers: int, mode: str) -> Case:
    rig = Rig(
        settings.subject,
        cores=settings.cores,
        workers=workers,
        max_calls=None if mode == "plain" else MAX_CALLS,
        live_count="local" if mode == "local" else "shared",
        start_s=60.0,
    )
    case = Case(workers, mode, stack.enter_context(rig))
    for worker in range(workers):
        # By number: each worker gets its lines. Else: all lines, with a different first one per
        # worker.
        share = (
            range(worker, LINES, workers)
            if mode != "shared"
            else [(n + worker * LINES // workers) % LINES for n in range(LINES)]
        )
        lines = [f"{called(n)};{caller(n)};{nobody(n)}" for n in share]
        numbers = rig.directory / f"numbers-{worker}.csv"
        numbers.write_text("\n".join(["SEQUENTIAL", *lines]) + "\n")
    _send(case, LINES * (workers if mode == "shared" else 1), 300.0)  # all rules into memory
    rig.wait_until_idle(5)
    report(f"{case.name}: idle")
    time.sleep(_SETTLE_S if workers > 1 else 0.5)  # the warm spare is starting
    meter = CpuMeter(_pid(rig))
    time.sleep(1.0 if settings.quick else _IDLE_S)
    case.idle_share = meter.used_s() / meter.elapsed_s()
    return case


def _measure(case: Case, settings: Settings) -> None:
    rate = settings.rate or RATE
    calls = settings.calls or round(rate * (3 if settings.quick else 8))
    redis = [case.rig.children[0].pid]
    redis_before = cpu_s(redis)
    meter = CpuMeter(_pid(case.rig))
    started, lost = _send(case, calls, rate)
    time.sleep(0.5)  # the last records are written
    used = meter.used_s() - case.idle_share * meter.elapsed_s()
    case.calls += started
    case.lost += lost
    case.cpu_us.append(used / max(started, 1) * 1e6)
    case.redis_us.append((cpu_s(redis) - redis_before) / max(started, 1) * 1e6)


def _send(case: Case, calls: int, rate: float) -> tuple[int, int]:
    """Calls to all workers at once, one SIPp each; how many were started, and lost."""
    workers = case.workers
    lanes = [
        Run(
            case.rig,
            Plan(rate=rate / workers, calls=max(1, calls // workers)),
            f"{case.name} worker {worker}",
            target=(HOST, case.rig.sip_port + worker),
            numbers=f"numbers-{worker}.csv",
        )
        for worker in range(workers)
    ]
    outcomes = finish_all(lanes)
    started = sum(outcome.last.started for outcome in outcomes)
    if not started:
        raise BenchmarkError(f"{case.name}: no call was started: {outcomes[0].errors}")
    return started, sum(outcome.lost for outcome in outcomes)


def _pid(rig: Rig) -> int:
    assert rig.engine is not None
    return rig.engine.pid


def _result(case: Case, plain: Case, first: Case, yardstick: float) -> Result:
    cpu, redis = statistics.median(case.cpu_us), statistics.median(case.redis_us)
    ratios = [mine / its for mine, its in zip(case.cpu_us, first.cpu_us, strict=True)]
    remark = f"{MODES[case.mode]}: {statistics.median(ratios):.2f} times one plain worker"
    more: dict[str, object] = {"ratios": [round(ratio, 3) for ratio in ratios], "redis_us": redis}
    if case is not plain:
        checks = [mine - its for mine, its in zip(case.cpu_us, plain.cpu_us, strict=True)]
        redis_more = redis - statistics.median(plain.redis_us)
        remark += f"; the check {statistics.median(checks):+.0f} us, in Redis {redis_more:+.0f} us"
        more |= {"check_us": statistics.median(checks), "check_redis_us": redis_more}
    return Result(
        bench=case.name,
        command="python -m benchmarks sharding",
        calls=case.calls,
        failed=case.lost,
        cpu_us=cpu,
        idle_share=case.idle_share,
        yardstick_ms=yardstick,
        remark=remark,
        more=more,
    )
