"""The origin of a request, precise enough to distinguish two phones behind one address."""

from __future__ import annotations

from typing import NamedTuple


class Flow(NamedTuple):
    """The way between the engine and one peer (RFC 5626): of UDP the peer's address and port, of
    TCP and TLS the connection, with a unique `serial` (0 = UDP)."""

    transport: str  # udp | tcp | tls
    host: str
    port: int
    serial: int = 0
