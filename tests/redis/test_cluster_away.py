"""A cluster of which no node answers for a while: everything recovers when it is back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.call_tasks import CallTasks
from engine.changes.acks import LiveWorker
from engine.changes.worker_registry import WorkerHeartbeat
from engine.records.record import ForwardRecord
from engine.transfers import LIFE_S, Owed, Transfers, _decode, _Transfer
from manager.calls import Calls
from manager.directory import Directory
from rules.numbers import Numbering
from store.client import close
from store.fleets import Fleets, FleetState
from store.keys import ACK, PROBE, RECORDS, TRANSFER, WORKER
from store.redis_errors import kind_of
from tests.redis.cluster import HOST, ClusterServers, cluster, cluster_servers
from tests.redis.stores import document, until

__all__ = ["cluster", "cluster_servers"]

ROOT = Path(__file__).resolve().parents[2]
LINE = "+33972101001"
NOTHING = FleetState()
AWAY_S = 2.0  # longer than the interval of heartbeats
NOWHERE = f"redis+cluster://{HOST}:1"


@asynccontextmanager
async def away(cluster: ClusterServers) -> AsyncIterator[None]:
    """All masters are killed; at the end they are back, empty."""
    for node in cluster.masters:
        node.kill()
    try:
        yield
    finally:
        await asyncio.to_thread(cluster.restart)


async def test_what_the_engine_does_beside_its_calls_goes_on(cluster: ClusterServers) -> None:
    client = cluster.connect(socket_connect_timeout=3.0, socket_timeout=5.0)
    await client.ping()
    troubles: list[tuple[str, BaseException]] = []

    def trouble(where: str, error: BaseException) -> None:
        troubles.append((where, error))

    services: Any = SimpleNamespace(redis=client, rejections=SimpleNamespace(redis=trouble))
    tasks = CallTasks(asyncio.get_running_loop())
    transfers, fleets = (
        Transfers(services, tasks, lambda *_: None),
        Fleets(client, timezone="UTC", numbering=Numbering("FR")),
    )
    this = LiveWorker("w0", "host", 0, 7, 1.0, (), "127.0.0.1:9100", "1")
    heartbeat = WorkerHeartbeat(client, this)
    heartbeat.on_error = partial(trouble, "presence")
    owed = Owed([ForwardRecord(LINE, "busy", "number", LINE, "fleet", 0, "acme")], LINE)
    key = f"{TRANSFER}a:b"
    try:
        await fleets.start()
        await heartbeat.start()
        assert (await fleets.load("acme")).fleet is None
        async with away(cluster):
            fleets.changed("acme")
            heartbeat.on_probe(PROBE + "lost")
            await transfers._write(key, owed)
            transfer = _Transfer(time.monotonic() + LIFE_S)
            transfers._gone[key] = transfer
            await transfers._delete(key, transfer)
            assert not transfers._gone
            transfers._keep(key, _Transfer(time.monotonic() + LIFE_S, None, owed))
            assert await transfers._take("a", "b") == owed  # the local state is used
            await asyncio.sleep(AWAY_S)
            await until(lambda: "presence" in {where for where, _ in troubles}, 5)
        assert {where for where, _ in troubles} == {"transfer", "presence"}
        assert "cluster" in {kind_of(error) for _, error in troubles}
        with cluster.client() as other:
            other.set("fleet:acme", json.dumps({"name": "acme", "suspended": True}))
            fleets.changed("acme")
            await until(lambda: (fleets.find("acme") or NOTHING).suspended, 20)
            await until(lambda: other.exists(WORKER + "w0"), 20)
            heartbeat.on_probe(PROBE + "heard")
            await until(lambda: other.hexists(ACK + "heard", "w0"), 20)
            await transfers._write(key, owed)
            assert _decode(other.get(key)) == owed
    finally:
        await heartbeat.close()
        await fleets.close()
        await close(client)


async def test_the_manager_s_indexes_are_complete_again(cluster: ClusterServers) -> None:
    client = cluster.connect(socket_connect_timeout=3.0, socket_timeout=5.0)
    await client.ping()
    calls, directory = Calls(client), Directory(client, lambda number: number)
    try:
        await calls.start()
        await directory.start()
        async with away(cluster):
            directory._on_keys([b"line:" + LINE.encode()])
            await asyncio.sleep(AWAY_S)
        with cluster.client() as other:
            other.set(f"line:{LINE}", document(LINE))
            other.xadd(RECORDS, {"forwards": f'[{{"line":"{LINE}"}}]'})
            await until(lambda: directory.has("acme", LINE), 20)
            await until(lambda: LINE.encode() in calls._places, 20)
    finally:
        await directory.close()
        await calls.close()
        await close(client)


@pytest.mark.parametrize("command", [["line", "list"], ["serve"]])
def test_a_command_names_the_redis_that_it_cannot_reach(command: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    redis = {"url": NOWHERE, "data_dir": str(tmp_path)}
    config.write_text(json.dumps({"redis": redis, "sip": {"listen": ["udp:127.0.0.1:0"]}}))
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", *command, "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("renvoi: redis.url: ")
    assert NOWHERE in done.stderr
    assert done.stderr.count("\n") == 1
