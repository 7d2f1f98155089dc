"""The real processes of the scenarios: a redis-server, and the engine itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from engine.processes.journal import directory_of
from tests import preloaded
from tests.child import Process, end, started
from tests.patience import within
from tests.scenarios.sipp import HOST, free_port

ROOT = Path(__file__).resolve().parents[2]
START_S = within(12)
_PROGRAM = ["-m", "engine.cli"]
Settings = Mapping[str, Mapping[str, Any]]
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class RedisServer:
    """A redis-server on a unix socket. It can be killed and started again.

    With `keeps` it appends every write to a file before it answers, and restores all after a kill.
    Without, it starts empty.
    """

    def __init__(self, directory: Path, *, keeps: bool = False) -> None:
        self._directory = directory
        self._keeps = keeps
        self._socket = directory / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"
        self.client = redis.Redis(unix_socket_path=str(self._socket), decode_responses=True)

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = os.environ.get("RENVOI_TEST_REDIS_SERVER") or shutil.which("redis-server")
        assert program, "these scenarios need redis-server (Debian: apt install redis-server)"
        command = [program, "--port", "0", "--unixsocket", str(self._socket)]
        command += ["--save", "", "--appendonly", "yes" if self._keeps else "no"]
        command += ["--dir", str(self._directory)]
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        # An engine waits one second for it, so other tests must not keep it from running.
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, -10)
        deadline = time.monotonic() + START_S
        with started(self.stop):
            while True:
                try:
                    self.client.ping()
                    return
                except redis.RedisError:
                    assert time.monotonic() < deadline, "redis-server did not start"
                    time.sleep(0.02)

    def kill(self) -> None:
        """Kill it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._socket.unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop it without closing a connection, like a machine that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Close the client and end the process."""
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()


class Engine:
    """`renvoi serve` as a process, on free ports."""

    def __init__(self, directory: Path, redis_url: str, settings: Settings | None = None) -> None:
        """`settings` are merged, section by section, into the settings of the scenarios."""
        self.address = (HOST, free_port())
        self.ports = {kind: free_port() for kind in ("voicemail", "fax", "number")}
        self._admin = f"{HOST}:{free_port(socket.SOCK_STREAM)}"
        self._log = directory / "engine.log"
        self._config = directory / "config.yaml"
        self._directory = directory
        self._process: Process | None = None
        self.environment: dict[str, str] = {}  # of its process, in addition to ours
        self.program = _PROGRAM
        self.where: list[str] = []  # prefix of its command, such as `Network.prefix`
        config: dict[str, dict[str, Any]] = {
            "sip": {
                "listen": [f"udp:{self.address[0]}:{self.address[1]}"],
                "trusted_peers": ["127.0.0.1/32"],
            },
            "destinations": {
                kind: f"sip:{{number}}@{HOST}:{port}" for kind, port in self.ports.items()
            },
            # The machine may be busy with other tests. No load shedding because of them: only
            # tests/scenarios/test_limits.py tests it.
            "limits": {"wait_s": 0},
            # Nor does any call end because a phone of the tests was not run for some seconds. A
            # module that waits for one of these timers sets it.
            "timers": {
                "pre_ringing_s": 15,
                "max_ring_s": 60,
                "max_call_s": 300,
                "drain_s": 20,
                "hung_s": 60,
            },
            "redis": {"url": redis_url, "data_dir": str(directory / "data")},
            "admin": {"listen": self._admin},
            "log": {"level": "info", "format": "json"},
        }
        for section, values in (settings or {}).items():
            config.setdefault(section, {}).update(values)
        self._admin = config["admin"]["listen"]
        host, _, port = config["sip"]["listen"][0].partition(":")[2].rpartition(":")
        self.address = (host.strip("[]"), int(port))
        # JSON is YAML too
        self._config.write_text(json.dumps(config, indent=1), encoding="utf-8")

    def start(self) -> None:
        """Start it and wait until `/readyz` answers 200; stop it if it is not ready in time."""
        self.spawn()
        assert self._process is not None
        deadline = time.monotonic() + START_S
        with started(self.stop):
            while self.get("/readyz")[0] != 200:
                assert self._process.poll() is None, f"the engine did not start:\n{self.log}"
                assert time.monotonic() < deadline, f"the engine is not ready:\n{self.log}"
                time.sleep(0.02)

    def spawn(self) -> None:
        """Start it without waiting."""
        environment = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith("RENVOI_") or k == "RENVOI_SIP_CORE"
        }
        environment |= self.environment
        arguments = ["serve", "--config", str(self._config)]
        with self._log.open("ab") as log:
            if self.where or self.program != _PROGRAM:
                self._process = subprocess.Popen(
                    [*self.where, sys.executable, *self.program, *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            else:
                self._process = preloaded.start(arguments, log, environment)

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def has_been_started(self) -> bool:
        return self._process is not None

    @property
    def log(self) -> str:
        """The end of its output."""
        return self._log.read_text("utf-8", "replace")[-6000:]

    def events(self) -> list[dict[str, Any]]:
        """Every log event so far; a line that is not JSON becomes an event of level "text". A line
        that is being written is left out."""
        events = []
        whole_lines, _, _ = self._log.read_text("utf-8", "replace").rpartition("\n")
        for line in whole_lines.splitlines():
            whole = line.startswith("{") and line.endswith("}")
            events.append(json.loads(line) if whole else {"level": "text", "event": line})
        return events

    def complaints(self) -> list[dict[str, Any]]:
        """The events about internal errors, including tracebacks."""
        return [
            event
            for event in self.events()
            if event["level"] in ("error", "critical") or "Traceback" in event["event"]
        ]

    @property
    def peer(self) -> str:
        """Its SIP address in the form for SIPp."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self._config

    @property
    def admin(self) -> str:
        """Its HTTP address, as host:port."""
        return self._admin

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    async def exited(self, wait_s: float) -> int:
        """Wait until it ends by itself; returns its exit status."""
        deadline = time.monotonic() + within(wait_s)
        while (status := self.status()) is None:
            assert time.monotonic() < deadline, f"still running after {wait_s} s:\n{self.log}"
            await asyncio.sleep(0.02)
        return status

    def stop(self) -> int:
        """Send SIGINT, kill it if it does not end; returns the exit status."""
        assert self._process is not None
        status = end(self._process, signal.SIGINT)
        # Remove what a killed engine left for its successor: there is none.
        shutil.rmtree(directory_of(self._directory / "data"), ignore_errors=True)
        return status

    def get(self, path: str) -> tuple[int, str]:
        """An admin page: HTTP status (0 without a connection) and body."""
        try:
            url = f"http://{self._admin}{path}"
            with urllib.request.urlopen(url, timeout=within(5)) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            found = _SAMPLE.match(line)
            if found and found.group(1) == name:
                has = dict(_LABEL.findall(found.group(2) or ""))
                if labels.items() <= has.items():
                    total += float(found.group(3))
        return total

    def calls(self) -> list[Any]:
        """The calls in progress."""
        status, body = self.get("/calls")
        assert status == 200, f"/calls: {status} {body}"
        calls: list[Any] = json.loads(body)
        return calls

    def leaks(self, client: redis.Redis) -> str:
        """What remains after all calls have ended; empty when nothing does."""
        problems = []
        if calls := self.calls():
            problems.append(f"/calls: {calls}")
        if active := self.metric("renvoi_active_calls"):
            problems.append(f"renvoi_active_calls: {active}")
        leases = list(client.scan_iter("live:*", count=1000))
        standing = client.scan_iter("forwards:*", count=1000)
        leases += [key for key in standing if not str(key).startswith("forwards:hour:")]
        if leases:
            problems.append(f"leases: {leases}")
        return "; ".join(problems)
