"""The result of the duel: Renvoi divided by each peer, with the spread of all rounds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.figures import Result

# name of the figure -> where a result has it
FIGURES = {
    "CPU per call, us": "cpu_us",
    "decision p50, ms": "decision_p50_ms",
    "decision p99, ms": "decision_p99_ms",
    "decision p99.9, ms": "decision_p999_ms",
    "486 to forward p50, ms": "forward_p50_ms",
    "486 to forward p99, ms": "forward_p99_ms",
    "set-up p50, ms": "setup_p50_ms",
    "set-up p99, ms": "setup_p99_ms",
    "memory per call, KiB": "kib_per_standing_call",
}
HIGHEST = {"highest rate, calls/s": "ceiling"}


@dataclass(frozen=True)
class Ratio:
    """Renvoi / peer of one figure in one case over the rounds, and both medians."""

    case: str
    figure: str
    peer: str
    ratios: tuple[float, ...]
    ours: float
    theirs: float

    @property
    def spread(self) -> tuple[float, float, float]:
        """Minimum, median, maximum."""
        return min(self.ratios), statistics.median(self.ratios), max(self.ratios)

    def as_json(self, about: Mapping[str, object]) -> str:
        """One line."""
        low, middle, high = (round(value, 4) for value in self.spread)
        fields = {
            "duel": self.case, "figure": self.figure, "peer": self.peer, "rounds": len(self.ratios),
            "min": low, "median": middle, "max": high,
            "renvoi": round(self.ours, 4), "theirs": round(self.theirs, 4),
        }  # fmt: skip
        return json.dumps(fields | {"machine": dict(about)})


def value_of(result: Result, figure: str) -> float | None:
    """A figure of a run, None if it has none."""
    value = getattr(result, figure, None)
    if value is None:
        value = result.more.get(figure)
    return value if isinstance(value, int | float) else None


def ratios(
    case: str, peer: str, pairs: Sequence[tuple[Result, Result]], figures: Mapping[str, str]
) -> list[Ratio]:
    """Every figure that both have, over `pairs` of (ours, theirs) of the same round."""
    found = []
    for name, where in figures.items():
        values = [(value_of(ours, where), value_of(theirs, where)) for ours, theirs in pairs]
        both = [(ours, theirs) for ours, theirs in values if ours is not None and theirs]
        if both:
            found.append(
                Ratio(
                    case,
                    name,
                    peer,
                    tuple(ours / theirs for ours, theirs in both),
                    statistics.median(ours for ours, _ in both),
                    statistics.median(theirs for _, theirs in both),
                )
            )
    return found


def table(found: Sequence[Ratio]) -> str:
    """A Markdown table, as in the documentation."""
    lines = [
        "| case | figure | peer | Renvoi | peer has | Renvoi / peer: min | median | max |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        low, middle, high = one.spread
        lines.append(
            f"| {one.case} | {one.figure} | {one.peer} | {number(one.ours)} | "
            f"{number(one.theirs)} | {low:.2f} | **{middle:.2f}** | {high:.2f} |"
        )
    return "\n".join(lines)


def number(value: float) -> str:
    """With as many digits as are significant."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
