"""`renvoi serve` with several workers: the pages of the supervisor and of each worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.child import started
from tests.patience import within
from tests.scenarios.endpoint import Address
from tests.scenarios.processes import START_S, Engine, Settings
from tests.scenarios.sipp import HOST, free_port


class WorkerPool(Engine):
    """An engine with `workers` workers; `get`, `metric` and `calls` query the supervisor."""

    def __init__(
        self, directory: Path, redis_url: str, workers: int, settings: Settings | None = None
    ) -> None:
        self.workers = workers
        sip = free_port(several=workers)
        admin = free_port(socket.SOCK_STREAM, several=workers + 1)
        merged: dict[str, Any] = {name: dict(values) for name, values in (settings or {}).items()}
        merged.setdefault("sip", {})["listen"] = [f"udp:{HOST}:{sip}"]
        merged.setdefault("admin", {})["listen"] = f"{HOST}:{admin}"
        super().__init__(directory, redis_url, merged)
        self._admin = f"{HOST}:{admin + workers}"
        self.admins = [f"{HOST}:{admin + index}" for index in range(workers)]
        self.change(workers=workers)

    def change(self, **keys: Any) -> None:
        """Write other values into the configuration file, whole sections merged."""
        config = json.loads(self._config.read_text("utf-8"))
        for name, value in keys.items():
            if isinstance(value, dict):
                config.setdefault(name, {}).update(value)
            else:
                config[name] = value
        self._config.write_text(json.dumps(config), encoding="utf-8")

    def start(self) -> None:
        """Start it and wait until every worker takes calls."""
        super().start()
        deadline = time.monotonic() + START_S
        workers = set(range(self.workers))
        with started(self.stop):
            while not self.logged("supervisor.start") or workers - {
                event["worker"] for event in self.logged("worker.start")
            }:  # each worker logs its own lines
                assert time.monotonic() < deadline, self.log
                time.sleep(0.02)

    def address_of(self, worker: int) -> Address:
        """The SIP address of a worker."""
        return self.address[0], self.address[1] + worker

    def pid_of(self, worker: int) -> int:
        """The id of its newest process."""
        started = [e for e in self.events() if e["event"] == "worker.start"]
        return int([e["pid"] for e in started if e["worker"] == worker][-1])

    def kill(self, worker: int, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a worker's process; returns its pid."""
        pid = self.pid_of(worker)
        os.kill(pid, number)
        return pid

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The log events of that name with these fields."""
        return [
            found
            for found in self.events()
            if found["event"] == event and fields.items() <= found.items()
        ]

    async def until(self, condition: Callable[[], Any], within_s: float = 12) -> float:
        """Wait until the condition is true; returns the seconds."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() < began + within(within_s), f"did not happen:\n{self.log}"
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def replaced(self, worker: int, pid: int, within_s: float = 12) -> float:
        """Wait until another process takes that worker's calls; returns the seconds."""
        return await self.until(lambda: self.pid_of(worker) != pid, within_s)
