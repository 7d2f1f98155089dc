"""Where a request came from, so exactly that two phones behind one address are told apart."""

from __future__ import annotations

from typing import NamedTuple


class Flow(NamedTuple):
    """The way between the engine and one peer (RFC 5626): of UDP the peer's address and port, of
    TCP and TLS the connection, whose `serial` no other ever has (0 = UDP)."""

    transport: str  # udp | tcp | tls
    host: str
    port: int
    serial: int = 0
