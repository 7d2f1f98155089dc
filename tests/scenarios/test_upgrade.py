"""SIGUSR2: every process is replaced by one with the code on disk, and no call is affected."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import within
from tests.scenarios.continued import one_engine, talk
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint
from tests.scenarios.worker_pool import WorkerPool

WORKERS = 2


@pytest.fixture
async def lone(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    async with one_engine(shared_redis, tmp_path, but=("roll.stopped",)) as setup:
        yield setup


@pytest.fixture
async def pool(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    async for setup in served(
        WorkerPool(tmp_path, shared_redis.url, WORKERS), shared_redis, tmp_path
    ):
        yield setup


async def served(engine: Engine, redis: RedisServer, directory: Path) -> AsyncIterator[Setup]:
    engine.start()
    running_engine = RunningEngine(engine, redis.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
        assert not engine.leaks(redis.client)
        assert not [e for e in engine.complaints() if e["event"] != "roll.stopped"]
    finally:
        assert engine.stop() == 0, engine.log


async def stand(setup: Setup, worker: int = 0) -> tuple[Call, Call]:
    line, phone = await setup.line_with_phone()
    caller = await setup.endpoint()
    host, port = setup.engine.address
    call = caller.start((host, port + worker), line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    return call, ring


async def until(setup: Setup, event: str, count: int = 1) -> dict[str, Any]:
    """Wait until the event was logged `count` times; returns the last one."""
    deadline = asyncio.get_running_loop().time() + within(30)
    while len(found := [e for e in setup.engine.events() if e["event"] == event]) < count:
        assert asyncio.get_running_loop().time() < deadline, setup.engine.log
        await asyncio.sleep(0.02)
    return found[-1]


async def test_one_worker_continues_with_new_code_in_the_same_process(lone: Setup) -> None:
    engine = lone.engine
    assert engine._process is not None
    pid = engine._process.pid
    call, ring = await stand(lone)
    engine.signal(signal.SIGUSR2)
    await until(lone, "worker.handed_over")
    # messages that arrive now wait in the socket
    other, other_ring = await stand(lone)
    await until(lone, "roll.done")
    assert (await until(lone, "calls.taken_over"))["continued"] == 1
    assert engine._process.pid == pid
    assert engine.status() is None
    for one, two in ((call, ring), (other, other_ring)):
        await talk(one, two)
        await part(one, two)
    await lone.ended(call.call_id, outcome="answered", takeovers="1")
    await lone.ended(other.call_id, outcome="answered", takeovers="0")


async def refuse(setup: Setup) -> None:
    call, ring = await stand(setup)
    before = setup.engine._config.read_text("utf-8")
    setup.engine._config.write_text('{"limits": {"calls": -1}}', "utf-8")
    setup.engine.signal(signal.SIGUSR2)
    stopped = await until(setup, "roll.stopped")
    assert "limits.calls" in stopped["error"]
    setup.engine._config.write_text(before, "utf-8")
    await talk(call, ring)
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered", takeovers="0")


async def test_what_cannot_start_does_not_replace_one_worker(lone: Setup) -> None:
    await refuse(lone)


async def test_what_cannot_start_does_not_replace_a_supervisor(pool: Setup) -> None:
    await refuse(pool)


async def test_a_supervisor_and_its_workers_are_replaced(pool: Setup) -> None:
    engine = pool.engine
    assert isinstance(engine, WorkerPool)
    assert engine._process is not None
    supervisor = engine._process.pid
    pids = [engine.pid_of(worker) for worker in range(WORKERS)]
    standing = [await stand(pool, worker) for worker in range(WORKERS)]
    assert engine.metric("renvoi_line_arrivals_total", registered="yes") == WORKERS
    engine.signal(signal.SIGUSR2)
    await until(pool, "roll.done")
    assert engine._process.pid == supervisor
    assert engine.metric("renvoi_line_arrivals_total", registered="yes") == WORKERS
    assert len(engine.logged("worker.adopted")) == WORKERS
    every = range(WORKERS)
    await engine.until(lambda: not set(pids) & {engine.pid_of(worker) for worker in every})
    assert engine.metric("renvoi_worker_up") == WORKERS
    for call, ring in standing:
        await talk(call, ring)
        await part(call, ring)
        await pool.ended(call.call_id, outcome="answered", takeovers="1")
    engine.signal(signal.SIGUSR2)  # and again
    await until(pool, "roll.done", 2)


@pytest.mark.parametrize("workers", [1, 2])
async def test_tcp_connections_stay_open(
    shared_redis: RedisServer, tmp_path: Path, workers: int
) -> None:
    """The two connections of a call, one of them in the middle of a message."""
    tcp = free_port(socket.SOCK_STREAM, several=workers)
    udp = free_port(several=workers)
    listen = [f"udp:127.0.0.1:{udp}", f"tcp:127.0.0.1:{tcp}"]
    engine: Engine
    if workers == 1:
        engine = Engine(tmp_path, shared_redis.url, {"sip": {"listen": listen}})
    else:
        engine = WorkerPool(tmp_path, shared_redis.url, workers)
        engine.change(sip={"listen": listen})
    patient(engine, tmp_path)
    async for setup in served(engine, shared_redis, tmp_path):
        caller, phone = [await StreamEndpoint.listen() for _ in range(2)]
        for endpoint in (caller, phone):
            setup._stack.push_async_callback(endpoint.finish)
        line = setup.line(to=[phone.uri()])
        call = caller.start(("127.0.0.1", tcp), line, body=OFFER_BYTES)
        ring = await phone.incoming()
        await connect(call, ring)
        begun = build_info(call)
        caller.send(begun[:100], ("127.0.0.1", tcp))
        await asyncio.sleep(0.2)  # it is read
        if isinstance(engine, WorkerPool):
            await replaced(engine, 0)
        else:
            engine.signal(signal.SIGUSR2)
            await until(setup, "roll.done")
        caller.send(begun[100:], ("127.0.0.1", tcp))
        info = await ring.receive("INFO")
        ring.respond(200, to=info)
        await call.receive(200, "INFO")
        await talk(call, ring)
        await part(ring, call)
        await setup.ended(call.call_id, outcome="answered", takeovers="1")
        assert (caller.made, phone.made) == (1, 1)
        await until(setup, "roll.done")


def patient(engine: Engine, directory: Path) -> None:
    """Let its processes, also those to come, wait for the rest of a message as long as a busy
    machine needs to replace one of them."""
    place = directory / "patient"
    place.mkdir()
    text = f"import sip.streams\n\nsip.streams.MESSAGE_S = {within(10)}\n"
    (place / "sitecustomize.py").write_text(text, encoding="utf-8")
    engine.environment["PYTHONPATH"] = str(place)


async def replaced(pool: WorkerPool, worker: int) -> None:
    """Ask for new code, and wait until this worker has it."""
    before = pool.pid_of(worker)
    pool.signal(signal.SIGUSR2)
    await pool.until(lambda: pool.pid_of(worker) != before)


def build_info(call: Call) -> bytes:
    """An INFO that is not sent yet."""
    sent: list[bytes] = []
    send, call.endpoint.send = call.endpoint.send, lambda raw, peer: sent.append(raw)  # type: ignore[method-assign]
    call.request("INFO", body=b"Signal=2\r\n", content_type="application/dtmf-relay")
    call.endpoint.send = send  # type: ignore[method-assign]
    return sent[0]
