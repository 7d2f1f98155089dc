"""Calls on the kinds of Redis that operators run: a cluster, a master that fails over, a full
one."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.changes.acks import in_force_blocking
from store.client import connect_blocking
from tests.month import this_month
from tests.patience import Stalls, within
from tests.redis.cluster import (
    ClusterServers,
    Node,
    SentinelServers,
    cluster_servers,
    folder,
    sentinel,
)
from tests.scenarios import numbers
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.network import Network
from tests.scenarios.processes import Engine
from tests.scenarios.setup import RunningEngine, Setup, to_number, to_voicemail

__all__ = ["cluster_servers", "sentinel"]

IN_FORCE_S = 1.0


@asynccontextmanager
async def served(directory: Path, url: str, client: Any = None) -> AsyncIterator[Setup]:
    """An engine on that Redis, with destinations; it must end with success and leave nothing."""
    engine = Engine(directory, url)
    engine.start()
    other = client or connect_blocking(url, decode_responses=True, socket_timeout=2)
    running_engine = RunningEngine(engine, other, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
        assert engine.calls() == []
    except AssertionError as error:
        error.add_note(engine.log)
        raise
    finally:
        status = engine.stop()
        other.close()
    assert status == 0, engine.log
    assert not engine.complaints()


async def heard_of(client: Any, line: str) -> None:
    """Wait until every worker has received the last write of the line. After a failure none may be
    known in Redis for a moment."""
    deadline = time.monotonic() + within(10)
    while True:
        proof = await asyncio.to_thread(in_force_blocking, client, line, within(IN_FORCE_S))
        if proof.complete:
            return
        assert time.monotonic() < deadline, proof.in_words()
        await asyncio.sleep(0.1)


async def answered(setup: Setup, line: str, phone: Endpoint) -> str:
    """One call to the line, answered by its phone; returns its Call-ID."""
    call = await setup.call(line)
    ring = await phone.incoming(wait_s=5)
    await connect(call, ring)
    await part(call, ring)
    return call.call_id


async def reaches(setup: Setup, line: str, kind: str, user: str) -> str:
    """One call to the line reaches that server with that user part."""
    call = await setup.call(line)
    away = await setup.server(kind).incoming(user, wait_s=5)
    await connect(call, away)
    await part(call, away)
    return call.call_id


async def recorded_once(setup: Setup, placed: list[str], wait_s: float = 10) -> None:
    """Every call has exactly one record."""
    deadline = time.monotonic() + within(wait_s)
    while True:
        ids = [record["call_id"] for record in setup.records()]
        if all(ids.count(call_id) == 1 for call_id in placed):
            return
        assert time.monotonic() < deadline, {i: ids.count(i) for i in placed if ids.count(i) != 1}
        await asyncio.sleep(0.1)


# -- Cluster -------------------------------------------------------------------------------------


async def test_calls_on_a_cluster(cluster_servers: ClusterServers, tmp_path: Path) -> None:
    """Rules, registrations, live counts, records and usage, each in a different slot."""
    cluster_servers.flush()
    async with served(tmp_path, cluster_servers.url) as setup:
        placed = []
        lines = [await setup.line_with_phone(max_calls=1) for _ in range(4)]
        for line, _ in lines:
            setup.change(line, forwards={"busy": to_voicemail(line)})
        for line, phone in lines:
            first = await setup.call(line)
            ring = await phone.incoming()
            await connect(first, ring)
            placed.append(await reaches(setup, line, "voicemail", line))
            await part(first, ring)
            placed.append(first.call_id)
        target = numbers.outside_number()
        setup.change(line, forwards={"unconditional": to_number(target)})
        # On a busy machine the nodes cannot ping each other, and the cluster stops serving for a
        # moment.
        proof = await asyncio.to_thread(in_force_blocking, setup.redis, line, within(4))
        assert proof.complete, f"{proof.in_words()}\n{setup.engine.log}"
        call = await setup.call(line)
        away = await setup.server("number").incoming(target, wait_s=5)
        await connect(call, away)
        await asyncio.sleep(1.1)  # long enough to be billed
        await part(call, away)
        placed.append(call.call_id)
        await recorded_once(setup, placed)
        used: Any = setup.redis.hgetall(f"usage:{line}:{this_month()}")
        assert sum(map(int, used.values())) >= 1
        assert setup.engine.metric("renvoi_redis_up") == 1


async def test_a_master_of_the_cluster_that_dies_is_replaced_under_calls(tmp_path: Path) -> None:
    with folder() as place:
        cluster = ClusterServers(place, replicas=1, timeout_ms=2000)
        try:
            cluster.start()
            async with served(tmp_path, cluster.url) as setup:
                lines = [await setup.line_with_phone() for _ in range(9)]
                placed = [await answered(setup, *each) for each in lines]
                await recorded_once(setup, placed)
                line, _ = lines[0]
                victim = cluster.master_of(f"line:{line}")
                heir = cluster.replicas[cluster.masters.index(victim)]
                victim.kill()
                deadline = time.monotonic() + within(20)
                while True:
                    placed += await asyncio.gather(*(answered(setup, *each) for each in lines))
                    with heir.client() as client:
                        has_slots = client.info("replication")["role"] == "master"
                    if has_slots and setup.engine.metric("renvoi_redis_up") == 1:
                        break
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.2)
                # The replica has its keys now, and writes to it are in force.
                setup.change(line, forwards={"unconditional": to_voicemail(line)})
                await heard_of(setup.redis, line)
                placed.append(await reaches(setup, line, "voicemail", line))
                await recorded_once(setup, placed)
        finally:
            cluster.stop()


# -- Sentinel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_a_fail_over_under_load_loses_no_call_and_no_record(
    sentinel: SentinelServers, tmp_path: Path, how: str, stalls: Stalls
) -> None:
    old = sentinel.current()
    async with served(tmp_path, sentinel.url) as setup:
        lines = [await setup.line_with_phone(max_calls=100) for _ in range(10)]
        for place, (line, _) in enumerate(lines):
            if place % 2:
                setup.change(line, max_calls=None)
        placed = [await answered(setup, *each) for each in lines]
        await recorded_once(setup, placed)
        with sentinel.client() as client:
            await until(lambda: client.wait(1, 500) == 1, "the replica has all previous writes")
        # Not called meanwhile: an INVITE may wait in the engine's socket when the line changes.
        (changed, _), *lines = lines
        calls: list[asyncio.Task[str]] = []
        slowest = switched = 0.0
        stalls.watch(setup.engine.pid)

        async def one(index: int) -> str:
            nonlocal slowest
            line, phone = lines[index % len(lines)]
            start = time.monotonic()
            call = await setup.call(line)
            ring = await phone.incoming(wait_s=5)
            slowest = max(slowest, time.monotonic() - start)
            await connect(call, ring)
            await part(ring, call)
            return call.call_id

        for index in range(1000):
            calls.append(asyncio.create_task(one(index)))
            if index == 20:
                if how == "killed":
                    sentinel.master.kill()
                else:
                    sentinel.master.signal(signal.SIGSTOP)
            if index > 20 and not switched and await asyncio.to_thread(sentinel.current) != old:
                switched = time.monotonic()
                with sentinel.replica.client() as client:
                    # Written by another program as soon as there is a master again.
                    fields = {"forwards": {"unconditional": to_voicemail(changed)}}
                    client.set(
                        f"line:{changed}", json.dumps({"number": changed, "fleet": "acme"} | fields)
                    )
            if switched and time.monotonic() - switched > IN_FORCE_S:
                break
            await asyncio.sleep(0.04)
        assert switched, "no new master"
        results = await asyncio.gather(*calls, return_exceptions=True)
        lost = [result for result in results if isinstance(result, BaseException)]
        assert not lost, f"{len(lost)} of {len(calls)} lost: {lost[:3]}"
        assert slowest < 1.0 + stalls.total_s  # Redis was away for longer
        placed += [result for result in results if isinstance(result, str)]
        with sentinel.replica.client() as client:
            await heard_of(client, changed)
        placed.append(await reaches(setup, changed, "voicemail", changed))
        setup.redis.close()  # a blocking client keeps its connection to the old master
        setup.redis = sentinel.client()
        await recorded_once(setup, placed)
        setup.redis.close()


async def until_ready_says(engine: Engine, words: str) -> None:
    """The engine takes calls, and `/readyz` soon contains these words."""
    deadline = time.monotonic() + within(5)
    while True:
        status, text = engine.get("/readyz")
        assert status == 200, text
        if words in text:
            return
        assert time.monotonic() < deadline, text
        await asyncio.sleep(0.1)


# -- failures ------------------------------------------------------------------------------------


async def test_a_full_redis_is_reported_and_calls_go_on(tmp_path: Path) -> None:
    with folder() as place:
        server = Node(place)
        server.start()
        try:
            client = server.client()
            async with served(tmp_path, f"redis://127.0.0.1:{server.port}", client) as setup:
                engine = setup.engine
                line, phone = await setup.line_with_phone(max_calls=2)
                placed = [await answered(setup, line, phone)]
                await recorded_once(setup, placed)
                client.config_set("maxmemory", 1)
                placed += [await answered(setup, line, phone) for _ in range(5)]
                deadline = time.monotonic() + within(5)
                while engine.metric("renvoi_redis_errors_total", kind="full") < 2:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.1)
                await until_ready_says(engine, "takes no writes (full)")
                events = [e for e in engine.events() if e.get("event") == "redis.trouble"]
                assert {event["kind"] for event in events} == {"full"}
                assert len(events) < 20
                client.config_set("maxmemory", 0)
                await recorded_once(setup, placed)
                await until_ready_says(engine, "ready\n")
        finally:
            server.kill()


async def test_a_read_only_redis_is_reported_and_calls_go_on(tmp_path: Path) -> None:
    with folder() as place:
        server = Node(place)
        server.start()
        try:
            client = server.client()
            async with served(tmp_path, f"redis://127.0.0.1:{server.port}", client) as setup:
                engine = setup.engine
                line, phone = await setup.line_with_phone(max_calls=2)
                placed = [await answered(setup, line, phone)]
                await recorded_once(setup, placed)
                client.replicaof("127.0.0.1", "1")  # of a master that does not exist
                placed += [await answered(setup, line, phone) for _ in range(3)]
                deadline = time.monotonic() + within(5)
                while engine.metric("renvoi_redis_errors_total", kind="read_only") < 2:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.1)
                await until_ready_says(engine, "takes no writes (read_only)")
                client.replicaof("NO", "ONE")
                await recorded_once(setup, placed)
        finally:
            server.kill()


async def test_a_network_that_is_cut_delays_no_known_line_and_changes_are_in_force_after(
    tmp_path: Path, stalls: Stalls
) -> None:
    """A cut cable: no reset, no refusal, no response."""
    with Network() as network, folder() as place:
        server = Node(place, inside=network)
        server.start()
        try:
            client = server.client()
            async with served(tmp_path, f"redis://{network.inside}:{server.port}", client) as setup:
                line, phone = await setup.line_with_phone(max_calls=3)
                placed = [await answered(setup, line, phone)]
                await recorded_once(setup, placed)
                client.connection_pool.disconnect()
                stalls.watch(setup.engine.pid)
                network.cut()
                slowest, end = 0.0, time.monotonic() + 3
                while time.monotonic() < end:
                    start = time.monotonic()
                    call = await setup.call(line)
                    ring = await phone.incoming()
                    slowest = max(slowest, time.monotonic() - start)
                    await connect(call, ring)
                    await part(call, ring)
                    placed.append(call.call_id)
                assert slowest < 0.3 + stalls.total_s
                await until(lambda: setup.engine.metric("renvoi_redis_up") == 0, "it is away")
                network.mend()
                setup.change(line, forwards={"unconditional": to_voicemail(line)})
                await heard_of(setup.redis, line)
                placed.append(await reaches(setup, line, "voicemail", line))
                await recorded_once(setup, placed)
        finally:
            server.kill()
