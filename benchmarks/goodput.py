"""Goodput: calls that are answered in time, at the best rate and far above it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from benchmarks.cases import WARM_RATE, Bench, Settings, measure, open_rig, settle
from benchmarks.figures import Result, total
from benchmarks.load import report

SOON_MS = 1000.0  # INVITE to 200; a caller who waits longer is not served
STEP = 1.2
GIVE_UP = 2  # steps in a row without an improvement
TIMES = (2.0, 3.0)  # of the peak
WITHOUT: Mapping[str, float] = {"wait_s": 0}  # limits of an engine without load shedding


def run_goodput(settings: Settings) -> Iterator[Result]:
    """Search the highest goodput, then offer two and three times that, with and without shedding.

    The highest goodput is the capacity: at no rate are more calls served.
    """
    peak = 0.0
    for result in _climb(settings):
        yield result
        peak = max(peak, _goodput(result))
    report(f"goodput: {peak:.0f} calls/s at most")
    for times in TIMES[:1] if settings.quick else TIMES:
        yield _at(settings, peak * times, f"goodput-{times:g}x", {}, peak)
    yield _at(settings, peak * 2, "goodput-2x-all-in", WITHOUT, peak)


def _climb(settings: Settings) -> Iterator[Result]:
    rate, most, in_vain = settings.rate or 300.0, 0.0, 0
    while in_vain < GIVE_UP:
        result = _at(settings, rate, "goodput", {}, None)
        yield result
        in_vain = 0 if _goodput(result) > 1.02 * most else in_vain + 1
        most = max(most, _goodput(result))
        rate *= STEP**2 if settings.quick else STEP


def _at(
    settings: Settings, rate: float, name: str, limits: Mapping[str, float], peak: float | None
) -> Result:
    bench = Bench(name, WARM_RATE, 12, 4, "")
    plan = replace(settings, rate=rate, calls=None).plan(
        rate, bench.full_s, bench.quick_s, scenario="patient"
    )
    with open_rig(settings, {"limits": limits}) as rig:
        rest = settle(rig, bench, settings)
        before = rig.metrics()
        result = measure(rig, plan, bench, rest.idle_share)
        refused = total(rig.metrics(), "renvoi_rejected_total", reason="overload")
        refused -= total(before, "renvoi_rejected_total", reason="overload")
    goodput = result.answered_within(SOON_MS) / plan.seconds
    result.command = f"python -m benchmarks goodput --rate {rate:g}"
    result.more |= {"goodput": goodput, "refused": refused}
    parts = [f"goodput {goodput:.0f}/s", f"refused {refused:.0f}"]
    if peak:
        result.more["of_peak"] = goodput / peak
        parts.insert(1, f"{100 * goodput / peak:.0f} % of the peak")
    result.remark = ", ".join([*parts, *filter(None, [result.remark])])
    return result


def _goodput(result: Result) -> float:
    value = result.more["goodput"]
    assert isinstance(value, float)
    return value
