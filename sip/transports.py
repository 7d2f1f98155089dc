"""Listening addresses: opened in PJSIP, shown in Contact and Via, their UDP sockets found again."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sip import wire
from sip.address import Address, fits_family, reached_by
from sip.names import place_of
from sip.pjsip import ffi, lib
from sip.settings import ListenError
from sip.streams import Streams

RECEIVE_BUFFER = 4 * 1024 * 1024


class Transports:
    """What PJSIP listens on, and the Contact for a dialog over each.

    `advertise` is a host name, shown for every address, or an IP address (IPv6 without brackets),
    shown for the listening addresses of its family; None = each shows its own.
    """

    def __init__(self, listen: tuple[Address, ...], advertise: str | None) -> None:
        """Raises ListenError when an address is taken."""
        self.addresses = [_free(address) for address in listen]
        self.host = ""  # the name of this engine in URIs: of the first address
        self._advertise = advertise
        self._contacts: dict[tuple[str, bool], wire.Text] = {}  # by transport and IPv6
        self.places: dict[Any, tuple[str, tuple[str, int]]] = {}  # of those, for traces
        self.shown: list[Address] = []  # where others reach this engine
        self._own: dict[Any, wire.Text] = {}  # the Contact of each UDP transport of PJSIP's

    @property
    def has_streams(self) -> bool:
        """Whether any of them is TCP or TLS."""
        return any(address.transport != "udp" for address in self.addresses)

    def open(self, endpt: Any) -> None:
        """Open the UDP sockets. Raises ListenError."""
        for address in self.addresses:
            if address.transport == "udp":
                self._open_udp(endpt, address)

    def listen(self, streams: Streams) -> None:
        """Accept TCP and TLS connections. Raises ListenError."""
        for address in self.addresses:
            if address.transport != "udp":
                shown = self._shown(address)
                try:
                    streams.listen(address.transport, address.host, address.port, shown)
                except OSError as error:
                    raise _cannot_listen(address, error.strerror or error) from None
                self._show(address, shown)

    def _open_udp(self, endpt: Any, address: Address) -> None:
        shown = self._shown(address)
        ipv6 = ":" in address.host
        host, name = wire.Text(address.host.encode()), wire.Text(shown.encode())
        where, made = ffi.new("char[28]"), ffi.new("pjsip_transport **")
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        lib.pj_sockaddr_init(family, where, host.ref, address.port)
        # The name is taken as it is: PJSIP looks nothing up.
        named = ffi.new("pj_host_port *", {"host": name.ref[0], "port": address.port})
        start = lib.pjsip_udp_transport_start6 if ipv6 else lib.pjsip_udp_transport_start
        status = start(endpt, where, named, 1, made)
        if status != 0:
            raise _cannot_listen(address, f"PJSIP status {status}")
        self._own[made[0]] = self._show(address, shown)
        self.places[made[0]] = "udp", (_numeric(address.host, shown), address.port)

    def _shown(self, address: Address) -> str:
        """The name or address by which others reach it, IPv6 without brackets."""
        if self._advertise and fits_family(self._advertise, ":" in address.host):
            return self._advertise
        return reached_by(address.host)

    def _show(self, address: Address, host: str) -> wire.Text:
        """Make the Contact for dialogs over this address."""
        shown = replace(address, host=host)
        suffix = "" if address.transport == "udp" else f";transport={address.transport}"
        contact = wire.Text(f"<sip:renvoi@{shown.shown_host}:{address.port}{suffix}>".encode())
        self.shown.append(shown)
        self._contacts.setdefault((address.transport, ":" in address.host), contact)
        self.host = self.host or shown.shown_host
        wire.goes_by(shown.shown_host)
        return contact

    def contact_at(self, transport: Any, via: bytes, source: bytes) -> wire.Text:
        """The Contact of a leg whose INVITE came in over PJSIP's `transport`, with this topmost
        Via, from the IP address `source`."""
        own = self._own.get(transport)
        if own is not None:
            return own
        return self.contact_of(via[8:11].decode("latin-1").lower(), b":" in source)

    def contact_for(self, hop: str) -> wire.Text:
        """The Contact of a leg whose INVITE goes to `hop`, a URI or a Route value."""
        if len(self._contacts) == 1:
            return next(iter(self._contacts.values()))
        place = place_of(hop)
        return self.contact_of(place.transport or "udp", ":" in place.host)

    def contact_of(self, transport: str, ipv6: bool) -> wire.Text:
        """The Contact for a dialog over this transport and address family."""
        found = self._contacts.get((transport, ipv6)) or self._contacts.get(("udp", ipv6))
        return found or next(iter(self._contacts.values()))

    def own_udp(self) -> list[Any]:
        """PJSIP's UDP transports, in the order of the listening addresses."""
        return list(self._own)

    def udp_sockets(self) -> Iterator[tuple[socket.socket, Any]]:
        """A second handle of each UDP socket of PJSIP's, and PJSIP's transport."""
        for transport in self._own:
            handle = os.dup(lib.pjsip_udp_transport_get_socket(transport))
            udp = socket.socket(fileno=handle)
            for option in (socket.SO_RCVBUF, getattr(socket, "SO_RCVBUFFORCE", 33)):
                with contextlib.suppress(OSError):
                    udp.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
            udp.setblocking(False)
            yield udp, transport


def _numeric(host: str, shown: str) -> str:
    """The address of a socket that may listen on all: then the one it is shown by, if it is one."""
    if host not in ("0.0.0.0", "::"):
        return host
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(shown))
    return host


def _cannot_listen(address: Address, reason: object) -> ListenError:
    return ListenError(f"sip.listen: cannot listen on {address}: {reason}")


def _free(address: Address) -> Address:
    """The address with a port that is free: its own, or any one for port 0.

    PJSIP sets SO_REUSEADDR, which on some kinds of socket hides that the port is taken.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    kind = socket.SOCK_DGRAM if address.transport == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise _cannot_listen(address, error.strerror or error) from None
        return replace(address, port=probe.getsockname()[1])
