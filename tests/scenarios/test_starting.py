"""The start: every call that is answered follows the rules."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import redis

from engine.embedded_redis import socket_path
from tests.scenarios import numbers
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import START_S, Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup, to_voicemail
from tests.scenarios.worker_pool import WorkerPool

# As systemd's MemoryDenyWriteExecute restricts a service and its child processes: PR_SET_MDWE.
CONFINED = """
import ctypes, mmap, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit("this kernel cannot")
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    sys.exit("the kernel granted memory that can be written and executed")
except PermissionError:
    pass
from engine.cli import main
sys.exit(main())
"""


async def test_the_first_call_that_is_answered_reaches_its_destination(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A server sends calls as soon as the port is open: none may be refused."""
    directory = tmp_path_factory.mktemp("engine")
    # Many calls of one line wait in the socket when the engine begins to read it.
    limits = {"limits": {"forwards_per_line": 1_000_000}}
    engine = Engine(directory, shared_redis.url, limits)
    running_engine = RunningEngine(engine, shared_redis.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            line = numbers.line_number()
            setup.line(number=line, forwards={"unconditional": to_voicemail(line)})
            caller = await setup.endpoint()
            calls: list[Call] = []
            engine.spawn()
            deadline = time.monotonic() + START_S
            while not any(call.received for call in calls):
                assert time.monotonic() < deadline, engine.log
                calls.append(caller.start(engine.address, line, body=OFFER_BYTES))
                await asyncio.sleep(0.002)
            voicemail = servers["voicemail"]

            def reached() -> bool:
                """Every call that was received so far has reached its destination."""
                return len(voicemail.invited(line)) == sum(bool(c.received) for c in calls)

            await asyncio.sleep(0.5)
            await until(lambda: reached() or any(c.state == "ended" for c in calls), "calls arrive")
            answered = [call for call in calls if call.received]
            refused = [call for call in answered if call.state == "ended"]
            assert not refused, f"{len(refused)} of {len(answered)}: {refused[0]}\n{engine.log}"
            assert len(voicemail.invited(line)) == len(answered)
            caller.calls[:] = answered  # the others were not received
            for call in answered:
                call.cancel()
                await call.receive(200, "CANCEL")
    finally:
        status = engine.stop()
    assert status == 0, engine.log


async def test_no_memory_is_written_and_executed(tmp_path: Path) -> None:
    """By workers, supervisor and embedded Redis: the systemd unit forbids it."""
    pool = WorkerPool(tmp_path, "embedded", 2)
    pool.program = ["-c", CONFINED]
    pool.start()
    try:
        own = str(socket_path(tmp_path / "data"))
        with redis.Redis(unix_socket_path=own, decode_responses=True) as client:
            running_engine = RunningEngine(pool, client, tmp_path)
            async with (
                running_engine.endpoints() as servers,
                Setup(running_engine, servers) as setup,
            ):
                line, phone = await setup.line_with_phone()
                call = await setup.call(line)
                ring = await phone.incoming()
                await connect(call, ring)
                await part(call, ring)
                await setup.ended(call.call_id, outcome="answered")
    finally:
        status = pool.stop()
    assert status == 0, pool.log
    assert not pool.complaints()
