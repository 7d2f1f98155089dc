"""How long a datagram has waited in its socket, by the kernel's timestamps."""

from __future__ import annotations

import socket
import time

from sip import backlog
from tests.patience import within


def test_the_age_of_the_oldest_datagram_is_known_without_reading_it() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        backlog.stamp(receiver)
        assert backlog.oldest_s(receiver) == 0.0
        wait_for_the_kernel(receiver, sender)
        first = time.monotonic()
        sender.sendto(b"first", receiver.getsockname())
        time.sleep(0.2)
        second = time.monotonic()
        sender.sendto(b"second", receiver.getsockname())
        assert 0.15 < backlog.oldest_s(receiver) < time.monotonic() - first + 0.05
        assert receiver.recv(100) == b"first"
        assert backlog.oldest_s(receiver) < time.monotonic() - second + 0.05
        assert receiver.recv(100) == b"second"
        assert backlog.oldest_s(receiver) == 0.0


def wait_for_the_kernel(receiver: socket.socket, sender: socket.socket) -> None:
    """The kernel starts timestamps shortly after the first socket requests them; until then a
    datagram has the time at which it is examined."""
    deadline = time.monotonic() + within(1)
    noted = False
    while not noted:
        assert time.monotonic() < deadline
        sender.sendto(b"probe", receiver.getsockname())
        time.sleep(0.02)
        noted = backlog.oldest_s(receiver) >= 0.02
        assert receiver.recv(100) == b"probe"


def test_a_datagram_without_timestamp_counts_as_new() -> None:
    assert backlog.age_s([]) == 0.0
    assert backlog.age_s([(socket.SOL_SOCKET, backlog.SO_TIMESTAMPNS, b"short")]) == 0.0
