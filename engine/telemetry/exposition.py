"""The text that Prometheus reads (exposition format 0.0.4), made for a loop that also takes calls.

Whatever does not change between two scrapes (names, labels, help) is written once, when a metric
is made; a scrape joins it with the numbers. Values are written and read on the loop only, hence
without the locks and objects of prometheus_client, which takes several milliseconds for the same.
"""

from __future__ import annotations

import gc
import math
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
K = TypeVar("K", bound=Hashable)


class Family(Protocol):
    """One metric with all its series."""

    name: str

    def text(self) -> str:
        """Its lines, HELP and TYPE first."""
        ...


def _heading(name: str, kind: str, text: str) -> str:
    told = text.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {told}\n# TYPE {name} {kind}\n"


def _series(name: str, labels: Sequence[str], values: Sequence[str]) -> str:
    """A series' name up to its number."""
    if not labels:
        return f"{name} "
    pairs = ",".join(
        f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True)
    )
    return f"{name}{{{pairs}}} "


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(value)


class Counters(Generic[K]):
    """A counter: one count for each of a closed set of label values, all there from the start, so
    that the first of a kind shows as an increase.

    `counts` is what the call path adds to, by the label's value (a tuple when there are several).
    """

    __slots__ = ("_heading", "_heads", "counts", "name")

    def __init__(self, name: str, text: str, labels: Sequence[str], keys: Iterable[K]) -> None:
        self.name = name
        self.counts: dict[K, float] = dict.fromkeys(keys, 0)
        self._heading = _heading(name, "counter", text)
        self._heads = [
            _series(name, labels, key if isinstance(key, tuple) else (str(key),) if labels else ())
            for key in self.counts
        ]

    def text(self) -> str:
        pairs = zip(self._heads, self.counts.values(), strict=True)
        return self._heading + "".join([f"{head}{count!r}\n" for head, count in pairs])


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

    __slots__ = ("_children", "_heading", "_heads", "name")

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], label: str = "",
        values: Sequence[str] = ("",),
    ) -> None:  # fmt: skip
        self.name = name
        self._children = {value: Histogram(bounds) for value in values}
        self._heading = _heading(name, "histogram", text)
        labels, edges = ((label,) if label else ()), (*map(str, bounds), "+Inf")
        self._heads: list[tuple[list[str], str, str]] = []
        for value in values:
            has = (value,) if label else ()
            buckets = [_series(f"{name}_bucket", (*labels, "le"), (*has, e)) for e in edges]
            count = _series(f"{name}_count", labels, has)
            self._heads.append((buckets, count, _series(f"{name}_sum", labels, has)))

    def __getitem__(self, value: str) -> Histogram:
        return self._children[value]

    def text(self) -> str:
        lines = [self._heading]
        pairs = zip(self._heads, self._children.values(), strict=True)
        for (buckets, count, total), child in pairs:
            so_far = 0
            for head, more in zip(buckets, child.counts, strict=True):
                so_far += more
                lines.append(f"{head}{so_far}\n")
            lines.append(f"{count}{so_far}\n{total}{child.total!r}\n")
        return "".join(lines)


class Reading:
    """A gauge or counter without labels whose value somebody else holds: it is read at a scrape."""

    __slots__ = ("_head", "name", "read")

    def __init__(self, name: str, kind: str, text: str) -> None:
        self.name = name
        self.read: Callable[[], float] = lambda: 0
        self._head = _heading(name, kind, text) + _series(name, (), ())

    def text(self) -> str:
        try:
            value = float(self.read())
        except Exception:  # one failing source must not take the other metrics with it
            value = math.nan
        return f"{self._head}{_number(value)}\n"


class Readings:
    """The same with labels: `read` gives the values by label value (a tuple of several)."""

    __slots__ = ("_heading", "_heads", "_labels", "name", "read")

    def __init__(self, name: str, kind: str, text: str, labels: Sequence[str]) -> None:
        self.name = name
        self.read: Callable[[], Mapping[Any, float]] = dict
        self._labels = tuple(labels)
        self._heading = _heading(name, kind, text)
        self._heads: dict[str | tuple[str, ...], str] = {}

    def text(self) -> str:
        lines = [self._heading]
        for key, value in sorted(self.read().items()):
            head = self._heads.get(key)
            if head is None:
                has = key if isinstance(key, tuple) else (key,)
                head = self._heads[key] = _series(self.name, self._labels, has)
            lines.append(f"{head}{_number(value)}\n")
        return "".join(lines)


def process_families() -> list[Family]:
    """What any Prometheus client tells of its process (Linux)."""

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
        str(generation): told["collections"] for generation, told in enumerate(gc.get_stats())
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
    # Linux 6.2 and later tell the number as the directory's size; listing 10,000 takes long.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


def _most_files() -> float:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _started_at() -> float:
    """Unix time at which this process started."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + ticks / os.sysconf("SC_CLK_TCK")
