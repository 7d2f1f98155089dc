"""Listening addresses and addresses of servers."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True, slots=True)
class Address:
    """One address: transport "udp", "tcp" or "tls", host without brackets, port."""

    transport: str
    host: str
    port: int

    @property
    def shown_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.transport}:{self.shown_host}:{self.port}"


def fits_family(name: str, ipv6: bool) -> bool:
    """Whether this name can be used for a listening address of that family: a host name always, an
    IP address if it is of the family."""
    try:
        return (ip_address(name).version == 6) == ipv6
    except ValueError:
        return True


def reached_by(host: str) -> str:
    """The address at which others reach a socket that listens on `host`: `host` itself, or for
    0.0.0.0 and :: the address from which this machine reaches others."""
    if host not in ("0.0.0.0", "::"):
        return host
    family, anywhere = socket.AF_INET, "192.0.2.1"
    if ":" in host:
        family, anywhere = socket.AF_INET6, "2001:db8::1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((anywhere, 9))  # sends nothing; it selects our address
        except OSError:
            return "::1" if ":" in host else "127.0.0.1"  # there is no other
        return str(probe.getsockname()[0])
