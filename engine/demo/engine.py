"""The engine of `renvoi demo`: `renvoi serve` in its own process and directory."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import orjson

import engine
from engine.demo.cases import FICTION
from engine.embedded_redis import socket_path

HOST = "127.0.0.1"
START_S, STOP_S = 20.0, 10.0
ATTEMPTS = 3
PORTS = (20000, 30000)  # below the system's ephemeral ports
TIMERS = {"pre_ringing_s": 4, "max_ring_s": 8, "max_call_s": 60, "drain_s": 0}


class EngineFailed(RuntimeError):
    """The engine did not start, or ended too early; the message is one line with its last
    output."""


class DemoEngine:
    """A child process on free ports, with an embedded Redis, its files under `directory`."""

    def __init__(self, directory: Path) -> None:
        self.sip = self._admin = (HOST, 0)
        self._directory = directory
        self._data_dir = directory / "data"
        self._log = directory / "engine.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def redis_url(self) -> str:
        return f"unix://{socket_path(self._data_dir)}"

    async def start(self, destinations: Mapping[str, str]) -> None:
        """Start it and wait until `/readyz` says 200. Raises EngineFailed."""
        for attempt in range(1, ATTEMPTS + 1):
            self.sip = (HOST, _free_port(socket.SOCK_DGRAM))
            self._admin = (HOST, _free_port(socket.SOCK_STREAM))
            try:
                await self._start(destinations)
                return
            except EngineFailed as error:
                # Another program may have taken a free port before its use.
                if "already in use" not in str(error) or attempt == ATTEMPTS:
                    raise

    async def _start(self, destinations: Mapping[str, str]) -> None:
        config = {
            "sip": {"listen": [f"udp:{self.sip[0]}:{self.sip[1]}"]},
            "destinations": destinations,
            "timers": TIMERS,
            "numbering": {"also_valid": [FICTION]},
            "redis": {"url": "embedded", "data_dir": str(self._data_dir)},
            "admin": {"listen": f"{self._admin[0]}:{self._admin[1]}"},
        }
        path = self._directory / "config.yaml"
        path.write_bytes(orjson.dumps(config))  # JSON is YAML too
        # The demo must not use the operator's Redis.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RENVOI_")}
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "engine.cli", "serve", "--config", str(path)),
                cwd=Path(engine.__file__).resolve().parent.parent,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while not await self._is_ready():
            if self._process.returncode is not None:
                raise EngineFailed(f"the engine did not start: {self._last_words()}")
            if time.monotonic() > deadline:
                raise EngineFailed(f"the engine is not ready: {self._last_words()}")
            await asyncio.sleep(0.05)

    async def ended(self) -> EngineFailed:
        """Wait until it ends unexpectedly."""
        assert self._process is not None
        status = await self._process.wait()
        return EngineFailed(f"the engine ended with status {status}: {self._last_words()}")

    async def stop(self) -> None:
        """Send SIGINT, then SIGKILL if it does not end. Idempotent."""
        process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _is_ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(*self._admin)
        except OSError:
            return False
        try:
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: renvoi\r\n\r\n")
            return b" 200 " in await asyncio.wait_for(reader.readline(), 5)
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _last_words(self) -> str:
        """Its last line that is not a log event, otherwise the last line."""
        lines = self._log.read_text("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        own = [line.removeprefix("renvoi: ") for line in said if line.startswith("renvoi: ")]
        greeted = any("worker.start" in line for line in said)
        return (own[-1] if own and not greeted else said[-1] if said else "it said nothing")[:500]


def _free_port(kind: socket.SocketKind) -> int:
    while True:
        port = random.randrange(*PORTS)
        with socket.socket(socket.AF_INET, kind) as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
