"""Instructions per call, counted by callgrind: the same on a quiet machine and on a busy one.

CPU time per call depends on the state of the machine; instructions depend on the code. The figure
of a checkout differs by a percent or two from run to run (batches, timers), with or without other
load on the machine. It does not include the kernel: claims of speed rest on the other benches. With
`caches` callgrind also simulates the caches of one core: a call finds them cold, so code that is
twice as large may cost more than code that executes twice as much.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cases import STEADY, Bench, Settings
from benchmarks.compare import checkout_of
from benchmarks.load import Plan, report, run
from benchmarks.processes import BenchmarkError
from benchmarks.rig import Rig
from benchmarks.subject import CHECKOUT, Subject, machine

BASELINE = Path(__file__).with_name("baseline.json")
COUNTED = ("bridged", "forwarded", "stranger")
RATE = 2.0  # calls/s: callgrind makes a call some fifty times as slow
CALLS = 60
_START_S = 600.0
_CACHES = ("--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=524288,8,64")
# Positions in callgrind's totals: instructions; misses of the first-level caches (code, data read,
# data written); misses of the second-level cache.
_INSTRUCTIONS, _CODE, _DATA, _SECOND = (0,), (3,), (4, 5), (6, 7, 8)
_RECOVER_S = 4.0  # a dump stops the engine, which then reports Redis as away


@dataclass(frozen=True)
class Count:
    """Instructions per call of one bench; `noise` is the number of messages that were sent twice.
    `misses` are those of the simulated caches: code, data, and both in the second level."""

    bench: str
    per_call: float
    noise: int
    misses: tuple[float, float, float] | None = None


def count(
    settings: Settings, names: tuple[str, ...], base: str | None, *, keep: bool, caches: bool
) -> None:
    """Count the benches of this checkout; beside them those of `base` (a checkout or git ref), else
    the kept baseline. `keep` makes them the new baseline, `caches` counts the misses as well."""
    if shutil.which("valgrind") is None:
        raise BenchmarkError("valgrind: not found (Debian package valgrind)")
    before = _kept()
    if base is not None:
        with checkout_of(base) as directory:
            subject = Subject(directory, core=settings.subject.core)
            before = {name: _count(settings, subject, name, caches) for name in names}
    now = {name: _count(settings, settings.subject, name, caches) for name in names}
    print(f"{'bench':<12} {'instructions/call':>18} {'before':>12} {'ratio':>7}")
    for name, found in now.items():
        known = before.get(name)
        ratio = f"{found.per_call / known.per_call:7.3f}" if known else "      -"
        shown = f"{known.per_call:12,.0f}" if known else f"{'-':>12}"
        print(f"{name:<12} {found.per_call:18,.0f} {shown} {ratio}")
        for label, counted in (("", found), (" before", known)):
            if counted is not None and counted.misses is not None:
                code, data, second = counted.misses
                print(f"  misses{label}: code {code:,.0f}, data {data:,.0f} of 32 KiB each, "
                      f"{second:,.0f} of 512 KiB")  # fmt: skip
        if found.noise:
            print(f"{name}: {found.noise} messages were sent again, the figure is too high")
    if keep:
        counts = {name: round(found.per_call) for name, found in now.items()}
        text = json.dumps({"per_call": counts, "machine": machine(settings.subject)}, indent=1)
        BASELINE.write_text(text + "\n", encoding="utf-8")
        print(f"kept in {BASELINE.relative_to(CHECKOUT)}", file=sys.stderr)


def _kept() -> dict[str, Count]:
    if not BASELINE.exists():
        return {}
    kept = json.loads(BASELINE.read_text(encoding="utf-8"))["per_call"]
    return {name: Count(name, value, 0) for name, value in kept.items()}


def _count(settings: Settings, subject: Subject, name: str, caches: bool) -> Count:
    """Instructions under load, less those of the same time without load, divided by the calls."""
    bench = next(bench for bench in STEADY if bench.name == name)
    calls = settings.calls or CALLS
    with _rig(settings, subject, bench, caches) as rig:
        meter = _Meter(rig)
        plan = Plan(rate=settings.rate or RATE, calls=calls, **bench.load)  # type: ignore[arg-type]
        meter.lap()
        time.sleep(_RECOVER_S)
        run(rig, plan, f"{name}, warm-up")  # the same lines, so that their rules are in memory
        rig.wait_until_idle(10)
        meter.lap()
        time.sleep(_RECOVER_S)
        began = time.monotonic()
        outcome = run(rig, plan, name)
        rig.wait_until_idle(10)
        took_s, loaded = time.monotonic() - began + _RECOVER_S, meter.lap()
        report(f"{name}: the same {took_s:.0f} s without calls")
        time.sleep(took_s)
        idle = meter.lap()
    if outcome.lost:
        raise BenchmarkError(f"{name}: {outcome.lost} calls were lost: {outcome.errors}")
    spent = [(one - other) / calls for one, other in zip(loaded, idle, strict=True)]

    def total(places: tuple[int, ...]) -> float:
        return sum(spent[place] for place in places)

    misses = (total(_CODE), total(_DATA), total(_SECOND)) if caches else None
    return Count(name, total(_INSTRUCTIONS), outcome.last.retransmissions, misses)


def _rig(settings: Settings, subject: Subject, bench: Bench, caches: bool) -> Rig:
    plain = subject.argv(Path("{config}"))
    tool = ("valgrind", "--tool=callgrind", *(_CACHES if caches else ()))
    under = (*tool, "--callgrind-out-file=callgrind.out", *plain)
    counted = replace(subject, command=under)
    return Rig(counted, cores=settings.cores, start_s=_START_S, **bench.rig)  # type: ignore[arg-type]


class _Meter:
    """The engine's instruction counter, read through callgrind's dumps."""

    def __init__(self, rig: Rig) -> None:
        assert rig.engine is not None
        self._pid = rig.engine.pid
        self._directory = rig.directory
        self._dumps = 0

    def lap(self) -> list[int]:
        """What callgrind counted since the last lap, instructions first."""
        command = ["callgrind_control", "--dump", str(self._pid)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self._dumps += 1
        dump = self._directory / f"callgrind.out.{self._dumps}"
        for line in reversed(dump.read_text(encoding="ascii").splitlines()):
            if line.startswith(("totals:", "summary:")):
                return [int(word) for word in line.split()[1:]]
        raise BenchmarkError(f"{dump.name}: holds no total")
