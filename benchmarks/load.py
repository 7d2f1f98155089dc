"""SIPp as the caller: one run at one rate, watched second by second."""

from __future__ import annotations

import csv
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Latency
from benchmarks.processes import Child, CpuMeter, cpu_s, free_port
from benchmarks.rig import HOST, SCENARIOS, Rig, sipp_common

LINGER_S = 32.0  # a transaction outlives its call by this time (RFC 3261 17.2.2, Timer J)
_TAIL_S = 10.0  # the last call may take two retransmissions of each request (0.5+1+2 s)


@dataclass(frozen=True)
class Plan:
    """What to send: `calls` calls at `rate` per second, each held for `hold_s`."""

    rate: float
    calls: int
    hold_s: float = 0.0
    scenario: str = "caller"
    source: str = HOST
    patience_s: float = 5.0  # the call is given up after this time without any answer

    @property
    def seconds(self) -> float:
        """Length of the load without the hold time of its last call."""
        return self.calls / self.rate


@dataclass(frozen=True)
class Second:
    """One look at a run in progress: seconds since its start, counts and CPU so far."""

    at_s: float
    started: int
    ended: int
    failed: int
    retransmissions: int
    current: int
    engine_cpu_s: float


@dataclass(frozen=True)
class Outcome:
    """A finished run, by the figures of SIPp and the kernel."""

    seconds: tuple[Second, ...]
    load_cpu_s: float
    drops: int
    latency: Latency
    errors: str
    engine_waited_s: float
    plan_s: float

    @property
    def last(self) -> Second:
        """The totals."""
        return self.seconds[-1]

    @property
    def got_rate(self) -> float:
        """Calls started per second, from the first INVITE to the last."""
        if self.latency.span_s > 0.8 * self.plan_s:
            return self.last.started / self.latency.span_s
        # Too many of the last calls were lost and left no line in the log: SIPp's statistics are
        # exact to a second only.
        full = next(second for second in self.seconds if second.started == self.last.started)
        return full.started / full.at_s if full.at_s > 0 else 0.0

    @property
    def lost(self) -> int:
        """Calls that differed from the scenario or did not reach its end."""
        return self.last.started - self.last.ended


class Run:
    """A SIPp caller in progress. `step()` once a second until it returns False; then `finish()`.

    `target`: where it sends, None = the rig's usual target. `numbers`: file of callers and called
    numbers, None = the rig's own.
    """

    def __init__(
        self,
        rig: Rig,
        plan: Plan,
        label: str,
        *,
        target: tuple[str, int] | None = None,
        numbers: str | None = None,
    ) -> None:
        self._rig, self._plan, self._label = rig, plan, label
        self._target, self._numbers = target or rig.target, numbers or rig.numbers(plan.calls)
        self._port = free_port(host=plan.source)
        stem = f"caller-{self._port}"
        self._stat = rig.directory / f"{stem}.csv"
        self._errors = rig.directory / f"{stem}.err"
        self.log = rig.directory / f"{stem}.log"
        self._drops_before = rig.drops()
        self._load_pids = rig.load_pids()
        self._load_before_s = cpu_s(self._load_pids)
        self.meter = CpuMeter(rig.engine.pid) if rig.engine else None
        self._began = time.monotonic()
        self._child = Child(
            self._argv(),
            core=rig.load_core,
            log=rig.directory / f"{stem}.out",
            cwd=rig.directory,
        )
        self._reaped_before_s = _reaped_cpu_s()
        self._drops = 0
        self.seconds: list[Second] = [Second(0.0, 0, 0, 0, 0, 0, 0.0)]

    def _argv(self) -> list[str]:
        plan = self._plan
        host, port = self._target
        return [
            "sipp", "-sf", str(SCENARIOS / f"{plan.scenario}.xml"), f"{host}:{port}",
            "-i", plan.source, "-p", str(self._port),
            "-r", f"{plan.rate:g}", "-m", str(plan.calls), "-l", str(plan.calls),
            "-d", str(int(plan.hold_s * 1000)), "-inf", self._numbers,
            "-max_retrans", "2", "-max_invite_retrans", "2",
            "-recv_timeout", str(int(plan.patience_s * 1000)),
            "-trace_stat", "-stf", self._stat.name, "-fd", "1",
            "-trace_err", "-error_file", self._errors.name,
            "-trace_logs", "-log_file", self.log.name, *sipp_common(),
        ]  # fmt: skip

    def step(self) -> bool:
        """Wait a second and look; False when SIPp has ended (or had to be stopped)."""
        ended = self._child.wait(1.0) is not None
        self._drops = max(self._drops, self._rig.drops(self._port) - self._drops_before)
        tail_s = max(_TAIL_S, 2 * self._plan.patience_s)
        if not ended and self._elapsed_s() > self._plan.seconds + self._plan.hold_s + tail_s:
            self._child.stop(signal.SIGUSR1, 1.0)
            ended = True
        self._look()
        return not ended

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _look(self) -> None:
        counts = _last_row(self._stat)
        if not counts:
            return
        self._rig.engine_pids()  # raises when the engine has ended
        now = Second(
            at_s=self._elapsed_s(),
            started=int(counts["TotalCallCreated"]),
            ended=int(counts["SuccessfulCall(C)"]),
            failed=int(counts["FailedCall(C)"]),
            retransmissions=int(counts["Retransmissions(C)"]),
            current=int(counts["CurrentCall"]),
            engine_cpu_s=self.meter.used_s() if self.meter else 0.0,
        )
        before = self.seconds[-1]
        self.seconds.append(now)
        busy = (now.engine_cpu_s - before.engine_cpu_s) / max(now.at_s - before.at_s, 1e-3)
        report(
            f"{self._label} {self._plan.rate:g}/s: {now.at_s:4.0f} s, {now.started} calls, "
            f"{now.current} active, {now.failed} lost, engine {busy * 100:3.0f} %"
        )

    def finish(self) -> Outcome:
        """Totals of the run; stops SIPp if it still runs."""
        self._child.stop(signal.SIGUSR1, 0.5)
        load_s = cpu_s(self._load_pids) - self._load_before_s
        load_s += _reaped_cpu_s() - self._reaped_before_s  # the caller, which has been waited for
        waited_s = self.meter.waited_s() if self.meter else 0.0
        errors = self._errors.read_text(errors="replace") if self._errors.exists() else ""
        return Outcome(
            seconds=tuple(self.seconds),
            load_cpu_s=load_s,
            drops=self._drops,
            latency=Latency.read(self.log),
            errors=errors[:600],
            engine_waited_s=waited_s,
            plan_s=self._plan.seconds,
        )


def run(rig: Rig, plan: Plan, label: str, *, until_loss: bool = False) -> Outcome:
    """Carry out `plan` from start to end, or up to the first lost or repeated message."""
    running = Run(rig, plan, label)
    try:
        while running.step():
            if until_loss and running.seconds[-1].retransmissions:
                break
    finally:
        outcome = running.finish()
    return outcome


def finish_all(lanes: Sequence[Run]) -> list[Outcome]:
    """Watch simultaneous runs until all have ended."""
    going = list(lanes)
    try:
        while going:
            going = [lane for lane in going if lane.step()]
    finally:
        outcomes = [lane.finish() for lane in lanes]
    return outcomes


def _reaped_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _last_row(path: Path) -> dict[str, str]:
    """Newest complete row of SIPp's statistics file by column name; empty before there is one."""
    if not path.exists():
        return {}
    text = path.read_text()
    rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines(), delimiter=";"))
    if len(rows) < 2:
        return {}
    return dict(zip(rows[0], rows[-1], strict=False))


def report(text: str) -> None:
    """A line of progress, on standard error so that tables can be piped."""
    print(f"  {text}", file=sys.stderr, flush=True)
