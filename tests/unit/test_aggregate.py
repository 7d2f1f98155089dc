"""The pages of several workers are combined into one."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from engine.admin import Admin
from engine.config import Address
from engine.processes.aggregate import GAUGES, Aggregate, _ask, read
from engine.processes.control import Started
from engine.telemetry.metrics import Metrics


class Place:
    """A worker slot whose process is an admin server of this test."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.restarts: Counter[str] = Counter()
        self.failures = 0
        self.child: Any = None
        self.metrics = Metrics()
        self.standing = 1
        self.pid = 100 * index

    async def calls(self) -> bytes:
        return json.dumps([{"worker": self.index}] * self.standing).encode()

    async def open(self) -> None:
        self.metrics = Metrics()
        self.admin = Admin(Address("127.0.0.1", 0), self.metrics.render, lambda: None, self.calls)
        await self.admin.start()
        started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        started.set_result(Started([], str(self.admin.address)))
        self.pid += 1
        self.child = SimpleNamespace(takes_calls=True, started=started, pid=self.pid)


@pytest.fixture
async def places() -> AsyncIterator[list[Place]]:
    places = [Place(0), Place(1)]
    for place in places:
        await place.open()
    yield places
    for place in places:
        await place.admin.close()


def value(page: bytes, series: str) -> float:
    values = {s: v for family in read(page.decode()) for s, v in family.values.items()}
    return values[series]


async def test_counters_and_histograms_are_sums(places: list[Place]) -> None:
    both = Aggregate(places)  # type: ignore[arg-type]
    for n, place in enumerate(places):
        for _ in range(n + 1):
            place.metrics.rejected("stranger")
            place.metrics.decision.observe(0.0003)
    page = await both.metrics()
    assert value(page, 'renvoi_rejected_total{reason="stranger"}') == 3
    assert value(page, "renvoi_decision_seconds_count") == 3
    assert value(page, 'renvoi_decision_seconds_bucket{le="0.00035"}') == 3
    assert value(page, 'renvoi_decision_seconds_bucket{le="0.0002"}') == 0
    assert page.count(b"# TYPE renvoi_rejected_total counter") == 1


async def test_gauges_by_their_meaning(places: list[Place]) -> None:
    both = Aggregate(places)  # type: ignore[arg-type]
    for n, place in enumerate(places):
        place.metrics.watch("active_calls", lambda n=n: 10 + n)  # type: ignore[misc]
        place.metrics.watch("redis_up", lambda n=n: float(n))  # type: ignore[misc]
        place.metrics.watch("rules_age", lambda n=n: 5.0 * n)  # type: ignore[misc]
    page = await both.metrics()
    assert value(page, "renvoi_active_calls") == 21
    assert value(page, "renvoi_redis_up") == 0
    assert value(page, "renvoi_rules_age_seconds") == 5
    assert value(page, 'process_resident_memory_bytes{worker="0"}') > 0
    assert value(page, 'process_resident_memory_bytes{worker="supervisor"}') > 0
    assert value(page, 'renvoi_worker_up{worker="1"}') == 1


SERIES = 'renvoi_rejected_total{reason="stranger"}'


async def one_rejected_by_each(places: list[Place]) -> Aggregate:
    both = Aggregate(places)  # type: ignore[arg-type]
    for place in places:
        place.metrics.rejected("stranger")
    assert value(await both.metrics(), SERIES) == 2
    return both


async def test_no_sum_ever_falls(places: list[Place]) -> None:
    both = await one_rejected_by_each(places)
    # one does not answer
    await places[1].admin.close()
    page = await both.metrics()
    assert value(page, SERIES) == 2
    assert value(page, "renvoi_active_calls") == 0
    # it is dead, and another replaces it
    both.remember(1)
    places[1].child = None
    assert value(await both.metrics(), SERIES) == 2
    await places[1].open()
    assert value(await both.metrics(), SERIES) == 2
    places[1].metrics.rejected("stranger")
    assert value(await both.metrics(), SERIES) == 3


async def test_what_was_counted_since_the_last_scrape_is_kept_when_a_worker_is_replaced(
    places: list[Place],
) -> None:
    both = await one_rejected_by_each(places)
    places[1].metrics.rejected("stranger")
    await both.look(places[1])  # type: ignore[arg-type]
    both.remember(1)
    places[1].child = None
    assert value(await both.metrics(), SERIES) == 3


@pytest.mark.parametrize("dies", [False, True])
async def test_no_sum_falls_when_another_supervisor_takes_the_place_of_this_one(
    places: list[Place], dies: bool
) -> None:
    """SIGUSR2. It adopts the workers, unless one has died meanwhile."""
    before = await one_rejected_by_each(places)
    before.remember(0)
    await places[0].admin.close()
    await places[0].open()
    places[0].metrics.rejected("stranger")
    assert value(await before.metrics(), SERIES) == 3
    left = json.loads(json.dumps(before.left()))
    children = [place.child for place in places]
    for place in places:
        place.child = None
    after = Aggregate(places)  # type: ignore[arg-type]
    after.resume(left)
    assert value(await after.metrics(), SERIES) == 3  # it has not found them yet
    for place, child in zip(places, children, strict=True):
        place.child = child
    if dies:
        await places[0].admin.close()
        await places[0].open()
    places[0].metrics.rejected("stranger")
    assert value(await after.metrics(), SERIES) == 4


async def test_a_worker_that_dies_in_the_middle_of_its_page_keeps_its_last_sums(
    places: list[Place],
) -> None:
    both = await one_rejected_by_each(places)
    whole = (await places[1].metrics.render()).rstrip()

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(whole)}\r\n\r\n".encode()
        writer.write(head + whole[: whole.rindex(b" ")])  # a series without its value
        writer.close()

    server = await asyncio.start_server(dies, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
    started.set_result(Started([], f"{host}:{port}"))
    places[1].child.started = started
    try:
        assert value(await both.metrics(), SERIES) == 2
    finally:
        server.close()


async def test_a_process_that_ends_while_others_are_asked_counts_once(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = await one_rejected_by_each(places)

    async def ask(slot: Any, path: str) -> bytes | None:
        answer = await _ask(slot, path)
        if slot.index == 0:
            both.remember(0)
        return answer

    monkeypatch.setattr("engine.processes.aggregate._ask", ask)
    assert value(await both.metrics(), SERIES) == 2


async def test_the_calls_of_all(places: list[Place]) -> None:
    both = Aggregate(places)  # type: ignore[arg-type]
    assert json.loads(await both.calls()) == [{"worker": 0}, {"worker": 1}]
    places[1].standing = 0
    assert json.loads(await both.calls()) == [{"worker": 0}]
    places[0].standing = 0
    assert json.loads(await both.calls()) == []


async def test_each_gauge_with_a_meaning_exists() -> None:
    page = (await Metrics().render()).decode()
    families = {family.name: family.kind for family in read(page)}
    assert {name for name in GAUGES if families.get(name) != "gauge"} == set()
