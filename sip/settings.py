"""The settings of an endpoint, and its exceptions."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from sip.address import Address


class DialError(ValueError):
    """An outgoing leg could not be made, because its URI or a route does not parse."""


class TooLarge(DialError):
    """The INVITE of an outgoing leg does not fit into a packet."""


class ListenError(OSError):
    """An address of `sip.listen` could not be used; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of an endpoint. `outbound_proxy` is a SIP URI or None, `connections` the maximum of
    TCP and TLS connections at once, `connections_per_source` that of a source that is not a trusted
    peer, `idle_connection_s` how long a connection may be idle if its source never registered a
    phone or placed a call, `message_bytes` the size of the largest accepted message, `nameservers`
    pairs of address and port (None = this machine's)."""

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
