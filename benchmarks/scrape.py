"""What a scrape a second costs the calls: one engine under steady load, windows with and without
scrapes in turn (A B A B)."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from benchmarks.cases import STEADY, Settings, settle
from benchmarks.figures import Histogram, Result, Samples, percentile
from benchmarks.load import Plan, Run, report
from benchmarks.processes import BenchmarkError, yardstick_ms
from benchmarks.rig import HOST, Rig

EVERY_S = 1.0
NAMES = {False: "scrape-none", True: "scrape-every-s"}


@dataclass
class Window:
    """A stretch of the load, with scrapes or without. Times in unix seconds."""

    scraped: bool
    start: float
    end: float = 0.0
    decisions: Histogram | None = None
    setup_ms: list[float] = field(default_factory=list)
    scrape_ms: list[float] = field(default_factory=list)

    @property
    def setup_p99_ms(self) -> float:
        """INVITE to 200 on the caller's clock, exact."""
        return percentile(self.setup_ms, 0.99) or 0.0


def run_scrape(settings: Settings) -> Iterator[Result]:
    """Windows in turn, in one run of one SIPp; calls belong to the window of their INVITE."""
    rounds, window_s = (6, 2.5) if settings.quick else (15, 5.0)
    bench = STEADY[1]
    with Rig(settings.subject, cores=settings.cores) as rig:
        rest = settle(rig, bench, settings)
        rate = settings.rate or min(500.0, max(10.0, round(0.5 / max(rest.warm_cpu_s, 1e-4), -1)))
        plan = Plan(rate=rate, calls=round(rate * (2 * rounds * (window_s + 0.5) + 4)))
        yardstick = yardstick_ms(rig.engine_core)
        running = Run(rig, plan, "scrape")
        windows: list[Window] = []
        wrong: list[BenchmarkError] = []
        toggler = threading.Thread(
            target=_take_turns, args=(rig, rounds, window_s, windows, wrong)
        )
        toggler.start()
        try:
            while running.step() and toggler.is_alive():
                pass
            toggler.join()
        finally:
            outcome = running.finish()
        if wrong:
            raise wrong[0]
        assign(windows, running.log)
    for scraped, name in NAMES.items():
        command = f"python -m benchmarks scrape --rate {rate:g}"
        result = summary(name, command, rate, windows, scraped)
        result.yardstick_ms = yardstick
        result.failed = outcome.lost
        result.retransmissions = outcome.last.retransmissions
        if scraped:
            _compare(result, windows)
        yield result


def summary(
    name: str, command: str, rate: float, windows: list[Window], disturbed: bool
) -> Result:
    """What the calls met in the windows with, or in those without."""
    mine = [window for window in windows if window.scraped is disturbed]
    setup = sorted(ms for window in mine for ms in window.setup_ms)
    decisions = added([window.decisions for window in mine])
    seconds = sum(window.end - window.start for window in mine)
    return Result(
        bench=name,
        command=command,
        rate=rate,
        got_rate=len(setup) / seconds,
        seconds=seconds,
        calls=len(setup),
        decision_p50_ms=decisions.quantile_ms(0.5),
        decision_p99_ms=decisions.quantile_ms(0.99),
        decision_within_1ms=decisions.share_within(0.001),
        setup_p50_ms=percentile(setup, 0.5),
        setup_p99_ms=percentile(setup, 0.99),
    )


def _take_turns(
    rig: Rig, rounds: int, window_s: float, windows: list[Window], wrong: list[BenchmarkError]
) -> None:
    """The windows, one after the other; `wrong` gets what ended them early."""
    time.sleep(2.0)  # the load comes up
    try:
        for turn in range(2 * rounds):
            scraped = turn % 2 == 1
            windows.append(_window(rig, window_s, scraped=scraped))
            report(f"{NAMES[scraped]} {turn // 2 + 1}/{rounds}")
    except BenchmarkError as error:
        wrong.append(error)


def _window(rig: Rig, window_s: float, *, scraped: bool) -> Window:
    before = rig.metrics()
    time.sleep(0.3)  # reading that page took the callers' core for a moment
    window = Window(scraped, time.time())
    until = time.monotonic() + window_s
    while (left_s := until - time.monotonic()) > 0:
        if scraped:
            window.scrape_ms.append(_scrape(rig.admin_port))
        time.sleep(min(EVERY_S, max(0.0, left_s)))
    window.end = time.time()
    window.decisions = between(before, rig.metrics())
    return window


def _scrape(port: int) -> float:
    """Milliseconds of one scrape, as Prometheus would see it."""
    start = time.perf_counter()
    try:
        with urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
            answer.read()
    except OSError as error:
        raise BenchmarkError(f"/metrics on port {port}: {error}") from error
    return (time.perf_counter() - start) * 1000


def between(before: Samples, after: Samples) -> Histogram:
    return Histogram.between(before, after, "renvoi_decision_seconds")


def added(histograms: list[Histogram | None]) -> Histogram:
    counts: dict[float, float] = {}
    for histogram in histograms:
        for edge, count in histogram.buckets if histogram else ():
            counts[edge] = counts.get(edge, 0.0) + count
    return Histogram(tuple(sorted(counts.items())))


def assign(windows: list[Window], log: Path) -> None:
    """Every answered call to the window in which its INVITE was sent."""
    for line in log.read_text().splitlines():
        try:
            sent_s, sent_us, _, _, final_s, final_us = map(float, line.split())
        except ValueError:
            continue  # cut short by the stop
        sent = sent_s + sent_us / 1e6
        for window in windows:
            if window.start <= sent < window.end:
                window.setup_ms.append((final_s - sent_s) * 1e3 + (final_us - sent_us) / 1e3)
                break
    for window in windows:
        window.setup_ms.sort()


def ratios(windows: list[Window]) -> tuple[str, dict[str, object]]:
    """Each window with against the one before it: in words, and as figures."""
    pairs = list(zip(windows[::2], windows[1::2], strict=True))
    setup = [with_.setup_p99_ms / max(without.setup_p99_ms, 1e-9) for without, with_ in pairs]
    decision = [
        (with_.decisions.quantile_ms(0.99) or 0.0) / (without.decisions.quantile_ms(0.99) or 1e9)
        for without, with_ in pairs
        if without.decisions and with_.decisions
    ]
    told = [
        f"{name} p99 with / without: {min(values):.2f} / {statistics.median(values):.2f}"
        f" / {max(values):.2f}"
        for name, values in (("decision", decision), ("set-up", setup))
    ]
    return f"{len(pairs)} pairs, {'; '.join(told)} (min/median/max)", {
        "decision_p99_ratios": [round(ratio, 3) for ratio in decision],
        "setup_p99_ratios": [round(ratio, 3) for ratio in setup],
    }


def _compare(result: Result, windows: list[Window]) -> None:
    scrapes = sorted(ms for window in windows for ms in window.scrape_ms)
    told, figures = ratios(windows)
    result.remark = f"{told}; a scrape takes {percentile(scrapes, 0.5) or 0:.1f} ms (median)"
    result.more = figures | {"scrape_ms_p50": percentile(scrapes, 0.5)}
