"""Messages to systemd, on a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.processes.systemd import Systemd
from tests.patience import within


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(2)
        yield end


def test_ready_reloading_stopping(inbox: socket.socket) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": inbox.getsockname()})
    systemd.ready("2 of 2 workers")
    systemd.reloading()
    systemd.stopping("draining")
    systemd.status("draining, 3 calls", extend_s=60)
    assert inbox.recv(500) == b"READY=1\nSTATUS=2 of 2 workers"
    reloading = inbox.recv(500).split(b"\n")
    assert reloading[0] == b"RELOADING=1"
    assert int(reloading[1].removeprefix(b"MONOTONIC_USEC=")) > 0
    assert inbox.recv(500) == b"STOPPING=1\nSTATUS=draining"
    assert inbox.recv(500) == b"STATUS=draining, 3 calls\nEXTEND_TIMEOUT_USEC=60000000"


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0renvoi-test-{os.getpid()}")
        end.settimeout(2)
        Systemd({"NOTIFY_SOCKET": f"@renvoi-test-{os.getpid()}"}).ready("x")
        assert end.recv(100) == b"READY=1\nSTATUS=x"


async def test_the_watchdog_is_notified_twice_in_its_interval(inbox: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": inbox.getsockname(), "WATCHDOG_USEC": "40000"}
    task = asyncio.create_task(Systemd(environ).pet())
    inbox.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(within(10)):
            sent = [await loop.sock_recv(inbox, 100) for _ in range(2)]
    finally:
        task.cancel()
    assert sent == [b"WATCHDOG=1"] * 2


async def test_without_a_socket_nothing_is_sent() -> None:
    await Systemd({}).pet()
    Systemd({}).ready("x")
    another = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    await Systemd(another).pet()
    Systemd(another).ready("x")  # an error of the socket is ignored
