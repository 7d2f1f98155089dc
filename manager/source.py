"""The source of a request behind proxies, for the limits on log-ins. Pure.

Each proxy appends the address that it sees to the list. So the list is read from the right while
its writers are trusted proxies; entries further left may be forged by the client.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

_MOST_HOPS = 32
_ELEMENT = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+')
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;,"]*)', re.IGNORECASE)
_PORT = re.compile(r"^(\[[^\]]*\]|[0-9.]+)(?::[0-9A-Za-z._-]*)?$")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def source_of(
    peer: str, x_forwarded_for: Sequence[str], forwarded: Sequence[str], trusted: Sequence[Network]
) -> str:
    """The source IP address of a request; "unknown" if the peer has none.

    Args:
        peer: the address at the other end of the connection.
        x_forwarded_for: the values of all X-Forwarded-For fields, in order.
        forwarded: those of all Forwarded fields (RFC 7239), which count only without
            X-Forwarded-For, because a proxy that writes one leaves the client's other unchanged.
        trusted: the networks of the proxies that are believed.

    An entry that is not an address ends the list: the proxy that sent it counts as the source.
    """
    found = _address(peer)
    if found is None:
        return "unknown"
    hops = _hops(x_forwarded_for) if x_forwarded_for else _hops_by_rfc(forwarded)
    for hop in list(hops)[: -_MOST_HOPS - 1 : -1]:
        address = _address(hop) if _is_in(found, trusted) else None
        if address is None:
            break
        found = address
    return str(found)


def neighbourhood(address: str) -> str:
    """The unit that counts as one source: an IPv4 address, or an IPv6 /64, which one client has."""
    found = _address(address)
    if found is None or found.version == 4:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False))


def _hops(lines: Sequence[str]) -> Iterator[str]:
    for part in ",".join(lines).split(","):
        if part.strip():
            yield part


def _hops_by_rfc(lines: Sequence[str]) -> Iterator[str]:
    for element in _ELEMENT.findall(",".join(lines)):
        if element.strip():
            found = _FOR.search(element.strip())
            yield found[1].strip('"') if found else ""


def _address(text: str) -> Address | None:
    """Parse an address as proxies write it: with a port, brackets, quotes or a zone; IPv4 in IPv6
    is IPv4."""
    plain = text.strip().strip('"').strip()
    with_port = _PORT.match(plain)
    if with_port:
        plain = with_port[1]
    try:
        found = ipaddress.ip_address(plain.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == net.version and address in net for net in networks)
