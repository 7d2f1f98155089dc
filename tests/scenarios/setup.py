"""The setup of one scenario: an engine, documents in Redis, and endpoints."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import redis

from engine.changes.acks import in_force_blocking
from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Address, Call, Endpoint, Headers
from tests.scenarios.processes import Engine
from tests.scenarios.script import ANSWER, OFFER, answering_phone
from tests.scenarios.sipp import Sipp, Trace

OFFER_BYTES = OFFER.replace("\n", "\r\n").encode()
ANSWER_BYTES = ANSWER.replace("\n", "\r\n").encode()
KINDS = ("voicemail", "fax", "number")
NESTED = ("forwards", "legs", "prevented")
Forward = dict[str, Any]


def to_voicemail(number: str, **more: Any) -> Forward:
    """A forward to that line's voicemail."""
    return {"on": True, "to": {"kind": "voicemail", "number": number}, **more}


def to_fax(number: str, **more: Any) -> Forward:
    """A forward to that line's fax."""
    return {"on": True, "to": {"kind": "fax", "number": number}, **more}


def to_number(number: str, **more: Any) -> Forward:
    """A forward to a number: another line, or outside."""
    return {"on": True, "to": {"kind": "number", "number": number}, **more}


@dataclass(frozen=True)
class RunningEngine:
    """The engine, its Redis and a directory for files."""

    engine: Engine
    redis: redis.Redis
    directory: Path

    @asynccontextmanager
    async def endpoints(self) -> AsyncIterator[Servers]:
        """Destination servers played by scripted endpoints."""
        servers: Servers = {}
        try:
            for kind, port in self.engine.ports.items():
                servers[kind] = await Endpoint.open(port=port)
            yield servers
        finally:
            for server in servers.values():
                server.close()

    @asynccontextmanager
    async def sipp_servers(self) -> AsyncIterator[SippServers]:
        """Destination servers played by SIPp: each rings and answers every call."""
        servers: SippServers = {}
        try:
            for kind, port in self.engine.ports.items():
                server = Sipp(self.directory, answering_phone(), self.engine.peer)
                servers[kind] = await server.start(port=port, calls=1_000_000, limit_s=600)
            yield servers
        finally:
            for running in servers.values():
                await running.stop()


Servers = dict[str, Endpoint]
SippServers = dict[str, Sipp]


@contextmanager
def started_engine(engine: Engine, client: redis.Redis, directory: Path) -> Iterator[RunningEngine]:
    """Start the engine. At the end no call, no lease and no error in the log may be left, and the
    engine must end with success."""
    engine.start()
    try:
        yield RunningEngine(engine, client, directory)
        assert engine.status() is None, f"the engine died:\n{engine.log}"
        deadline = time.monotonic() + within(10)
        while leaks := engine.leaks(client):
            assert time.monotonic() < deadline, leaks
            time.sleep(0.1)
    finally:
        status = engine.stop()
    assert status == 0, f"the engine ended with status {status}:\n{engine.log}"
    assert not engine.complaints()


class Setup:
    """The setup of one scenario. Everything that it opened is closed on exit."""

    def __init__(
        self,
        running_engine: RunningEngine,
        servers: Servers | None = None,
        sipps: SippServers | None = None,
    ) -> None:
        self.running_engine = running_engine
        self.engine = running_engine.engine
        self.redis = running_engine.redis
        self._servers = servers or {}
        self._sipps = sipps or {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # Documents

    def line(self, *, to: Sequence[str] = (), number: str = "", **fields: Any) -> str:
        """Write a line document and register the contacts `to`; returns the line's number."""
        chosen = number or numbers.line_number()
        document = {"number": chosen, "fleet": "acme", **fields}
        self.redis.set(f"line:{chosen}", json.dumps(document))
        for uri in to:
            self.register(chosen, uri)
        return chosen

    def change(self, number: str, **fields: Any) -> None:
        """Change some fields of a line document."""
        text = self.redis.get(f"line:{number}")
        assert isinstance(text, str)
        self.redis.set(f"line:{number}", json.dumps({**json.loads(text), **fields}))

    def register(self, number: str, uri: str, expires_s: float = 600) -> None:
        """Add a contact to the line's registrations."""
        self.redis.zadd(f"reg:{number}", {uri: time.time() + expires_s})

    async def settle(self, *, fleets: bool = False) -> None:
        """Wait until every live worker confirms that the last writes are in force. Workers read the
        document of a fleet again only after they have confirmed, a moment later: what they confirm
        after that they have received after the document."""
        any_line = numbers.line_number()
        for turn in range(4 if fleets else 1):
            if turn:
                await asyncio.sleep(0.1)
            await asyncio.to_thread(in_force_blocking, self.redis, any_line, within(1.0))

    async def know_fleet(self, name: str, *workers: Address) -> None:
        """Wait until the engine, or each of these workers, has read the fleet's document. The first
        call of a fleet waits only 50 ms for it."""
        for address in workers or (self.engine.address,):
            first = (await self.endpoint()).start(address, self.line(fleet=name), body=OFFER_BYTES)
            await first.final()
        await self.settle(fleets=True)

    # Scripted endpoints

    async def endpoint(self, host: str = "127.0.0.1") -> Endpoint:
        """A new endpoint."""
        endpoint = await Endpoint.open(host)
        self._stack.callback(endpoint.close)
        return endpoint

    async def line_with_phone(self, **fields: Any) -> tuple[str, Endpoint]:
        """A line with one registered phone."""
        phone = await self.endpoint()
        return self.line(to=[phone.uri()], **fields), phone

    def server(self, kind: str) -> Endpoint:
        """The voicemail, fax or number server."""
        return self._servers[kind]

    async def call(
        self,
        called: str,
        *,
        caller: str = "",
        asserted: bool = True,
        headers: Headers = (),
        body: bytes = OFFER_BYTES,
        **more: Any,
    ) -> Call:
        """A call from a fresh endpoint to a number of the engine. By default a trusted peer asserts
        the number `caller`; without one only From has a number."""
        endpoint = await self.endpoint()
        if caller and asserted:
            headers = (*headers, identity(caller))
        number = caller or numbers.caller_number()
        return endpoint.start(
            self.engine.address, called, caller=number, headers=headers, body=body, **more
        )

    # SIPp

    async def sipp(self, script: str, **options: Any) -> Sipp:
        """A running SIPp whose requests go to the engine."""
        sipp = Sipp(self.running_engine.directory, script, self.engine.peer)
        self._stack.push_async_callback(sipp.stop)
        return await sipp.start(**options)

    async def sipp_phone(self, script: str, **fields: Any) -> tuple[str, Sipp]:
        """A line with one registered phone played by SIPp."""
        phone = await self.sipp(script)
        return self.line(to=[f"sip:phone@127.0.0.1:{phone.port}"], **fields), phone

    async def sipp_call(self, script: str) -> Trace:
        """A caller played by SIPp, to the end of its script; returns its messages."""
        return await (await self.sipp(script)).finish()

    def reached(self, user: str) -> list[str]:
        """The kinds of SIPp servers that got an INVITE for that user part, one entry each."""
        return [kind for kind, server in self._sipps.items() for _ in server.trace.invites(user)]

    def sipp_server(self, kind: str) -> Sipp:
        """The voicemail, fax or number server, played by SIPp."""
        return self._sipps[kind]

    # Results

    def records(self) -> list[dict[str, str]]:
        """Every CDR entry, oldest first."""
        entries = cast("list[tuple[str, dict[str, str]]]", self.redis.xrange("cdr"))
        return [fields for _, fields in entries]

    async def record(self, call_id: str, wait_s: float = 5.0) -> dict[str, Any]:
        """The only CDR entry of a call, with numbers and nested lists parsed."""
        deadline = time.monotonic() + within(wait_s)
        while True:
            entries = [e for e in self.records() if e["call_id"] == call_id]
            if entries or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        assert len(entries) == 1, f"{len(entries)} records for call {call_id}"
        return {**entries[0], **{k: json.loads(entries[0][k]) for k in NESTED}}

    async def records_of(self, called: str, wait_s: float = 5.0) -> list[dict[str, str]]:
        """The records of the calls to a number; waits until there is one."""
        deadline = time.monotonic() + within(wait_s)
        while not (found := [r for r in self.records() if r["called"] == called]):
            assert time.monotonic() < deadline, f"no record of a call to {called}"
            await asyncio.sleep(0.05)
        return found

    async def ended(self, call_id: str, **expected: object) -> dict[str, Any]:
        """As `record`; asserts the given fields (compared as text)."""
        record = await self.record(call_id)
        got = {name: record.get(name) for name in expected}
        assert got == {name: str(value) for name, value in expected.items()}, record
        return record


def identity(number: str) -> tuple[str, str]:
    """The header in which a trusted peer asserts the caller (RFC 3325)."""
    return ("P-Asserted-Identity", f"<sip:{number}@office.example>")


def all_to_numbers(**more: Any) -> tuple[Mapping[str, str], dict[str, Forward]]:
    """Forwards for busy, no answer and unreachable, each to a different outside number."""
    targets = {name: numbers.outside_number() for name in ("busy", "no_answer", "unreachable")}
    forwards = {name: to_number(number) for name, number in targets.items()}
    forwards["no_answer"]["after_s"] = 5
    return targets, {**forwards, **more}
