"""Metrics as Prometheus reads them: declared here, written by prometheus_client.

The call path uses plain numbers in dictionaries and lists, without the locks and objects of
prometheus_client, because everything is counted and read on one event loop. At a scrape each family
makes `Metric`s from them, and prometheus_client writes the text (format 0.0.4). A family with many
series makes several, so that calls can run in between (`render`).
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from engine import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

AT_ONCE = 48  # series written per turn of the loop: a quarter of a millisecond
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
K = TypeVar("K", bound=Hashable)


class Family(Protocol):
    """One metric with all its series."""

    name: str

    def metrics(self) -> Iterable[Metric]:
        """Its present series, in parts of limited length."""


class _Part(Collector):
    """A registry for prometheus_client."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def parts(family: Family) -> Iterator[str]:
    """The text of a family, HELP and TYPE first."""
    for place, metric in enumerate(family.metrics()):
        text = generate_latest(_Part(metric)).decode()
        yield text if place == 0 else text.split("\n", 2)[2]


def text(families: Iterable[Family]) -> str:
    """The text of all families, at once."""
    return "".join(part for family in families for part in parts(family))


async def render(families: Iterable[Family]) -> bytes:
    """The same, yielding to calls between the parts."""
    found = []
    for family in families:
        for part in parts(family):
            found.append(part)
            await asyncio.sleep(0)
    return "".join(found).encode()


def _several(
    name: str, kind: str, text: str, labels: Sequence[str], values: Mapping[Any, float]
) -> Iterator[Metric]:
    """Metrics of so many series each. A key is the label's value, or a tuple of several."""
    series = iter(values.items())
    bare = name.removesuffix("_total") if kind == "counter" else name
    while True:
        metric = Metric(bare, text, kind)
        for key, value in islice(series, AT_ONCE):
            has = key if isinstance(key, tuple) else (key,)
            metric.add_sample(name, dict(zip(labels, has, strict=False)), value)
        yield metric
        if len(metric.samples) < AT_ONCE:
            return


class Counters(Generic[K]):
    """A counter with one count for each of a closed set of label values, all present from the
    start, so that the first of a kind appears as an increase.

    `counts` is what the call path adds to, by the label's value (a tuple when there are several).
    """

    __slots__ = ("_labels", "_text", "counts", "name")

    def __init__(self, name: str, text: str, labels: Sequence[str], keys: Iterable[K]) -> None:
        self.name = name
        self.counts: dict[K, float] = dict.fromkeys(keys, 0)
        self._text = text
        self._labels = tuple(labels)

    def metrics(self) -> Iterator[Metric]:
        return _several(self.name, "counter", self._text, self._labels, self.counts)


class Histogram:
    """Counts observations, in seconds, by upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class Histograms:
    """A histogram: one child for each of a closed set of label values; a single child has none."""

    __slots__ = ("_children", "_labels", "_text", "name")

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], label: str = "",
        values: Sequence[str] = ("",),
    ) -> None:  # fmt: skip
        self.name = name
        self._children = {value: Histogram(bounds) for value in values}
        self._text = text
        self._labels = (label,) if label else ()

    def __getitem__(self, value: str) -> Histogram:
        return self._children[value]

    def metrics(self) -> Iterator[Metric]:
        for value, child in self._children.items():
            metric = HistogramMetricFamily(self.name, self._text, labels=self._labels)
            so_far, buckets = 0, []
            for bound, more in zip((*map(str, child.bounds), "+Inf"), child.counts, strict=True):
                so_far += more
                buckets.append((bound, so_far))
            metric.add_metric((value,) if self._labels else (), buckets, child.total)
            yield metric


class Reading:
    """A gauge or counter without labels whose value is read from another part at a scrape."""

    __slots__ = ("_kind", "_text", "name", "read")

    def __init__(self, name: str, kind: str, text: str) -> None:
        self.name = name
        self.read: Callable[[], float] = lambda: 0
        self._kind = kind
        self._text = text

    def metrics(self) -> Iterator[Metric]:
        try:
            value = float(self.read())
        except Exception:  # one failing source must not stop the other metrics
            value = math.nan
        return _several(self.name, self._kind, self._text, (), {(): value})


class Readings:
    """The same with labels: `read` returns the values by label value (a tuple of several)."""

    __slots__ = ("_kind", "_labels", "_text", "name", "read")

    def __init__(self, name: str, kind: str, text: str, labels: Sequence[str]) -> None:
        self.name = name
        self.read: Callable[[], Mapping[Any, float]] = dict
        self._kind = kind
        self._text = text
        self._labels = tuple(labels)

    def metrics(self) -> Iterator[Metric]:
        values = dict(sorted(self.read().items()))
        return _several(self.name, self._kind, self._text, self._labels, values)


def gauge(name: str, text: str, read: Callable[[], float]) -> Reading:
    """A gauge whose value is read at a scrape."""
    made = Reading(name, "gauge", text)
    made.read = read
    return made


def build_info(name: str) -> Readings:
    """The version of a process beside the engine."""
    made = Readings(name, "gauge", "Always 1.", ["version"])
    made.read = lambda: {__version__: 1.0}
    return made


def process_families() -> list[Family]:
    """The process metrics of every Prometheus client (Linux)."""

    def reading(name: str, kind: str, text: str, read: Callable[[], float]) -> Reading:
        made = Reading(name, kind, text)
        made.read = read
        return made

    started = _started_at()
    collections = Readings(
        "python_gc_collections_total", "counter",
        "Runs of the garbage collector.", ["generation"],
    )  # fmt: skip
    collections.read = lambda: {
        str(generation): stats["collections"] for generation, stats in enumerate(gc.get_stats())
    }
    return [
        reading("process_cpu_seconds_total", "counter", "User and system CPU time, in seconds.",
                time.process_time),
        reading("process_start_time_seconds", "gauge", "When the process started, unix time.",
                lambda: started),
        reading("process_resident_memory_bytes", "gauge", "Resident memory.",
                lambda: _PAGE_BYTES * int(_statm()[1])),
        reading("process_virtual_memory_bytes", "gauge", "Virtual memory.",
                lambda: _PAGE_BYTES * int(_statm()[0])),
        reading("process_open_fds", "gauge", "Open files and sockets.", _open_files),
        reading("process_max_fds", "gauge", "The most files and sockets it may open.", _most_files),
        collections,
    ]  # fmt: skip


def _statm() -> list[str]:
    return Path("/proc/self/statm").read_text(encoding="ascii").split()


def _open_files() -> float:
    # Linux 6.2 and later report the number as the directory's size; listing 10,000 takes long.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


def _most_files() -> float:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _started_at() -> float:
    """Unix time at which this process started. To a tenth of a second, because new code in the same
    process (SIGUSR2) computes it again, and another time would count as a restart."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return round(boot, 1) + ticks / os.sysconf("SC_CLK_TCK")
