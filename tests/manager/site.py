"""The manager as a process, and a small HTTP client for it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests import preloaded
from tests.child import Process, end, started
from tests.command import run
from tests.patience import within
from tests.scenarios.processes import ROOT
from tests.scenarios.sipp import HOST, free_port

START_S = within(12)
Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. `headers` in lower case."""

    status: int
    headers: Mapping[str, str]
    text: str
    cookies: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def etag(self) -> str:
        return self.headers["etag"]

    def fields(self) -> dict[str, str]:
        """The fields in a problem, with their faults."""
        return {error["field"]: error["problem"] for error in self.json["errors"]}


class Manager:
    """`renvoi manager` on a free port."""

    def __init__(self, directory: Path, redis_url: str, **settings: Any) -> None:
        import socket

        self.port = free_port(socket.SOCK_STREAM)
        self.admin_port = free_port(socket.SOCK_STREAM)
        self.url = f"http://{HOST}:{self.port}"
        self._directory = directory
        self._log = directory / "manager.log"
        self.config = directory / "manager.yaml"
        self._process: Process | None = None
        config = {
            "redis": {"url": redis_url, "data_dir": str(directory / "data")},
            "manager": {
                "listen": f"{HOST}:{self.port}",
                "admin_listen": f"{HOST}:{self.admin_port}",
                **settings,
            },
        }
        self.config.write_text(json.dumps(config), encoding="utf-8")

    def start(self) -> None:
        with self._log.open("ab") as log:
            arguments = ["manager", "--config", str(self.config)]
            self._process = preloaded.start(arguments, log, self._environment())
        deadline = time.monotonic() + START_S
        with started(self.stop):
            while True:
                try:
                    self.get("/api/v1/openapi.json")
                    return
                except OSError:
                    assert self._process.poll() is None, f"the manager did not start:\n{self.log}"
                    assert time.monotonic() < deadline, f"the manager does not answer:\n{self.log}"
                    time.sleep(0.05)

    def stop(self) -> int:
        """Send SIGTERM, kill it if it does not end; returns the exit status."""
        assert self._process is not None
        return end(self._process, signal.SIGTERM)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")[-6000:]

    def command(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command with this configuration. Accounts and tokens are made before the lines of
        their fleet are written."""
        if "add" in arguments and "--fleet" in arguments:
            arguments += ("--new-fleet",)
        return run(*arguments, "--config", str(self.config), typed=typed)

    def fails(self) -> subprocess.CompletedProcess[str]:
        """Start another `renvoi manager` with this configuration, which must end by itself."""
        return subprocess.run(
            [sys.executable, "-m", "engine.cli", "manager", "--config", str(self.config)],
            cwd=ROOT,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=within(12),
            check=False,
        )

    def token(self, *whose: str) -> str:
        """A new token for `--fleet F` or `--operator`."""
        made = self.command("manager", "token", "add", "test", *whose)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=within(10))
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            text = response.read().decode()
            pairs = response.getheaders()
        finally:
            connection.close()
        cookies = tuple(value for name, value in pairs if name.lower() == "set-cookie")
        return Answer(response.status, {n.lower(): v for n, v in pairs}, text, cookies)

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def _environment(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith("RENVOI_")}


class Api:
    """A client of the API with one token."""

    def __init__(self, manager: Manager, token: str) -> None:
        self._manager = manager
        self._token = token

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """`headers` with underscores: if_match="..."."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given["Authorization"] = f"Bearer {self._token}"
        raw = None
        if body is not None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            given["Content-Type"] = "application/json"
        return self._manager.request(method, f"/api/v1{path}", raw, given)

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, **headers)

    def put(self, path: str, body: Any, **headers: str) -> Answer:
        return self.send("PUT", path, body, **headers)


def write(client: redis.Redis, number: str, fleet: str = "acme", **fields: Any) -> str:
    """Write a line document as another program would; returns its number."""
    client.set(f"line:{number}", json.dumps({"number": number, "fleet": fleet, **fields}))
    return number


def read(client: redis.Redis, number: str) -> Json:
    text = client.get(f"line:{number}")
    assert isinstance(text, str)
    document: Json = json.loads(text)
    return document


def fill_log(client: redis.Redis, line: str) -> None:
    """More changes of a line of fleet acme than one request reads."""
    entry: dict[Any, Any] = {
        "who": "x", "how": "api", "line": line, "what": "forwards", "from": "{}", "to": "{}"
    }  # fmt: skip
    with client.pipeline(transaction=False) as pipe:
        for _ in range(5_100):
            pipe.xadd("audit:acme", entry)
        pipe.execute()
