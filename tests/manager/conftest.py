"""Fixtures: a Redis and a manager for a module, tokens of fleet acme and of an operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.manager.site import Api, Manager
from tests.scenarios.processes import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("r"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: RedisServer) -> redis.Redis:
    """A client, for reads and writes by another program."""
    return server.client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manager")


@pytest.fixture(scope="module")
def manager(server: RedisServer, folder: Path) -> Iterator[Manager]:
    running = Manager(folder, server.url)
    running.start()
    yield running
    status = running.stop()
    assert status == 0, running.log
    assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="module")
def acme(manager: Manager) -> Api:
    """The API for fleet acme."""
    return Api(manager, manager.token("--fleet", "acme"))


@pytest.fixture(scope="module")
def operator(manager: Manager) -> Api:
    """The API for an operator."""
    return Api(manager, manager.token("--operator"))
