"""Rolling restarts and SIGUSR2 that are interrupted: by another signal, a crash, or a stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.processes.journal import GROW_BYTES
from tests.patience import within
from tests.scenarios.continued import talk
from tests.scenarios.expect import part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup
from tests.scenarios.test_upgrade import WORKERS, served, stand, until
from tests.scenarios.worker_pool import WorkerPool


@pytest.fixture
async def pool(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    async for setup in served(
        WorkerPool(tmp_path, shared_redis.url, WORKERS), shared_redis, tmp_path
    ):
        yield setup


def engine_of(workers: int, redis: RedisServer, directory: Path) -> Engine:
    if workers == 1:
        return Engine(directory, redis.url)
    return WorkerPool(directory, redis.url, workers)


async def test_a_second_sighup_at_once_does_not_stop_the_first(pool: Setup) -> None:
    standing = [await stand(pool, worker) for worker in range(WORKERS)]
    pool.engine.signal(signal.SIGHUP)
    await until(pool, "roll.start")
    pool.engine.signal(signal.SIGHUP)
    await until(pool, "roll.start", 2)
    await until(pool, "roll.done")
    for call, ring in standing:
        await talk(call, ring)
        await part(call, ring)
    assert not [e for e in pool.engine.events() if e["event"] == "roll.stopped"]


async def test_a_worker_that_dies_does_not_end_the_roll(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    """Its replacement uses the spare process for which the roll waits."""
    engine = WorkerPool(tmp_path, shared_redis.url, WORKERS)
    engine.start()
    try:
        async with Setup(RunningEngine(engine, shared_redis.client, tmp_path)) as setup:
            call, ring = await stand(setup, 1)
            before = engine.pid_of(0)
            engine.signal(signal.SIGHUP)
            await until(setup, "roll.start")
            engine.kill(1)
            await until(setup, "roll.done")
            await engine.replaced(0, before)
            await talk(call, ring)
            await part(call, ring)
        assert [each["event"] for each in engine.complaints()] == ["worker.died"]
    finally:
        assert engine.stop() == 0


@pytest.mark.parametrize("pause_s", [0.0, 0.3, 1.2, 2.0])
@pytest.mark.parametrize("workers", [1, WORKERS])
async def test_the_end_is_not_forgotten(
    shared_redis: RedisServer, tmp_path: Path, workers: int, pause_s: float
) -> None:
    """SIGTERM at any moment of SIGUSR2: the engine drains, and ends after its last call."""
    engine = engine_of(workers, shared_redis, tmp_path)
    engine.start()
    running_engine = RunningEngine(engine, shared_redis.client, tmp_path)
    try:
        async with Setup(running_engine) as setup:
            call, ring = await stand(setup)
            engine.signal(signal.SIGUSR2)
            await asyncio.sleep(pause_s)
            engine.signal(signal.SIGTERM)
            await until(setup, "drain.start")
            await asyncio.sleep(3)  # until the new code runs, if it was starting
            await talk(call, ring)
            await part(call, ring)
            assert await engine.exited(12) == 0
    finally:
        engine.stop()


async def test_a_worker_that_has_left_its_calls_gets_a_successor_before_the_end(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    """SIGTERM between a worker's end and the start of the next process."""
    engine = engine_of(WORKERS, shared_redis, tmp_path)
    engine.start()
    try:
        async with Setup(RunningEngine(engine, shared_redis.client, tmp_path)) as setup:
            call, ring = await stand(setup)
            engine.signal(signal.SIGHUP)
            await until(setup, "worker.handed_over")
            engine.signal(signal.SIGTERM)
            await until(setup, "calls.taken_over")
            await talk(call, ring)
            assert engine.status() is None
            await part(call, ring)
            await setup.ended(call.call_id, outcome="answered", takeovers="1")
            assert await engine.exited(12) == 0
    finally:
        engine.stop()


@pytest.mark.parametrize("workers", [1, WORKERS])
async def test_calls_that_are_not_in_the_journal_are_not_left(
    shared_redis: RedisServer, tmp_path: Path, workers: int
) -> None:
    """No room for a journal: a single worker is not replaced, one of several drains first."""
    engine = engine_of(workers, shared_redis, tmp_path)
    engine.where = ["prlimit", f"--fsize={GROW_BYTES - 1}"]
    engine.start()
    try:
        async with Setup(RunningEngine(engine, shared_redis.client, tmp_path)) as setup:
            call, ring = await stand(setup)
            engine.signal(signal.SIGUSR2)
            event = await until(setup, "roll.stopped" if workers == 1 else "roll.drains")
            assert "no room" in event["error"] if workers == 1 else not event["journal_has_all"]
            await talk(call, ring)
            await part(call, ring)
            await setup.ended(call.call_id, outcome="answered", takeovers="0")
            if workers == 1:  # no call is in progress any more
                engine.signal(signal.SIGUSR2)
            await until(setup, "roll.done")
        assert {e["event"] for e in engine.complaints()} <= {"journal.unusable", "roll.stopped"}
    finally:
        assert engine.stop() == 0


@pytest.mark.parametrize(
    ("workers", "number", "done"),
    [
        (1, signal.SIGHUP, "reload.done"),
        (1, signal.SIGUSR2, "roll.done"),
        (WORKERS, signal.SIGHUP, "roll.done"),
        (WORKERS, signal.SIGUSR2, "roll.done"),
    ],
)
async def test_a_signal_during_the_start_is_obeyed_after_it(
    shared_redis: RedisServer, tmp_path: Path, workers: int, number: signal.Signals, done: str
) -> None:
    engine = engine_of(workers, shared_redis, tmp_path)
    engine.spawn()
    try:
        async with Setup(RunningEngine(engine, shared_redis.client, tmp_path)) as setup:
            await handles(engine, number)
            engine.signal(number)
            await until(setup, done)
            assert not engine.complaints()
    finally:
        assert engine.stop() == 0


async def handles(engine: Engine, number: signal.Signals) -> None:
    """Wait until the process has a handler for this signal, as early as it can have one."""
    assert engine._process is not None
    status = Path(f"/proc/{engine._process.pid}/status")
    deadline = asyncio.get_running_loop().time() + within(12)
    while True:
        caught = next(x for x in status.read_text().splitlines() if x.startswith("SigCgt:"))
        if int(caught.split()[1], 16) >> (number - 1) & 1:
            return
        assert asyncio.get_running_loop().time() < deadline, engine.log
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("workers", [1, WORKERS])
async def test_a_sighup_during_an_upgrade_is_obeyed_by_the_new_code(
    shared_redis: RedisServer, tmp_path: Path, workers: int
) -> None:
    engine = engine_of(workers, shared_redis, tmp_path)
    engine.start()
    try:
        async with Setup(RunningEngine(engine, shared_redis.client, tmp_path)) as setup:
            call, ring = await stand(setup)
            engine.signal(signal.SIGUSR2)
            await until(setup, "roll.start")
            engine.signal(signal.SIGHUP)
            if workers == 1:
                await until(setup, "reload.done")
            else:  # one for the upgrade, one for each SIGHUP
                await until(setup, "roll.start", 2)
            await until(setup, "roll.done")
            await talk(call, ring)
            await part(call, ring)
            assert not engine.complaints()
    finally:
        assert engine.stop() == 0
