"""The servers, once for all tests: an Asterisk set up by the page, and two engines beside it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from tests.scenarios.endpoint import Endpoint
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import RunningEngine, started_engine
from tests.servers import followed
from tests.servers.asterisk import Asterisk
from tests.servers.chroot import Chroot
from tests.servers.places import (
    ENGINE,
    ENGINE_PORT,
    PHONE,
    SECOND_ENGINE,
    SIP_PORT,
    TRUNK,
    WITHOUT,
)
from tests.servers.site import Site

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests without the chroot and the network namespace."""
    missing = os.environ.get(WITHOUT, "to be run by `make test-servers`")
    try:
        Path("/proc/net/fib_trie").read_text().index(SECOND_ENGINE)
        missing = os.environ.get(WITHOUT, "")
    except ValueError:
        pass
    for item in items:
        if missing and item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the servers when a test fails."""
    report = yield
    site = getattr(item, "funcargs", {}).get("site")
    if report.failed and isinstance(site, Site):
        report.sections.append(("engine log", site.engine.log))
        report.sections.append(("Asterisk's log", site.asterisk.log[-8000:]))
    return report


@pytest.fixture(scope="session")
def chroot() -> Iterator[Chroot]:
    chroot = Chroot()
    chroot.open()
    yield chroot
    chroot.close()


@pytest.fixture(scope="session")
def asterisk(chroot: Chroot) -> Iterator[Asterisk]:
    """An Asterisk set up as in docs/integration.md."""
    asterisk = Asterisk(chroot)
    asterisk.install(followed.blocks("Asterisk", "sh"))
    try:
        asterisk.start()
        yield asterisk
    finally:
        asterisk.stop()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


def engine_at(host: str, redis: RedisServer, directory: Path, *callers: str) -> Engine:
    """An engine set up as in the page; `callers` may place calls too."""
    config = followed.settings("Asterisk")
    config["sip"]["trusted_peers"] += [f"{caller}/32" for caller in callers]
    config["sip"]["listen"] = [f"udp:{host}:{ENGINE_PORT}"]
    config["timers"] = {"max_ring_s": 60}
    return Engine(directory, redis.url, config)


@pytest.fixture(scope="session")
def running_engine(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    """The first engine."""
    directory = tmp_path_factory.mktemp("engine")
    engine = engine_at(ENGINE, shared_redis, directory)
    with started_engine(engine, shared_redis.client, directory) as running_engine:
        yield running_engine


@pytest.fixture(scope="session")
def second(
    running_engine: RunningEngine,
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Engine]:
    """The second one, on the same Redis. Phones may place calls through it directly."""
    directory = tmp_path_factory.mktemp("second")
    engine = engine_at(SECOND_ENGINE, shared_redis, directory, PHONE)
    try:
        engine.start()
        yield engine
    finally:
        if engine.status() is None:
            engine.stop()


@pytest.fixture
async def site(
    running_engine: RunningEngine, second: Engine, asterisk: Asterisk, tmp_path: Path
) -> AsyncIterator[Site]:
    """All of them, reachable for each other, and a simulated trunk."""
    trunk = await Endpoint.open(TRUNK, SIP_PORT)
    async with Site(running_engine, second, asterisk, trunk, tmp_path) as site:
        await site.all_are_reachable()
        asterisk.mark()
        yield site
    trunk.close()
