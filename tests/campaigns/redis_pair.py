"""Two real redis-servers behind one name: a primary and its replica, killed, cut off, failed over.

Both persist their data (append-only file, synced at every write). Clients connect to one unix
socket, a link to the current primary.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import redis

from tests.redis.servers import PROGRAM

START_S = 10.0


class RedisPair:
    """Server 0 and server 1. `cut_off`: the replica no longer receives writes."""

    def __init__(self) -> None:
        # Not pytest's directory: the path of a unix socket is at most 107 bytes long.
        self._folder = Path(tempfile.mkdtemp(prefix="rp"))
        self.socket = self._folder / "redis.sock"
        self._processes: list[subprocess.Popen[bytes] | None] = [None, None]
        self._primary = 0
        self.cut_off = False
        self.is_up = False

    def __enter__(self) -> Self:
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        for place in (0, 1):
            self._end(place)
        shutil.rmtree(self._folder, ignore_errors=True)

    def client(self) -> redis.Redis:
        """A client of the primary; close it."""
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)

    def reset(self) -> None:
        """Start both, empty, one as the replica of the other."""
        self.start()
        with self.client() as client:
            client.flushall()
            client.script_flush()
        self.attach()

    def kill(self) -> None:
        """Kill the primary; its data stays on disk."""
        self._end(self._primary)
        self.is_up = False

    def start(self) -> None:
        """Start the primary (again), with all its data."""
        if self._processes[self._primary] is None:
            self._start(self._primary)
        self._lead(self._primary)
        self.is_up = True

    def drop_connections(self) -> None:
        """Cut every connection of a client; commands in transit may have been executed."""
        with self.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def attach(self) -> None:
        """Make the replica follow the primary, and wait until it has all data."""
        other = 1 - self._primary
        if self._processes[other] is None:
            self._start(other)
        with self._own(other) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")  # otherwise it retries after a second
            # The servers do not listen on ports; the link for replication needs TCP.
            client.execute_command("REPLICAOF", "127.0.0.1", self._port(self._primary))
            deadline = time.monotonic() + START_S
            while not _follows(client):
                if time.monotonic() > deadline:
                    raise RuntimeError("the replica does not follow")
                time.sleep(0.02)
        self.cut_off = False
        self.replicate()

    def replicate(self) -> None:
        """Wait until the replica has all previous writes."""
        with self._own(self._primary) as client:
            client.set("replicated", "1")  # Redis waits for the writes of this connection
            client.wait(1, 3000)

    def cut(self) -> None:
        """From now on the replica receives nothing."""
        with self._own(1 - self._primary) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        self.cut_off = True

    def fail_over(self) -> None:
        """The primary dies and the replica replaces it. Writes that the replica does not have are
        lost; the old primary is not used any more."""
        self._end(self._primary)
        shutil.rmtree(self._home(self._primary), ignore_errors=True)
        self._primary = 1 - self._primary
        with self._own(self._primary) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        self._lead(self._primary)
        self.is_up = True
        self.cut_off = True

    def _home(self, place: int) -> Path:
        return self._folder / str(place)

    def _own(self, place: int) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self._home(place) / "s"), decode_responses=True)

    def _port(self, place: int) -> int:
        with self._own(place) as client:
            return int(client.config_get("port")["port"])

    def _start(self, place: int) -> None:
        home = self._home(place)
        home.mkdir(exist_ok=True)
        options = {
            "port": str(_free_port()),
            "bind": "127.0.0.1",
            "unixsocket": str(home / "s"),
            "dir": str(home),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._processes[place] = subprocess.Popen([PROGRAM, *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        with self._own(place) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)

    def _lead(self, place: int) -> None:
        draft = self._folder / "next"
        draft.unlink(missing_ok=True)
        draft.symlink_to(self._home(place) / "s")
        draft.rename(self.socket)

    def _end(self, place: int) -> None:
        process = self._processes[place]
        if process is not None:
            process.kill()
            process.wait()
            self._processes[place] = None
            (self._home(place) / "s").unlink(missing_ok=True)


def _follows(replica: redis.Redis) -> bool:
    """Whether it has all data of the primary, also on disk: after a full copy it rewrites its file,
    and if it is killed meanwhile it has the old data."""
    link = replica.info("replication").get("master_link_status")
    disk = replica.info("persistence")
    writing = disk["aof_rewrite_in_progress"] or disk["aof_rewrite_scheduled"]
    return bool(link == "up" and disk["aof_enabled"] and not writing)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
