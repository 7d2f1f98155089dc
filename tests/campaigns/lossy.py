"""A relay on the loopback that loses some packets, as a network does."""

from __future__ import annotations

import asyncio
from random import Random
from socket import socket
from typing import Self, cast

from tests.campaigns.packet import Address
from tests.campaigns.roomy import open_udp


class _End(asyncio.DatagramProtocol):
    """One socket of the relay."""

    def __init__(self) -> None:
        self.transport: asyncio.DatagramTransport | None = None
        self.other: _End | None = None
        self.peer: Address | None = None  # the target of this end
        self.chance = Random()
        self.loss = 0.0
        self.carried = self.lost = 0
        self.socket: socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        other = self.other
        assert other is not None
        if self.chance.random() < self.loss:
            self.lost += 1
        elif other.transport is not None and other.peer is not None:
            self.carried += 1
            other.transport.sendto(data, other.peer)

    def error_received(self, exc: Exception) -> None:
        """No socket at the target: counts as a loss."""


class Lossy:
    """Two sockets: packets to `inner` (from an endpoint) leave from `outer` (to the engine), and
    the reverse; each direction loses the share `loss`. For the engine `outer` is the endpoint's
    address."""

    def __init__(self, inner: _End, outer: _End) -> None:
        self._inner, self._outer = inner, outer

    @classmethod
    async def open(
        cls, engine: Address, party: Address, loss: float, chance: Random, port: int = 0
    ) -> Self:
        """`port` is that of `outer`; 0 takes a free one."""
        loop = asyncio.get_running_loop()
        ends = []
        for bound, peer in ((0, party), (port, engine)):
            sock = open_udp(bound)
            _, end = await loop.create_datagram_endpoint(_End, sock=sock)
            end.socket = sock
            end.peer, end.loss, end.chance = peer, loss, chance
            ends.append(end)
        ends[0].other, ends[1].other = ends[1], ends[0]
        return cls(*ends)

    @property
    def inner(self) -> Address:
        return _name(self._inner)

    @property
    def outer(self) -> Address:
        return _name(self._outer)

    def counts(self) -> tuple[int, int, int, int]:
        """Packets carried and lost to the engine, carried and lost from it."""
        to, back = self._inner, self._outer
        return to.carried, to.lost, back.carried, back.lost

    @property
    def sockets(self) -> list[socket]:
        return [end.socket for end in (self._inner, self._outer) if end.socket is not None]

    def close(self) -> None:
        for end in (self._inner, self._outer):
            if end.transport is not None:
                end.transport.close()


def _name(end: _End) -> Address:
    assert end.transport is not None
    host, port = end.transport.get_extra_info("sockname")[:2]
    return host, port
