"""A real redis-server for one test: started on a unix socket, killed, paused, restarted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import redis.asyncio

from engine.embedded_redis import program
from tests.child import started
from tests.patience import within

PROGRAM = os.environ.get("RENVOI_TEST_REDIS_SERVER") or shutil.which("redis-server") or program()


class RedisServer:
    """One server without persistence: its data is lost after `kill` or `stop`."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir"]
        command = [PROGRAM, *options, str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + within(6)
        with started(self.kill), self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, "redis-server did not start"
                    time.sleep(0.02)

    def client(self) -> redis.Redis:
        """A blocking client for assertions; close it."""
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)

    def connect(self) -> redis.asyncio.Redis:
        """A client as the engine uses it; close it."""
        return redis.asyncio.Redis(unix_socket_path=str(self.socket))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@contextmanager
def running_server() -> Iterator[RedisServer]:
    # Not pytest's directory: the path of a unix socket is at most 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="rs") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()
