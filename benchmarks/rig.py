"""The bench: Redis, the engine under test and the phones, each on its core and a free port."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

import redis

from benchmarks.certificate import certificate_for
from benchmarks.figures import Samples, scrape, total
from benchmarks.processes import (
    BenchmarkError,
    Child,
    free_port,
    redis_server,
    tree,
    udp_drops,
)
from benchmarks.subject import Subject
from store.keys import line_key, live_key, registrations_key

SCENARIOS = Path(__file__).with_name("scenarios")
HOST = "127.0.0.1"
STRANGER = "127.0.0.2"  # on the loopback too, but not among trusted_peers
LINES = 500
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
_START_S = 15.0
_STOP_S = 10.0


def called(index: int) -> str:
    """E.164 number of line `index`."""
    return f"+3397210{index:04d}"


def caller(index: int) -> str:
    """E.164 number of an outside caller."""
    return f"+3314000{index:04d}"


def nobody(index: int) -> str:
    """E.164 number that is no line."""
    return f"+3397219{index:04d}"


def document(
    number: str, max_calls: int | None, after_s: int = 20, **targets: dict[str, str] | None
) -> str:
    """A line document with three of the four forwards on, all to its own voicemail. `targets` has
    the differences, by condition (None = off)."""
    voicemail = {"kind": "voicemail", "number": number}
    forwards: dict[str, dict[str, object]] = {}
    for condition in ("unconditional", "busy", "no_answer", "unreachable"):
        to = targets.get(condition, None if condition == "unconditional" else voicemail)
        forwards[condition] = {"on": to is not None, "to": to or voicemail}
    forwards["no_answer"]["after_s"] = after_s
    line = {"number": number, "fleet": "bench", "max_calls": max_calls, "forwards": forwards}
    return json.dumps(line)


class Rig:
    """Context manager: everything runs inside, and nothing is left afterwards."""

    def __init__(
        self,
        subject: Subject,
        *,
        cores: tuple[int, int],
        phone: str = "answering",
        max_calls: int | None = None,
        calls_elsewhere: int = 0,
        limits: Mapping[str, int] | None = None,
        with_engine: bool = True,
        streams: bool = False,
        start_s: float = _START_S,
        workers: int = 1,
        live_count: str = "shared",
        standby: str = "none",
    ) -> None:
        """`phone`: scenario of the lines' phones. `calls_elsewhere`: entries of other engines in
        each line's `live:` key. `limits`: section of the engine's config. `streams`: the engine
        listens on TCP and TLS too. `start_s`: how long a program may take to start. `live_count`:
        as in the section `rules`, `standby` as in `calls`."""
        self.subject = subject
        self.engine_core, self.load_core = cores
        self.phone = phone
        self.max_calls = max_calls
        self.calls_elsewhere = calls_elsewhere
        self.limits = dict(limits or {})
        self.with_engine = with_engine
        self.streams = streams
        self._start_s = start_s
        self.directory = Path(tempfile.mkdtemp(prefix="renvoi-bench-"))
        self.workers = workers
        self.live_count = live_count
        self.standby = standby
        self.sip_port = free_port(several=workers)
        self.tcp_port = free_port(socket.SOCK_STREAM)
        self.tls_port = free_port(socket.SOCK_STREAM)
        first = free_port(socket.SOCK_STREAM, several=workers + 1)
        # The page of all workers is the supervisor's, on the port after theirs.
        self.first_admin_port, self.admin_port = first, first + (workers if workers > 1 else 0)
        self.phone_port = free_port()
        self.voicemail_port = free_port()
        self.redis_port = free_port(socket.SOCK_STREAM)
        self.engine_redis_port = self.redis_port  # as in the engine's configuration
        self.children: list[Child] = []
        self.engine: Child | None = None

    def __enter__(self) -> Self:
        try:
            self._start_redis()
            self.write_rules()
            self._start_answering(self.phone, self.phone_port)
            self._start_answering("answering", self.voicemail_port)
            if self.with_engine:
                self.start_engine()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop what was started, last first, and remove the directory."""
        for child in reversed(self.children):
            child.stop(signal.SIGINT if child is self.engine else signal.SIGTERM, _STOP_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def target(self) -> tuple[str, int]:
        """Where callers send: the engine, or straight to the phones in a rig without one."""
        return HOST, self.sip_port if self.with_engine else self.phone_port

    def engine_pids(self) -> list[int]:
        """The engine and its workers."""
        if self.engine is None:
            return []
        status = self.engine.status()
        if status is not None:
            raise BenchmarkError(f"the engine ended ({status}): {self.engine.last_lines()}")
        return tree(self.engine.pid)

    def load_pids(self) -> list[int]:
        """Redis and the phones (the caller is not among them)."""
        return [child.pid for child in self.children if child is not self.engine]

    def metrics(self) -> Samples:
        """A scrape of the engine, empty without one. Raises BenchmarkError when it does not
        answer."""
        if self.engine is None:
            return {}
        try:
            return scrape(self.admin_port)
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"/metrics on port {self.admin_port}: {error}") from error

    def drops(self, *more_ports: int) -> int:
        """Datagrams dropped so far at the sockets of the engine, the phones and `more_ports`."""
        engine = range(self.sip_port, self.sip_port + self.workers)
        return udp_drops((*engine, self.phone_port, self.voicemail_port, *more_ports))

    def wait_until_idle(self, patience_s: float) -> float:
        """Wait for the end of all calls; returns how many the engine still counts."""
        deadline = time.monotonic() + patience_s
        while True:
            left = total(self.metrics(), "renvoi_active_calls")
            if left == 0 or time.monotonic() > deadline:
                return left
            time.sleep(0.25)

    def start(self, argv: list[str], core: int, env: Mapping[str, str] | None = None) -> Child:
        log = self.directory / f"{len(self.children)}-{Path(argv[0]).name}.log"
        child = Child(argv, core=core, log=log, cwd=self.directory, env=env)
        self.children.append(child)
        return child

    def _start_redis(self) -> None:
        plain = ["--save", "", "--appendonly", "no", "--bind", HOST]
        child = self.start([redis_server(), "--port", str(self.redis_port), *plain], self.load_core)
        self.wait_until_ready(child, "redis-server", self._redis_answers)

    def redis_client(self) -> redis.Redis:
        """A client; close it."""
        return redis.Redis(host=HOST, port=self.redis_port)

    def _redis_answers(self) -> bool:
        with self.redis_client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def numbers(self, calls: int) -> str:
        """The file, in the rig's directory, with caller and called number of the next `calls`
        calls."""
        return "numbers.csv"

    def write_rules(self) -> None:
        """Write all lines to Redis, and the callers and called numbers to a file."""
        numbers = ["SEQUENTIAL"]
        with self.redis_client() as client, client.pipeline() as batch:
            for index in range(LINES):
                number = called(index)
                numbers.append(f"{number};{caller(index)};{nobody(index)}")
                self.write_line(batch, number)
            batch.execute()
        (self.directory / "numbers.csv").write_text("\n".join(numbers) + "\n")

    def write_line(self, batch: redis.client.Pipeline, number: str) -> None:
        """Write a line's rules, its phone, and its calls on other engines."""
        in_a_day = time.time() + 86400
        batch.set(line_key(number), document(number, self.max_calls))
        batch.zadd(registrations_key(number), {f"sip:phone@{HOST}:{self.phone_port}": in_a_day})
        for other in range(self.calls_elsewhere):
            batch.zadd(live_key(number), {f"elsewhere-{other}": in_a_day})

    def _start_answering(self, scenario: str, port: int) -> None:
        where = ["-i", HOST, "-p", str(port)]
        path = str(SCENARIOS / f"{scenario}.xml")
        self.start(["sipp", "-sf", path, HOST, *where, *sipp_common()], self.load_core)

    def _sip(self) -> dict[str, object]:
        """Section `sip` of the engine's config."""
        listen = [f"udp:{HOST}:{self.sip_port}"]
        section: dict[str, object] = {"listen": listen, "trusted_peers": [f"{HOST}/32"]}
        if self.streams:
            listen += [f"tcp:{HOST}:{self.tcp_port}", f"tls:{HOST}:{self.tls_port}"]
            certificate, key = certificate_for(HOST, self.directory)
            section |= {"tls_certificate": str(certificate), "tls_key": str(key)}
        return section

    def start_engine(self) -> None:
        """Start what is measured and wait until it takes calls."""
        config: dict[str, object] = {
            "sip": self._sip(),
            "destinations": {
                "voicemail": f"sip:{{number}}@{HOST}:{self.voicemail_port}",
                "fax": f"sip:{{number}}@{HOST}:{self.voicemail_port}",
                "number": f"sip:{{number}}@{HOST}:{self.voicemail_port}",
            },
            "limits": self.limits,
            "redis": {"url": f"redis://{HOST}:{self.engine_redis_port}/0"},
            "admin": {"listen": f"{HOST}:{self.first_admin_port}"},
            "log": {"level": "info", "format": "json"},
        }
        if self.workers > 1:
            config["workers"] = self.workers
        if self.live_count != "shared":
            config["rules"] = {"live_count": self.live_count}
        if self.standby != "none":
            config["calls"] = {"standby": self.standby}
        path = self.directory / "config.yaml"
        path.write_text(json.dumps(config, indent=1))  # every JSON document is a YAML document
        self.engine = self.start(
            self.subject.argv(path), self.engine_core, self.subject.environment()
        )
        self.wait_until_ready(self.engine, "the engine", self._engine_ready)

    def _engine_ready(self) -> bool:
        try:
            with urlopen(f"http://{HOST}:{self.admin_port}/readyz", timeout=2) as answer:
                ready = bool(answer.status == 200)
            return ready and (
                self.workers == 1 or total(self.metrics(), "renvoi_worker_up") == self.workers
            )
        except (URLError, OSError):
            return False

    def wait_until_ready(self, child: Child, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self._start_s
        while not ready():
            if child.status() is not None:
                raise BenchmarkError(f"{what} ended ({child.status()}): {child.last_lines()}")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{what}: not up in {self._start_s:g} s: {child.last_lines()}")
            time.sleep(0.05)


def sipp_common() -> list[str]:
    """Options of every SIPp: no terminal, millisecond scheduling, the largest socket buffers."""
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    size = min(SOCKET_BUFFER_BYTES, limit)
    return ["-nostdin", "-timer_resol", "1", "-buff_size", str(size)]
