"""Command line of the duel: `python -m benchmarks duel --help`."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import Settings
from benchmarks.ceiling import lossless
from benchmarks.duel.cases import CASES
from benchmarks.duel.contenders import CORES, PEERS, RENVOI
from benchmarks.duel.match import Slot, affordable_rate, find_ceiling, measure_slot, stand
from benchmarks.duel.ratios import FIGURES, HIGHEST, Ratio, ratios, table
from benchmarks.figures import Result, header, row
from benchmarks.load import report
from benchmarks.processes import take_cores
from benchmarks.subject import CHECKOUT, Subject, machine

CONTENDERS = (*PEERS, *CORES)
USUAL_PEERS = ("kamailio", "kamailio-htable", "sippy")
OTHERS = ("ceiling", "memory")  # measured besides the cases
_DISTURBED = 0.1  # share of a run in which other programs had the contender's core
_AGAIN = 2  # times that such a run is repeated at most
EXAMPLES = """examples:
  python -m benchmarks duel --quick                        a look, some ten minutes
  python -m benchmarks duel                                everything, some 45 minutes
  python -m benchmarks duel --case bridged --rounds 5      one kind of call
  python -m benchmarks duel --peers kamailio,kamailio-4 --case ceiling
"""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks duel",
        description="The same SIPp work through Renvoi and its peers, in turn, in one run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--peers", default=",".join(USUAL_PEERS), help=f"of {', '.join(CONTENDERS)}")
    made.add_argument("--case", action="append", help=f"of {', '.join((*CASES, *OTHERS))}; all")
    made.add_argument("--rounds", type=int, help="times that each is run (3; quick: 1)")
    made.add_argument(
        "--rate",
        type=float,
        help="plain calls per second, instead of what fills "
        "half of the slowest one's core (Sippy apart, at a rate of its own)",
    )
    made.add_argument("--seconds", type=float, help="length of each run (12; quick: 4)")
    made.add_argument("--calls", type=int, help="memory: calls that stand (20000; quick: 2000)")
    made.add_argument("--checkout", type=Path, default=CHECKOUT, help="the Renvoi to measure")
    made.add_argument("--quick", action="store_true", help="a look, no figures")
    return made  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Run the duel. Raises BenchmarkError when it cannot be carried out."""
    usage = parser()
    options = usage.parse_args(argv)
    peers = [name for name in options.peers.split(",") if name]
    for name in peers:
        if name not in CONTENDERS:
            usage.error(f"--peers: unknown (got {name})")
    cases = options.case or [*CASES, *OTHERS]
    for name in cases:
        if name not in (*CASES, *OTHERS):
            usage.error(f"--case: unknown (got {name})")
    for name in ("rounds", "rate", "seconds", "calls"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            usage.error(f"--{name}: must be above 0 (got {value:g})")
    settings = Settings(Subject(options.checkout.resolve()), take_cores(), quick=options.quick)
    began = time.monotonic()
    found = _Duel(settings, options, f"python -m benchmarks duel {shlex.join(argv)}").run(
        peers, cases
    )
    print(f"\nRenvoi over its peers (below 1: Renvoi needs less)\n\n{table(found)}")
    print(f"\nTook {time.monotonic() - began:.0f} s.")
    return 0


class _Duel:
    def __init__(self, settings: Settings, options: argparse.Namespace, command: str) -> None:
        self._settings = settings
        self._command = command.strip()
        self._rate: float | None = options.rate
        self._rounds = options.rounds or (1 if options.quick else 3)
        self._seconds = options.seconds or (4.0 if options.quick else 12.0)
        self._calls = options.calls or (2_000 if options.quick else 20_000)
        self._about = machine(settings.subject) | {"load": os.getloadavg()[0]}

    def run(self, peers: Sequence[str], cases: Sequence[str]) -> list[Ratio]:
        """Every case with all peers that carry the same rate, then with Sippy at its own."""
        fast = [name for name in peers if name != "sippy"]
        groups = [group for group in (fast, [name for name in peers if name == "sippy"]) if group]
        rates = [self._common_rate(group) for group in groups]
        found: list[Ratio] = []
        for case in cases:
            for group, rate in zip(groups, rates, strict=True):
                if case in CASES:
                    found += self._case(case, group, rate)
            if case == "ceiling":
                found += self._ceilings(peers, groups, rates)
            if case == "memory":
                found += self._memory(peers, groups, rates)
        return found

    def _common_rate(self, group: Sequence[str]) -> float:
        if self._rate is not None and "sippy" not in group:
            return self._rate
        rate = min(affordable_rate(name, self._settings) for name in (RENVOI, *group))
        report(f"{', '.join(group)}: compared at {rate:g} calls/s")
        return rate

    def _case(self, case: str, group: Sequence[str], rate: float) -> list[Ratio]:
        runs: dict[str, list[Result]] = {name: [] for name in (RENVOI, *group)}
        for turn in range(self._rounds):
            # A B, then B A: no contender is always the first of a round.
            order = list(runs) if turn % 2 == 0 else list(reversed(runs))
            for name in order:
                slot = Slot(name, CASES[case], rate, self._seconds)
                result = self._print(measure_slot(slot, self._settings))
                for _ in range(_AGAIN):
                    if (result.waited_share or 0.0) <= _DISTURBED:
                        break
                    report(f"{name}: other programs had its core for a while, once more")
                    result = self._print(measure_slot(slot, self._settings))
                runs[name].append(result)
        return self._ratios(case, runs)

    def _ceilings(
        self, peers: Sequence[str], groups: Sequence[Sequence[str]], rates: Sequence[float]
    ) -> list[Ratio]:
        runs: dict[str, list[Result]] = {name: [] for name in (RENVOI, *peers)}
        firsts = {name: rate / 0.5 for group, rate in zip(groups, rates, strict=True)
                  for name in group} | {RENVOI: rates[0] / 0.5}  # fmt: skip
        for _ in range(1 if self._settings.quick else self._rounds):
            for name, before in runs.items():
                first = value if (value := _ceiling_of(before)) else firsts[name]
                slot = Slot(name, CASES["bridged"], firsts[name] / 2, 0)
                best: Result | None = None
                steps = 3 if self._settings.quick else 6
                for result in find_ceiling(slot, self._settings, first, steps):
                    self._print(result)
                    if lossless(result) and (best is None or result.rate > best.rate):
                        best = result
                if best is None:
                    report(f"{name}: no rate without loss was found")
                    continue
                best.more["ceiling"] = best.rate
                before.append(best)
        return self._ratios("ceiling", runs)

    def _memory(
        self, peers: Sequence[str], groups: Sequence[Sequence[str]], rates: Sequence[float]
    ) -> list[Ratio]:
        rate_of = {name: rate for group, rate in zip(groups, rates, strict=True) for name in group}
        runs: dict[str, list[Result]] = {}
        for name in (RENVOI, *peers):
            rate = rate_of.get(name, rates[0])
            # A server with a low rate is filled for a minute at most.
            calls = min(self._calls, round(rate * 60))
            slot = Slot(name, CASES["bridged"], rate, 0)
            runs[name] = [self._print(stand(slot, self._settings, calls))]
        return self._ratios("standing", runs)

    def _print(self, result: Result) -> Result:
        result.command = self._command
        print(f"{header()}\n{row(result)}\n{result.as_json(self._about)}", flush=True)
        return result

    def _ratios(self, case: str, runs: dict[str, list[Result]]) -> list[Ratio]:
        found: list[Ratio] = []
        for name in runs:
            if name != RENVOI:
                pairs = list(zip(runs[RENVOI], runs[name], strict=False))
                found += ratios(case, name, pairs, HIGHEST if case == "ceiling" else FIGURES)
        for one in found:
            print(one.as_json(self._about), flush=True)
        return found


def _ceiling_of(results: Sequence[Result]) -> float | None:
    return results[-1].rate if results else None
