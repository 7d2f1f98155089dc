"""HEP packets that the scenarios do not produce: IPv6, and unknown addresses."""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from typing import Any

import pytest

from engine.config import Address
from engine.telemetry.hep import Hep, packet
from sip.wire_message import Seen
from tests.patience import within

SIX, FOUR = ("2001:db8::1", 5060), ("192.0.2.7", 5062)
SEEN = Seen(1.0, "udp", FOUR, FOUR, b"X", b"")


def chunks(seen: Seen) -> dict[int, bytes]:
    made = packet(seen, 5, "n")
    found, place = {}, 6
    while place < len(made):
        size = int.from_bytes(made[place + 4 : place + 6], "big")
        found[int.from_bytes(made[place + 2 : place + 4], "big")] = made[place + 6 : place + size]
        place += size
    return found


def test_ipv6_has_its_own_chunks() -> None:
    seen = Seen(1700000000.25, "tls", SIX, ("2001:db8::2%eth0", 5061), b"X", b"id")
    found = chunks(seen)
    assert (found[1], found[2]) == (b"\x0a", b"\x06")
    assert found[5] == ipaddress.ip_address("2001:db8::1").packed
    assert found[6] == ipaddress.ip_address("2001:db8::2").packed
    assert (3 in found, 4 in found) == (False, False)
    assert int.from_bytes(found[9], "big") == 1700000000
    assert int.from_bytes(found[10], "big") == 250000


def test_a_socket_that_is_not_connected_yet_takes_the_family_of_its_peer() -> None:
    found = chunks(Seen(1.0, "tcp", ("0.0.0.0", 0), SIX, b"X", b""))
    assert found[5] == bytes(16)
    found = chunks(Seen(1.0, "tcp", ("0.0.0.0", 0), FOUR, b"X", b""))
    assert (found[3], found[4]) == (bytes(4), bytes((192, 0, 2, 7)))


def test_a_name_is_no_address() -> None:
    with pytest.raises(ValueError, match="gw"):
        packet(Seen(1.0, "udp", ("gw", 1), FOUR, b"X", b""), 5, "n")


def test_messages_are_sent_as_soon_as_there_is_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine may start before its network."""
    tried: list[object] = []

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(address)
            if len(tried) == 1:
                raise OSError(errno.ENETUNREACH, "Network is unreachable")
            super().connect(address)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(within(5))
        monkeypatch.setattr(socket, "socket", Socket)
        hep = Hep(Address("127.0.0.1", server.getsockname()[1]), 1, "renvoi-0")
        try:
            while not tried or hep.dropped == 0:
                hep.put(SEEN)
                time.sleep(0.01)
            hep.put(SEEN)
            assert server.recv(65_535).startswith(b"HEP3")
        finally:
            hep.close()
