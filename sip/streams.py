"""TCP and TLS: the connections are asyncio's, PJSIP sees each as a transport of its own.

PJSIP's sockets would have to be polled, hold 64 connections at most and bring an OpenSSL that is
out of support. So a connection lives in asyncio, whole messages are handed to PJSIP as if one of
its sockets had read them, and what PJSIP sends goes out through asyncio. `stream_api.py` declares
the structs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

from sip import stream_api, wire
from sip.answer import answer
from sip.flow import Flow
from sip.framing import PONG, Frames, FramingError, is_message, without_body
from sip.listener import Listener
from sip.message import Message
from sip.pjsip import ffi, lib
from sip.room import Room, Source, Standing
from sip.stream_api import INCOMING, OUTGOING, Kind

if TYPE_CHECKING:
    from sip.endpoint import Endpoint

CONNECT_S = 4.0  # a peer that does not accept in this time is not there
FIRST_MESSAGE_S = 10.0  # a new connection that sends no valid message is closed
MESSAGE_S = 10.0  # a message that has begun must be whole in this time
UNREAD_S = 10.0  # a peer must read what it was sent in this time, more than UNREAD bytes of it
UNREAD = 1 << 16
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
_FAILED = 1  # any status but 0


class Connection(asyncio.Protocol):
    """One connection, and PJSIP's transport for it."""

    def __init__(
        self,
        streams: Streams,
        kind: Kind,
        direction: int,
        remote: tuple[str, int],
        name: str,
        standing: Standing,
        source: Source,
    ) -> None:
        self._streams = streams
        self.kind = kind
        self.direction = direction
        self.remote = remote
        self.name = name  # the host name that was asked for, or the address
        self.serial = next(_serials)
        self.standing = standing
        self.source = source  # until its place is free again it counts there
        self.tp: Any = None
        self._frames = Frames()
        self._socket: asyncio.Transport | None = None
        self._unsent: list[bytes] | None = []  # until it is connected
        # What the peer has to do in time: send its first message, end what it began, read.
        self._first: asyncio.TimerHandle | None = None
        self._whole: asyncio.TimerHandle | None = None
        self._read: asyncio.TimerHandle | None = None
        self._heard = 0.0  # loop time of the last valid message
        self._lost = False
        self._vacated = False

    # -- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=UNREAD)
        opened = transport.get_extra_info("socket")
        if opened is not None:
            for level, option, value in OPTIONS:
                opened.setsockopt(level, option, value)
        if self.direction == INCOMING:
            if not self._lost and not self._streams.open(self):
                self._lost = True
            self._first = self._streams.later(FIRST_MESSAGE_S, self._expire)
        if self._lost:
            transport.abort()
            return
        unsent, self._unsent = self._unsent or [], None
        for data in unsent:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        frames = self._frames
        messages = frames.feed(data)
        for head in frames.oversize:
            self._streams.on_refused("too_large", f"{self}: {head[:80]!r}")
            self._refuse(head)
        frames.oversize.clear()
        for _ in range(frames.pings):
            self.write(PONG)
        frames.pings = 0
        if messages and not self.source.proven and any(map(is_message, messages)):
            self._credit()
        self._watch_rest()
        for message in messages:
            if self._lost:
                return
            self._streams.receive(self, message)
        if frames.error is not None and not self._lost:
            self._give_up(frames.error)

    def _watch_rest(self) -> None:
        """A message that has begun must end in time, however little comes at a time."""
        if self._frames.is_between:
            if self._whole is not None:
                self._whole.cancel()
                self._whole = None
        elif self._whole is None and not self._lost:
            self._whole = self._streams.later(MESSAGE_S, self._expire)

    def _credit(self) -> None:
        """A valid message came: the connection may stay a while. Keep-alives say nothing."""
        if self.standing is Standing.STRANGER:
            return
        self._heard = self._streams.endpoint.loop.time()
        if self._first is not None:
            self._first.cancel()
            self._first = self._streams.later(self._streams.idle_s, self._look)

    def _look(self) -> None:
        """Close the connection of a source that never registered or called, when it is idle."""
        self._first = None
        if self.source.proven or self._lost:
            return
        left_s = self._heard + self._streams.idle_s - self._streams.endpoint.loop.time()
        if left_s > 0:
            self._first = self._streams.later(left_s, self._look)
        else:
            self.abort()

    def _expire(self) -> None:
        if not self._lost:
            self.abort()

    def pause_writing(self) -> None:
        if self._read is None and not self._lost:
            self._read = self._streams.later(UNREAD_S, self._is_unread)

    def resume_writing(self) -> None:
        if self._read is not None:
            self._read.cancel()
            self._read = None

    def _is_unread(self) -> None:
        if not self._lost:
            self._streams.on_refused("slow_reader", str(self))
            self.abort()

    def _refuse(self, head: bytes) -> None:
        """A message too large: 513 for a request; a response ends what was asked, as one that
        came without its end in a datagram does."""
        if not head.startswith(b"SIP/2.0"):
            self._answer(head, b"513 Message Too Large")
        elif not self._lost and (message := without_body(head)):
            with wire.cut():
                self._streams.receive(self, message)

    def _give_up(self, error: FramingError) -> None:
        """The next message cannot be found. The one that hides it gets its answer."""
        self._streams.on_refused("malformed", f"{self}: {error}")
        if error.fault is not None:
            self._answer(error.head, b"400 " + error.fault.phrase)
        if self._socket is not None and self._unsent is None:
            self._socket.close()  # when all is written
        self.lose()

    def _answer(self, head: bytes, status: bytes) -> None:
        reply = answer(Message(head), status, self.remote)
        if reply is not None and self.write(reply[0]):
            wire.count_response(int(status[:3]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose()

    # -- what the engine does ---------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Send, now or when it is connected; False when the connection is of no use any more."""
        if self._lost:
            return False
        if self._unsent is not None:
            self._unsent.append(data)
        elif self._socket is not None:
            self._socket.write(data)
            if self._socket.get_write_buffer_size() > UNSENT_MAX:
                self._streams.on_refused("slow_reader", str(self))
                self.abort()
                return False
        return True

    def lose(self) -> None:
        """The connection is gone: PJSIP's transactions on it hear of it."""
        for timer in (self._first, self._whole, self._read):
            if timer is not None:
                timer.cancel()
        if not self._lost:
            self._lost = True
            self._streams.lost(self)
        if self.tp is None:  # else its place is free when PJSIP lets go of it
            self.vacate()

    def vacate(self) -> None:
        """Its place is free. Idempotent."""
        if not self._vacated:
            self._vacated = True
            self._streams.room.leave(self.remote[0], self.standing, self.source)

    @property
    def local(self) -> tuple[str, int]:
        """Our end; nowhere in particular until it is connected."""
        ours = self._socket.get_extra_info("sockname") if self._socket is not None else None
        return ours[:2] if ours else ("::" if self.kind.ipv6 else "0.0.0.0", 0)

    def abort(self) -> None:
        """Close at once."""
        if self._socket is not None:
            self._socket.abort()
        else:
            self.lose()

    def __str__(self) -> str:
        return f"{self.kind.name} {self.remote[0]}:{self.remote[1]}"


class Streams:
    """All TCP and TLS connections of an endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        room: Room,
        idle_s: float,
        server_tls: ssl.SSLContext | None,
        client_tls: ssl.SSLContext | None,
        on_refused: Callable[[str, str], None],
    ) -> None:
        self.endpoint = endpoint
        self.on_refused = on_refused
        self.connections: dict[Any, Connection] = {}  # by PJSIP's transport
        self.room = room
        self.idle_s = idle_s  # of sources that never registered or called
        self._tls = {True: server_tls, False: client_tls}
        self._listeners: list[Listener] = []
        self._factories: list[stream_api.Factory] = []
        self._kinds: dict[Any, Kind] = {}  # by factory
        self._tasks: set[asyncio.Task[None]] = set()
        self._rdata = ffi.cast("pjsip_rx_data *", stream_api.rdata_memory)
        self._callbacks = stream_api.Callbacks(
            send=endpoint.callback(stream_api.SEND, self._send),
            shut_down=endpoint.callback(stream_api.SHUT_DOWN, self._shut_down),
            destroy=endpoint.callback(stream_api.DESTROY, self._destroy),
            create=endpoint.callback(stream_api.CREATE, self._create),
        )

    # -- life cycle -------------------------------------------------------------------------------

    def listen(self, transport: str, host: str, port: int, shown: str) -> None:
        """Accept connections, and make them for legs. `shown` is our name in Via.

        Raises OSError.
        """
        kind = Kind(transport, ":" in host, shown, port, host)
        made = stream_api.factory(self.endpoint.endpt, kind, self._callbacks)
        self._factories.append(made)
        self._kinds[made.pointer] = kind
        self._listeners.append(
            Listener(
                self.endpoint.loop,
                host,
                port,
                lambda accepted, remote, port: self._accept(kind, accepted, remote, port),
                lambda reason: self.on_refused("connections", f"none can be accepted: {reason}"),
            )
        )

    def stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()

    async def close(self) -> None:
        """Close every connection; PJSIP lets go of their transports."""
        self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self.connections.values()):
            connection.abort()
        await asyncio.sleep(0)
        for connection in list(self.connections.values()):
            connection.lose()

    def forget_factories(self) -> None:
        """Take the factories out of PJSIP, before it is ended."""
        for factory in self._factories:
            stream_api.forget(self.endpoint.endpt, factory)
        self._factories.clear()

    # -- connections ------------------------------------------------------------------------------

    def later(self, seconds: float, do: Callable[[], None]) -> asyncio.TimerHandle:
        return self.endpoint.loop.call_later(seconds, do)

    def _accept(self, kind: Kind, accepted: socket.socket, host: str, port: int) -> None:
        """A peer has made a connection: take it, or close it at once."""
        endpoint, known = self.endpoint, host.encode()
        standing = Standing.PEER if known in endpoint.trusted else Standing.STRANGER
        if standing is Standing.STRANGER and known in endpoint.registrants:
            standing = Standing.PHONE
        place = self.room.take(host, standing)
        if isinstance(place, str):
            accepted.close()
            self.on_refused(place, f"{kind.name} {host}:{port}")
            return
        connection = Connection(self, kind, INCOMING, (host, port), host, standing, place)
        self._run(self._take(connection, accepted))

    async def _take(self, connection: Connection, accepted: socket.socket) -> None:
        secure = connection.kind.name == "tls"
        try:
            await self.endpoint.loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._tls[True] if secure else None,
                ssl_handshake_timeout=CONNECT_S if secure else None,
            )
        except (OSError, TimeoutError, ssl.SSLError):  # a handshake that failed or never ended
            accepted.close()
            connection.lose()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.endpoint.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def open(self, connection: Connection) -> bool:
        """Make PJSIP's transport of a connection that a peer has made; False if it will not."""
        if not self._register(connection):
            self.on_refused("connections", str(connection))
            return False
        lib.pjsip_transport_add_ref(connection.tp)  # ours, until it is gone
        return True

    def prove(self, transport: Any) -> None:
        """A phone was registered or a call placed over PJSIP's `transport`: its source stays."""
        connection = self.connections.get(transport)
        if connection is not None:
            connection.source.proven = True

    def _register(self, connection: Connection) -> bool:
        tp = stream_api.transport(
            self.endpoint.endpt,
            connection.kind,
            connection.direction,
            connection.remote,
            connection.name,
            self._callbacks,
        )
        if tp is None:
            return False
        connection.tp = tp
        self.connections[tp] = connection
        return True

    def place_of(self, transport: Any) -> tuple[str, tuple[str, int]] | None:
        """What a connection is, by PJSIP's transport, and its address on this machine."""
        connection = self.connections.get(transport)
        return None if connection is None else (connection.kind.name, connection.local)

    def flow_of(self, rdata: Any, source: str) -> Flow:
        """The way that a request came by, from the IP address `source`."""
        connection = self.connections.get(rdata.tp_info.transport)
        if connection is None:
            return Flow("udp", source, rdata.pkt_info.src_port)
        return Flow(connection.kind.name, source, connection.remote[1], connection.serial)

    def receive(self, connection: Connection, message: bytes) -> None:
        """Hand one message to PJSIP."""
        tp = connection.tp
        stream_api.receive(
            self.endpoint.endpt, self._rdata, tp, connection.remote, message, tp.key.rem_addr
        )

    def lost(self, connection: Connection) -> None:
        """A connection is gone: transactions on it fail, PJSIP lets go of its transport in time."""
        tp = connection.tp
        if tp is None or tp not in self.connections:
            return
        stream_api.disconnected(self.endpoint.endpt, tp)
        if tp.dir == INCOMING:
            lib.pjsip_transport_dec_ref(tp)

    async def _connect(self, connection: Connection) -> None:
        loop, kind = self.endpoint.loop, connection.kind
        secure = kind.name == "tls"
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

    # -- callbacks of PJSIP -----------------------------------------------------------------------

    def _create(
        self, factory: Any, mgr: Any, endpt: Any, address: Any, length: int, tdata: Any, made: Any
    ) -> int:
        """PJSIP needs a connection to send a message on."""
        kind = self._kinds[factory]
        remote = stream_api.address_of(address)
        name = wire.string(tdata.dest_info.name) if tdata != ffi.NULL else ""
        place = self.room.take(remote[0], Standing.OURS)
        if isinstance(place, str):
            self.on_refused(place, f"{kind.name} {remote[0]}:{remote[1]}")
            return _FAILED
        name = name or remote[0]
        connection = Connection(self, kind, OUTGOING, remote, name, Standing.OURS, place)
        if not self._register(connection):
            connection.vacate()
            self.on_refused("connections", str(connection))
            return _FAILED
        made[0] = connection.tp
        self._run(self._connect(connection))
        return 0

    def _send(
        self, tp: Any, tdata: Any, address: Any, length: int, token: Any, callback: Any
    ) -> int:
        connection = self.connections.get(tp)
        data = ffi.buffer(tdata.buf.start, tdata.buf.cur - tdata.buf.start)[:]
        return 0 if connection is not None and connection.write(data) else _FAILED

    def _shut_down(self, tp: Any) -> int:
        return 0

    def _destroy(self, tp: Any) -> int:
        """Nobody uses the transport any more."""
        connection = self.connections.pop(tp, None)
        stream_api.release(self.endpoint.endpt, tp)
        if connection is not None:
            connection.tp = None
            connection.vacate()
            with contextlib.suppress(Exception):
                connection.abort()
        return 0
