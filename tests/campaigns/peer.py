"""A SIP peer on a plain socket: sends the given messages, waits for the expected ones."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from tests.campaigns.packet import Address, Packet
from tests.patience import within
from tests.scenarios.message import Message, parse

WAIT_S = within(2.0)


class Peer:
    """One UDP socket on the loopback."""

    def __init__(self, engine: Address, port: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self.engine = engine
        self.own: Address = self._socket.getsockname()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def uri(self, user: str = "phone") -> str:
        """A URI that reaches this socket."""
        return f"sip:{user}@{self.own[0]}:{self.own[1]}"

    def send(self, message: Packet | bytes) -> None:
        """Send to the engine."""
        raw = message.render() if isinstance(message, Packet) else message
        self._socket.sendto(raw, self.engine)

    def receive(
        self, wanted: str | int, wait_s: float = WAIT_S, also: Callable[[Message], bool] = bool
    ) -> Message | None:
        """The next request of that method (str) or response of that code (int; 0 = any final one
        to an INVITE). Other messages are skipped; None when nothing comes in time."""
        deadline = time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                raw = self._socket.recv(65536)
            except TimeoutError:
                return None
            message = parse(raw)
            if isinstance(wanted, str):
                matches = not message.code and message.method == wanted
            elif wanted:
                matches = message.code == wanted
            else:
                matches = message.code >= 200 and message.method == "INVITE"
            if matches and also(message):
                return message
        return None
