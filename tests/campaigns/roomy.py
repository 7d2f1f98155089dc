"""UDP sockets with large buffers for bursts: otherwise the kernel would drop packets."""

from __future__ import annotations

import socket
import struct

RECEIVE_BUFFER = 4 * 1024 * 1024
_SO_MEMINFO, _DROPS = 55, 8  # linux/sock_diag.h: SK_MEMINFO_DROPS is its ninth value


def open_udp(port: int = 0) -> socket.socket:
    """A socket on the loopback; port 0 takes a free one."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    opened.bind(("127.0.0.1", port))
    return opened


def dropped(opened: socket.socket) -> int:
    """How many packets the kernel dropped at this socket."""
    numbers = opened.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_DROPS + 1))
    return int(struct.unpack_from("=I", numbers, 4 * _DROPS)[0])
