"""A Redis, lines and a watched engine for a campaign, and the checks of its state."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.campaigns.watched import HURRY, WATCH
from tests.scenarios.processes import ROOT, START_S, Engine, RedisServer

# Counts that must be zero at the end (see `watched.counts`).
STANDING = ("calls", "legs", "dialogs", "transactions", "forwards", "tasks", "cdr_backlog")
_TROUBLE = re.compile(r'"event": ?"(sip\.error|call\.error)"|Traceback|Assertion|Fatal Python')


class WatchedEngine(Engine):
    """`renvoi serve` that also reports internal counts."""

    def __init__(
        self, directory: Path, redis_url: str, settings: dict[str, Any], *, hurry: bool
    ) -> None:
        super().__init__(directory, redis_url, settings)
        self._watch = directory / "watch.json"
        self._hurry = hurry

    def start(self) -> None:
        """Start it and wait until `/readyz` answers 200 and the first counts exist."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RENVOI_")}
        environment[WATCH] = str(self._watch)
        environment[HURRY] = "1" if self._hurry else ""
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.campaigns.watched"]
        command += ["--config", str(self._config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while self.get("/readyz")[0] != 200 or not self._watch.exists():
            assert self._process.poll() is None, f"the engine did not start:\n{self.log}"
            assert time.monotonic() < deadline, f"the engine is not ready:\n{self.log}"
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def resident_kb(self) -> int:
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found.group(1))

    @property
    def descriptors(self) -> int:
        """Its open files and sockets."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def counts(self) -> dict[str, Any]:
        """Its internal counts, at most a fraction of a second old."""
        counts: dict[str, Any] = json.loads(self._watch.read_text(encoding="utf-8"))
        return counts

    def standing(self) -> dict[str, int]:
        """The counts of `STANDING` that are not zero."""
        counts = self.counts()
        return {name: counts[name] for name in STANDING if counts[name]}

    def trouble(self) -> list[str]:
        """The lines of its output that no peer may cause."""
        text = self._log.read_text("utf-8", "replace")
        return [line[:3000] for line in text.splitlines() if _TROUBLE.search(line)]

    def death(self) -> str:
        """How it died: its status, the assertion, and the innermost frames of this project."""
        text = self._log.read_text("utf-8", "replace")
        found = [line.strip() for line in text.splitlines() if "Assertion" in line]
        frames = re.findall(rf'File "{ROOT}/((?:sip|engine)/\S+)", (line \d+ in \w+)', text)
        places = " < ".join(f"{path} {place}" for path, place in frames[:4])
        return f"died with status {self.status()}: {'; '.join(found)} [{places}]"

    def settle(self, wait_s: float) -> dict[str, int]:
        """Wait until nothing is in progress; returns what remains after `wait_s`."""
        deadline = time.monotonic() + wait_s
        first = self.counts()["turn"]
        while True:
            counts = self.counts()
            standing = {name: counts[name] for name in STANDING if counts[name]}
            fresh = counts["turn"] > first + 1
            if (fresh and not standing) or time.monotonic() > deadline:
                return standing
            assert self.status() is None, f"the engine died:\n{self.log}"
            time.sleep(0.05)


class Site:
    """The setup of a campaign."""

    def __init__(self, directory: Path, server: RedisServer, engine: WatchedEngine) -> None:
        self.directory = directory
        self.server = server
        self.redis: redis.Redis = server.client
        self.engine = engine

    def write_line(self, number: str, contacts: tuple[str, ...] = (), **fields: Any) -> None:
        """Write a line of the fleet, with the contacts registered for an hour."""
        document = {"number": number, "fleet": "acme", **fields}
        self.redis.set(f"line:{number}", json.dumps(document))
        for uri in contacts:
            self.redis.zadd(f"reg:{number}", {uri: time.time() + 3600})


@contextmanager
def open_site(settings: dict[str, Any] | None = None, *, hurry: bool = True) -> Iterator[Site]:
    """Start a Redis and an engine in a new directory; both are ended on exit. `hurry`
    shortens the timers of transactions."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        directory = Path(name)
        server = RedisServer(directory)
        server.start()
        try:
            engine = WatchedEngine(directory, server.url, settings or {}, hurry=hurry)
            engine.start()
            try:
                yield Site(directory, server, engine)
            finally:
                engine.stop()
        finally:
            server.stop()
