"""Instructions per call, counted by callgrind: the same on a quiet machine and on a busy one.

CPU time per call tells what a machine does in its present mood, instructions what the code asks
for. The figure of a checkout differs by a percent or two from run to run (batches, timers),
whatever else the machine does. It knows nothing of caches or the kernel: claims of speed rest on
the other benches.
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
_START_S = 120.0
_RECOVER_S = 4.0  # a dump holds the engine up, and it thinks that Redis is away


@dataclass(frozen=True)
class Count:
    """Instructions per call of one bench; `noise` are the messages that had to be sent twice."""

    bench: str
    per_call: float
    noise: int


def count(settings: Settings, names: tuple[str, ...], base: str | None, *, keep: bool) -> None:
    """Count the benches of this checkout; beside them those of `base` (a checkout or git ref), else
    the kept baseline. `keep` makes them the new baseline."""
    if shutil.which("valgrind") is None:
        raise BenchmarkError("valgrind: not found (Debian package valgrind)")
    before = _kept()
    if base is not None:
        with checkout_of(base) as directory:
            before = {name: _count(settings, Subject(directory), name) for name in names}
    now = {name: _count(settings, settings.subject, name) for name in names}
    print(f"{'bench':<12} {'instructions/call':>18} {'before':>12} {'ratio':>7}")
    for name, found in now.items():
        known = before.get(name)
        ratio = f"{found.per_call / known.per_call:7.3f}" if known else "      -"
        shown = f"{known.per_call:12,.0f}" if known else f"{'-':>12}"
        print(f"{name:<12} {found.per_call:18,.0f} {shown} {ratio}")
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


def _count(settings: Settings, subject: Subject, name: str) -> Count:
    """Instructions under load less those of the same time without, by the number of calls."""
    bench = next(bench for bench in STEADY if bench.name == name)
    calls = settings.calls or CALLS
    with _rig(settings, subject, bench) as rig:
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
    return Count(name, (loaded - idle) / calls, outcome.last.retransmissions)


def _rig(settings: Settings, subject: Subject, bench: Bench) -> Rig:
    plain = subject.argv(Path("{config}"))
    under = ("valgrind", "--tool=callgrind", "--callgrind-out-file=callgrind.out", *plain)
    counted = replace(subject, command=under)
    return Rig(counted, cores=settings.cores, start_s=_START_S, **bench.rig)  # type: ignore[arg-type]


class _Meter:
    """The engine's instruction counter, read through callgrind's dumps."""

    def __init__(self, rig: Rig) -> None:
        assert rig.engine is not None
        self._pid = rig.engine.pid
        self._directory = rig.directory
        self._dumps = 0

    def lap(self) -> int:
        """Instructions since the last lap."""
        command = ["callgrind_control", "--dump", str(self._pid)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self._dumps += 1
        dump = self._directory / f"callgrind.out.{self._dumps}"
        for line in reversed(dump.read_text(encoding="ascii").splitlines()):
            if line.startswith(("totals:", "summary:")):
                return int(line.split()[1])
        raise BenchmarkError(f"{dump.name}: holds no total")
