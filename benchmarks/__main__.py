"""Command line of the benchmarks: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from pathlib import Path

from benchmarks import pauses
from benchmarks.cases import BENCHES as LOADED
from benchmarks.cases import STEADY, Settings
from benchmarks.ceiling import run_ceiling
from benchmarks.compare import compare
from benchmarks.curves import command as curves
from benchmarks.duel import command as duel
from benchmarks.figures import header, row
from benchmarks.goodput import run_goodput
from benchmarks.idle import run_idle
from benchmarks.instructions import COUNTED, count
from benchmarks.lines import run_lines
from benchmarks.load import report
from benchmarks.manager import run_manager
from benchmarks.processes import BenchmarkError, raise_descriptor_limit, take_cores
from benchmarks.scrape import run_scrape
from benchmarks.sharding import run_sharding
from benchmarks.standby import run_standby
from benchmarks.subject import CHECKOUT, Subject, machine

BENCHES = {
    **LOADED,
    "ceiling": run_ceiling,
    "idle": run_idle,
    "goodput": run_goodput,
    "manager": run_manager,
    "scrape": run_scrape,
    "sharding": run_sharding,
    "standby": run_standby,
    "lines": run_lines,
}
QUICK = tuple(name for name in (*LOADED, "ceiling") if name not in ("floor", "limited"))
_WITH_OPTIONS_OF_THEIR_OWN = {"duel": duel.main, "curves": curves.main, "pauses": pauses.main}
_NEEDED = {"sipp": "sip-tester", "taskset": "util-linux"}


def parser() -> argparse.ArgumentParser:
    """All options. `compare` is given in place of a bench, because most options apply to both."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(BENCHES)
    made.add_argument(
        "bench",
        nargs="*",
        help=f"of {names}, or compare, instructions; all if none; "
        "or duel, curves, pauses (options of their own: duel --help)",
    )
    made.add_argument("--quick", action="store_true", help="about a minute: a look, no figures")
    made.add_argument("--rate", type=float, help="calls per second, instead of the bench's own")
    made.add_argument("--calls", type=int, help="number of calls, instead of the bench's own")
    made.add_argument("--hold", type=float, metavar="S", help="seconds each call is held (0)")
    made.add_argument("--checkout", type=Path, default=CHECKOUT, help="the Renvoi to measure")
    made.add_argument("--engine", help="measure this command instead; {config} is its config file")
    made.add_argument("--base", help="compare: a git ref or the path of another checkout")
    made.add_argument("--bench", dest="compared", default="bridged", help="compare: which bench")
    made.add_argument("--keep", action="store_true", help="instructions: make them the baseline")
    made.add_argument("--caches", action="store_true", help="instructions: and misses of caches")
    made.add_argument("--rounds", type=int, default=5, help="compare: number of pairs")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for. Returns 0, 1 when a bench could not be carried out, 2 for usage."""
    arguments = sys.argv[1:] if argv is None else argv
    for program, package in _NEEDED.items():
        if shutil.which(program) is None:
            print(f"{program}: not found (Debian package {package})", file=sys.stderr)
            return 1
    raise_descriptor_limit()
    try:
        if arguments and arguments[0] in _WITH_OPTIONS_OF_THEIR_OWN:
            return _WITH_OPTIONS_OF_THEIR_OWN[arguments[0]](arguments[1:])
        return _bench(arguments)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1


def _bench(arguments: list[str]) -> int:
    usage = parser()
    options = usage.parse_args(arguments)
    wrong = [name for name in options.bench if name not in (*BENCHES, "compare", "instructions")]
    if wrong:
        usage.error(f"bench: unknown (got {wrong[0]})")
    for name in ("rate", "calls", "rounds"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            usage.error(f"--{name}: must be above 0 (got {value:g})")
    command = tuple(shlex.split(options.engine)) if options.engine else None
    settings = Settings(
        subject=Subject(options.checkout.resolve(), command),
        cores=take_cores(),
        quick=options.quick,
        rate=options.rate,
        calls=options.calls,
        hold_s=options.hold,
    )
    if settings.cores[0] == settings.cores[1]:
        report("one core only: engine and load compete, the figures show it")
    if "compare" in options.bench:
        return _compare(usage, options, settings)
    if "instructions" in options.bench:
        named = tuple(name for name in options.bench if name != "instructions") or COUNTED
        if unknown := set(named) - {bench.name for bench in STEADY}:
            usage.error(f"instructions: cannot be counted (got {min(unknown)})")
        count(settings, named, options.base, keep=options.keep, caches=options.caches)
        return 0
    names = options.bench or (QUICK if options.quick else tuple(BENCHES))
    return _run(names, settings)


def _run(names: tuple[str, ...] | list[str], settings: Settings) -> int:
    began = time.monotonic()
    about = machine(settings.subject)
    rows = []
    for name in names:
        report(f"{name} ...")
        for result in BENCHES[name](settings):
            if settings.hold_s:
                result.command += f" --hold {settings.hold_s:g}"
            rows.append(row(result))
            print(f"{header()}\n{rows[-1]}\n{result.as_json(about)}", flush=True)
    print(f"\n{header()}", *rows, sep="\n")
    print(
        f"again: messages SIPp sent twice. engine, load: shares of one core each. "
        f"Took {time.monotonic() - began:.0f} s."
    )
    return 0


def _compare(
    usage: argparse.ArgumentParser, options: argparse.Namespace, settings: Settings
) -> int:
    if not options.base:
        usage.error("--base: needed by compare")
    if options.compared not in {bench.name for bench in STEADY}:
        usage.error(f"--bench: not one that can be compared (got {options.compared})")
    if options.calls is None:
        seconds = 6 if options.quick else 15
        rate = next(bench.rate for bench in STEADY if bench.name == options.compared)
        calls = round((options.rate or rate) * seconds)
        settings = Settings(settings.subject, settings.cores, options.quick, options.rate, calls)
    compare(settings, options.base, options.compared, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
