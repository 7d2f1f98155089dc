"""The longest pause of a long run at half load: `python -m benchmarks pauses --help`.

A pause is measured by its effect on calls: the longest decision on the wire and the longest set-up.
The engine's own process also writes how long the interpreter's garbage collections took. The same
measurement of another contender shows how much comes from the machine.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.cases import Settings
from benchmarks.duel.cases import CASES
from benchmarks.duel.contenders import PEERS, RENVOI, DuelRig
from benchmarks.duel.match import Slot, affordable_rate
from benchmarks.figures import percentile
from benchmarks.load import report, run
from benchmarks.processes import take_cores
from benchmarks.rig import LINES
from benchmarks.subject import CHECKOUT, Subject, machine
from benchmarks.wire import Wire

# The unchanged engine, with a clock on its garbage collections. When it ends, it writes generation,
# unix time and seconds of each, one per line, to a file.
_WITH_CLOCK = """
import atexit, gc, sys, time
since, took = [0.0], []
def collection(phase, info):
    now = time.perf_counter()
    if phase == "start": since[0] = now
    else: took.append((info["generation"], time.time(), now - since[0]))
gc.callbacks.append(collection)
def tell():
    with open(sys.argv.pop(), "w") as file:
        file.writelines("%d %.3f %.6f\\n" % each for each in took)
atexit.register(tell)
from engine.cli import main
wanted, sys.argv = sys.argv[:], sys.argv[:-1]
try:
    code = main()
finally:
    sys.argv = wanted
sys.exit(code)
"""
_LIMIT_MS = 5.0


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks pauses", description=__doc__)
    made.add_argument("--seconds", type=float, default=600.0, help="length of the load (600)")
    made.add_argument("--rate", type=float, help="calls per second, instead of what fills half of "
                      "the engine's core")  # fmt: skip
    made.add_argument("--case", choices=CASES, default="bridged", help="kind of call (bridged)")
    made.add_argument("--hold", type=float, default=0.0, help="seconds that each call lasts (0)")
    made.add_argument("--contender", choices=(RENVOI, *PEERS), default=RENVOI, help="(renvoi)")
    made.add_argument("--checkout", type=Path, default=CHECKOUT, help="the Renvoi to measure")
    return made


def main(argv: Sequence[str]) -> int:
    """Run and report. Raises BenchmarkError when it cannot be carried out."""
    usage = parser()
    options = usage.parse_args(argv)
    for name in ("rate", "seconds"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            usage.error(f"--{name}: must be above 0 (got {value:g})")
    checkout = options.checkout.resolve()
    cores = take_cores()
    own = checkout / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    name = options.contender
    rate = options.rate or affordable_rate(name, Settings(Subject(checkout), cores))
    command = (python, "-c", _WITH_CLOCK, "serve", "--config", "{config}", "collections.txt")
    case = CASES[options.case]
    rig = DuelRig(Subject(checkout, command), PEERS.get(name), case, cores=cores)
    slot = Slot(name, case, rate, options.seconds)
    with rig:
        run(rig, slot.plan(rate, LINES), "warm-up")
        with Wire(rig.sip_port) as wire:
            plan = replace(slot.plan(rate, round(rate * options.seconds)), hold_s=options.hold)
            began = time.time()
            outcome = run(rig, plan, "pauses")
            ended = time.time()
        rig.wait_until_idle(5)
        assert rig.engine is not None
        rig.engine.stop(signal.SIGINT, 10.0)
        clock = rig.directory / "collections.txt"
        collections = _collections(clock, began, ended) if rig.peer is None else []
    decisions = wire.decisions_ms()
    setups = outcome.latency.final_ms
    figures: dict[str, object] = {
        "bench": "pauses",
        "contender": name,
        "case": case.name,
        "hold_s": options.hold,
        "rate": rate,
        "seconds": outcome.last.at_s,
        "calls": outcome.last.started,
        "lost": outcome.lost,
        "again": outcome.last.retransmissions,
        "engine_share": outcome.last.engine_cpu_s / outcome.last.at_s,
        "others_had_the_core_s": outcome.engine_waited_s,
    }
    for what, values in ("decision", decisions), ("setup", setups):
        for share, label in ((0.5, "p50"), (0.99, "p99"), (0.999, "p999"), (1.0, "max")):
            figures[f"{what}_{label}_ms"] = percentile(values, share)
        figures[f"{what}_above_{_LIMIT_MS:g}_ms"] = sum(value > _LIMIT_MS for value in values)
    for generation in sorted({generation for generation, _ in collections}):
        times = sorted(ms for found, ms in collections if found == generation)
        figures[f"collections_{generation}"] = len(times)
        figures[f"collection_{generation}_max_ms"] = times[-1]
    for what, value in figures.items():
        report(f"{what}: {value:.3f}" if isinstance(value, float) else f"{what}: {value}")
    rounded = {n: round(v, 4) if isinstance(v, float) else v for n, v in figures.items()}
    print(json.dumps(rounded | {"machine": machine(Subject(checkout))}), flush=True)
    return 0


def _collections(path: Path, began: float, ended: float) -> list[tuple[int, float]]:
    """(generation, ms) of each collection in the engine's process between two unix times."""
    if not path.exists():
        report("the engine wrote no figures of its garbage collections")
        return []
    rows = [line.split() for line in path.read_text().splitlines()]
    return [
        (int(generation), float(seconds) * 1e3)
        for generation, at, seconds in rows
        if began <= float(at) <= ended
    ]
