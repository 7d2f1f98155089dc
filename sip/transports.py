"""Listening addresses: opened in PJSIP, shown in Contacts, their UDP sockets found again."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pjsua2

from sip import wire
from sip.streams import Streams

RECEIVE_BUFFER = 4 * 1024 * 1024


class ListenError(OSError):
    """An address of `sip.listen` could not be used; says which and why."""


@dataclass(frozen=True, slots=True)
class Address:
    """One listening address: transport "udp", "tcp" or "tls", host without brackets, port."""

    transport: str
    host: str
    port: int

    @property
    def shown_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.transport}:{self.shown_host}:{self.port}"


class Transports:
    """What PJSIP listens on, and the Contact for a dialog over each."""

    def __init__(self, listen: tuple[Address, ...], advertise: str | None) -> None:
        """Raises ListenError when an address is taken."""
        self.addresses = [_free(address) for address in listen]
        self.host = ""  # the name of this engine towards others: of the first address
        self._advertise = advertise
        self._contacts: dict[tuple[str, bool], wire.Text] = {}  # by transport and IPv6

    @property
    def has_streams(self) -> bool:
        """Whether any of them is TCP or TLS."""
        return any(address.transport != "udp" for address in self.addresses)

    def open(self, endpoint: pjsua2.Endpoint) -> None:
        """Open the UDP sockets. Raises ListenError."""
        for address in self.addresses:
            if address.transport == "udp":
                self._open_udp(endpoint, address)

    async def listen(self, streams: Streams) -> None:
        """Accept TCP and TLS connections. Raises ListenError."""
        for address in self.addresses:
            if address.transport != "udp":
                shown = self._advertise or self._shown(address)
                try:
                    await streams.listen(address.transport, address.host, address.port, shown)
                except OSError as error:
                    reason = error.strerror or error
                    raise ListenError(f"sip.listen: cannot listen on {address}: {reason}") from None
                self._show(address, shown)

    def _open_udp(self, endpoint: pjsua2.Endpoint, address: Address) -> None:
        ipv6 = ":" in address.host
        kind = pjsua2.PJSIP_TRANSPORT_UDP6 if ipv6 else pjsua2.PJSIP_TRANSPORT_UDP
        config = pjsua2.TransportConfig()
        config.port = address.port
        config.boundAddress = address.host
        if self._advertise:
            config.publicAddress = self._advertise
        try:
            endpoint.transportCreate(kind, config)
        except pjsua2.Error as error:
            raise ListenError(f"sip.listen: cannot listen on {address}: {error.reason}") from None
        self._show(address, self._advertise or self._shown(address))

    def _shown(self, address: Address) -> str:
        """The address by which others reach it."""
        if address.host not in ("0.0.0.0", "::"):
            return address.shown_host
        family, anywhere = socket.AF_INET, "192.0.2.1"
        if ":" in address.host:
            family, anywhere = socket.AF_INET6, "2001:db8::1"
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((anywhere, 9))  # nothing is sent; it chooses our address
            except OSError:
                return address.shown_host
            return replace(address, host=probe.getsockname()[0]).shown_host

    def _show(self, address: Address, host: str) -> None:
        """Make the Contact for dialogs over this address."""
        suffix = "" if address.transport == "udp" else f";transport={address.transport}"
        contact = f"<sip:renvoi@{host}:{address.port}{suffix}>"
        key = address.transport, ":" in address.host
        self._contacts.setdefault(key, wire.Text(contact.encode()))
        self.host = self.host or host

    def contact_for(self, hop: str) -> wire.Text:
        """The Contact of a leg whose INVITE goes to `hop`, a URI or a Route value."""
        if len(self._contacts) == 1:
            return next(iter(self._contacts.values()))
        low = hop.lower()
        named = low.partition(";transport=")[2]
        transport = "tls" if low.lstrip("<").startswith("sips:") else re.split("[;>?]", named)[0]
        return self.contact_of(transport or "udp", "[" in hop)

    def contact_of(self, transport: str, ipv6: bool) -> wire.Text:
        """The Contact for a dialog over this transport and address family."""
        found = self._contacts.get((transport, ipv6)) or self._contacts.get(("udp", ipv6))
        return found or next(iter(self._contacts.values()))

    def udp_sockets(self) -> Iterator[socket.socket]:
        """A second handle of each UDP socket of PJSIP's, found by its bound port."""
        ports = {address.port for address in self.addresses if address.transport == "udp"}
        for name in os.listdir("/proc/self/fd"):
            try:
                probe = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            is_ip = probe.family in (socket.AF_INET, socket.AF_INET6)
            if is_ip and probe.type == socket.SOCK_DGRAM and probe.getsockname()[1] in ports:
                for option in (socket.SO_RCVBUF, getattr(socket, "SO_RCVBUFFORCE", 33)):
                    with contextlib.suppress(OSError):
                        probe.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
                yield probe
            else:
                probe.close()


def _free(address: Address) -> Address:
    """The address with a port that is free: its own, or any one for port 0.

    PJSIP sets SO_REUSEADDR, which on some kinds of socket hides that the port is taken.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    kind = socket.SOCK_DGRAM if address.transport == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            reason = error.strerror or error
            raise ListenError(f"sip.listen: cannot listen on {address}: {reason}") from None
        return replace(address, port=probe.getsockname()[1])
