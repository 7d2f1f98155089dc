"""The functions of native.pxd in Python, for the uncompiled core and for type checkers.

A source is opaque to the core: `receive` returns it, and `transmit` sends to it. Here it is the
socket's own address tuple, in C the bytes of a sockaddr; `udp.py` reads both.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

LARGEST = 65535  # bytes of a datagram
Source = Any


def cut(data: bytes, start: int, end: int) -> bytes:
    """A slice whose ends must be inside; in C 18 ns instead of the 61 of a slice object."""
    if start < 0 or start > end or end > len(data):
        raise IndexError("slice outside the message")
    return data[start:end]


def seek(data: bytes, c: int, start: int, end: int) -> int:
    """The next position of the byte `c` before `end`, or `end`; in C 5 ns where bytes.find takes
    100. `end` is that of what is read: a search beyond it for each line would be quadratic."""
    if start < 0 or start > end or end > len(data):
        raise IndexError("outside the message")
    at = data.find(c, start, end)
    return end if at < 0 else at


def room(numbers: int) -> bytearray:
    """A table of so many 32-bit numbers, all 0: one small object, read and written in place."""
    return bytearray(4 * numbers)


def widen(table: bytearray, numbers: int) -> int:
    """Room for so many numbers in a table."""
    table.extend(bytes(max(0, 4 * numbers - len(table))))
    return 0


def at(table: bytearray, place: int) -> int:
    """The number in that place."""
    if not 0 <= place < len(table) // 4:
        raise IndexError("outside the table")
    return int.from_bytes(table[4 * place : 4 * place + 4], "little", signed=True)


def note(table: bytearray, place: int, number: int) -> int:
    """Put a number in that place."""
    if not 0 <= place < len(table) // 4:
        raise IndexError("outside the table")
    table[4 * place : 4 * place + 4] = number.to_bytes(4, "little", signed=True)
    return 0


def receive(udp: socket.socket, fd: int) -> tuple[bytes, Source] | None:
    """A datagram and its source, None if nothing waits. Errors caused by an earlier datagram (ICMP)
    are ignored."""
    while True:
        try:
            return udp.recvfrom(LARGEST)
        except BlockingIOError:
            return None
        except OSError:
            continue


def transmit(udp: socket.socket, fd: int, data: bytes, source: Source) -> bool:
    """Send a datagram; False if the kernel does not accept it."""
    try:
        udp.sendto(data, source)
    except OSError as error:
        # With a full buffer the datagram is lost like any other, and is retransmitted.
        return error.errno in (errno.EAGAIN, errno.ENOBUFS)
    return True
