"""Two checkouts side by side, A B A B, because the machine's speed changes by the minute."""

from __future__ import annotations

import io
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.cases import BENCHES, Settings
from benchmarks.figures import Result, header, row
from benchmarks.processes import BenchmarkError
from benchmarks.subject import CHECKOUT, Subject, machine

FIGURES = ("cpu_us", "decision_p50_ms", "decision_p99_ms", "setup_p50_ms", "setup_p99_ms")


@contextmanager
def checkout_of(base: str) -> Iterator[Path]:
    """A directory that holds `base`: the path itself, or a git ref, unpacked into a temporary
    directory.

    Raises BenchmarkError when it is neither.
    """
    path = Path(base)
    if (path / "pyproject.toml").exists():
        yield path.resolve()
        return
    archive = subprocess.run(
        ["git", "-C", str(CHECKOUT), "archive", "--format=tar", base],
        capture_output=True,
        check=False,
    )
    if archive.returncode != 0:
        why = archive.stderr.decode(errors="replace").strip()
        raise BenchmarkError(f"--base: neither a checkout nor a git ref (got {base}): {why}")
    with tempfile.TemporaryDirectory(prefix="renvoi-base-") as directory:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(directory, filter="data")
        Subject(Path(directory)).compile()
        yield Path(directory)


def compare(settings: Settings, base: str, bench: str, rounds: int) -> None:
    """Run `bench` on base and head in turn; print every run, then head/base per figure."""
    runs: list[tuple[Result, Result]] = []
    with checkout_of(base) as directory:
        sides = {"base": Subject(directory), "head": settings.subject}
        print(header(), flush=True)
        for _ in range(rounds):
            pair = []
            for name, subject in sides.items():
                (result,) = BENCHES[bench](replace(settings, subject=subject))
                again = f"python -m benchmarks compare --base {base} --bench {bench}"
                result = replace(
                    result,
                    bench=f"{bench} {name}",
                    command=f"{again} --rate {result.rate:g}"
                    f" --calls {result.calls} --rounds {rounds}",
                )
                print(row(result), flush=True)
                print(result.as_json(machine(subject)), flush=True)
                pair.append(result)
            runs.append((pair[0], pair[1]))
    print(f"\nhead / base over {rounds} pairs (below 1: head needs less)")
    print(f"{'figure':<18} {'min':>7} {'median':>7} {'max':>7}")
    for figure in FIGURES:
        found = ratios(runs, figure)
        if found:
            low, middle, high = min(found), statistics.median(found), max(found)
            print(f"{figure:<18} {low:>7.3f} {middle:>7.3f} {high:>7.3f}")


def ratios(runs: list[tuple[Result, Result]], figure: str) -> list[float]:
    """head / base of `figure` for every pair that measured it."""
    found = []
    for base, head in runs:
        below, above = getattr(base, figure), getattr(head, figure)
        if below and above is not None:
            found.append(above / below)
    return found
