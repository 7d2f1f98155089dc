"""How long a datagram has waited in its socket, as the kernel tells."""

from __future__ import annotations

import socket
import time

from sip import backlog


def test_the_age_of_the_oldest_datagram_is_told_without_reading_it() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        backlog.stamp(receiver)
        assert backlog.oldest_s(receiver) == 0.0
        wait_for_the_kernel(receiver, sender)
        sender.sendto(b"first", receiver.getsockname())
        time.sleep(0.2)
        sender.sendto(b"second", receiver.getsockname())
        assert 0.15 < backlog.oldest_s(receiver) < 5
        assert receiver.recv(100) == b"first"
        assert backlog.oldest_s(receiver) < 0.15
        assert receiver.recv(100) == b"second"
        assert backlog.oldest_s(receiver) == 0.0


def wait_for_the_kernel(receiver: socket.socket, sender: socket.socket) -> None:
    """The kernel begins to stamp a moment after the first socket of the machine asks for it; until
    then a datagram counts as come when it is looked at."""
    deadline = time.monotonic() + 5
    noted = False
    while not noted:
        assert time.monotonic() < deadline
        sender.sendto(b"probe", receiver.getsockname())
        time.sleep(0.02)
        noted = backlog.oldest_s(receiver) >= 0.02
        assert receiver.recv(100) == b"probe"


def test_an_unstamped_datagram_counts_as_just_come() -> None:
    assert backlog.age_s([]) == 0.0
    assert backlog.age_s([(socket.SOL_SOCKET, backlog.SO_TIMESTAMPNS, b"short")]) == 0.0
