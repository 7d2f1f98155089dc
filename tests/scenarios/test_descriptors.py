"""An engine with a low limit on open files: connections leave enough for pages and Redis."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import within
from tests.scenarios.continued import until
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import ROOT, Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup, started_engine
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

FILES = 64
UDP, TCP = free_port(), free_port(socket.SOCK_STREAM)
LIMITED = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0})); "
    "sys.argv[0] = 'renvoi'; from engine.cli import main; sys.exit(main())"
)


@pytest.fixture(scope="module")
def running_engine(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    shared_redis.client.flushall()
    settings = {"sip": {"listen": [f"udp:127.0.0.1:{UDP}", f"tcp:127.0.0.1:{TCP}"]}}
    directory = tmp_path_factory.mktemp("few")
    engine = Engine(directory, shared_redis.url, settings)
    engine.program = ["-c", LIMITED.format(FILES)]
    with started_engine(engine, shared_redis.client, directory) as running_engine:
        yield running_engine


async def warned(setup: Setup) -> dict[str, Any]:
    """Wait for the log event about the limit."""
    deadline = time.monotonic() + within(5)
    while not (found := [e for e in setup.engine.events() if e["event"] == "descriptors.few"]):
        assert time.monotonic() < deadline, setup.engine.log
        await asyncio.sleep(0.05)
    return found[0]


async def test_a_hundred_idle_connections_leave_the_pages_and_calls_alone(setup: Setup) -> None:
    few = await warned(setup)
    assert few["limit"] == FILES
    assert 1 <= few["connections"] < few["wanted"]
    held = [await asyncio.open_connection("127.0.0.1", TCP) for _ in range(100)]
    for _ in range(3):
        for page in ("/healthz", "/readyz", "/metrics", "/calls"):
            status, body = await asyncio.to_thread(setup.engine.get, page)
            assert status == 200, (page, body)
    await until(
        lambda: setup.engine.metric("renvoi_rejected_total", reason="connections") >= 100 - FILES,
        "the others are refused",
    )
    for transport in ("udp", "tcp"):
        phone = await StreamEndpoint.listen() if transport == "tcp" else await setup.endpoint()
        line = setup.line(to=[phone.uri()])  # needs a read from Redis
        call = await setup.call(line, body=OFFER_BYTES)
        ring = await phone.incoming()
        await connect(call, ring)
        await part(call, ring)
        await setup.ended(call.call_id, outcome="answered")
        if isinstance(phone, StreamEndpoint):
            await phone.finish()
    for _, writer in held:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize(("files", "status"), [(64, 1), (1024, 1)])
async def test_check_says_when_the_limit_is_too_low(setup: Setup, files: int, status: int) -> None:
    done = await asyncio.to_thread(check, setup.engine.config, files)
    assert done.returncode == status
    line = next(text for text in done.stdout.splitlines() if "RLIMIT_NOFILE" in text)
    assert line.startswith("FAILED")
    assert "limits.connections: 10000" in line


def check(config: Path, files: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED.format(files), "check", "--config", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


async def test_new_code_begins_while_all_connections_are_open(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    """SIGUSR2: there are no descriptors for copies of all of them. The other ones are closed."""
    shared_redis.client.flushall()
    tcp = free_port(socket.SOCK_STREAM)
    listen = [f"udp:127.0.0.1:{free_port()}", f"tcp:127.0.0.1:{tcp}"]
    engine = Engine(tmp_path, shared_redis.url, {"sip": {"listen": listen}})
    engine.program = ["-c", LIMITED.format(160)]
    with started_engine(engine, shared_redis.client, tmp_path) as running_engine:
        async with Setup(running_engine) as setup:
            held = [await asyncio.open_connection("127.0.0.1", tcp) for _ in range(160)]
            await until(
                lambda: engine.metric("renvoi_rejected_total", reason="connections") > 0,
                "all places are taken",
            )
            engine.signal(signal.SIGUSR2)
            await until(
                lambda: [event for event in engine.events() if event["event"] == "roll.done"],
                "the new code takes calls",
            )
            phone = await setup.endpoint()
            call = await setup.call(setup.line(to=[phone.uri()]), body=OFFER_BYTES)
            ring = await phone.incoming()
            await connect(call, ring)
            await part(call, ring)
            await setup.ended(call.call_id, outcome="answered")
            for _, writer in held:
                writer.transport.abort()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
