"""Decision latency as the loopback interface saw it: INVITE in to INVITE out.

A packet socket with a filter in the kernel sees only INVITEs and 486es, with kernel timestamps. The
caller's number identifies a call: it is new in each call, and a proxy and a B2BUA both pass it on.
The server under test is not involved.
"""

from __future__ import annotations

import ctypes
import re
import socket
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.processes import BenchmarkError

_ETH_P_IP = 0x0800
_SO_ATTACH_FILTER = 26
_SO_TIMESTAMPNS = 35
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23  # otherwise loopback delivers each packet twice
_BUFFER_BYTES = 64 * 1024 * 1024
_SNAP_BYTES = 1400
_INVITE, _SIP, _486 = 0x494E5649, 0x5349502F, 0x34383620  # "INVI", "SIP/", "486 "
_FROM = re.compile(rb"\r\n(?:From|f)\s*:[^\r]*?sips?:\+?(\d+)@", re.IGNORECASE)

# Classic BPF on the IPv4 packet (SOCK_DGRAM: no link header). X = length of the IP header.
_LOAD_BYTE, _LOAD_X, _IND_HALF, _IND_WORD = 0x30, 0xB1, 0x48, 0x40
_JUMP_EQ, _JUMP_GE, _JUMP_GT, _RETURN = 0x15, 0x35, 0x25, 0x06


def _filter(ports: range) -> bytes:
    """UDP from or to one of `ports` whose payload is an INVITE or a 486."""
    first, last = ports[0], ports[-1]
    program = [
        (_LOAD_BYTE, 0, 0, 9),  # protocol
        (_JUMP_EQ, 0, 13, socket.IPPROTO_UDP),
        (_LOAD_X, 0, 0, 0),
        (_IND_HALF, 0, 0, 0),  # from
        (_JUMP_GE, 0, 1, first),
        (_JUMP_GT, 0, 3, last),
        (_IND_HALF, 0, 0, 2),  # to
        (_JUMP_GE, 0, 7, first),
        (_JUMP_GT, 6, 0, last),
        (_IND_WORD, 0, 0, 8),  # the first four bytes of the payload
        (_JUMP_EQ, 3, 0, _INVITE),
        (_JUMP_EQ, 0, 3, _SIP),
        (_IND_WORD, 0, 0, 16),  # SIP/2.0 486
        (_JUMP_EQ, 0, 1, _486),
        (_RETURN, 0, 0, _SNAP_BYTES),
        (_RETURN, 0, 0, 0),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


@dataclass
class Seen:
    """Times of one call in ns: its INVITE, what the server sent for it, the phone's 486."""

    invited: int = 0
    dialled: list[int] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)  # where to
    busy: int = 0


class Wire(threading.Thread):
    """Context manager that captures the loopback traffic of the server on `port` (and on the
    following ones, `several` in all).

    Raises BenchmarkError without the right to (root or CAP_NET_RAW)."""

    def __init__(self, port: int, several: int = 1) -> None:
        super().__init__(name="wire", daemon=True)
        self._ports = range(port, port + several)
        self._over = False
        self.calls: dict[bytes, Seen] = {}
        try:
            # Protocol 0 receives nothing until the filter is set and the socket is bound.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        except PermissionError as error:
            raise BenchmarkError("the wire: needs root (CAP_NET_RAW)") from error
        program = _filter(self._ports)
        self._program = ctypes.create_string_buffer(program, len(program))
        attached = struct.pack("HL", len(program) // 8, ctypes.addressof(self._program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        force = getattr(socket, "SO_RCVBUFFORCE", 33)
        self._socket.setsockopt(socket.SOL_SOCKET, force, _BUFFER_BYTES)
        self._socket.bind(("lo", _ETH_P_IP))
        self._socket.settimeout(0.2)

    def __enter__(self) -> Wire:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self.join()
        self._socket.close()

    def run(self) -> None:
        """Store each packet's time by its caller, including packets that are queued at the end."""
        while True:
            try:
                packet, ancillary, _, _ = self._socket.recvmsg(_SNAP_BYTES, 64)
            except TimeoutError:
                if self._over:
                    return
                continue
            seconds, nanoseconds = struct.unpack("ll", ancillary[0][2][:16])
            self._note(packet, seconds * 1_000_000_000 + nanoseconds)

    def _note(self, packet: bytes, at_ns: int) -> None:
        udp = (packet[0] & 0x0F) * 4
        from_server = int.from_bytes(packet[udp : udp + 2], "big") in self._ports
        is_invite = packet[udp + 8 : udp + 12] == b"INVI"
        caller = _FROM.search(packet, udp + 8)
        if caller is None:
            return
        seen = self.calls.setdefault(caller[1], Seen())
        if is_invite and from_server:
            seen.dialled.append(at_ns)
            seen.ports.append(int.from_bytes(packet[udp + 2 : udp + 4], "big"))
        elif is_invite:
            seen.invited = seen.invited or at_ns  # a repeated INVITE does not restart the wait
        elif not from_server:
            seen.busy = seen.busy or at_ns

    def decisions_ms(self) -> list[float]:
        """INVITE in to first INVITE out of each call, sorted; only calls whose packets were all
        captured."""
        return _milliseconds(
            (call.invited, call.dialled[0]) for call in self.calls.values() if call.dialled
        )

    def forwards_ms(self) -> list[float]:
        """A phone's 486 in to the INVITE of the forward out, sorted."""
        return _milliseconds(
            (call.busy, call.dialled[1]) for call in self.calls.values() if len(call.dialled) > 1
        )


def _milliseconds(pairs: Iterable[tuple[int, int]]) -> list[float]:
    return sorted((end - start) / 1e6 for start, end in pairs if start and end > start)
