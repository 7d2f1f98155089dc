"""Figures from samples: percentiles, histogram quantiles, the table row and the JSON line."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile of sorted `values`; `share` from 0 to 1; None without values."""
    if not values:
        return None
    return values[max(0, math.ceil(share * len(values)) - 1)]


def scrape(admin_port: int) -> Samples:
    """All samples of the engine's /metrics, by name and labels. Raises OSError, ValueError."""
    with urlopen(f"http://127.0.0.1:{admin_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    """Sum of the samples of `name` that carry all of `labels`."""
    wanted = set(labels.items())
    return sum(value for (found, has), value in samples.items() if found == name and wanted <= has)


@dataclass(frozen=True)
class Histogram:
    """What a Prometheus histogram counted between two scrapes: (upper edge in s, cumulative)."""

    buckets: tuple[tuple[float, float], ...]

    @classmethod
    def between(cls, before: Samples, after: Samples, name: str) -> Histogram:
        """Difference of two scrapes, added over all labels but `le`."""
        counts: dict[float, float] = {}
        for samples, sign in ((after, 1.0), (before, -1.0)):
            for (found, labels), value in samples.items():
                if found == f"{name}_bucket":
                    edge = float(dict(labels)["le"])
                    counts[edge] = counts.get(edge, 0.0) + sign * value
        return cls(tuple(sorted(counts.items())))

    def quantile_ms(self, share: float) -> float | None:
        """Quantile in ms, interpolated inside its bucket as PromQL does; None without samples."""
        count = self.buckets[-1][1] if self.buckets else 0.0
        if count <= 0:
            return None
        rank, lower_s, below = share * count, 0.0, 0.0
        for edge_s, cumulative in self.buckets:
            if cumulative >= rank:
                if math.isinf(edge_s):
                    return lower_s * 1000
                inside = (rank - below) / max(cumulative - below, 1e-9)
                return (lower_s + (edge_s - lower_s) * inside) * 1000
            lower_s, below = edge_s, cumulative
        return lower_s * 1000

    def share_within(self, edge_s: float) -> float | None:
        """Share of samples up to `edge_s` (0 to 1), exact; None if no bucket ends there."""
        count = self.buckets[-1][1] if self.buckets else 0.0
        for edge, cumulative in self.buckets:
            if count > 0 and math.isclose(edge, edge_s):
                return cumulative / count
        return None


@dataclass(frozen=True)
class Latency:
    """Times of calls as the caller saw them, sorted, in ms: INVITE to 180 and INVITE to final."""

    ringing_ms: list[float] = field(default_factory=list)
    final_ms: list[float] = field(default_factory=list)
    span_s: float = 0.0  # from the first INVITE to the last

    @classmethod
    def read(cls, log: Path) -> Latency:
        """From the log lines of the caller scenarios; lines cut short by a stop are skipped."""
        ringing: list[float] = []
        final: list[float] = []
        sent_s: list[float] = []
        for line in log.read_text().splitlines() if log.exists() else ():
            try:
                at = [float(text) for text in line.split()]
            except ValueError:
                continue
            if len(at) != 6:
                continue
            if at[2] > 0:
                ringing.append((at[2] - at[0]) * 1e3 + (at[3] - at[1]) / 1e3)
            final.append((at[4] - at[0]) * 1e3 + (at[5] - at[1]) / 1e3)
            sent_s.append(at[0] + at[1] / 1e6)
        span_s = max(sent_s) - min(sent_s) if sent_s else 0.0
        return cls(sorted(ringing), sorted(final), span_s)


@dataclass
class Result:
    """One run. Times in ms unless named otherwise; None = not measured in this run."""

    bench: str
    command: str
    rate: float = 0.0  # calls/s asked of SIPp
    got_rate: float = 0.0  # calls/s that SIPp managed to start
    seconds: float = 0.0  # length of the load
    calls: int = 0
    failed: int = 0
    retransmissions: int = 0  # messages SIPp had to send again
    dropped: int = 0  # datagrams the kernel dropped at the sockets of engine and SIPp
    cpu_us: float | None = None  # engine CPU per call, idle use subtracted
    cpu_us_late: float | None = None  # the same, over the calls after the first 32 s
    engine_share: float | None = None  # of its core, 0 to 1
    load_share: float | None = None  # of SIPp and Redis, of their core
    idle_share: float | None = None  # of the engine before the load
    waited_share: float | None = None  # of the run: ready to run without a core
    yardstick_ms: float | None = None  # fixed work on the engine's core just before the load
    decision_p50_ms: float | None = None
    decision_p99_ms: float | None = None
    decision_within_1ms: float | None = None  # share of decisions, exact
    ringing_p50_ms: float | None = None
    ringing_p99_ms: float | None = None
    setup_p50_ms: float | None = None
    setup_p99_ms: float | None = None
    answered_ms: list[float] = field(default_factory=list, repr=False)  # every set-up time, sorted
    remark: str = ""
    more: dict[str, object] = field(default_factory=dict)

    def answered_within(self, most_ms: float) -> int:
        """Calls that were answered (or refused, by its scenario) in that time."""
        return bisect_right(self.answered_ms, most_ms)

    def as_json(self, machine: Mapping[str, object]) -> str:
        """One line: every measured figure, the machine, the command that repeats the run."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        fields |= fields.pop("more")
        del fields["answered_ms"]
        rounded = {n: round(v, 4) if isinstance(v, float) else v for n, v in fields.items()}
        return json.dumps(rounded | {"machine": dict(machine)})


_COLUMNS = (
    ("bench", 16, "<"),
    ("calls/s", 8, ">"),
    ("calls", 7, ">"),
    ("lost", 5, ">"),
    ("again", 5, ">"),
    ("us/call", 8, ">"),
    ("decision p50/p99 ms", 20, ">"),
    ("set-up p50/p99 ms", 18, ">"),
    ("engine", 7, ">"),
    ("load", 6, ">"),
    ("yard", 5, ">"),
)


def header() -> str:
    """The table's heading: `again` = messages sent twice, shares are of one core."""
    return " ".join(f"{name:{align}{width}}" for name, width, align in _COLUMNS) + "  remark"


def row(result: Result) -> str:
    """One table row."""
    cells = (
        result.bench,
        f"{result.got_rate:.0f}",
        str(result.calls),
        str(result.failed),
        str(result.retransmissions),
        "-" if result.cpu_us is None else f"{result.cpu_us:.0f}",
        _pair(result.decision_p50_ms, result.decision_p99_ms),
        _pair(result.setup_p50_ms, result.setup_p99_ms),
        _percent(result.engine_share),
        _percent(result.load_share),
        "-" if result.yardstick_ms is None else f"{result.yardstick_ms:.0f}",
    )
    line = " ".join(
        f"{cell:{align}{width}}" for cell, (_, width, align) in zip(cells, _COLUMNS, strict=True)
    )
    return f"{line}  {result.remark}".rstrip()


def _pair(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "-"
    return f"{low:.2f} / {high:.2f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f} %"
