"""TCP and TLS: connections on asyncio, each a way to its peer.

A connection has the interface of `udp.Way`. The loss of a connection is reported to its
transactions.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import ssl
import weakref
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

import msgspec

from sip.connection_limits import ConnectionLimits, PeerKind, Source
from sip.flow import Flow
from sip.framing import PONG, Frames, FramingError
from sip.listener import Listener
from sip.message import Message
from sip.names import Place, is_address

if TYPE_CHECKING:
    from sip.interfaces import Host

CONNECT_S = 4.0  # the time to connect to a peer
FIRST_MESSAGE_S = 10.0  # a new connection that sends no valid message is closed
MESSAGE_S = 10.0  # a message that has begun must be whole in this time
CLOSE_S = 1.0  # the time in which a peer must take what is left, and end its side of TLS
UNREAD_S = 10.0  # the time in which a peer must read, if more than UNREAD bytes wait
UNREAD = 1 << 16
# A peer that disappeared silently is detected 8 s after something was sent to it, or about 90 s
# after its last sign of life. Until then calls to it wait on a dead connection.
OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 8_000),  # milliseconds
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
UNSENT_MAX = 1 << 20  # bytes that a peer may leave unread before it is disconnected
_serials = itertools.count(1)


@dataclass(frozen=True)
class Kind:
    """The kind of a connection: "tcp" or "tls", its family, our Via and Contact on it, and the
    listening address."""

    transport: str
    ipv6: bool
    via: bytes
    contact: bytes
    host: str

    def source_for(self, remote: str) -> tuple[str, int] | None:
        """The source address of our connection to the IP address `remote`: the listening address,
        by which peers know us. None = the machine's routes decide: if we listen on all addresses,
        or on the loopback, which reaches no other host."""
        if not self.host or ip_address(self.host).is_unspecified:
            return None
        if ip_address(self.host).is_loopback and not ip_address(remote).is_loopback:
            return None
        return self.host, 0


class KeptConnection(msgspec.Struct):
    """A TCP connection that another process continues: the peer's address, the requested host name,
    what its source is and whether it is proven, and what has come of the next message. `serial` is
    its number in the process that it comes from."""

    host: str
    port: int
    name: str
    standing: int
    proven: bool
    rest: bytes
    serial: int


class Connection(asyncio.Protocol):
    """One connection. `host` and `port` are the peer's, `name` the requested host name."""

    reliable = True
    most = UNSENT_MAX

    def __init__(
        self,
        streams: Streams,
        kind: Kind,
        remote: tuple[str, int],
        name: str,
        standing: PeerKind,
        source: Source,
    ) -> None:
        self._streams = streams
        self.kind = kind
        self.remote = remote
        self.name = name
        self.serial = next(_serials)
        self.standing = standing
        self.source = source  # where it counts until its place is free again
        self.is_gone = False
        self.is_closing = False  # it is gone, and its socket still open
        self.carried: dict[Any, None] = {}  # the transactions that send on it
        self.is_continued = False  # from another process
        self.rest = b""  # of what that one has read
        self.led_here: weakref.WeakSet[Unresolved] | None = None
        limits = streams.endpoint.limits
        self._frames = Frames(limits.message_bytes, limits.head_bytes)
        self._socket: asyncio.Transport | None = None
        self._unsent: list[bytes] | None = []  # until it is connected
        # Deadlines of the peer: its first message, the rest of a message, reading.
        self._first: asyncio.TimerHandle | None = None
        self._whole: asyncio.TimerHandle | None = None
        self._read: asyncio.TimerHandle | None = None
        self._heard = 0.0  # loop time of the last valid message

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
        """Our end; unspecified until it is connected."""
        ours = self._socket.get_extra_info("sockname") if self._socket is not None else None
        return ours[:2] if ours else ("::" if self.kind.ipv6 else "0.0.0.0", 0)

    def back_to(self, port: int) -> Reopened:
        """The way to the peer after the loss of this connection: to the port in its Via."""
        return Reopened(self._streams, self.kind, self.remote[0], port, self.name)

    def prove(self) -> None:
        """Note that a phone was registered or a call placed over it, so that it may stay idle."""
        self.source.proven = True

    def send(self, data: bytes) -> bool:
        """Send, now or when it is connected; False if the connection is unusable."""
        if self.is_gone:
            return False
        trace = self._streams.endpoint.tracing
        if trace is not None:
            trace.sent(self, data)
        self._write(data)
        return not self.is_gone

    def _write(self, data: bytes) -> None:
        if self._unsent is not None:
            self._unsent.append(data)
        elif self._socket is not None:
            self._socket.write(data)
            if self._socket.get_write_buffer_size() > UNSENT_MAX:
                # Not now: its transactions learn of it, and one of them may be sending this.
                self._streams.endpoint.loop.call_soon(self._is_unread)

    # -- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=UNREAD)
        opened = transport.get_extra_info("socket")
        if opened is not None:
            for level, option, value in OPTIONS:
                opened.setsockopt(level, option, value)
        if self.is_gone:
            transport.abort()
            return
        if self.standing is not PeerKind.OURS:
            self._streams.keep(self)
            self._first = self._streams.later(FIRST_MESSAGE_S, self._expire)
            if self.is_continued:  # its first message was there
                self._credit()
        unsent, self._unsent = self._unsent or [], None
        for data in unsent:
            transport.write(data)
        if self.rest:
            rest, self.rest = self.rest, b""
            self.data_received(rest)

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except Exception as error:
            self._streams.endpoint.layer.internal_error(error, "")
            self.abort()

    def _take(self, data: bytes) -> None:
        frames, endpoint = self._frames, self._streams.endpoint
        messages = frames.feed(data)
        for head in frames.oversize:
            endpoint.oversize(head, self)
        frames.oversize.clear()
        if frames.pings:
            self._write(PONG * frames.pings)
            frames.pings = 0
        if messages and self._first is not None and any(not Message(one).bad for one in messages):
            self._credit()
        self._watch_rest(anew=bool(messages))
        for message in messages:
            if self.is_gone:
                return
            endpoint.receive(message, self)
        if frames.error is not None and not self.is_gone:
            self._give_up(frames.error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose()
        if self.is_closing:
            self.is_closing = False
            self._streams.leave(self)

    def pause_writing(self) -> None:
        if self._read is None and not self.is_gone:
            self._read = self._streams.later(UNREAD_S, self._is_unread)

    def resume_writing(self) -> None:
        if self._read is not None:
            self._read.cancel()
            self._read = None

    # -- deadlines of the peer --------------------------------------------------------------------

    def _watch_rest(self, *, anew: bool) -> None:
        """Watch that a message that has begun ends in time, however slowly it arrives. `anew`: the
        one before has ended, so that this is another one."""
        if self._whole is not None and (anew or self._frames.is_between):
            self._whole.cancel()
            self._whole = None
        if self._whole is None and not self._frames.is_between and not self.is_gone:
            self._whole = self._streams.later(MESSAGE_S, self._expire)

    def _credit(self) -> None:
        """A valid message arrived, so the connection may stay a while. Keep-alives do not count."""
        if self.standing is PeerKind.STRANGER:
            return
        self._heard = self._streams.endpoint.loop.time()
        if self._first is not None:
            self._first.cancel()
            self._first = None
            if not self.source.proven:
                self._first = self._streams.later(self._streams.idle_s, self._look)

    def _look(self) -> None:
        """Close the connection of a source that never registered or called, when it is idle."""
        self._first = None
        if self.source.proven or self.is_gone:
            return
        left_s = self._heard + self._streams.idle_s - self._streams.endpoint.loop.time()
        if left_s > 0:
            self._first = self._streams.later(left_s, self._look)
        else:
            self.abort()

    def _expire(self) -> None:
        if not self.is_gone:
            self.abort()

    def _is_unread(self) -> None:
        if not self.is_gone:
            self._streams.on_refused("slow_reader", str(self))
            self.abort()

    def _give_up(self, error: FramingError) -> None:
        """Close it, because the next message cannot be found. The faulty message gets its
        response."""
        self._streams.on_refused("malformed", f"{self}: {error}")
        if error.fault is not None:
            self._streams.endpoint.answer_head(error.head, self, 400, error.fault.phrase)
        if self._socket is not None and self._unsent is None:
            self.is_closing = True
            self._socket.close()  # after everything is written
            self._streams.later(CLOSE_S, self._socket.abort)
        self.lose()

    # -- the end ----------------------------------------------------------------------------------

    def lose(self) -> None:
        """Report to its transactions that the connection is gone. Idempotent."""
        for timer in (self._first, self._whole, self._read):
            if timer is not None:
                timer.cancel()
        if not self.is_gone:
            self.is_gone = True
            self._streams.lost(self)

    def keep(self) -> tuple[KeptConnection, int] | None:
        """For another process: its state and a copy of its descriptor. None if it cannot be
        continued there: over TLS, or while something is not sent."""
        rest, opened = self._frames.rest, self._socket
        if self.kind.transport != "tcp" or self.is_gone or rest is None:
            return None
        if opened is None or self._unsent is not None or opened.get_write_buffer_size():
            return None
        kept = KeptConnection(
            self.remote[0],
            self.remote[1],
            self.name,
            self.standing,
            self.source.proven,
            rest,
            self.serial,
        )
        return kept, os.dup(opened.get_extra_info("socket").fileno())

    def pause(self) -> None:
        """Read nothing more."""
        if self._socket is not None and not self.is_gone:
            self._socket.pause_reading()

    def abort(self) -> None:
        """Close at once."""
        if self._socket is not None:
            self._socket.abort()
        self.lose()

    def __str__(self) -> str:
        return f"{self.kind.transport} {self.remote[0]}:{self.remote[1]}"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(KeptConnection).decode


class Streams:
    """All TCP and TLS connections of an endpoint. `room` limits how many may be open, and for whom;
    `idle_s` is how long one may be idle if its source never registered or called."""

    def __init__(
        self,
        endpoint: Host,
        *,
        room: ConnectionLimits,
        idle_s: float,
        server_tls: ssl.SSLContext | None,
        client_tls: ssl.SSLContext | None,
        on_refused: Callable[[str, str], None],
    ) -> None:
        self.endpoint = endpoint
        self.on_refused = on_refused
        self.connections: set[Connection] = set()
        self.room = room
        self.idle_s = idle_s
        self._ways: dict[tuple[str, str, int, str], Connection] = {}  # by `_key`
        self._tls = {True: server_tls, False: client_tls}
        self._listeners: list[Listener] = []
        self._kinds: dict[tuple[str, bool], Kind] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life cycle -------------------------------------------------------------------------------

    def listen(self, kind: Kind, port: int, opened: socket.socket | None = None) -> socket.socket:
        """Accept connections from `start` on, and make them for legs; the listening socket, which
        may be `opened` by another process. Raises OSError."""
        self._kinds.setdefault((kind.transport, kind.ipv6), kind)
        listener = Listener(
            self.endpoint.loop,
            kind.host,
            port,
            lambda accepted, host, port: self._accept(kind, accepted, host, port),
            lambda reason: self.on_refused("connections", f"none can be accepted: {reason}"),
            opened,
        )
        self._listeners.append(listener)
        return listener.socket

    def start(self) -> None:
        """Begin to accept connections."""
        for listener in self._listeners:
            listener.start()

    def kind(self, transport: str, ipv6: bool) -> Kind | None:
        """The kind of a connection of ours; None if there can be none."""
        return self._kinds.get((transport, ipv6))

    def stop_listening(self, *, close: bool = True) -> None:
        """Accept no more connections; `close` also the sockets."""
        for listener in self._listeners:
            listener.stop()
            if close:
                listener.socket.close()

    async def close(self) -> None:
        """Close every connection."""
        self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)

    def later(self, seconds: float, do: Callable[[], None]) -> asyncio.TimerHandle:
        return self.endpoint.loop.call_later(seconds, do)

    # -- connections ------------------------------------------------------------------------------

    def _accept(self, kind: Kind, accepted: socket.socket, host: str, port: int) -> None:
        """Accept a peer's connection, or close it at once."""
        endpoint, known = self.endpoint, host.encode()
        standing = PeerKind.PEER if known in endpoint.trusted else PeerKind.STRANGER
        if standing is PeerKind.STRANGER and known in endpoint.registrants:
            standing = PeerKind.PHONE
        place = self._place(host, standing)
        if isinstance(place, str):
            accepted.close()
            self.on_refused(place, f"{kind.transport} {host}:{port}")
            return
        connection = Connection(self, kind, (host, port), host, standing, place)
        self._run(self._take(connection, accepted))

    def _place(self, host: str, standing: PeerKind) -> Source | str:
        return self.room.take(host, standing, trusted=self.endpoint.trusted[host.encode()])

    def keep_all(self, most: int) -> dict[str, int]:
        """The connections that another process can continue, at most so many: descriptors by
        `KeptConnection`, as text."""
        every = (connection.keep() for connection in self.connections)
        kept = itertools.islice((one for one in every if one is not None), most)
        return {_encode(one).decode(): descriptor for one, descriptor in kept}

    def adopt(self, kept: Mapping[str, socket.socket]) -> dict[int, int]:
        """Continue connections of another process. Their new serial numbers, by the old ones."""
        serials: dict[int, int] = {}
        for text, opened in kept.items():
            one = _decode(text)
            kind = self.kind("tcp", ":" in one.host)
            remote, standing = (one.host, one.port), PeerKind(one.standing)
            place = self._place(one.host, standing) if kind is not None else ""
            if kind is None or isinstance(place, str):
                opened.close()
                continue
            place.proven |= one.proven
            connection = Connection(self, kind, remote, one.name, standing, place)
            connection.is_continued, connection.rest = True, one.rest
            serials[one.serial] = connection.serial
            self.keep(connection)
            opened.setblocking(False)
            self._run(self._take(connection, opened))
        return serials

    def known(self, transport: str, host: str, port: int) -> Connection | None:
        """The connection to this address, None if there is none."""
        return self._ways.get((transport, host, port, ""))

    async def _take(self, connection: Connection, accepted: socket.socket) -> None:
        secure = connection.kind.transport == "tls"
        try:
            await self.endpoint.loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._tls[True] if secure else None,
                ssl_handshake_timeout=CONNECT_S if secure else None,
            )
        except (OSError, TimeoutError, ssl.SSLError):  # a handshake failed or did not end
            accepted.close()
            connection.lose()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.endpoint.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def keep(self, connection: Connection) -> None:
        """Keep an established connection."""
        self.connections.add(connection)
        self._ways[_key(connection.kind, connection.remote, connection.name)] = connection

    def way_to(self, kind: Kind, remote: tuple[str, int], name: str) -> Connection | None:
        """The connection to an address, made if there is none; None if the limit is reached. `name`
        is its host name."""
        found = self._ways.get(_key(kind, remote, name))
        if found is not None and not found.is_gone:
            return found
        place = self._place(remote[0], PeerKind.OURS)
        if isinstance(place, str):
            self.on_refused(place, f"{kind.transport} {remote[0]}:{remote[1]}")
            return None
        made = Connection(self, kind, remote, name, PeerKind.OURS, place)
        self.keep(made)
        self._run(self._connect(made))
        return made

    def lost(self, connection: Connection) -> None:
        """Forget a lost connection."""
        self.connections.discard(connection)
        key = _key(connection.kind, connection.remote, connection.name)
        if self._ways.get(key) is connection:
            del self._ways[key]
        if not connection.is_closing:
            self.leave(connection)
        for way in (connection, *(connection.led_here or ())):
            self.endpoint.layer.broken(way)

    def leave(self, connection: Connection) -> None:
        """Free the place of a connection, whose socket is closed."""
        self.room.leave(connection.remote[0], connection.standing, connection.source)

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


def _key(kind: Kind, remote: tuple[str, int], name: str) -> tuple[str, str, int, str]:
    """Transport, address and, over TLS, the host name for which the peer was authenticated (RFC
    5922 7.4): a connection that the peer made, or that has another name, is none for this one."""
    is_named = kind.transport == "tls" and not is_address(Place(name))
    return (kind.transport, *remote, name if is_named else "")


class Reopened:
    """The way back to a peer whose connection is lost: a new one is made to send something."""

    most = UNSENT_MAX
    reliable = True
    is_gone = False
    carried = None

    def __init__(self, streams: Streams, kind: Kind, host: str, port: int, name: str) -> None:
        self._streams = streams
        self._kind = kind
        self._remote = host, port or (5061 if kind.transport == "tls" else 5060)
        self._name = name
        self.host, self.port = host.encode(), self._remote[1]
        self.transport, self.via, self.contact = kind.transport, kind.via, kind.contact
        self.flow = Flow(kind.transport, host, self.port, -1)  # no connection yet

    def send(self, data: bytes) -> bool:
        way = self._streams.way_to(self._kind, self._remote, self._name)
        return way is not None and way.send(data)

    def back_to(self, port: int) -> None:
        return None


class Nowhere:
    """A way that cannot send: no such transport, no such address, no room."""

    reliable = False
    most = UNSENT_MAX
    is_gone = True
    carried = None
    transport = "udp"
    host = b""
    port = 0
    local = ("", 0)

    def __init__(self, via: bytes, contact: bytes) -> None:
        self.via, self.contact = via, contact

    def send(self, data: bytes) -> bool:
        return False

    def prove(self) -> None:
        pass


class Unresolved:
    """The way to a name that is being resolved: messages wait for a bounded time.

    The transport is known only after the look-up, so waiting messages then get its Via.
    """

    most = 65_507  # the name may lead to UDP
    transport = "udp"
    host = b""
    port = 0
    local = ("", 0)
    MOST = 50  # messages that wait

    def __init__(self, via: bytes, contact: bytes) -> None:
        self.via, self.contact = via, contact
        self.reliable = False  # until it is known
        self.is_gone = False
        self.carried: dict[Any, None] = {}
        self._unsent: list[bytes] = []
        self._found: Any = None

    def send(self, data: bytes) -> bool:
        if self._found is not None:
            return self._forward(data)
        if self.is_gone or len(self._unsent) >= self.MOST:
            return False
        self._unsent.append(data)
        return True

    def resolved(self, way: Any) -> None:
        """The result of the look-up; None = the name leads nowhere."""
        self._found, self.is_gone = way, True  # later senders find the way itself
        unsent, self._unsent = self._unsent, []
        if way is not None:
            self.reliable = way.reliable
            if isinstance(way, Connection):
                way.led_here = way.led_here or weakref.WeakSet()
                way.led_here.add(self)
            for data in unsent:
                self._forward(data)

    def _forward(self, data: bytes) -> bool:
        ours, theirs = b"\r\nVia: %b;" % self.via, b"\r\nVia: %b;" % self._found.via
        return bool(self._found.send(data.replace(ours, theirs, 1)))
