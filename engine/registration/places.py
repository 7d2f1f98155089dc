"""Where no phone is: the engine itself, and the servers that its forwards go to.

The engine would call such a contact from an address that those servers trust, with nobody who pays;
or itself, over and over. Places are compared by host and port, as they are written: no name is
looked up.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from engine.config import Config
from sip import grammar
from sip.address import reached_by
from sip.names import place_of

LOOPBACK = "127.0.0.1"
# Linux takes a packet to "any address" as one to the loopback; /etc/hosts names it.
_LOOPBACKS = frozenset((LOOPBACK, "::1", "localhost", "0.0.0.0", "::"))
_EVERYWHERE = ("0.0.0.0", "::")


class Spot(NamedTuple):
    """A host as it is compared, and a port."""

    host: str
    port: int


class Places:
    """The engine's own places, all of its workers', and the destinations'."""

    def __init__(self, config: Config) -> None:
        sip = config.sip
        reached = {reached_by(item.host) for item in sip.listen}
        reached |= {reached_by(host) for host in _EVERYWHERE}
        self._machine = {_plain(host) for host in reached | {sip.advertise or LOOPBACK}}
        self._own: set[Spot] = set()
        self._everywhere: set[int] = set()  # ports of all the machine's addresses
        for item in sip.listen:
            hosts = {item.host, reached_by(item.host), sip.advertise or item.host}
            ports = range(item.port, item.port + config.workers)
            self._own |= {Spot(_plain(host), port) for host in hosts for port in ports}
            if item.host in _EVERYWHERE:
                self._everywhere.update(ports)

    def leads_here(self, uri: str) -> bool:
        """Whether a URI leads to this engine."""
        spots = spots_of(uri)
        if not self._own.isdisjoint(spots):
            return True
        return bool(self._everywhere) and any(
            spot.port in self._everywhere and self._is_machine(spot.host) for spot in spots
        )

    def leads_to(self, uri: str, servers: Iterable[str]) -> bool:
        """Whether a URI leads to one of these servers, URIs of the configuration. A template whose
        host has the number in it is like none."""
        spots = spots_of(uri)
        for server in servers:
            for theirs in spots_of(server):
                if theirs in spots:
                    return True
                # What listens on this machine's loopback may listen on its other addresses too.
                if theirs.host == LOOPBACK and any(
                    spot.port == theirs.port and self._is_machine(spot.host) for spot in spots
                ):
                    return True
        return False

    def _is_machine(self, host: str) -> bool:
        return host in self._machine or host.startswith("127.")


@lru_cache(maxsize=4096)
def spots_of(uri: str) -> frozenset[Spot]:
    """Where a URI leads: its host, and its maddr, which is not heeded by every proxy on the way."""
    place = place_of(uri)
    port = place.port or (5061 if place.transport == "tls" else 5060)
    spot = Spot(_plain(place.host), port)
    user, at, rest = uri.rpartition("@")
    if ";" not in rest:
        return frozenset((spot,))
    named = place_of(user + at + rest.partition(";")[0])
    return frozenset((spot, Spot(_plain(named.host), port)))


@lru_cache(maxsize=4096)
def hops_of(path: str | None) -> tuple[str, ...]:
    """The hops of a Path, in order (RFC 3327 5.2: a Route of the new leg)."""
    return tuple(hop.decode() for hop in grammar.split_list(path.encode())) if path else ()


def goes_by_path(hop: str) -> bool:
    """Whether an edge knows by its own Path where the phone is: where it saw it, or a flow
    (RFC 5626 5.1). Then the Contact leads nowhere: many phones have the same, out of their private
    networks."""
    edge = grammar.name_addr(hop.encode())
    given = grammar.uri_parameters(edge.uri) | grammar.parameters(edge.parameters)
    return b"ob" in given or bool(given.get(b"received"))


def is_by_address(uri: str) -> bool:
    """Whether a URI leads to an IP address and not to a name."""
    return all(_address(spot.host) for spot in spots_of(uri))


def _plain(host: str) -> str:
    """One spelling of a host; one name for this machine's loopback."""
    name = host.lower().rstrip(".")
    if ":" in name:  # of IPv4 there is but one that counts as an address
        name = _address(name) or name
    return LOOPBACK if name in _LOOPBACKS else name


def _address(host: str) -> str | None:
    """The one spelling of an IP address; None for a name."""
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    return str(getattr(ip, "ipv4_mapped", None) or ip)
