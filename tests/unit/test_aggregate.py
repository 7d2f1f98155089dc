"""The pages of several workers become one."""

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
from engine.processes.aggregate import GAUGES, Aggregate, read
from engine.processes.control import Started
from engine.telemetry.metrics import Metrics


class Place:
    """A worker's post whose process is an admin server of this test."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.restarts: Counter[str] = Counter()
        self.failures = 0
        self.child: Any = None
        self.metrics = Metrics()
        self.standing = 1

    async def calls(self) -> bytes:
        return json.dumps([{"worker": self.index}] * self.standing).encode()

    async def open(self) -> None:
        self.metrics = Metrics()
        self.admin = Admin(Address("127.0.0.1", 0), self.metrics.render, lambda: None, self.calls)
        await self.admin.start()
        started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        started.set_result(Started([], str(self.admin.address)))
        self.child = SimpleNamespace(takes_calls=True, started=started)


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


async def test_no_sum_ever_falls(places: list[Place]) -> None:
    both = Aggregate(places)  # type: ignore[arg-type]
    series = 'renvoi_rejected_total{reason="stranger"}'
    for place in places:
        place.metrics.rejected("stranger")
    assert value(await both.metrics(), series) == 2
    # one does not answer
    await places[1].admin.close()
    page = await both.metrics()
    assert value(page, series) == 2
    assert value(page, "renvoi_active_calls") == 0
    # it is dead, and another takes its place
    both.remember(1)
    places[1].child = None
    assert value(await both.metrics(), series) == 2
    await places[1].open()
    assert value(await both.metrics(), series) == 2
    places[1].metrics.rejected("stranger")
    assert value(await both.metrics(), series) == 3


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
