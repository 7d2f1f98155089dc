"""Records in a Redis Cluster: the keys are on different nodes, each is written once."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.records import writing_once
from engine.records.record import FIELDS, Months, to_entry
from engine.records.recorder import CallRecord, Recorder
from engine.records.spending_caps import SpendingCaps
from rules.numbers import Numbering
from store.client import close
from store.fleets import Fleets
from store.script import Script
from tests.redis.cluster import ClusterServers, cluster, cluster_servers
from tests.redis.stores import until
from tests.redis.test_fleets import forward, usage_key
from tests.redis.test_recorder import call as a_record

__all__ = ["cluster", "cluster_servers"]

LINES = [f"+3397210100{n}" for n in range(1, 7)]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No node is silent here, but a busy machine may be slow."""
    monkeypatch.setattr("store.client._CLUSTER_S", 10.0)


def call(number: int, line: str = LINES[0], seconds: int = 10) -> CallRecord:
    record = a_record(number, seconds=seconds)
    record.id = f"0-c-{number}"
    (paid,) = record.forwards
    paid.line, paid.fleet, paid.plan_s = line, "acme", 95
    return record


@asynccontextmanager
async def recorder(cluster: ClusterServers, spool: Path) -> AsyncIterator[Recorder]:
    client: Any = cluster.connect()
    made = Recorder(client, timezone="Europe/Paris", worker="0-c", spool=spool)
    await made.start()
    try:
        yield made
    finally:
        await made.close()
        await close(client)


def check(cluster: ClusterServers, count: int, seconds: int = 10) -> None:
    """Every call once in the stream, in its line's usage and in the fleet's."""
    with cluster.client() as client:
        entries = [fields for _, fields in client.xrange("cdr")]
        assert Counter(e["id"] for e in entries) == Counter(f"0-c-{n}" for n in range(count))
        fleet: Counter[str] = Counter()
        for place, line in enumerate(LINES):
            used = seconds * len(range(place, count, len(LINES)))
            usage = client.hgetall(f"usage:{line}:2026-11")
            expected = {"deducted": min(used, 95), "out_of_plan": max(0, used - 95)}
            assert {k: int(v) for k, v in usage.items()} == {k: v for k, v in expected.items() if v}
            fleet.update(expected)
        usage = client.hgetall("usage:fleet:acme:2026-11")
        assert Counter({k: int(v) for k, v in usage.items()}) == +fleet
        assert sum(int(e["out_of_plan_s"]) for e in entries) == fleet["out_of_plan"]


async def test_a_call_s_keys_are_on_several_nodes_and_all_are_written(
    cluster: ClusterServers, tmp_path: Path
) -> None:
    nodes = {id(cluster.master_of(f"usage:{line}:2026-11")) for line in LINES}
    assert len(nodes) > 1
    async with recorder(cluster, tmp_path / "s") as made:
        for n in range(120):
            made.add(call(n, LINES[n % len(LINES)]))
        await until(lambda: made.backlog == 0)
    check(cluster, 120)
    with cluster.client() as client:
        assert client.ttl("{cdr}:done:0-c:0") > 86400


async def test_a_line_that_pays_twice_in_one_call_pays_for_both(
    cluster: ClusterServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that pays for the caller's side after a transfer forwards the call as well. The record
    is sent twice, as each is in a Cluster."""
    monkeypatch.setattr("engine.records.recorder._AGAIN_S", 0.2)
    monkeypatch.setattr("engine.records.recorder._LOOK_S", 0.1)
    record = call(0, seconds=60)
    (paid,) = record.forwards
    record.forwards = [replace(paid, condition="none"), paid]
    async with recorder(cluster, tmp_path / "s") as made:
        made.add(record)
        await until(lambda: made.backlog == 0)
        await until(lambda: not made._kept)
    with cluster.client() as client:
        used = {"deducted": "95", "out_of_plan": "25"}
        assert client.hgetall(f"usage:{LINES[0]}:2026-11") == used
        assert client.hgetall("usage:fleet:acme:2026-11") == used
        ((_, entry),) = client.xrange("cdr")
        assert entry["out_of_plan_s"] == "25"


async def test_what_is_sent_again_is_written_once(
    cluster: ClusterServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a reply that was lost, a spool, a dead worker; and by the second sending."""
    monkeypatch.setattr("engine.records.recorder._AGAIN_S", 0.2)
    monkeypatch.setattr("engine.records.recorder._LOOK_S", 0.1)
    for _ in range(2):
        async with recorder(cluster, tmp_path / "s") as made:
            for n in range(60):
                made.add(call(n, LINES[n % len(LINES)]))
            await until(lambda: made.backlog == 0)
            await until(lambda: not made._kept)
    check(cluster, 60)


async def test_an_interruption_between_the_keys_is_made_good(
    cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands fail at random; the batch is sent until all of it is written."""
    client: Any = cluster.connect()
    months = Months("Europe/Paris")
    done = Script.run
    chance = random.Random(20_261_125)
    failed = 0

    async def unreliable(script: Script, *arguments: Any) -> Any:
        nonlocal failed
        luck = chance.random()
        if luck > 0.1:
            return await done(script, *arguments)
        failed += 1
        if luck > 0.05:
            await done(script, *arguments)
        raise ConnectionError("before, or after")

    monkeypatch.setattr(Script, "run", unreliable)
    entries = [to_entry(call(n, LINES[n % len(LINES)]), months) for n in range(60)]
    for start in range(0, 60, 6):
        part = writing_once.Batch(6, list(FIELDS), entries[start : start + 6])
        for _ in range(100):
            try:
                await writing_once.write(client, part, 1000)
                break
            except ConnectionError:
                await asyncio.sleep(0)
    await close(client)
    assert failed > 10
    check(cluster, 60)


async def test_a_record_that_redis_lost_comes_again(
    cluster: ClusterServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node has lost its newest records in a fail-over: every record is sent a second time."""
    monkeypatch.setattr("engine.records.recorder._LOOK_S", 0.1)
    async with recorder(cluster, tmp_path / "s") as made:
        for n in range(12):
            made.add(call(n, LINES[n % len(LINES)]))
        await until(lambda: made.backlog == 0)
        with cluster.client() as client:  # as if the node of one line had never received it
            for key in list(client.scan_iter(f"*usage:{LINES[1]}:*", count=1000)):
                client.delete(key)
        with pytest.raises(AssertionError):
            check(cluster, 12)
        monkeypatch.setattr("engine.records.recorder._AGAIN_S", 0.1)
        await until(lambda: not made._kept)
    with cluster.client() as client:
        assert client.hgetall(f"usage:{LINES[1]}:2026-11") == {"deducted": "20"}


async def test_a_cap_is_watched_beside_the_fleet_s_usage(
    cluster: ClusterServers, tmp_path: Path
) -> None:
    client: Any = cluster.connect()
    fleets = Fleets(client, timezone="UTC", numbering=Numbering("FR"))
    now = 0.0
    stopped: list[str] = []
    with cluster.client() as other:
        other.set("fleet:acme", json.dumps({"name": "acme", "cap_seconds": 100}))
        await fleets._read(["acme"])  # `load` would wait for 50 ms at most
        now = time.time()
        meter = SpendingCaps(
            client, fleets, lambda _: None, timezone="UTC", clock=lambda: now, steady=lambda: now
        )
        meter.begin("0-c-1", forward("out_of_plan"), 0.0, lambda: stopped.append("0-c-1"))
        await meter.tick()
        assert other.hkeys("standing:{" + usage_key() + "}") == ["0-c-1"]
        other.hincrby(usage_key(), "out_of_plan", 70)
        for _ in range(10):
            now += 4
            await meter.tick()
        assert set(stopped) == {"0-c-1"}
    await close(client)
