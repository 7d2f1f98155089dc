"""Fixtures: a Redis for a module, the servers that are notified, and processes that notify."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.notify.site import Notifier, Receiver, SmtpServer
from tests.scenarios.processes import RedisServer

Start = Callable[..., Notifier]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("r"), keeps=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """An empty Redis."""
    running.client.flushall()
    return running


@pytest.fixture
def client(server: RedisServer) -> redis.Redis:
    return server.client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    yield server
    server.close()


@pytest.fixture
def start(server: RedisServer, tmp_path: Path) -> Iterator[Start]:
    """Starts `renvoi notify`; each process must end with success and write no traceback."""
    made: list[Notifier] = []

    def start(**settings: Any) -> Notifier:
        notifier = Notifier(tmp_path, server.url, f"notify{len(made)}", **settings)
        made.append(notifier)
        notifier.start()
        return notifier

    yield start
    statuses = [notifier.stop() for notifier in made]  # first all: one must not hold the lease
    for notifier, status in zip(made, statuses, strict=True):
        assert status in (0, -9), notifier.log
        assert "Traceback" not in notifier.log, notifier.log
        assert '"exception"' not in notifier.log, notifier.log
