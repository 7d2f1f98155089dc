"""Connections over time, without a network: their deadlines and their places."""

from __future__ import annotations

from typing import Any, cast

from sip.connection_limits import PeerKind
from sip.streams import Connection, Kind
from tests.sip.house import CALLER, House, request
from tests.sip.test_reliable import Clock

KIND = Kind("tcp", False, b"SIP/2.0/TCP 127.0.0.1:5080", b"sip:renvoi@127.0.0.1:5080", "127.0.0.1")


class Socket:
    """A transport that stores what is done with it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ends: list[str] = []

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.ends.append("close")

    def abort(self) -> None:
        self.ends.append("abort")


class Opened:
    """A connection that a trusted peer has made. Its deadlines run by `clock`."""

    def __init__(self) -> None:
        self.clock = Clock()
        streams: Any = House().endpoint.streams
        streams.later = self.clock.call_later
        self.room = streams.room
        place = streams._place("127.0.0.1", PeerKind.PEER)
        remote = ("127.0.0.1", CALLER)
        self.connection = Connection(streams, KIND, remote, "127.0.0.1", PeerKind.PEER, place)
        self.socket = Socket()
        self.connection.connection_made(cast("Any", self.socket))


async def test_messages_may_follow_one_another_without_a_pause() -> None:
    """On a connection in full use each read ends within a message, but none of them takes long."""
    peer, rest = Opened(), b""
    for n in range(6):
        message = request("OPTIONS")
        peer.connection.data_received(rest + message[:100])
        rest = message[100:]
        peer.clock.run_until(6.0 * (n + 1))
    assert (len(peer.socket.written), peer.connection.is_gone) == (5, False)
    peer.clock.run_until(41.0)  # the last one does not end
    assert (peer.socket.ends, peer.connection.is_gone) == (["abort"], True)


async def test_a_connection_has_its_place_until_its_socket_is_closed() -> None:
    """Over TLS that takes as long as the peer likes, or 30 s by default."""
    peer = Opened()
    peer.connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (peer.connection.is_gone, peer.room.count) == (True, 1)
    assert peer.socket.ends == ["close"]
    peer.clock.run_until(1.5)
    assert peer.socket.ends == ["close", "abort"]
    peer.connection.connection_lost(None)
    assert peer.room.count == 0
