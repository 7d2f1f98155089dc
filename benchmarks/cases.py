"""The benchmarks: what each one sends to which rig, and the figures that come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from benchmarks.figures import Histogram, Result, percentile, total
from benchmarks.load import LINGER_S, Outcome, Plan, Run, report, run
from benchmarks.processes import BenchmarkError, CpuMeter, rss_bytes, yardstick_ms
from benchmarks.rig import LINES, STRANGER, Rig
from benchmarks.subject import Subject

_KIB = 1024
WARM_RATE = 300.0  # calls/s that every machine carries
_FILL = 0.7  # share of the engine's core at which CPU per call is measured, at most
_LOST_AT_MOST = 0.01  # share of lost calls above which CPU per call is not valid


@dataclass(frozen=True)
class Settings:
    """What the command line asked for. `rate`, `calls`, `hold_s`: None = the bench's own."""

    subject: Subject
    cores: tuple[int, int]
    quick: bool = False
    rate: float | None = None
    calls: int | None = None
    hold_s: float | None = None

    def plan(self, rate: float, full_s: float, quick_s: float, **more: object) -> Plan:
        """The load of a bench at `rate` for so many seconds, unless the command line differs."""
        rate = self.rate or rate
        calls = self.calls or round(rate * (quick_s if self.quick else full_s))
        plan = Plan(rate=rate, calls=calls, hold_s=self.hold_s or 0.0)
        return replace(plan, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Bench:
    """A load that stays the same for its whole length."""

    name: str
    rate: float
    full_s: float
    quick_s: float
    remark: str
    rig: Mapping[str, object] = field(default_factory=dict)
    load: Mapping[str, object] = field(default_factory=dict)
    warm_calls: int = LINES  # one for each line, so that all rules are in memory
    warm_rate: float = WARM_RATE
    refused_as: str = ""  # reason in renvoi_rejected_total that must count the calls


# Longer than 32 s where CPU per call is measured: by then old transactions expire as new ones
# begin.
STEADY = (
    Bench("floor", 1000, 5, 2, "SIPp to SIPp: the share of the load in set-up times",
          rig={"with_engine": False}),
    Bench("bridged", 500, 42, 6, "plain call to one phone"),
    Bench("limited", 500, 42, 3, "line with max_calls: calls counted in Redis",
          rig={"max_calls": 100}),
    Bench("forwarded", 500, 42, 4, "phone answers 486, then voicemail", rig={"phone": "busy"}),
    Bench("forwarded-live", 500, 42, 4, "max_calls reached elsewhere, then voicemail",
          rig={"max_calls": 1, "calls_elsewhere": 1}),
    Bench("stranger", 1000, 12, 3, "403 to an untrusted peer",
          load={"scenario": "refused", "source": STRANGER}, warm_calls=200,
          refused_as="stranger"),
    Bench("overload", 1000, 12, 3, "503 above limits.calls_per_second",
          rig={"limits": {"calls_per_second": 1}}, load={"scenario": "refused"},
          warm_calls=200, refused_as="overload"),
)  # fmt: skip


def run_steady(bench: Bench, settings: Settings) -> Iterator[Result]:
    """One rig, one load. Unless the command line names a rate, a slow machine gets a lower one."""
    with open_rig(settings, bench.rig) as rig:
        rest = settle(rig, bench, settings)
        rate = bench.rate
        if settings.rate is None and rest.warm_cpu_s > 0:
            rate = min(rate, max(10.0, round(_FILL / rest.warm_cpu_s, -1)))
        plan = settings.plan(rate, bench.full_s, bench.quick_s, **bench.load)
        yield measure(rig, plan, bench, rest.idle_share)


def run_latency(settings: Settings) -> Iterator[Result]:
    """Plain calls at several rates in one engine, slowest first."""
    bench = Bench("latency", WARM_RATE, 10, 2.5, "plain call to one phone")
    rates = (settings.rate,) if settings.rate else (200.0, 1000.0, 2000.0)
    with open_rig(settings, bench.rig) as rig:
        rest = settle(rig, bench, settings)
        for rate in rates:
            plan = replace(settings, rate=rate).plan(rate, bench.full_s, bench.quick_s)
            yield measure(rig, plan, bench, rest.idle_share)


def run_memory(settings: Settings) -> Iterator[Result]:
    """Resident memory with many calls in progress, after they end, and with as many again."""
    rate = settings.rate or 500.0
    calls = settings.calls or (2000 if settings.quick else 5000)
    standing_s = 3.0 if settings.quick else 6.0
    bench = Bench("memory", rate, 0, 0, "", warm_calls=100)
    plan = Plan(rate=rate, calls=calls, hold_s=calls / rate + standing_s)
    with open_rig(settings, bench.rig) as rig:
        settle(rig, bench, settings)
        sizes = {"before": _rss(rig)}
        for wave in (1,) if settings.quick else (1, 2):
            outcome, sizes[f"standing_{wave}"] = _stand(rig, plan, f"memory, wave {wave}")
            left = rig.wait_until_idle(5)
            if not settings.quick:
                _pause(LINGER_S + 2 if wave == 1 else 5, "memory: transactions run out")
            sizes[f"ended_{wave}"] = _rss(rig)
            result = _result(bench, plan, outcome)
            # The first wave shows what a call takes; the second, whether memory is reused.
            per_call = (sizes["standing_1"] - sizes["before"]) / calls / _KIB
            result.remark = (
                f"{per_call:.1f} KiB per active call, RSS "
                + ", ".join(f"{name} {size / _KIB / _KIB:.1f}" for name, size in sizes.items())
                + " MiB"
            )
            result.more = {f"rss_{name}_bytes": size for name, size in sizes.items()}
            result.more |= {"kib_per_standing_call": per_call, "active_calls_left": left}
            result.more |= {"wave": wave}
            yield result


def _stand(rig: Rig, plan: Plan, label: str) -> tuple[Outcome, int]:
    """Run `plan`; returns its outcome and the RSS while all of its calls are in progress."""
    running = Run(rig, plan, label)
    size = 0
    all_up = 0
    try:
        while running.step():
            all_up += running.seconds[-1].current == plan.calls
            if all_up == 2 and size == 0:
                size = _rss(rig)
                active = total(rig.metrics(), "renvoi_active_calls")
                report(f"{label}: {active:.0f} calls in the engine, {size / _KIB / _KIB:.1f} MiB")
    finally:
        outcome = running.finish()
    if size == 0:
        raise BenchmarkError(f"{label}: never {plan.calls} calls at once: {outcome.errors}")
    return outcome, size


def _rss(rig: Rig) -> int:
    return rss_bytes(rig.engine_pids())


def _pause(seconds: float, why: str) -> None:
    report(f"{why}: {seconds:.0f} s")
    time.sleep(seconds)


def open_rig(settings: Settings, differences: Mapping[str, object]) -> Rig:
    """The rig of this subject, with these differences from the usual one."""
    return Rig(settings.subject, cores=settings.cores, **differences)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rest:
    """An engine that is warm and does nothing."""

    idle_share: float  # of a core
    warm_cpu_s: float  # CPU of one call of the warm-up, 0 if not known


def settle(rig: Rig, bench: Bench, settings: Settings) -> Rest:
    """Warm the engine up and let it rest."""
    plan = Plan(rate=bench.warm_rate, calls=bench.warm_calls)
    plan = replace(plan, **bench.load)  # type: ignore[arg-type]
    outcome = run(rig, plan, f"{bench.name}, warm-up")
    if outcome.lost == outcome.last.started:
        raise BenchmarkError(f"{bench.name}: every call of the warm-up failed: {outcome.errors}")
    if rig.engine is None:
        return Rest(0.0, 0.0)
    rig.wait_until_idle(5)
    meter = CpuMeter(rig.engine.pid)
    time.sleep(1.0 if settings.quick else 2.0)
    warm_cpu_s = outcome.last.engine_cpu_s / max(outcome.last.started, 1)
    return Rest(meter.used_s() / meter.elapsed_s(), warm_cpu_s)


def measure(
    rig: Rig, plan: Plan, bench: Bench, idle_share: float, *, until_loss: bool = False
) -> Result:
    """Send `plan` and work out every figure of the run."""
    yardstick = yardstick_ms(rig.engine_core)
    before = rig.metrics()
    outcome = run(rig, plan, bench.name, until_loss=until_loss)
    left = rig.wait_until_idle(0 if until_loss else 5) if rig.engine else 0
    after = rig.metrics()
    result = _result(bench, plan, outcome)
    result.yardstick_ms = yardstick
    if rig.engine is None:
        return result
    late = [second for second in outcome.seconds if second.at_s > LINGER_S]
    # Calls that failed half-way and repeated messages would distort the figure.
    whole = result.failed <= _LOST_AT_MOST * result.calls
    if whole:
        result.cpu_us = _cpu_us(outcome, 0, -1, idle_share)
    # The last look may be a second in which nothing was left to do.
    if whole and len(late) > 3:
        result.cpu_us_late = _cpu_us(outcome, len(outcome.seconds) - len(late), -2, idle_share)
    result.engine_share = outcome.last.engine_cpu_s / outcome.last.at_s
    result.idle_share = idle_share
    result.waited_share = outcome.engine_waited_s / outcome.last.at_s
    remarks = [result.remark] if result.remark else []
    if result.waited_share > 0.1:
        remarks.append("other programs used the engine's core")
    if result.retransmissions or result.engine_share > 0.95:
        remarks.append("overloaded")
    result.remark = ", ".join(remarks)
    decision = Histogram.between(before, after, "renvoi_decision_seconds")
    result.decision_p50_ms = decision.quantile_ms(0.5)
    result.decision_p99_ms = decision.quantile_ms(0.99)
    result.decision_within_1ms = decision.share_within(0.001)
    result.more["active_calls_left"] = left
    if bench.refused_as:
        result.more["counted_refusals"] = total(
            after, "renvoi_rejected_total", reason=bench.refused_as
        ) - total(before, "renvoi_rejected_total", reason=bench.refused_as)
    return result


def _cpu_us(outcome: Outcome, first: int, last: int, idle_share: float) -> float | None:
    """Engine CPU per call between two looks at the run, in us, less what idling costs."""
    start, end = outcome.seconds[first], outcome.seconds[last]
    calls = end.started - start.started
    if calls <= 0:
        return None
    used_s = end.engine_cpu_s - start.engine_cpu_s - idle_share * (end.at_s - start.at_s)
    return used_s / calls * 1e6


def _result(bench: Bench, plan: Plan, outcome: Outcome) -> Result:
    last, latency = outcome.last, outcome.latency
    load_share = outcome.load_cpu_s / last.at_s if last.at_s else None
    remarks = [bench.remark] if bench.remark else []
    if load_share is not None and load_share > 0.9:
        remarks.append("the load's core is full: SIPp may be the limit")
    if outcome.errors:
        report(f"SIPp: {outcome.errors}")
    return Result(
        bench=bench.name,
        command=f"python -m benchmarks {bench.name} --rate {plan.rate:g} --calls {plan.calls}",
        rate=plan.rate,
        got_rate=outcome.got_rate,
        seconds=last.at_s,
        calls=last.started,
        failed=outcome.lost,
        retransmissions=last.retransmissions,
        dropped=outcome.drops,
        load_share=load_share,
        ringing_p50_ms=percentile(latency.ringing_ms, 0.5),
        ringing_p99_ms=percentile(latency.ringing_ms, 0.99),
        setup_p50_ms=percentile(latency.final_ms, 0.5),
        setup_p99_ms=percentile(latency.final_ms, 0.99),
        answered_ms=latency.final_ms,
        remark=", ".join(remarks),
    )


def _steady(bench: Bench) -> Callable[[Settings], Iterator[Result]]:
    return lambda settings: run_steady(bench, settings)


BENCHES: dict[str, Callable[[Settings], Iterator[Result]]] = {
    **{bench.name: _steady(bench) for bench in STEADY},
    "latency": run_latency,
    "memory": run_memory,
}
