"""What an endpoint needs to know, and what can go wrong with it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from sip.address import Address


class DialError(ValueError):
    """An outgoing leg could not even be made: its URI or a route does not parse."""


class TooLarge(DialError):
    """The INVITE of an outgoing leg does not fit a packet."""


class ListenError(OSError):
    """An address of `sip.listen` could not be used; says which and why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the endpoint needs to know. `outbound_proxy` is a SIP URI or None, `connections` the
    most TCP and TLS connections at once, `connections_per_source` how many of them a source
    that is no trusted peer may have, `idle_connection_s` how long one may stand idle whose
    source never registered a phone or placed a call, `message_bytes` the largest message that
    is taken, `nameservers` pairs of address and port (None = this machine's)."""

    listen: tuple[Address, ...]
    advertise: str | None
    trusted_peers: tuple[str, ...]
    registrar_peers: tuple[str, ...]
    outbound_proxy: str | None
    nameservers: tuple[tuple[str, int], ...] | None = None
    connections: int = 10_000
    connections_per_source: int = 2500
    idle_connection_s: float = 60.0
    message_bytes: int = 262_144
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None
