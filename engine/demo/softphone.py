"""Controls a phone on PJSIP (pjsua2_phone.py)."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import orjson

from sip.fake import Script
from sip.message import Message

WAIT_S = 10.0
MISSING = (
    "pjsua2 is not installed: it is a wheel for CPython 3.11 and 3.12 on x86-64 "
    "(pip install 'renvoi[phones]')"
)


class PhoneMissing(RuntimeError):
    """pjsua2 is not installed."""


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
        self._echoes: list[asyncio.Future[None]] = []
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
            if event["event"] == "echo":
                self._echoes.pop(0).set_result(None)
                continue
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
        """Send it a command."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps({"do": do, **fields}) + b"\n")

    async def settle(self) -> None:
        """Wait until it has reported everything so far. Raises TimeoutError."""
        echo = asyncio.get_running_loop().create_future()
        self._echoes.append(echo)
        self.say("echo")
        await asyncio.wait_for(asyncio.shield(echo), WAIT_S)

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


class Received:
    """A call that a phone received, like sip.fake.Call: its INVITE, the body of the phone's 2xx,
    whether that was acknowledged, whether the call is over, when it began (monotonic s)."""

    def __init__(self, invite: bytes, started: float) -> None:
        self.invite = Message(invite)
        self.body = b""
        self.acked = asyncio.Event()
        self.ended = asyncio.Event()
        self.started = started


class SoftPhones:
    """Plays all phones by `plan`, and keeps the received calls in order. pjsua2 supports four calls
    at once, so there are several processes."""

    PROCESSES = 6

    def __init__(self) -> None:
        self.calls: dict[int, Received] = {}
        self._serials = itertools.count()
        self._phones = [SoftPhone(partial(self._on_event, n)) for n in range(self.PROCESSES)]
        self._of: dict[str, SoftPhone] = {}  # by user
        # By process and the number of the call, which pjsua2 reuses.
        self._standing: dict[tuple[int, int], Received] = {}

    async def open(self, host: str) -> None:
        """Start them. Raises PhoneMissing without pjsua2, OSError when one does not start."""
        await asyncio.gather(*(phone.open(host) for phone in self._phones))

    async def stop(self) -> None:
        await asyncio.gather(*(phone.stop() for phone in self._phones))

    def uri(self, user: str) -> str:
        """A URI that reaches the phone of that user."""
        return self._phone_of(user).uri(user)

    def plan(self, scripts: Mapping[str, Script]) -> None:
        """Answer calls to these users by their scripts from now on."""
        for user, script in scripts.items():
            self._phone_of(user).say("plan", plans={user: list(script)})

    async def settle(self) -> None:
        """Wait until they have reported everything so far."""
        await asyncio.gather(*(phone.settle() for phone in self._phones))

    def _phone_of(self, user: str) -> SoftPhone:
        return self._of.setdefault(user, self._phones[len(self._of) % self.PROCESSES])

    def _on_event(self, process: int, event: dict[str, Any]) -> None:
        what, key = event["event"], (process, event.get("call", -1))
        if what == "incoming":
            call = Received(event["message"].encode("latin-1"), event["at"])
            self.calls[next(self._serials)] = self._standing[key] = call
            return
        standing = self._standing.get(key)
        if standing is None:
            return
        if what == "sent":
            answer = Message(event["message"].encode("latin-1"))
            if answer.status == 200 and answer.cseq_method == b"INVITE":
                standing.body = answer.body
        elif what == "confirmed":
            standing.acked.set()
        elif what == "ended":
            standing.ended.set()
