"""One slot of the duel: a contender, a case, a rate, and every figure that comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.cases import Bench, Settings, measure, settle
from benchmarks.ceiling import lossless, search
from benchmarks.duel.cases import AFTER_S, CASES, Case
from benchmarks.duel.contenders import CORES, PEERS, DuelRig
from benchmarks.figures import Result, percentile
from benchmarks.load import Plan, Run, run
from benchmarks.processes import BenchmarkError
from benchmarks.rig import HOST, LINES, STRANGER
from benchmarks.wire import Wire

FILL = 0.5  # share of the slowest contender's core at which they are compared
_CEILING_S = 5.0
_STANDING_S = 35  # longer than transactions outlive the set-up
_CEILING_GRAIN = 50.0


@dataclass(frozen=True)
class Slot:
    """A contender, a case and a rate."""

    contender: str
    case: Case
    rate: float  # of plain calls; the case's own rate follows from it
    seconds: float

    @property
    def case_rate(self) -> float:
        """Calls per second of this slot."""
        return round(self.rate * self.case.of_the_rate)

    @property
    def bench(self) -> Bench:
        """The slot as a bench of the other benchmarks."""
        load = {
            "scenario": self.case.scenario,
            "source": STRANGER if self.case.stranger else HOST,
            "patience_s": 5.0 + AFTER_S,
        }
        name = f"{self.case.name} {self.contender}"
        return Bench(name, self.case_rate, self.seconds, self.seconds, self.case.remark,
                     load=load, warm_rate=self.case_rate)  # fmt: skip

    def plan(self, rate: float, calls: int) -> Plan:
        """`calls` calls at `rate`."""
        return replace(Plan(rate=rate, calls=calls), **self.bench.load)  # type: ignore[arg-type]

    def rig(self, settings: Settings) -> DuelRig:
        """A fresh rig with the contender on it."""
        subject = settings.subject
        if self.contender in CORES:
            subject = replace(subject, core=CORES[self.contender])
        return DuelRig(subject, PEERS.get(self.contender), self.case, cores=settings.cores)


def affordable_rate(contender: str, settings: Settings) -> float:
    """Plain calls per second that fill FILL of this contender's core, by two short runs.

    The busier a server, the less a call costs it: the first run is at a rate that all carry, the
    second at the rate that the first one suggests."""
    rate = 25.0
    for seconds in (4.0, 5.0):
        slot = Slot(contender, CASES["bridged"], rate, 0)
        with slot.rig(settings) as rig:
            run(rig, slot.plan(rate, min(LINES, round(rate * 2))), f"{contender}, warm-up")
            outcome = run(rig, slot.plan(rate, round(rate * seconds)), f"{contender}, a look")
        if outcome.lost:
            raise BenchmarkError(f"{contender}: lost calls at {rate:g}/s: {outcome.errors}")
        cost_s = max(outcome.last.engine_cpu_s / outcome.last.started, 1e-4)
        rate = max(10.0, round(FILL / cost_s, -1))
    return rate


def measure_slot(slot: Slot, settings: Settings) -> Result:
    """CPU per call, decision latency on the wire, set-up time: one run at one rate."""
    bench = slot.bench
    with slot.rig(settings) as rig:
        rest = settle(rig, bench, settings)
        plan = slot.plan(bench.rate, round(bench.rate * bench.full_s))
        with Wire(rig.sip_port) as wire:
            result = measure(rig, plan, bench, rest.idle_share)
    result.more |= {"contender": slot.contender, "case": slot.case.name}
    counted = (result.decision_p50_ms, result.decision_p99_ms)
    result.more |= {"counted_p50_ms": counted[0], "counted_p99_ms": counted[1]}
    decisions, forwards = wire.decisions_ms(), wire.forwards_ms()
    if slot.case.legs and len(decisions) < 0.98 * (result.calls - result.failed):
        raise BenchmarkError(
            f"{bench.name}: of {result.calls} calls {len(decisions)} were seen on the wire"
        )
    result.decision_p50_ms = percentile(decisions, 0.5)
    result.decision_p99_ms = percentile(decisions, 0.99)
    result.more["decision_p999_ms"] = percentile(decisions, 0.999)
    result.more["decision_max_ms"] = decisions[-1] if decisions else None
    result.more["forward_p50_ms"] = percentile(forwards, 0.5)
    result.more["forward_p99_ms"] = percentile(forwards, 0.99)
    return result


def find_ceiling(slot: Slot, settings: Settings, first: float, steps: int) -> Iterator[Result]:
    """Rates that close in on the highest one at which this contender loses nothing."""

    def step(rate: float) -> Result:
        bench = replace(slot.bench, name=f"ceiling {slot.contender}")
        with slot.rig(settings) as rig:
            rest = settle(rig, bench, settings)
            plan = slot.plan(rate, round(rate * _CEILING_S))
            result = measure(rig, plan, bench, rest.idle_share, until_loss=True)
        verdict = "no loss" if lossless(result) else "loss, given up"
        result.more |= {"contender": slot.contender, "case": "ceiling"}
        return replace(result, remark=f"{verdict}, {result.remark}")

    yield from search(step, first, steps, _CEILING_GRAIN)


def stand(slot: Slot, settings: Settings, calls: int) -> Result:
    """Memory with `calls` calls in progress, less memory before, divided by the calls."""
    bench = replace(slot.bench, name=f"memory {slot.contender}", remark="")
    with slot.rig(settings) as rig:
        settle(rig, bench, settings)
        before = rig.memory_bytes()
        plan = replace(slot.plan(slot.rate, calls), hold_s=calls / slot.rate + _STANDING_S + 20)
        running = Run(rig, plan, bench.name)
        up, size = 0, 0
        try:
            while not size and running.step():
                up += running.seconds[-1].current == calls
                if up == _STANDING_S:
                    size = rig.memory_bytes()
        finally:
            outcome = running.finish()
    if not size:
        raise BenchmarkError(f"{bench.name}: never {calls} calls at once: {outcome.errors}")
    each = (size - before) / calls / 1024
    return Result(
        bench=bench.name,
        command="",
        rate=slot.rate,
        got_rate=outcome.got_rate,
        calls=outcome.last.started,
        failed=outcome.last.failed,
        remark=f"{each:.1f} KiB per active call, from {before / 2**20:.1f} MiB",
        more={"contender": slot.contender, "case": "memory", "kib_per_standing_call": each,
              "before_bytes": before, "standing_bytes": size, "lines": LINES},
    )  # fmt: skip
