"""A phone on PJSIP (pjsua2_phone.py) from the side of who plays it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import orjson

WAIT_S = 10.0
MISSING = (
    "pjsua2 is not installed: it is a wheel for CPython 3.11 and 3.12 on x86-64 "
    "(pip install 'renvoi[phones]')"
)


class PhoneMissing(RuntimeError):
    """There is no pjsua2 here."""


class SoftPhone:
    """One process with one phone on a free port of `host`. Every event goes to `listener`, if there
    is one, else it waits for `event`."""

    def __init__(
        self, listener: Callable[[dict[str, Any]], None] | None = None, transport: str = "udp"
    ) -> None:
        self.host, self.port = "", 0
        self._listener = listener
        self._transport = transport
        self._process: asyncio.subprocess.Process | None = None
        self._events: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<pjsua2 at {self.host}:{self.port}, unclaimed: {self._events}>"

    async def open(self, host: str) -> None:
        """Start it. Raises PhoneMissing without pjsua2, OSError when it does not start."""
        if find_spec("pjsua2") is None:
            raise PhoneMissing(MISSING)
        self.host = host
        ours, theirs = os.pipe()
        reader = asyncio.StreamReader(limit=1 << 20)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "engine.demo.pjsua2_phone", str(theirs), host,
                self._transport, pass_fds=[theirs], stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            os.close(theirs)
        loop = asyncio.get_running_loop()
        self._pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb")
        )
        ready = await reader.readline()
        if not ready:
            raise OSError("the phone on pjsua2 did not start")
        self.port = orjson.loads(ready)["port"]
        self._reading = loop.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            event = orjson.loads(line)
            if self._listener is not None:
                self._listener(event)
                continue
            async with self._news:
                self._events.append(event)
                self._news.notify_all()

    async def event(self, kind: str, wait_s: float = WAIT_S, **fields: Any) -> dict[str, Any]:
        """Wait for an event of that kind with these fields. Raises TimeoutError."""

        def found() -> dict[str, Any] | None:
            for event in self._events:
                if event["event"] == kind and fields.items() <= event.items():
                    self._events.remove(event)
                    return event
            return None

        try:
            async with asyncio.timeout(wait_s), self._news:
                while (event := found()) is None:
                    await self._news.wait()
                return event
        except TimeoutError:
            raise TimeoutError(f"no {kind} {fields}: {self!r}") from None

    def say(self, do: str, **fields: Any) -> None:
        """Tell it to do something."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps({"do": do, **fields}) + b"\n")

    def uri(self, user: str = "phone") -> str:
        """A URI that reaches it."""
        shown = f";transport={self._transport}" if self._transport != "udp" else ""
        return f"sip:{user}@{self.host}:{self.port}{shown}"

    async def stop(self) -> None:
        """End it. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), WAIT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reading is not None:
            self._reading.cancel()
            self._pipe.close()
