# cython: language_level=3, boundscheck=True, wraparound=False, nonecheck=True
"""UDP: sockets read until they are empty or the time is up, and the ways over them.

A way leads to one peer; everything that sends holds one. Streams have the same interface
(`streams.py`).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import cython

from sip.flow import Flow

if not cython.compiled:
    from sip.native import receive, transmit
else:
    from cython.cimports.sip.native import receive, transmit  # type: ignore[no-redef]

RECEIVE_BUFFER = 4 * 1024 * 1024
SO_RCVBUFFORCE = 33
MOST_IPV4 = cython.declare(cython.int, 65_507)  # bytes of a datagram: 65,535 with UDP's 8 and
MOST_IPV6 = cython.declare(cython.int, 65_527)  # the head of IPv4, which IPv6 does not count
MOST_WAYS = cython.declare(cython.int, 20_000)
AT_ONCE = cython.declare(cython.int, 200)  # datagrams, or
BUDGET_S = cython.declare(cython.double, 0.005)  # this time, before the loop turns
_IS_COMPILED = cython.compiled

Place = tuple[str, int]
OnDatagram = Callable[[bytes, "Way"], None]


def bound(host: str, port: int) -> socket.socket:
    """A socket for datagrams at this address. Raises OSError."""
    ipv6 = ":" in host
    udp = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if ipv6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):
            with contextlib.suppress(OSError):
                udp.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
        udp.setblocking(False)
        udp.bind((host, port))
    except OSError:
        udp.close()
        raise
    return udp


@cython.final
@cython.cclass
class Udp:
    """One socket. `via` is the start of its Via values up to the port, `contact` the URI of this
    engine on it, both as others see them; `trace`, if set, gets every sent message."""

    socket: Any = cython.declare(object, visibility="public")
    ipv6: bool = cython.declare(cython.bint, visibility="public")
    via: bytes = cython.declare(bytes, visibility="public")
    contact: bytes = cython.declare(bytes, visibility="public")
    local: Any = cython.declare(object, visibility="public")
    trace: Any = cython.declare(object, visibility="public")
    unsent: int = cython.declare(cython.longlong, visibility="public")
    _fd: cython.int
    _ways: dict[Any, Any]
    _on_datagram: Any

    def __init__(
        self,
        host: str,
        port: int,
        via: bytes,
        contact: bytes,
        local: Place,
        take: OnDatagram,
        opened: socket.socket | None = None,
    ) -> None:
        """`opened`: a socket that another process has bound. Raises OSError."""
        self.ipv6 = ":" in host
        udp = opened if opened is not None else bound(host, port)
        self.socket = udp
        self._fd = udp.fileno()
        self.via = via
        self.contact = contact
        self.local = local
        self.trace = None
        self.unsent = 0
        self._ways = {}
        self._on_datagram = take

    def read(self) -> bool:
        """Read waiting datagrams for a bounded time; True if there are more."""
        until: cython.double = time.monotonic() + BUDGET_S
        n: cython.int
        for n in range(AT_ONCE):
            got = receive(self.socket, self._fd)
            if got is None:
                return False
            way = self.way(got[1])
            if way.port:  # port 0 cannot be answered
                self._on_datagram(got[0], way)
            if n & 7 == 7 and time.monotonic() > until:
                break
        return True

    def way(self, source: Any) -> Way:
        """The way to a source, as received or made by `source_of`."""
        found = self._ways.get(source)
        if found is None:
            if len(self._ways) >= MOST_WAYS:
                self._ways.clear()
            found = self._ways[source] = Way(self, source)
        way: Way = found
        return way

    def way_to(self, host: str, port: int) -> Way | None:
        """The way to an IP address, None if it is not of this socket's family."""
        try:
            return self.way(source_of(host, port, self.ipv6))
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        self.socket.close()


@cython.final
@cython.cclass
class Way:
    """The way to one address over one UDP socket: `host` without brackets."""

    owner: Udp = cython.declare(Udp, visibility="public")
    host: bytes = cython.declare(bytes, visibility="public")
    port: int = cython.declare(cython.int, visibility="public")
    reliable: bool = cython.declare(cython.bint, visibility="public")
    most: int = cython.declare(cython.int, visibility="public")  # bytes of a message to it
    is_gone: bool = cython.declare(cython.bint, visibility="public")
    carried: Any = cython.declare(object, visibility="public")  # a socket is not lost
    transport: str = cython.declare(str, visibility="public")
    _source: Any

    def __init__(self, owner: Udp, source: Any) -> None:
        self.owner = owner
        self._source = source
        self.reliable = self.is_gone = False
        self.carried = None
        self.most = MOST_IPV6 if owner.ipv6 else MOST_IPV4
        self.transport = "udp"
        host, port = place_of(source)
        self.host = host.encode("ascii")
        self.port = port

    @property
    def via(self) -> bytes:
        """The start of our Via on it."""
        return self.owner.via

    @property
    def contact(self) -> bytes:
        """Our URI on it."""
        return self.owner.contact

    @property
    def local(self) -> Place:
        """Our address on it."""
        place: Place = self.owner.local
        return place

    @property
    def flow(self) -> Flow:
        """The same as a `Flow`, for comparison."""
        return Flow("udp", self.host.decode("ascii"), self.port)

    def send(self, data: bytes) -> bool:
        """Send a message; False if the kernel refuses the datagram or the address."""
        owner: Udp = self.owner
        if owner.trace is not None:
            owner.trace(self, data)
        if transmit(owner.socket, owner._fd, data, self._source):
            return True
        owner.unsent += 1
        return False

    def prove(self) -> None:
        """Does nothing; only connections use it."""

    def back_to(self, port: int) -> None:
        """The same way, because UDP has no connection to lose."""

    def with_port(self, port: int) -> Way | None:
        """The way to another port of the same address."""
        if port == self.port:
            return self
        return self.owner.way_to(self.host.decode("ascii"), port)

    def __repr__(self) -> str:
        return f"<udp {self.host.decode()}:{self.port}>"


def place_of(source: Any) -> Place:
    """The IP address, without zone, and the port of a source."""
    if not isinstance(source, bytes):
        return source[0].partition("%")[0], source[1]
    port = int.from_bytes(source[2:4], "big")
    if len(source) >= 24:
        return socket.inet_ntop(socket.AF_INET6, source[8:24]), port
    return socket.inet_ntop(socket.AF_INET, source[4:8]), port


def source_of(host: str, port: int, ipv6: bool) -> Any:
    """The inverse of `place_of`. Raises OSError or ValueError if it is not an address of the
    family."""
    bare, _, zone = host.partition("%")
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    packed = socket.inet_pton(family, bare)
    scope = 0
    if zone:
        is_number = zone.isdecimal() and len(zone) < 10  # 32 bits
        scope = int(zone) if is_number else socket.if_nametoindex(zone)
    if not _IS_COMPILED:
        return (bare, port, 0, scope) if ipv6 else (bare, port)
    head = struct.pack("=H", family) + struct.pack("!H", port)
    if ipv6:
        return head + bytes(4) + packed + struct.pack("=I", scope)
    return head + packed + bytes(8)
