"""How long datagrams wait in a socket before they are read, by the kernel's timestamps."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

SO_TIMESTAMPNS = 35  # socket(7), SO_TIMESTAMP(7); Python has no name for it
_TIMESPEC = struct.Struct("qq")
_LOOK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_ROOM = socket.CMSG_SPACE(_TIMESPEC.size)


def stamp(udp: socket.socket) -> None:
    """Make the kernel timestamp each datagram from now on."""
    with contextlib.suppress(OSError):
        udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


def oldest_s(udp: socket.socket) -> float:
    """Seconds that the next datagram has waited; 0 without one. Does not read it."""
    try:
        _, ancillary, _, _ = udp.recvmsg(1, _ROOM, _LOOK)
    except OSError:
        return 0.0
    return age_s(ancillary)


def age_s(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Seconds since a datagram arrived, from the ancillary data of recvmsg."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            came: float = seconds + nanoseconds / 1e9
            return max(0.0, time.time() - came)
    return 0.0
