"""Command line of the curves: `python -m benchmarks curves --help`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.curves.picture import draw
from benchmarks.curves.points import (
    Curve,
    Point,
    Series,
    SizedRig,
    measure,
    send,
    warm,
)
from benchmarks.duel.cases import CASES
from benchmarks.load import report
from benchmarks.processes import BenchmarkError, take_cores
from benchmarks.subject import CHECKOUT, Subject, machine

PICTURES = CHECKOUT / "docs" / "pictures"
_MAX_CALLS = 100  # of a line that counts its calls in Redis; never reached
_FILL_RATE = 250.0  # at which the calls in progress are placed
_TOO_FULL = 0.02  # share of lost calls above which the machine does not carry a rate


@dataclass(frozen=True)
class Sweep:
    """What all curves share."""

    subject: Subject
    cores: tuple[int, int]
    rate: float
    seconds: float
    quick: bool

    def few(self, values: Sequence[float]) -> Sequence[float]:
        """All values; with --quick the first, a middle one and the last."""
        if self.quick and len(values) > 3:
            return (values[0], values[len(values) // 2], values[-2])
        return values

    def point(self, rig: SizedRig, x: float, label: str, rate: float | None = None) -> Point:
        """Measure, and report the figures."""
        point = measure(rig, x, rate or self.rate, self.seconds, label)
        p99 = "-" if point.p99_ms is None else f"{point.p99_ms:.2f}"
        report(f"{label}: {point.cpu_us:.0f} us/call, p99 {p99} ms, {point.lost} lost")
        return point


def standing(sweep: Sweep) -> Curve:
    """Calls in progress while others are set up and ended: one engine, filled further each time."""
    series = Series("plain calls")
    waiting = []
    up = 0
    with SizedRig(sweep.subject, sweep.cores) as rig:
        warm(rig, "standing")
        for wanted in sweep.few((10, 100, 1_000, 5_000, 10_000, 20_000)):
            calls = int(wanted) - up
            rate = min(_FILL_RATE, max(10.0, calls / 2))
            (more,) = send(rig, rate, calls, f"standing, to {wanted:g}", hold_s=900.0)
            waiting.append(more)
            deadline = time.monotonic() + calls / rate + 20
            while more.seconds[-1].current < calls:
                if not more.step() or time.monotonic() > deadline:
                    raise BenchmarkError(f"standing: only {more.seconds[-1].current} active calls")
            up = int(wanted)
            series.points.append(sweep.point(rig, wanted, f"standing {wanted:g}"))
        for one in waiting:
            one.finish()
    return Curve(
        "standing", "CPU per call and calls in progress", "calls in progress", True, [series]
    )


def lines(sweep: Sweep) -> Curve:
    """Lines in Redis: calls to the same 500 (rules in memory), and to any of them at random."""
    known, any_line = Series("500 lines called again"), Series("any line, at random")
    for count in sweep.few((1_000, 10_000, 100_000, 1_000_000)):
        for series, at_random in ((known, False), (any_line, True)):
            with SizedRig(sweep.subject, sweep.cores, lines=int(count), at_random=at_random) as rig:
                warm(rig, f"lines {count:g}")
                series.points.append(sweep.point(rig, count, f"lines {count:g}, {series.name}"))
    title = "CPU per call and lines in Redis"
    return Curve("lines", title, "lines in Redis", True, [known, any_line])


def workers(sweep: Sweep) -> Curve:
    """Workers that share one core: shows what more processes cost, not what they gain."""
    series = Series("all on one core")
    for count in sweep.few((1, 2, 3, 4)):
        with SizedRig(sweep.subject, sweep.cores, workers=int(count)) as rig:
            warm(rig, f"workers {count:g}")
            series.points.append(sweep.point(rig, count, f"workers {count:g}"))
    return Curve("workers", "CPU per call and workers on one core", "workers", False, [series])


def forwards(sweep: Sweep) -> Curve:
    """Unconditional forwards per second, each of another line than the 499 before it."""
    series = Series("forwarded to voicemail")
    for rate in sweep.few((1, 10, 50, 100, 200, 300, 400, 600, 800, 1_000)):
        with SizedRig(sweep.subject, sweep.cores, case=CASES["unconditional"]) as rig:
            warm(rig, f"forwards {rate:g}/s")
            point = sweep.point(rig, rate, f"forwards {rate:g}/s", rate=rate)
        if point.lost > _TOO_FULL * point.calls:
            report(f"forwards: this machine does not carry {rate:g}/s")
            break
        series.points.append(point)
    return Curve("forwards", "CPU per call and forwards per second", "forwards per second", True,
                 [series])  # fmt: skip


def distance(sweep: Sweep) -> Curve:
    """A Redis with more delay, for lines that do not need it and lines that count calls in it."""
    plain, counted = Series("plain lines"), Series("lines with max_calls")
    for added_ms in sweep.few((0, 1, 2, 5, 10, 20)):
        for series, most in ((plain, None), (counted, _MAX_CALLS)):
            with SizedRig(sweep.subject, sweep.cores, redis_ms=added_ms, max_calls=most) as rig:
                warm(rig, f"Redis {added_ms:g} ms away")
                label = f"Redis {added_ms:g} ms away, {series.name}"
                series.points.append(sweep.point(rig, added_ms, label))
    title = "CPU per call and the way to Redis"
    return Curve("redis", title, "added to a round trip to Redis, ms", False, [plain, counted])


CURVES: dict[str, Callable[[Sweep], Curve]] = {
    "standing": standing,
    "lines": lines,
    "workers": workers,
    "forwards": forwards,
    "redis": distance,
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks curves",
        description="What a call costs as the engine grows, as pictures. About 15 minutes.",
    )
    made.add_argument("curve", nargs="*", help=f"of {', '.join(CURVES)}; all if none")
    made.add_argument("--rate", type=float, default=120.0, help="calls per second (120)")
    made.add_argument("--seconds", type=float, help="length of each run (10; quick: 3)")
    made.add_argument("--pictures", type=Path, default=PICTURES, help="directory for the SVGs")
    made.add_argument("--checkout", type=Path, default=CHECKOUT, help="the Renvoi to measure")
    made.add_argument("--quick", action="store_true", help="a look: fewer and shorter runs")
    return made


def main(argv: Sequence[str]) -> int:
    """Measure and draw. Raises BenchmarkError when it cannot be carried out."""
    usage = parser()
    options = usage.parse_args(argv)
    for name in options.curve:
        if name not in CURVES:
            usage.error(f"curve: unknown (got {name})")
    for name in ("rate", "seconds"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            usage.error(f"--{name}: must be above 0 (got {value:g})")
    subject = Subject(options.checkout.resolve())
    seconds = options.seconds or (3.0 if options.quick else 10.0)
    sweep = Sweep(subject, take_cores(), options.rate, seconds, options.quick)
    about = machine(subject)
    options.pictures.mkdir(parents=True, exist_ok=True)
    for name in options.curve or CURVES:
        curve = CURVES[name](sweep)
        path = options.pictures / f"curve-{name}.svg"
        rate = "" if name == "forwards" else f"{sweep.rate:g} calls/s, "
        draw(curve, path, f"{rate}{seconds:g} s a point, commit {about['commit']}, {about['cpu']}")
        print(summary(curve))
        print(json.dumps({"curve": name} | curve.as_dict() | {"machine": about}), flush=True)
    return 0


def summary(curve: Curve) -> str:
    """A table of the points and a line with the slopes."""
    per = "for ten times as many" if curve.log else "for each more"
    rows = [f"{curve.x_label} | series | us/call | p50 ms | p99 ms | lost"]
    for series in curve.series:
        for point in series.points:
            p50, p99 = ["-" if ms is None else f"{ms:.2f}" for ms in (point.p50_ms, point.p99_ms)]
            rows.append(
                f"{point.x:,.10g} | {series.name} | {point.cpu_us:,.0f} | {p50} | {p99} | "
                f"{point.lost} of {point.calls}"
            )
    for name, slopes in curve.slopes().items():
        parts = [f"{value:+.3g} {unit}" for unit, value in
                 (("us/call", slopes["cpu_us"]), ("ms of p99", slopes["p99_ms"]))
                 if value is not None]  # fmt: skip
        rows.append(f"slope, {name}: {', '.join(parts)} {per}")
    return "\n".join(rows)
