"""The listening addresses, and the ways out of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from sip import backlog
from sip.address import Address, fits_family, reached_by
from sip.names import Place, address_of, place_of
from sip.settings import ListenError
from sip.streams import Kind, Nowhere, Reopened, Unresolved
from sip.udp import Udp

if TYPE_CHECKING:
    from sip.interfaces import Host

LAST_PORT = 65_535


class Listening:
    """The listening sockets of an endpoint. `addresses` are those in use (with the real port for
    0), `places` where others reach them and `contacts` our URIs there, `host` is the name of this
    engine for others. `sockets` are by address as in the configuration."""

    def __init__(self, endpoint: Host, listen: tuple[Address, ...], advertise: str | None) -> None:
        self._endpoint = endpoint
        self._advertise = advertise
        self._wanted = listen
        self.addresses: list[Address] = []
        self.places: list[str] = []
        self.host = ""
        self.contacts: set[bytes] = set()
        self.sockets: dict[str, socket.socket] = {}
        self.udp: list[Udp] = []
        self._by_family: dict[bool, Udp] = {}
        self._nowhere: Nowhere | None = None

    def open(self, take: Callable[[bytes, Any], None], opened: Mapping[str, socket.socket]) -> None:
        """Open every socket that is not in `opened`, by address as in the configuration. Raises
        ListenError."""
        for address in self._wanted:
            try:
                self._open(address, take, opened.get(str(address)))
            except OSError as error:
                raise ListenError(
                    f"sip.listen: cannot listen on {address}: {error.strerror or error}"
                ) from None

    def _open(
        self, address: Address, take: Callable[[bytes, Any], None], opened: socket.socket | None
    ) -> None:
        shown = self._shown(address)
        named = f"[{shown}]" if ":" in shown else shown
        if address.transport == "udp":
            port = self._open_udp(address, shown, named, take, opened)
        else:
            port = opened.getsockname()[1] if opened is not None else address.port
            port = port or _free_port(address.host)
            kind = Kind(
                address.transport,
                ":" in address.host,
                f"SIP/2.0/{address.transport.upper()} {named}:{port}".encode(),
                f"sip:renvoi@{named}:{port};transport={address.transport}".encode(),
                address.host,
            )
            self.sockets[str(address)] = self._endpoint.streams.listen(kind, port, opened)
            self.contacts.add(kind.contact)
        self.addresses.append(replace(address, port=port))
        self.places.append(f"{named}:{port};transport={address.transport}")
        self.host = self.host or named

    def _open_udp(
        self,
        address: Address,
        shown: str,
        named: str,
        take: Callable[[bytes, Any], None],
        opened: socket.socket | None,
    ) -> int:
        udp = Udp(address.host, address.port, b"", b"", ("", 0), take, opened)
        self.sockets[str(address)] = udp.socket
        port: int = udp.socket.getsockname()[1]
        udp.via = f"SIP/2.0/UDP {named}:{port}".encode()
        udp.contact = f"sip:renvoi@{named}:{port}".encode()
        udp.local = _numeric(address.host, shown), port
        self.contacts.add(udp.contact)
        backlog.stamp(udp.socket)
        self.udp.append(udp)
        self._by_family.setdefault(udp.ipv6, udp)
        return port

    def _shown(self, address: Address) -> str:
        """The name or address for others, IPv6 without brackets."""
        if self._advertise and fits_family(self._advertise, ":" in address.host):
            return self._advertise
        return reached_by(address.host)

    # -- ways -------------------------------------------------------------------------------------

    def way_to(self, hop: str) -> Any:
        """The way to the place of a URI or Route value. If the name is not resolved yet, the way
        keeps what is sent until it is."""
        place = place_of(hop)
        server = address_of(place)
        if server is not None:
            return self.way_for(server, place.host)
        names = self._endpoint.names
        servers = names.known(place)
        if servers is not None:
            return self.way_for(servers[0], place.host) if servers else self.nowhere()
        return self._ask(place)

    def way_back(self, transport: str, host: str, port: int, number: int, via_port: int) -> Any:
        """The way to a peer that spoke to another process: to its address on the listening UDP
        address of that number, or to the port of its Via over a connection to be made (RFC 3261
        18.2.2)."""
        streams, ipv6 = self._endpoint.streams, ":" in host
        if transport == "udp":
            fits = number < len(self.udp) and self.udp[number].ipv6 == ipv6
            udp = self.udp[number] if fits else self._by_family.get(ipv6)
            way = udp.way_to(host, port) if udp is not None else None
            return way or self.nowhere()
        kind, known = streams.kind(transport, ipv6), streams.known(transport, host, port)
        if kind is None:
            return self.nowhere()
        return known if known is not None else Reopened(streams, kind, host, via_port, host)

    def _ask(self, place: Place) -> Unresolved:
        via, contact = self._shown_on(place.transport, False)
        unresolved = Unresolved(via, contact)

        def found(servers: list[Address]) -> None:
            way = self.way_for(servers[0], place.host) if servers else None
            unresolved.resolved(way)
            if way is None:
                self._endpoint.layer.broken(unresolved)

        self._endpoint.names.tell(place, found)
        return unresolved

    def way_for(self, server: Address, name: str) -> Any:
        """The way to a server with that name."""
        if server.port > LAST_PORT:  # in a URI that is not a SIP URI, whose port was checked
            return self.nowhere()
        ipv6 = ":" in server.host
        if server.transport == "udp":
            udp = self._by_family.get(ipv6)
            way = udp.way_to(server.host, server.port) if udp is not None else None
            return way or self.nowhere()
        streams = self._endpoint.streams
        kind = streams.kind(server.transport, ipv6)
        if kind is None:
            return self.nowhere()
        return streams.way_to(kind, (server.host, server.port), name) or self.nowhere()

    def nowhere(self) -> Nowhere:
        if self._nowhere is None:
            self._nowhere = Nowhere(*self._shown_on("udp", False))
        return self._nowhere

    def _shown_on(self, transport: str, ipv6: bool) -> tuple[bytes, bytes]:
        """Our Via and Contact on a transport, or on an available one."""
        kind = self._endpoint.streams.kind(transport, ipv6) if transport else None
        if kind is not None:
            return kind.via, kind.contact
        if self.udp:
            udp = self._by_family.get(ipv6) or self.udp[0]
            return udp.via, udp.contact
        for name in ("tcp", "tls"):
            for family in (False, True):
                kind = self._endpoint.streams.kind(name, family)
                if kind is not None:
                    return kind.via, kind.contact
        return b"SIP/2.0/UDP invalid", b"sip:invalid"

    def close(self) -> None:
        for udp in self.udp:
            udp.close()


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _numeric(host: str, shown: str) -> str:
    """The address of a socket. If it listens on all addresses, the one shown to others, if that is
    an address."""
    if host not in ("0.0.0.0", "::"):
        return host
    with contextlib.suppress(ValueError):
        return str(ip_address(shown))
    return host
