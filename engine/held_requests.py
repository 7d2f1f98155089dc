"""Requests of dialogs that this process does not know yet, while it waits for the calls of a dead
host: its address may be here some seconds before its calls."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from sip.message import Message

HOLD_S = 4.0
MOST_BYTES = 4_000_000


class HeldRequests:
    """`receive` handles a message as if it arrived now."""

    def __init__(self, receive: Callable[[bytes, Any], None], clock: Callable[[], float]) -> None:
        self._receive = receive
        self._clock = clock
        self._held: list[tuple[float, bytes, Any]] = []  # until when
        self._bytes = 0
        self._is_releasing = False

    def hold(self, message: Message, way: Any, places: list[str]) -> bool:
        """Hold a request, if the calls of one of these places may come here."""
        if self._is_releasing or self._bytes > MOST_BYTES or not any(map(is_here, places)):
            return False
        self._held.append((self._clock() + HOLD_S, message.data, way))
        self._bytes += len(message.data)
        return True

    def release(self, *, overdue: bool = False) -> None:
        """Handle them now: all, or those that have waited too long."""
        now, held = self._clock(), self._held
        self._held = [item for item in held if overdue and item[0] > now]
        self._bytes = sum(len(item[1]) for item in self._held)
        self._is_releasing = True
        try:
            for item in held:
                if not (overdue and item[0] > now):
                    self._receive(item[1], item[2])
        finally:
            self._is_releasing = False


def is_here(place: str) -> bool:
    """Whether the address of a place, as "192.0.2.1:5060;transport=udp", is one of this machine
    now: then the system sends to it from that address. A name is not."""
    host = place.partition(";")[0].rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
        if address.is_loopback:
            return True
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return ipaddress.ip_address(probe.getsockname()[0]) == address
    except (OSError, ValueError):
        return False
