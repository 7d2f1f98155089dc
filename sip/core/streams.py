"""TCP and TLS: connections on asyncio, each a way to its peer.

A connection has the interface of `udp.Way`. Transactions on one that is lost hear of it.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from sip.core.framing import PONG, Frames, FramingError
from sip.flow import Flow

if TYPE_CHECKING:
    from sip.core.endpoint import Endpoint

CONNECT_S = 4.0  # a peer that does not accept in this time is not there
FIRST_MESSAGE_S = 10.0  # a new connection that says nothing is closed
STRANGERS = 100  # connections of those who may send nothing, at once: enough to tell them so
# A peer that is gone without a word is noticed: 8 s after something was sent to it, or about 90 s
# after the last sign of life. Until then calls to it would wait on a dead connection.
OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 8_000),  # milliseconds
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
UNSENT_MAX = 1 << 20  # bytes that a peer may leave unread before it is given up
_serials = itertools.count(1)


@dataclass(frozen=True)
class Kind:
    """What a connection is: "tcp" or "tls", its family, our Via and Contact on it, and the address
    that is listened on."""

    transport: str
    ipv6: bool
    via: bytes
    contact: bytes
    host: str

    def source_for(self, remote: str) -> tuple[str, int] | None:
        """Where a connection of ours to the IP address `remote` leaves from: peers know us by the
        address that we listen on. None = as this machine's routes say: where we listen on all
        addresses, and for the loopback, which reaches nobody else."""
        if not self.host or ip_address(self.host).is_unspecified:
            return None
        if ip_address(self.host).is_loopback and not ip_address(remote).is_loopback:
            return None
        return self.host, 0


class Connection(asyncio.Protocol):
    """One connection. `host` and `port` are the peer's, `name` the host name that was asked for."""

    reliable = True

    def __init__(
        self, streams: Streams, kind: Kind, remote: tuple[str, int], name: str, *, ours: bool
    ) -> None:
        self._streams = streams
        self.kind = kind
        self.is_ours = ours
        self.remote = remote
        self.name = name
        self.serial = next(_serials)
        self.is_gone = False
        self.is_strange = False  # gets its 403 and is closed
        self._frames = Frames(streams.endpoint.limits.stream_bytes)
        self._socket: asyncio.Transport | None = None
        self._unsent: list[bytes] | None = []  # until it is connected
        self._first: asyncio.TimerHandle | None = None

    # -- a way ------------------------------------------------------------------------------------

    @property
    def transport(self) -> str:
        return self.kind.transport

    @property
    def via(self) -> bytes:
        return self.kind.via

    @property
    def contact(self) -> bytes:
        return self.kind.contact

    @property
    def host(self) -> bytes:
        return self.remote[0].partition("%")[0].encode("ascii")

    @property
    def port(self) -> int:
        return self.remote[1]

    @property
    def flow(self) -> Flow:
        return Flow(self.kind.transport, self.remote[0], self.remote[1], self.serial)

    @property
    def local(self) -> tuple[str, int]:
        """Our end; nowhere in particular until it is connected."""
        ours = self._socket.get_extra_info("sockname") if self._socket is not None else None
        return ours[:2] if ours else ("::" if self.kind.ipv6 else "0.0.0.0", 0)

    def send(self, data: bytes) -> bool:
        """Send, now or when it is connected; False when the connection is of no use any more."""
        if self.is_gone:
            return False
        trace = self._streams.endpoint.tracing
        if trace is not None:
            trace.sent(self, data)
        if self._unsent is not None:
            self._unsent.append(data)
        elif self._socket is not None:
            self._write(data)
        return True

    def _write(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.write(data)
        if self._socket.get_write_buffer_size() > UNSENT_MAX:
            self._streams.on_refused("slow_reader", str(self))
            self.abort()

    # -- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = transport = cast("asyncio.Transport", transport)
        opened = transport.get_extra_info("socket")
        if opened is not None:
            for level, option, value in OPTIONS:
                opened.setsockopt(level, option, value)
        if not self.is_ours:
            # None: the peer has reset it already.
            self.remote = (transport.get_extra_info("peername") or self.remote)[:2]
            self.name = self.remote[0]
            if not self.name or not self._streams.admit(self):
                self.is_gone = True
                transport.abort()
                return
            loop = self._streams.endpoint.loop
            self._first = loop.call_later(FIRST_MESSAGE_S, transport.abort)
        if self.is_gone:
            transport.abort()
            return
        unsent, self._unsent = self._unsent or [], None
        for data in unsent:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._frames.feed(data)
        except FramingError as error:
            self._streams.on_refused("malformed", f"{self}: {error}")
            self.abort()
            return
        endpoint = self._streams.endpoint
        for head in self._frames.oversize:
            self._streams.on_refused("too_large", f"{self}: {head[:80]!r}")
            endpoint.too_large(head, self)
        self._frames.oversize.clear()
        for _ in range(self._frames.pings):
            if self._socket is not None:
                self._write(PONG)
        self._frames.pings = 0
        if messages and self._first is not None and not self.is_strange:
            self._first.cancel()
            self._first = None
        for message in messages:
            if self.is_gone:
                return
            endpoint.receive(message, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose()

    # -- the end ----------------------------------------------------------------------------------

    def lose(self) -> None:
        """The connection is gone: transactions on it hear of it."""
        if self._first is not None:
            self._first.cancel()
        if not self.is_gone:
            self.is_gone = True
            self._streams.lost(self)

    def abort(self) -> None:
        """Close at once."""
        if self._socket is not None:
            self._socket.abort()
        else:
            self.lose()

    def __str__(self) -> str:
        return f"{self.kind.transport} {self.remote[0]}:{self.remote[1]}"


class Streams:
    """All TCP and TLS connections of an endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        most: int,
        server_tls: ssl.SSLContext | None,
        client_tls: ssl.SSLContext | None,
        on_refused: Callable[[str, str], None],
    ) -> None:
        self.endpoint = endpoint
        self.on_refused = on_refused
        self.connections: set[Connection] = set()
        self._ways: dict[tuple[str, str, int], Connection] = {}  # by transport and remote address
        self._most = most
        self._strangers = 0  # how many of them are strangers', which are not counted in `most`
        self._tls = {True: server_tls, False: client_tls}
        self._servers: list[asyncio.Server] = []
        self._kinds: dict[tuple[str, bool], Kind] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life cycle -------------------------------------------------------------------------------

    async def listen(self, kind_of: Callable[[int], Kind], transport: str, host: str, port: int,
                     ) -> int:  # fmt: skip
        """Accept connections, and make them for legs; the port that is listened on. `kind_of` makes
        the Kind when the port is known. Raises OSError."""
        made: list[Kind] = []
        server = await self.endpoint.loop.create_server(
            lambda: Connection(self, made[0], ("", 0), "", ours=False),
            host,
            port,
            ssl=self._tls[True] if transport == "tls" else None,
            ssl_handshake_timeout=CONNECT_S if transport == "tls" else None,
            backlog=1024,
        )
        self._servers.append(server)
        chosen: int = server.sockets[0].getsockname()[1]
        made.append(kind_of(chosen))
        self._kinds.setdefault((transport, ":" in host), made[0])
        return chosen

    def kind(self, transport: str, ipv6: bool) -> Kind | None:
        """What a connection of ours would be; None if there can be none."""
        return self._kinds.get((transport, ipv6))

    def stop_listening(self) -> None:
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        """Close every connection."""
        self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)
        for connection in list(self.connections):
            connection.lose()

    # -- connections ------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Take a connection that a peer has made; False if there are too many. Strangers have a few
        of their own. Phones that may only register, which may be the whole Internet, leave the last
        tenth to peers that may call and to connections of our own.
        """
        source, endpoint = connection.host, self.endpoint
        room = self._room()
        if source not in endpoint.trusted:
            room -= self._most // 10
            connection.is_strange = source not in endpoint.registrants
        if connection.is_strange:
            room = STRANGERS - self._strangers
        if room <= 0:
            reason = "stranger" if connection.is_strange else "connections"
            self.on_refused(reason, str(connection))
            return False
        self._strangers += connection.is_strange
        self._keep(connection)
        return True

    def _room(self) -> int:
        """How many more may stand."""
        return self._most - (len(self.connections) - self._strangers)

    def _keep(self, connection: Connection) -> None:
        self.connections.add(connection)
        self._ways[(connection.kind.transport, *connection.remote)] = connection

    def way_to(self, kind: Kind, remote: tuple[str, int], name: str) -> Connection | None:
        """The connection to an address, which is made if there is none; None if there may be no
        more. `name` is the host name that it goes by."""
        found = self._ways.get((kind.transport, *remote))
        if found is not None and not found.is_gone:
            return found
        made = Connection(self, kind, remote, name, ours=True)
        if self._room() <= 0:
            self.on_refused("connections", str(made))
            return None
        self._keep(made)
        task = self.endpoint.loop.create_task(self._connect(made))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return made

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._strangers -= connection.is_strange
        key = (connection.kind.transport, *connection.remote)
        if self._ways.get(key) is connection:
            del self._ways[key]
        self.endpoint.layer.broken(connection)

    async def _connect(self, connection: Connection) -> None:
        loop, kind = self.endpoint.loop, connection.kind
        secure = kind.transport == "tls"
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(
                    lambda: connection,
                    *connection.remote,
                    ssl=self._tls[False] if secure else None,
                    server_hostname=connection.name if secure else None,
                    local_addr=kind.source_for(connection.remote[0]),
                )
        except (OSError, TimeoutError, ssl.SSLError) as error:
            self.on_refused("connect_failed", f"{connection}: {error or 'timed out'}")
            connection.lose()


class Nowhere:
    """The way to where nothing can be sent: no such transport here, no such address, no room."""

    reliable = False
    is_gone = True
    transport = "udp"
    host = b""
    port = 0
    local = ("", 0)

    def __init__(self, via: bytes, contact: bytes) -> None:
        self.via, self.contact = via, contact

    def send(self, data: bytes) -> bool:
        return False


class Unresolved:
    """The way to a name that is being looked up: what is sent waits, for a bounded time."""

    reliable = False
    transport = "udp"
    host = b""
    port = 0
    local = ("", 0)
    MOST = 50  # messages that wait

    def __init__(self, via: bytes, contact: bytes) -> None:
        self.via, self.contact = via, contact
        self.is_gone = False
        self._unsent: list[bytes] = []
        self._found: Any = None

    def send(self, data: bytes) -> bool:
        if self._found is not None:
            return bool(self._found.send(data))
        if self.is_gone or len(self._unsent) >= self.MOST:
            return False
        self._unsent.append(data)
        return True

    def resolved(self, way: Any) -> None:
        """The name leads there, or nowhere (None)."""
        self._found, self.is_gone = way, True  # whoever asks again finds the way itself
        unsent, self._unsent = self._unsent, []
        for data in unsent:
            if way is not None:
                way.send(data)
