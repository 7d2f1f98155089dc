"""Addresses that are listened on and servers that are called."""

from __future__ import annotations

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
