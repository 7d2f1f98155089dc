"""The highest rate at which no call and no message is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.cases import Bench, Settings, measure, open_rig, settle
from benchmarks.figures import Result
from benchmarks.load import LINGER_S

_GRAIN = 125.0  # calls/s at which the search ends


def run_ceiling(settings: Settings) -> Iterator[Result]:
    """Search the highest rate at which no call and no message is lost, then hold it past 32 s."""
    bench = Bench("ceiling", 1500, 5, 2.5, "")
    low = 0.0
    for result in search(
        lambda rate: _step(bench, settings, rate, bench.full_s),
        settings.rate or bench.rate,
        2 if settings.quick else 7,
        _GRAIN,
    ):
        yield result
        if lossless(result):
            low = max(low, result.rate)
    if low and not settings.quick:
        for held in (low, low * 0.85):
            result = _step(bench, settings, held, LINGER_S + 4)
            result.bench = "ceiling-held"
            yield result
            if lossless(result):
                break


def search(
    step: Callable[[float], Result], first: float, most_steps: int, grain: float
) -> Iterator[Result]:
    """Run `step` at rates that close in on the highest one without loss, to within `grain`."""
    rate, low, high = first, 0.0, math.inf
    for _ in range(most_steps):
        result = step(rate)
        yield result
        if lossless(result):
            low = rate
        else:
            high = rate
        if high - low <= grain:
            break
        rate = low + 4 * grain if math.isinf(high) else (low + high) / 2


def _step(bench: Bench, settings: Settings, rate: float, full_s: float) -> Result:
    plan = replace(settings, rate=rate, calls=None).plan(rate, full_s, bench.quick_s)
    with open_rig(settings, bench.rig) as rig:
        rest = settle(rig, bench, settings)
        result = measure(rig, plan, bench, rest.idle_share, until_loss=True)
    verdict = "no loss" if lossless(result) else "loss, given up"
    return replace(result, remark=", ".join(filter(None, (verdict, result.remark))))


def lossless(result: Result) -> bool:
    """No call failed, nothing had to be sent twice, and SIPp could keep the rate within 2 %."""
    sent_as_asked = result.got_rate >= 0.98 * result.rate
    return result.failed == 0 and result.retransmissions == 0 and sent_as_asked
