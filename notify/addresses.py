"""Where webhooks may go: public addresses, and the networks that the operator allows.

Customers choose the URLs, so a URL must not lead into the operator's network: not to its machines,
not to the metadata service of a cloud, not to this machine. The name is looked up once, and the
connection goes to an address that was checked, so a name cannot change in between.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

import dns.asyncresolver
import dns.exception

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
# RFC 8215: a site's own translators. Where the IPv4 address is depends on the length of their
# prefix, and what follows it may be anything.
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291 2.5.5.1


class Forbidden(Exception):
    """No address of the name may be reached."""


class NotFound(Exception):
    """The name has no address, or no name server answers."""


def may_reach(address: Ip, allowed: Sequence[Network]) -> bool:
    """Whether a webhook may go to this address."""
    if any(address.version == network.version and address in network for network in allowed):
        return True
    inside = _embedded(address)
    if inside is not None:
        return may_reach(inside, allowed)
    special = address.is_multicast or address.is_reserved or address.is_unspecified
    local = isinstance(address, ipaddress.IPv6Address) and (
        address.is_site_local  # RFC 3879
        or address in _LOCAL_NAT64
    )
    return address.is_global and not special and not local


def _embedded(address: Ip) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which a translator would send what goes to this one."""
    if address.version == 4:
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


async def resolve(host: str, allowed: Sequence[Network], within_s: float) -> list[str]:
    """The addresses of a host that may be reached, in the order in which they are tried.

    Raises Forbidden and NotFound.
    """
    found = await _look_up(host, within_s)
    fit = [str(address) for address in found if may_reach(address, allowed)]
    if not fit:
        raise Forbidden(
            f"{host} leads to {', '.join(map(str, found))}, which is not public: "
            "notify.allow_networks may admit it"
        )
    return fit


async def _look_up(host: str, within_s: float) -> list[Ip]:
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        answers = await dns.asyncresolver.resolve_name(host, lifetime=within_s)
    except (dns.exception.DNSException, OSError) as error:
        raise NotFound(f"{host}: {type(error).__name__}") from None
    found = _addresses(answers.addresses())
    if not found:
        raise NotFound(f"{host}: no address")
    return found


def _addresses(texts: Iterable[str]) -> list[Ip]:
    """IPv4 first: a machine without IPv6 finds out slowly."""
    return sorted(map(ipaddress.ip_address, texts), key=lambda address: address.version)
