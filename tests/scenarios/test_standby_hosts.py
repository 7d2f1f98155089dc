"""Two hosts in separate networks, and one address that moves to the second when the first dies: the
calls go on (`calls.standby: redis`)."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.patience import within
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.network import Network
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup
from tests.scenarios.sipp import free_port
from tests.scenarios.test_standby import event, events, kept, talk


class Host:
    """A network namespace with an engine; its peers are outside."""

    def __init__(
        self, directory: Path, redis_url: str, address: str, port: int, peers: list[Network]
    ) -> None:
        self.network = Network()
        self._directory, self._redis_url = directory, redis_url
        self._address, self._port = address, port
        self._peers = peers
        self.engine: Engine

    def make(self) -> None:
        self._directory.mkdir()
        self.engine = Engine(
            self._directory,
            self._redis_url,
            {
                "sip": {
                    "listen": [f"udp:0.0.0.0:{self._port}"],
                    "advertise": self._address,
                    "trusted_peers": [f"{network.outside}/32" for network in self._peers],
                },
                "admin": {"listen": f"{self.network.inside}:{free_port(socket.SOCK_STREAM)}"},
                "calls": {"standby": "redis"},
                "timers": {"drain_s": 5},
            },
        )
        self.engine.address = self._address, self._port
        self.engine.where = self.network.prefix

    def stop(self) -> None:
        if self.engine.has_been_started:
            self.engine.signal(signal.SIGCONT)
            self.engine.stop()


class Hosts:
    """`a` has the address at first."""

    def __init__(self, stack: ExitStack, directory: Path, redis_server: RedisServer) -> None:
        number = int(time.monotonic() * 1000) % 62_000
        self.address = f"10.190.{number // 250}.{number % 250 + 1}"
        self._redis = redis_server
        port, networks = free_port(), list[Network]()
        self.a, self.b = (
            Host(directory / name, redis_server.url, self.address, port, networks)
            for name in ("a", "b")
        )
        for host in (self.a, self.b):
            networks.append(stack.enter_context(host.network))
        for host in (self.a, self.b):
            host.make()
            stack.callback(host.stop)
        self.a.network.add(self.address)
        stack.callback(self._forget)
        self.outside = self.b.network.outside
        self.setup = Setup(RunningEngine(self.a.engine, redis_server.client, directory))

    def move(self) -> None:
        """Move the address to `b`."""
        self.a.network.remove(self.address)
        self.b.network.add(self.address)

    async def stand(self, **fields: Any) -> tuple[Call, Call]:
        """A call in progress."""
        phone, caller = [await self.setup.endpoint(self.outside) for _ in range(2)]
        line = self.setup.line(to=[phone.uri()], **fields)
        call = caller.start(self.a.engine.address, line, body=OFFER_BYTES)
        ring = await phone.incoming()
        await connect(call, ring)
        return call, ring

    def _forget(self) -> None:
        command = ["ip", "route", "del", f"{self.address}/32"]
        subprocess.run(command, capture_output=True, check=False)


@pytest.fixture
def hosts(shared_redis: RedisServer, tmp_path: Path) -> Iterator[Hosts]:
    shared_redis.client.flushall()
    with ExitStack() as stack:
        yield Hosts(stack, tmp_path, shared_redis)


@pytest.mark.parametrize("which", ["runs_already", "is_started_then"])
async def test_the_calls_of_a_dead_host_go_on_at_the_other(hosts: Hosts, which: str) -> None:
    a, b = hosts.a, hosts.b
    a.engine.start()
    if which == "runs_already":
        b.engine.start()
    async with hosts.setup:
        calls = [await hosts.stand(max_calls=1) for _ in range(3)]
        await kept(a.engine, 3)
        a.network.cut()
        a.engine.signal(signal.SIGKILL)
        await a.engine.exited(5)
        hosts.move()
        if which == "is_started_then":
            b.engine.start()
        # A running engine does not have the calls yet: it holds requests for unknown calls.
        await talk(*calls[0])
        assert (await event(b.engine, "calls.taken_over"))["continued"] == 3
        assert len(b.engine.calls()) == 3
        for place, (call, ring) in enumerate(calls):
            await talk(call, ring)
            await part(*((call, ring) if place % 2 else (ring, call)))
            record = await hosts.setup.ended(call.call_id, outcome="answered", takeovers="1")
            assert record["why"] == "bye"
        assert len(hosts.setup.records()) == 3
        await kept(b.engine, 0)
        assert b.engine.leaks(hosts.setup.redis) == ""
        assert not b.engine.complaints()


async def test_a_host_that_was_taken_for_dead_drops_the_calls_silently(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    a.engine.start()
    b.engine.start()
    async with hosts.setup:
        call, ring = await hosts.stand()
        await kept(a.engine, 1)
        a.engine.signal(signal.SIGSTOP)
        hosts.move()
        assert (await event(b.engine, "calls.taken_over"))["continued"] == 1
        a.engine.signal(signal.SIGCONT)
        assert (await event(a.engine, "standby.taken"))["calls"] == 1
        async with asyncio.timeout(within(5)):
            while a.engine.calls():
                await asyncio.sleep(0.05)
        await talk(call, ring)  # neither side got a BYE
        assert hosts.setup.records() == []
        await part(call, ring)
        await hosts.setup.ended(call.call_id, outcome="answered", why="bye", takeovers="1")
        assert len(hosts.setup.records()) == 1
        assert not [*a.engine.complaints(), *b.engine.complaints()]
        # Its next calls are stored again, and may be taken over.
        hosts.a.network.add(hosts.address)
        call, ring = await hosts.stand()
        await kept(a.engine, 1)
        await part(call, ring)
        await kept(a.engine, 0)


async def test_a_process_that_dies_is_replaced_at_its_own_host(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    a.engine.start()
    b.engine.start()
    async with hosts.setup:
        call, ring = await hosts.stand()
        await kept(a.engine, 1)
        a.engine.signal(signal.SIGKILL)
        await a.engine.exited(5)
        await asyncio.sleep(3.5)  # the other host detects the death, but does not have the address
        a.engine.start()
        assert (await event(a.engine, "calls.taken_over"))["continued"] == 1
        assert not events(b.engine, "standby.claimed")
        await kept(a.engine, 1)
        await talk(call, ring)
        await part(call, ring)
        await hosts.setup.ended(call.call_id, outcome="answered", why="bye", takeovers="1")
        assert len(hosts.setup.records()) == 1
        assert not [*a.engine.complaints(), *b.engine.complaints()]
