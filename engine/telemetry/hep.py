"""SIP messages to a capture server (Homer) in HEP version 3, by UDP.

The loop only puts a message into a bounded buffer; a thread makes the packets and sends them.
Format: "HEP/EEP Encapsulation Protocol, Revision 36", chunks of the generic vendor 0.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections import deque

from engine.config import Address
from sip.wire_message import Seen

BUFFER = 20_000  # messages
SEND_INTERVAL_S = 0.05
SIP = 1  # protocol type
IP_PROTOCOLS = {"udp": 17, "tcp": 6, "tls": 6}
FAMILY, PROTOCOL, SOURCE_4, DESTINATION_4, SOURCE_6, DESTINATION_6 = range(1, 7)
SOURCE_PORT, DESTINATION_PORT, SECONDS, MICROSECONDS, TYPE, AGENT = range(7, 13)
PAYLOAD, CORRELATION, NODE = 15, 17, 19
MESSAGE_BYTES = 65_000  # of a message: the lengths have 16 bits, and so has UDP's


def packet(seen: Seen, agent: int, node: str) -> bytes:
    """One message as a HEP packet. `agent` is the capture agent's number, `node` its name."""
    source, destination = _address(seen.source[0]), _address(seen.destination[0])
    v6 = source.version == 6 or destination.version == 6
    if v6:  # an unknown one (a socket not yet connected) takes the other's family
        source, destination = (
            x if x.version == 6 else ipaddress.IPv6Address("::") for x in (source, destination)
        )
    seconds = int(seen.at)
    chunks = [
        (FAMILY, bytes((socket.AF_INET6 if v6 else socket.AF_INET,))),
        (PROTOCOL, bytes((IP_PROTOCOLS[seen.transport],))),
        (SOURCE_6 if v6 else SOURCE_4, source.packed),
        (DESTINATION_6 if v6 else DESTINATION_4, destination.packed),
        (SOURCE_PORT, struct.pack("!H", seen.source[1])),
        (DESTINATION_PORT, struct.pack("!H", seen.destination[1])),
        (SECONDS, struct.pack("!I", seconds)),
        (MICROSECONDS, struct.pack("!I", int((seen.at - seconds) * 1e6))),
        (TYPE, bytes((SIP,))),
        (AGENT, struct.pack("!I", agent)),
        (CORRELATION, seen.call),
        (NODE, node.encode()),
        (PAYLOAD, seen.message[:MESSAGE_BYTES]),
    ]
    body = b"".join(struct.pack("!HHH", 0, kind, len(data) + 6) + data for kind, data in chunks)
    return b"HEP3" + struct.pack("!H", len(body) + 6) + body


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(host.partition("%")[0])


class Hep:
    """The sender. `dropped` counts lost messages: the buffer was full, or the kernel accepted no
    more."""

    def __init__(self, server: Address, agent: int, node: str) -> None:
        self.dropped = 0
        self._agent = agent
        self._node = node
        self._seen: deque[Seen] = deque()
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._server = server.host, server.port
        self._is_connected = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hep-sender", daemon=True)
        self._thread.start()

    def put(self, seen: Seen) -> None:
        """Add a message. Never waits."""
        if len(self._seen) >= BUFFER:
            self.dropped += 1
        else:
            self._seen.append(seen)

    def close(self) -> None:
        """Sends the rest and ends the thread."""
        self._closing.set()
        self._thread.join(2)
        self._socket.close()

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(SEND_INTERVAL_S)
            while self._seen:
                seen = self._seen.popleft()
                try:
                    if not self._is_connected:  # there may be no route yet, as at a machine's start
                        self._socket.connect(self._server)
                        self._is_connected = True
                    self._socket.send(packet(seen, self._agent, self._node))
                except (OSError, ValueError, struct.error):  # ValueError: no IP address
                    self.dropped += 1
