"""The effect of a scrape per second on calls: one engine under steady load, windows with and
without scrapes in turn (A B B A).

Each call's decision is measured on the wire, INVITE in to INVITE out, and its set-up on the
caller's clock; a call belongs to the window of its INVITE."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from benchmarks.cases import STEADY, Settings, settle
from benchmarks.figures import Result, percentile
from benchmarks.load import Plan, Run, report
from benchmarks.processes import BenchmarkError, yardstick_ms
from benchmarks.rig import HOST, LINES, Rig, called, nobody
from benchmarks.wire import Seen, Wire

EVERY_S = 1.0
DRAWS = 1000  # of the bootstrap
NAMES = {False: "scrape-none", True: "scrape-every-s"}


@dataclass
class Window:
    """A part of the load, with scrapes or without. Times in unix seconds."""

    scraped: bool
    start: float
    end: float = 0.0
    decision_ms: list[float] = field(default_factory=list)
    setup_ms: list[float] = field(default_factory=list)
    scrape_ms: list[float] = field(default_factory=list)


def run_scrape(settings: Settings) -> Iterator[Result]:
    """Windows in turn, in one run of one SIPp. Raises BenchmarkError without the right to capture
    packets."""
    rounds, window_s = (6, 2.5) if settings.quick else (20, 5.0)
    bench = STEADY[1]
    with Rig(settings.subject, cores=settings.cores) as rig:
        rest = settle(rig, bench, settings)
        rate = settings.rate or min(500.0, max(10.0, round(0.5 / max(rest.warm_cpu_s, 1e-4), -1)))
        plan = Plan(rate=rate, calls=round(rate * (2 * rounds * (window_s + 0.5) + 4)))
        yardstick = yardstick_ms(rig.engine_core)
        windows: list[Window] = []
        wrong: list[BenchmarkError] = []
        toggler = threading.Thread(target=_take_turns, args=(rig, rounds, window_s, windows, wrong))
        with Wire(rig.sip_port) as wire:
            running = Run(rig, plan, "scrape", numbers=new_callers(rig, plan.calls))
            toggler.start()
            try:
                while running.step() and toggler.is_alive():
                    pass
                toggler.join()
            finally:
                outcome = running.finish()
        if wrong:
            raise wrong[0]
        assign(windows, running.log, wire.calls.values())
    for scraped, name in NAMES.items():
        command = f"python -m benchmarks scrape --rate {rate:g}"
        result = summary(name, command, rate, windows, scraped)
        result.yardstick_ms = yardstick
        result.failed = outcome.lost
        result.retransmissions = outcome.last.retransmissions
        if scraped:
            _compare(result, windows)
        yield result


def summary(name: str, command: str, rate: float, windows: list[Window], disturbed: bool) -> Result:
    """The result over the windows with scrapes, or over those without."""
    mine = [window for window in windows if window.scraped is disturbed]
    setup = sorted(ms for window in mine for ms in window.setup_ms)
    decisions = sorted(ms for window in mine for ms in window.decision_ms)
    seconds = sum(window.end - window.start for window in mine)
    return Result(
        bench=name,
        command=command,
        rate=rate,
        got_rate=len(setup) / seconds,
        seconds=seconds,
        calls=len(setup),
        decision_p50_ms=percentile(decisions, 0.5),
        decision_p99_ms=percentile(decisions, 0.99),
        setup_p50_ms=percentile(setup, 0.5),
        setup_p99_ms=percentile(setup, 0.99),
    )


def new_callers(rig: Rig, calls: int) -> str:
    """A file of callers and called numbers. No caller comes twice: on the wire the caller's number
    identifies the call."""
    rows = [f"{called(index % LINES)};+3315{index:07d};{nobody(0)}" for index in range(calls)]
    (rig.directory / "new-callers.csv").write_text("\n".join(["SEQUENTIAL", *rows]) + "\n")
    return "new-callers.csv"


def _take_turns(
    rig: Rig, rounds: int, window_s: float, windows: list[Window], wrong: list[BenchmarkError]
) -> None:
    """The windows, one after the other; `wrong` gets what ended them early."""
    time.sleep(2.0)  # until the load is steady
    try:
        for turn in range(2 * rounds):
            scraped = turn % 4 in (1, 2)  # A B B A: a drift affects both alike
            windows.append(_window(rig, window_s, scraped=scraped))
            report(f"{NAMES[scraped]} {turn // 2 + 1}/{rounds}")
    except BenchmarkError as error:
        wrong.append(error)


def _window(rig: Rig, window_s: float, *, scraped: bool) -> Window:
    time.sleep(0.5)  # the last calls of the previous window are over
    window = Window(scraped, time.time())
    until = time.monotonic() + window_s
    while (left_s := until - time.monotonic()) > 0:
        if scraped:
            window.scrape_ms.append(_scrape(rig.admin_port))
        time.sleep(min(EVERY_S, max(0.0, left_s)))
    window.end = time.time()
    return window


def _scrape(port: int) -> float:
    """Duration of one scrape in milliseconds, as Prometheus would measure it."""
    start = time.perf_counter()
    try:
        with urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
            answer.read()
    except OSError as error:
        raise BenchmarkError(f"/metrics on port {port}: {error}") from error
    return (time.perf_counter() - start) * 1000


def assign(windows: list[Window], log: Path, seen: Iterable[Seen]) -> None:
    """Assign each answered call, from the caller's log and from the wire, to the window of its
    INVITE."""
    for line in log.read_text().splitlines():
        try:
            sent_s, sent_us, _, _, final_s, final_us = map(float, line.split())
        except ValueError:
            continue  # cut short by the stop
        if window := _window_of(windows, sent_s + sent_us / 1e6):
            window.setup_ms.append((final_s - sent_s) * 1e3 + (final_us - sent_us) / 1e3)
    for call in seen:
        if call.dialled and (window := _window_of(windows, call.invited / 1e9)):
            window.decision_ms.append((call.dialled[0] - call.invited) / 1e6)
    for window in windows:
        window.setup_ms.sort()
        window.decision_ms.sort()


def _window_of(windows: list[Window], at: float) -> Window | None:
    return next((window for window in windows if window.start <= at < window.end), None)


Pairs = list[tuple[list[float], list[float]]]  # times without, times with


def ratios(windows: list[Window]) -> tuple[str, dict[str, object]]:
    """With scrapes divided by without, over all windows and by pair: as text, and as figures."""
    figures: dict[str, object] = {}
    parts = []
    ways: dict[str, Callable[[Window], list[float]]] = {
        "decision": lambda window: window.decision_ms,
        "set-up": lambda window: window.setup_ms,
    }
    for name, times in ways.items():
        pairs = [
            (times(min(pair, key=_is_scraped)), times(max(pair, key=_is_scraped)))
            for pair in zip(windows[::2], windows[1::2], strict=True)
        ]
        of_pairs = [_p99_ratio([pair]) for pair in pairs]
        low, high = interval(pairs)
        pools = [sorted(ms for pair in pairs for ms in pair[side]) for side in (0, 1)]
        words = []
        for share, label in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")):
            without, with_ = (percentile(pool, share) or 0.0 for pool in pools)
            ratio = with_ / max(without, 1e-9)
            words.append(f"{label} {without:.3f} -> {with_:.3f} ms ({ratio:.3f})")
            figures[f"{name}_{label}"] = [round(without, 4), round(with_, 4), round(ratio, 4)]
        parts.append(
            f"{name}, {len(pools[0])} calls without and {len(pools[1])} with: {', '.join(words)};"
            f" p99 ratio 95 % between {low:.3f} and {high:.3f}, of the {len(pairs)} pairs "
            f"{min(of_pairs):.2f} / {statistics.median(of_pairs):.2f} / {max(of_pairs):.2f}"
        )
        figures[f"{name}_p99_interval"] = [round(low, 4), round(high, 4)]
        figures[f"{name}_p99_ratios"] = [round(ratio, 3) for ratio in of_pairs]
    return "; ".join(parts) + " (min/median/max)", figures


def interval(pairs: Pairs) -> tuple[float, float]:
    """The 95 % bootstrap interval of the ratio of the pools' p99: pairs of windows are drawn with
    replacement, because calls of one window are not independent."""
    draw = random.Random(1)
    found = sorted(_p99_ratio(draw.choices(pairs, k=len(pairs))) for _ in range(DRAWS))
    return percentile(found, 0.025) or 0.0, percentile(found, 0.975) or 0.0


def _p99_ratio(pairs: Pairs) -> float:
    without, with_ = (
        percentile(sorted(ms for pair in pairs for ms in pair[side]), 0.99) or 0.0
        for side in (0, 1)
    )
    return with_ / max(without, 1e-9)


def _is_scraped(window: Window) -> bool:
    return window.scraped


def _compare(result: Result, windows: list[Window]) -> None:
    scrapes = sorted(ms for window in windows for ms in window.scrape_ms)
    text, figures = ratios(windows)
    result.remark = f"{text}; a scrape takes {percentile(scrapes, 0.5) or 0:.1f} ms (median)"
    result.more = figures | {"scrape_ms_p50": percentile(scrapes, 0.5)}
