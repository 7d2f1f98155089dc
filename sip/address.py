"""Addresses that are listened on and servers that are called."""

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
    """Whether a listening address of that family can go by this name: a host name always, an IP
    address if it is of the family."""
    try:
        return (ip_address(name).version == 6) == ipv6
    except ValueError:
        return True


def reached_by(host: str) -> str:
    """The address by which others reach what listens on `host`: its own, or for 0.0.0.0 and :: the
    one by which this machine reaches others."""
    if host not in ("0.0.0.0", "::"):
        return host
    family, anywhere = socket.AF_INET, "192.0.2.1"
    if ":" in host:
        family, anywhere = socket.AF_INET6, "2001:db8::1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((anywhere, 9))  # nothing is sent; it chooses our address
        except OSError:
            return "::1" if ":" in host else "127.0.0.1"  # there is no other
        return str(probe.getsockname()[0])
