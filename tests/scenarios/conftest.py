"""Fixtures: one Redis for all scenarios, one engine per module, one setup per test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator

import pytest

from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup, started_engine
from tests.scenarios.worker_pool import WorkerPool


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the engine's log when a scenario fails."""
    report = yield
    if report.failed:
        known = getattr(item, "funcargs", {})
        for name in ("setup", "lone", "running_engine"):
            engine = getattr(known.get(name), "engine", None)
            if isinstance(engine, Engine):
                report.sections.append(("engine log", engine.log))
                break
    return report


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for the whole run."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def running_engine(
    request: pytest.FixtureRequest,
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningEngine]:
    """An engine on an empty Redis, with the `SETTINGS` of the module and its `WORKERS`, if it has
    them."""
    shared_redis.client.flushall()
    directory = tmp_path_factory.mktemp("engine")
    settings = getattr(request.module, "SETTINGS", None)
    workers = getattr(request.module, "WORKERS", 0)
    engine = (
        WorkerPool(directory, shared_redis.url, workers, settings)
        if workers
        else Engine(directory, shared_redis.url, settings)
    )
    with started_engine(engine, shared_redis.client, directory) as running_engine:
        yield running_engine


@pytest.fixture
async def setup(running_engine: RunningEngine) -> AsyncIterator[Setup]:
    """The setup of one scenario, with scripted destination servers."""
    async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
        yield setup
