"""Addresses that no phone may have: the engine's own, and those of the destinations.

The engine would call such a contact from an address that those servers trust, and nobody would pay;
or it would call itself repeatedly. Addresses are compared by host and port, whatever the transport.
Names are compared as written; `dialled.py` resolves them.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Container, Iterable
from ipaddress import ip_address
from typing import NamedTuple

from engine.config import Config
from sip import grammar
from sip.address import Address, reached_by
from sip.names import Place, address_of, place_of
from sip.text_cache import remembered

LOOPBACK = "127.0.0.1"
# Linux treats a packet to "any address" as one to the loopback; /etc/hosts names it.
_LOOPBACKS = frozenset((LOOPBACK, "::1", "localhost", "0.0.0.0", "::"))
_EVERYWHERE = ("0.0.0.0", "::")
_PORTS = {"tls": 5061}
_NUMBERS = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}", re.ASCII)


class Spot(NamedTuple):
    """A host in canonical form, and a port."""

    host: str
    port: int


class OwnAddresses:
    """The addresses of the engine, with all its workers, and of the destinations."""

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
        return self.are_here(spots_of(uri))

    def are_here(self, spots: frozenset[Spot]) -> bool:
        """Whether one of these spots is this engine's."""
        if not self._own.isdisjoint(spots):
            return True
        return bool(self._everywhere) and any(
            spot.port in self._everywhere and self._is_machine(spot.host) for spot in spots
        )

    def leads_to(self, uri: str, servers: Iterable[str]) -> bool:
        """Whether a URI leads to one of these servers, given as URIs of the configuration. A
        template whose host contains the number matches nothing."""
        spots = spots_of(uri)
        for server in servers:
            for theirs in spots_of(server):
                if theirs in spots:
                    return True
                if theirs.host == LOOPBACK and self.on_this_machine(spots, (theirs.port,)):
                    return True
        return False

    def on_this_machine(self, spots: Iterable[Spot], ports: Container[int]) -> bool:
        """Whether one of these spots is on this machine, on one of the ports. A server on its
        loopback may listen on its other addresses too."""
        return any(spot.port in ports and self._is_machine(spot.host) for spot in spots)

    def also_here(self, host: str) -> None:
        """Add an address of this engine that its name resolved to."""
        self._machine.add(_plain(host))
        self._own |= {Spot(_plain(host), spot.port) for spot in self._own}

    def _is_machine(self, host: str) -> bool:
        return host in self._machine or host.startswith("127.")


def spot_of(server: Address) -> Spot:
    """The spot of a resolved server."""
    return Spot(_plain(server.host), server.port)


@remembered
def spots_of(uri: str) -> frozenset[Spot]:
    """The spots of a URI: its host, and its maddr, which not every proxy obeys."""
    return frozenset(
        Spot(_plain(place.host), place.port or _PORTS.get(place.transport, 5060))
        for place in places_of(uri)
    )


def places_of(uri: str) -> tuple[Place, ...]:
    """The places that a URI names, by its maddr if present, and by its host."""
    place = place_of(uri)
    user, at, rest = uri.rpartition("@")
    if ";" not in rest:
        return (place,)
    named = place._replace(host=place_of(user + at + rest.partition(";")[0]).host)
    return (place,) if named == place else (place, named)


def hops_of(path: str | None) -> tuple[str, ...]:
    """The hops of a Path, in order (RFC 3327 5.2: a Route of the new leg)."""
    return _hops_of(path) if path else ()


@remembered
def _hops_of(path: str) -> tuple[str, ...]:
    return tuple(hop.decode() for hop in grammar.split(path.encode()))


def goes_by_path(hop: str) -> bool:
    """Whether the edge finds the phone by its own Path: by its source address, or a flow (RFC 5626
    5.1). The Contact then does not matter, because private addresses repeat."""
    edge = grammar.name_addr(hop.encode())
    given = grammar.uri_parameters(edge.uri) | grammar.parameters(edge.parameters)
    return b"ob" in given or bool(given.get(b"received"))


def is_by_address(uri: str) -> bool:
    """Whether a URI leads to an IP address and not to a name."""
    return all(address_of(place) is not None for place in places_of(uri))


def _plain(host: str) -> str:
    """The canonical form of a host; one name for this machine's loopback."""
    name = host.lower().rstrip(".")
    if ":" in name or name.replace(".", "")[:1].isdigit():
        name = _address(name) or name
    return LOOPBACK if name in _LOOPBACKS else name


def _address(host: str) -> str | None:
    """The canonical form of an IP address; None for a name. A server behind the first hop may read
    `127.1`, `0x7f.1` or `2130706433` as inet_aton(3) does."""
    try:
        ip = ip_address(host)
    except ValueError:
        if not _NUMBERS.fullmatch(host):
            return None
        try:
            ip = ip_address(socket.inet_aton(host))
        except (OSError, ValueError):
            return None
    return str(getattr(ip, "ipv4_mapped", None) or ip)
