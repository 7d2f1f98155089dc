"""The supervisor is killed: its workers go on, and the next supervisor adopts them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup
from tests.scenarios.worker_pool import WorkerPool

WORKERS = 2


@pytest.fixture
async def setup(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    """Two workers, whose supervisor may be killed."""
    pool = WorkerPool(tmp_path, shared_redis.url, WORKERS, {"timers": {"drain_s": 200}})
    pool.start()
    await pool.until(lambda: len(pool.logged("worker.start")) == WORKERS)
    running_engine = RunningEngine(pool, shared_redis.client, tmp_path)
    pids = [pool.pid_of(worker) for worker in range(WORKERS)]
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
    finally:
        pool.stop()
        for pid in pids:  # processes that no supervisor has ended
            if os.path.exists(f"/proc/{pid}"):
                os.kill(pid, signal.SIGKILL)


def pool_of(setup: Setup) -> WorkerPool:
    assert isinstance(setup.engine, WorkerPool)
    return setup.engine


async def call_through(setup: Setup, worker: int, line: str) -> Call:
    caller = await setup.endpoint()
    return caller.start(pool_of(setup).address_of(worker), line, body=OFFER_BYTES)


async def takes_calls(setup: Setup, worker: int) -> None:
    line, phone = await setup.line_with_phone()
    call = await call_through(setup, worker, line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def kill_supervisor(pool: WorkerPool) -> None:
    gone = len(pool.logged("supervisor.gone"))
    pool.signal(signal.SIGKILL)
    await pool.exited(10)
    await pool.until(lambda: len(pool.logged("supervisor.gone")) == gone + WORKERS)


async def start_another(pool: WorkerPool) -> float:
    """Start the next supervisor; returns the seconds until it has the workers."""
    began, adopted = time.monotonic(), len(pool.logged("worker.adopted"))
    pool.spawn()
    await pool.until(lambda: len(pool.logged("worker.adopted")) == adopted + WORKERS)
    await pool.until(lambda: pool.get("/readyz")[0] == 200)
    return time.monotonic() - began


async def test_workers_go_on_and_are_adopted_by_the_next_supervisor(setup: Setup) -> None:
    pool = pool_of(setup)
    pids = [pool.pid_of(worker) for worker in range(WORKERS)]
    line, phone = await setup.line_with_phone()
    calls = []
    for worker in range(WORKERS):  # without a call it might end before the next supervisor
        standing = await call_through(setup, worker, line)
        ring = await phone.incoming()
        await connect(standing, ring)
        calls.append((standing, ring))
    for _ in range(2):  # once per kill
        await kill_supervisor(pool)
        for worker in range(WORKERS):
            await takes_calls(setup, worker)
        print(f"adopted after {await start_another(pool):.1f} s")
        assert [pool.pid_of(worker) for worker in range(WORKERS)] == pids
        assert {call["call_id"] for call in pool.calls()} == {call.call_id for call, _ in calls}
        for worker in range(WORKERS):
            await takes_calls(setup, worker)
    (standing, ring), other = calls
    await part(*other)
    await setup.ended(other[0].call_id, outcome="answered", why="bye")
    # They belong to the new supervisor: it replaces them when they die, reloads and ends them.
    pid = pool.kill(1)
    await pool.replaced(1, pid)
    await takes_calls(setup, 1)
    pool.change(log={"level": "debug"})
    pool.signal(signal.SIGHUP)
    await pool.until(lambda: pool.logged("reload.done", worker=0))
    await part(standing, ring)
    await setup.ended(standing.call_id, outcome="answered", why="bye")
    pool.signal(signal.SIGTERM)
    assert await pool.exited(20) == 0
    await pool.until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


async def test_a_supervisor_that_comes_late_undoes_that_its_workers_drain(setup: Setup) -> None:
    pool = pool_of(setup)
    line, phone = await setup.line_with_phone()
    calls = []
    for worker in range(WORKERS):
        standing = await call_through(setup, worker, line)
        ring = await phone.incoming()
        await connect(standing, ring)
        calls.append((standing, ring))
    await kill_supervisor(pool)
    await pool.until(lambda: len(pool.logged("drain.start")) == WORKERS, within_s=30)
    for worker in range(WORKERS):
        assert (await (await call_through(setup, worker, line)).final()).code == 503
    await start_another(pool)
    for worker in range(WORKERS):
        await takes_calls(setup, worker)
    for standing, ring in calls:
        assert not standing.requests("BYE")
        await part(ring, standing)
        await setup.ended(standing.call_id, outcome="answered")


async def test_workers_without_calls_end_when_no_supervisor_comes(setup: Setup) -> None:
    pool = pool_of(setup)
    pids = [pool.pid_of(worker) for worker in range(WORKERS)]
    await kill_supervisor(pool)
    await pool.until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 40)
    started = len(pool.logged("worker.start"))
    pool.spawn()  # the next one starts its own
    await pool.until(lambda: len(pool.logged("worker.start")) == started + WORKERS)
    await pool.until(lambda: pool.get("/readyz")[0] == 200)
    await takes_calls(setup, 0)
    assert not pool.logged("worker.adopted")
    assert json.loads(pool.get("/calls")[1]) == []
