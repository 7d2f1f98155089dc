"""The supervisor's pages: the data of its workers, combined.

Counters and histograms are summed, including those of ended processes, so that no sum ever falls.
Gauges are combined by meaning (`GAUGES`). Gauges that are not listed there, and metrics of a
process, are shown for each worker, with the label `worker`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from engine.config import Address
from engine.processes.worker_pool import WorkerSlot
from engine.telemetry.exposition import Readings, process_families, text

ASK_S = 2.0
HEAD_END = b"\r\n\r\n"

# How the workers' values of a gauge are combined.
GAUGES: dict[str, Callable[[Iterable[float]], float]] = {
    "renvoi_active_calls": sum,
    "renvoi_calls_limit": sum,
    "renvoi_oldest_call_seconds": max,
    "renvoi_max_call_seconds": max,
    "renvoi_redis_up": min,
    "renvoi_rules_age_seconds": max,
    "renvoi_invalidation_lag_seconds": max,
    "renvoi_connections": sum,
    "renvoi_loop_lag_seconds": max,
    "renvoi_cdr_backlog": sum,
    "renvoi_standby_calls": sum,
    "renvoi_standby_waiting": sum,
    "renvoi_legs": sum,
    "renvoi_sip_dialogs": sum,
    "renvoi_sip_transactions": sum,
    "renvoi_call_tasks": sum,
    "renvoi_destination_up": min,
}
OF_A_PROCESS = ("process_", "python_")
REASONS = ("died", "not_started", "replaced")


class Read:
    """One metric of one worker, parsed from its text: values by series (name and labels)."""

    __slots__ = ("heading", "kind", "name", "values")

    def __init__(
        self, name: str, kind: str, heading: str, values: dict[str, float] | None = None
    ) -> None:
        self.name, self.kind, self.heading = name, kind, heading
        self.values: dict[str, float] = values or {}

    @property
    def is_sum(self) -> bool:
        return self.kind in ("counter", "histogram") and not self.name.startswith(OF_A_PROCESS)


class Aggregate:
    """Reads the pages of every worker that takes calls over its HTTP address."""

    def __init__(self, slots: Sequence[WorkerSlot]) -> None:
        self._slots = slots
        # The last values of a worker's process, with its id.
        self._last: dict[int, tuple[int, list[Read]]] = {}
        self._past: dict[str, float] = {}  # sums of the ended processes, by series
        self._ended: Counter[int] = Counter()  # processes of a worker that have ended
        up = Readings("renvoi_worker_up", "gauge", "1 while a worker takes calls.", ["worker"])
        up.read = lambda: {str(slot.index): _takes_calls(slot) for slot in slots}
        restarts = Readings(
            "renvoi_worker_restarts_total",
            "counter",
            "Worker processes that ended and were replaced, by reason.",
            ["worker", "reason"],
        )
        restarts.read = lambda: {
            (str(slot.index), reason): slot.restarts[reason] for slot in slots for reason in REASONS
        }
        self._own = (up, restarts)
        self._process = process_families()

    async def calls(self) -> bytes:
        """The calls of all workers, as one JSON array of theirs."""
        answers = await asyncio.gather(*(_ask(slot, "/calls") for slot in self._slots))
        parts = [answer[1:-1] for answer in answers if answer is not None]
        return b"[" + b",".join(filter(None, parts)) + b"]"

    async def metrics(self) -> bytes:
        """The text for Prometheus."""
        ended = self._ended.copy()
        answers = await asyncio.gather(*(_ask(slot, "/metrics") for slot in self._slots))
        by_process: dict[str, list[Read]] = {}
        for slot, answer in zip(self._slots, answers, strict=True):
            # A process that has ended while others were asked is among the past ones already.
            if answer is not None and self._ended[slot.index] == ended[slot.index]:
                by_process[str(slot.index)] = self._note(slot, answer)
            elif slot.index in self._last:
                # Old gauges are dropped; its counters stay.
                _, last = self._last[slot.index]
                by_process[str(slot.index)] = [family for family in last if family.is_sum]
        process = text(self._process)
        by_process["supervisor"] = list(read(process))
        own = text(self._own)
        return (own + "".join(self._add_up(by_process))).encode()

    async def look(self, slot: WorkerSlot) -> None:
        """Read what a worker has counted since the last scrape: its process ends now."""
        ended = self._ended[slot.index]
        answer = await _ask(slot, "/metrics")
        if answer is not None and self._ended[slot.index] == ended:
            self._note(slot, answer)

    def remember(self, index: int) -> None:
        """Keep the sums of this worker's ended process."""
        self._ended[index] += 1
        self._add_to_past(index)

    def left(self) -> dict[str, Any]:
        """All sums as plain data, for the supervisor that takes this one's place."""
        last = {
            index: (pid, [(f.name, f.kind, f.heading, f.values) for f in families if f.is_sum])
            for index, (pid, families) in self._last.items()
        }
        return {"past": self._past, "last": last}

    def resume(self, left: Mapping[str, Any]) -> None:
        """Continue the sums of the supervisor whose place this one has taken."""
        self._past.update(left.get("past", {}))
        for index, (pid, families) in left.get("last", {}).items():
            self._last[int(index)] = pid, [Read(*family) for family in families]

    def _note(self, slot: WorkerSlot, answer: bytes) -> list[Read]:
        """Keep what a worker's process has answered, and return it."""
        assert slot.child is not None
        pid = slot.child.pid
        if slot.index in self._last and self._last[slot.index][0] != pid:
            self._add_to_past(slot.index)  # it ended while a supervisor took another one's place
        families = list(read(answer.decode()))
        self._last[slot.index] = pid, families
        return families

    def _add_to_past(self, index: int) -> None:
        _, families = self._last.pop(index, (0, []))
        for family in families:
            if family.is_sum:
                for series, value in family.values.items():
                    self._past[series] = self._past.get(series, 0.0) + value

    def _add_up(self, by_process: dict[str, list[Read]]) -> Iterator[str]:
        families: dict[str, list[tuple[str, Read]]] = {}
        for worker, its in by_process.items():
            for family in its:
                families.setdefault(family.name, []).append((worker, family))
        for name, parts in families.items():
            yield parts[0][1].heading
            if parts[0][1].is_sum:
                sums = _gathered(family for _, family in parts)
                for series, values in sums.items():
                    yield f"{series} {sum(values) + self._past.get(series, 0)!r}\n"
            elif name in GAUGES:
                for series, values in _gathered(family for _, family in parts).items():
                    yield f"{series} {GAUGES[name](values)!r}\n"
            else:
                for worker, family in parts:
                    for series, value in family.values.items():
                        yield f"{_of_worker(series, worker)} {value!r}\n"


def read(text: str) -> Iterator[Read]:
    """Parse the metrics of a page in the text format, as engine/telemetry/exposition.py writes
    it."""
    family: Read | None = None
    heading = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            heading = f"{line}\n"
        elif line.startswith("# TYPE "):
            if family is not None:
                yield family
            _, _, name, kind = line.split(" ", 3)
            family = Read(name, kind, f"{heading}{line}\n")
        elif family is not None and line:
            series, _, value = line.rpartition(" ")
            family.values[series] = float(value)
    if family is not None:
        yield family


def _gathered(families: Iterable[Read]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for family in families:
        for series, value in family.values.items():
            found.setdefault(series, []).append(value)
    return found


def _of_worker(series: str, worker: str) -> str:
    name, brace, labels = series.partition("{")
    return f'{name}{{worker="{worker}",{labels}' if brace else f'{name}{{worker="{worker}"}}'


def _takes_calls(slot: WorkerSlot) -> float:
    return float(slot.child is not None and slot.child.takes_calls)


async def _ask(slot: WorkerSlot, path: str) -> bytes | None:
    """A page of a worker; None if it does not answer in time, or ends before it has sent it all."""
    child = slot.child
    if child is None or not child.takes_calls:
        return None
    host, _, port = child.started.result().admin.rpartition(":")
    place = Address(host.strip("[]"), int(port)).reached_here()
    writer = None
    try:
        async with asyncio.timeout(ASK_S):
            reader, writer = await asyncio.open_connection(place.host, place.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).partition(HEAD_END)
    except (OSError, TimeoutError):
        return None
    finally:
        if writer is not None:
            writer.close()
    is_whole = b"\r\nContent-Length: %d\r\n" % len(body) in head + b"\r\n"
    return body if is_whole and head.split(b" ")[1:2] == [b"200"] else None
