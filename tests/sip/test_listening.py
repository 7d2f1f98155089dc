"""The ways out of the listening addresses, with real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import msgspec
import pytest

from sip.address import Address
from sip.connection_limits import PeerKind, Source
from sip.dialog import new_branch
from sip.endpoint import Endpoint
from sip.streams import UNSENT_MAX, Connection, KeptConnection, Unresolved
from sip.transaction import Client
from tests.patience import within
from tests.sip.house import AdmissionPolicy, House


async def opened(*listen: Address) -> Endpoint:
    """An endpoint that listens there and reads nothing."""
    settings = replace(House().endpoint.settings, listen=listen)
    endpoint = Endpoint(
        settings,
        on_invite=lambda leg: None,
        policy=AdmissionPolicy(),
        on_rejected=lambda reason, text, source: None,
        on_register=None,
        on_race=lambda kind: None,
        on_connection=lambda reason, text: None,
        on_error=lambda error, call_id: None,
    )
    await endpoint.open()
    return endpoint


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("scheme", ["tel", "im"])
async def test_a_port_that_does_not_exist_leads_nowhere(transport: str, scheme: str) -> None:
    """That of a SIP URI is checked when it is received, that of another URI is not."""
    endpoint = await opened(Address("udp", "127.0.0.1", 0), Address("tcp", "127.0.0.1", 0))
    try:
        uri = f"{scheme}:x@127.0.0.1:99999;transport={transport}"
        way = endpoint.transports.way_to(uri)
        assert not way.send(b"BYE")
        assert way.is_gone
        assert endpoint.streams.room.count == 0
    finally:
        await endpoint.close()


def asking(endpoint: Endpoint, way: Any) -> tuple[Any, Client, list[int]]:
    """A request on a way: the way, the transaction, and the codes that its user gets."""
    codes: list[int] = []

    class User:
        def on_response(self, client: Client, code: int, message: None) -> None:
            codes.append(code)

    layer = endpoint.layer
    client = Client(layer.clients, layer.wheel, way, new_branch(), b"INFO", 1)
    client.user = User()
    assert client.start(b"INFO")
    return way, client, codes


class Unread:
    """The transport of a connection whose peer reads nothing."""

    def get_write_buffer_size(self) -> int:
        return UNSENT_MAX + 1

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass


async def test_who_sends_to_a_peer_that_does_not_read_learns_of_it_afterwards() -> None:
    """A leg that ended within its own request raised."""
    endpoint = await opened(Address("tcp", "127.0.0.1", 0))
    try:
        way = endpoint.way_for(Address("tcp", "127.0.0.1", 1), "127.0.0.1")
        way._socket, way._unsent = Unread(), None
        told = [asking(endpoint, way)[2] for _ in range(2)]
        assert told == [[], []]
        await asyncio.sleep(0)
        assert told == [[503], [503]]
        assert way.is_gone
        assert (endpoint.layer.clients, endpoint.streams.room.count) == ({}, 0)
    finally:
        await endpoint.close()


async def test_who_waited_for_a_name_learns_that_its_connection_is_lost() -> None:
    """Otherwise a request that waited for the name waits 64*T1 for a response."""
    endpoint = await opened(Address("tcp", "127.0.0.1", 0))
    try:
        way, client, codes = asking(endpoint, Unresolved(b"SIP/2.0/TCP a", b"sip:a"))
        found = endpoint.way_for(Address("tcp", "127.0.0.1", 1), "gw.example")
        way.resolved(found)
        endpoint.layer.wheel.run(time.monotonic_ns() // 1_000_000 + 1000)
        assert (codes, client.is_over) == ([], False)
        found.lose()
        assert (codes, client.is_over) == ([503], True)
    finally:
        await endpoint.close()


async def test_a_connection_over_tls_is_used_for_the_name_that_was_authenticated() -> None:
    """RFC 5922 7.4: one that the peer made proves nothing about a host name, whatever address and
    port it comes from."""
    endpoint = await opened(Address("tls", "127.0.0.1", 0), Address("tcp", "127.0.0.1", 0))
    try:
        for transport in ("tls", "tcp"):
            there = Address(transport, "127.0.0.1", 5061)
            kind = endpoint.streams.kind(transport, False)
            assert kind is not None
            remote = there.host, there.port
            made = Connection(endpoint.streams, kind, remote, there.host, PeerKind.PEER, Source())
            endpoint.streams.room.held += 1
            endpoint.streams.keep(made)
            assert endpoint.way_for(there, "127.0.0.1") is made
            first, other = (endpoint.way_for(there, name) for name in ("gw.example", "b.example"))
            assert (first is made, other is made) == (transport == "tcp", transport == "tcp")
            assert (first is other) == (transport == "tcp")
            assert endpoint.way_for(there, "gw.example") is first
            assert endpoint.streams.known(transport, *remote) is made
            made.lose()
            assert endpoint.streams.known(transport, *remote) is None
    finally:
        await endpoint.close()


class Later:
    """A timer that a test runs."""

    def __init__(self, do: Callable[[], None]) -> None:
        self.run = do

    def cancel(self) -> None:
        self.run = lambda: None


def timers_of(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> list[Later]:
    """The timers of its connections from now on."""
    made: list[Later] = []

    def later(_seconds: float, do: Callable[[], None]) -> Later:
        made.append(Later(do))
        return made[-1]

    monkeypatch.setattr(endpoint.streams, "later", later)
    return made


OPTIONS = (
    b"OPTIONS sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bK1\r\n"
    b"From: <sip:a@b>;tag=1\r\nTo: <sip:x@127.0.0.1>\r\nCall-ID: a\r\nCSeq: 1 OPTIONS\r\n"
    b"Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)


@pytest.mark.parametrize(("data", "is_gone"), [(OPTIONS, False), (b"\r\n\r\n", True)])
async def test_a_further_connection_of_a_source_that_has_called_stays_after_a_valid_message(
    monkeypatch: pytest.MonkeyPatch, data: bytes, is_gone: bool
) -> None:
    """As those of several phones behind one address."""
    endpoint = await opened(Address("tcp", "127.0.0.1", 0))
    try:
        timers = timers_of(endpoint, monkeypatch)
        monkeypatch.setattr(endpoint, "receive", lambda message, way: None)
        kind = endpoint.streams.kind("tcp", False)
        assert kind is not None
        source = Source(2, proven=True)
        made = Connection(
            endpoint.streams, kind, ("127.0.0.1", 5061), "127.0.0.1", PeerKind.PEER, source
        )
        endpoint.streams.room.held += 2
        transport = MagicMock()
        transport.get_extra_info.return_value = None
        transport.get_write_buffer_size.return_value = 0
        made.connection_made(transport)
        made.data_received(data)
        for timer in list(timers):
            timer.run()
        assert made.is_gone is is_gone
    finally:
        await endpoint.close()


async def test_an_idle_connection_of_another_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered phone may send nothing but keep-alives for an hour."""
    endpoint = await opened(Address("tcp", "127.0.0.1", 0))
    try:
        timers = timers_of(endpoint, monkeypatch)
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()),
        ):
            accepted, (host, port) = server.accept()
            kept = KeptConnection(host, port, host, PeerKind.PHONE, True, b"", 7)
            endpoint.streams.adopt({msgspec.json.encode(kept).decode(): accepted})
            (made,) = endpoint.streams.connections
            async with asyncio.timeout(within(5)):
                while made._socket is None:
                    await asyncio.sleep(0.01)
            for timer in list(timers):
                timer.run()
            assert not made.is_gone
    finally:
        await endpoint.close()
