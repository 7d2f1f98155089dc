"""Requests that wait for calls of a dead host; which addresses belong to this machine."""

from __future__ import annotations

from typing import Any

import pytest

from engine.held_requests import HOLD_S, MOST_BYTES, HeldRequests, is_here

HERE = ["127.0.0.1:5060;transport=udp"]


class Now:
    def __init__(self) -> None:
        self.s = 0.0
        self.received: list[bytes] = []
        self.held = HeldRequests(self.receive, lambda: self.s)

    def receive(self, data: bytes, way: Any) -> None:
        assert not self.hold(data)  # it is not held again
        self.received.append(data)

    def hold(self, data: bytes, places: list[str] = HERE) -> bool:
        message: Any = type("Message", (), {"data": data})
        return self.held.hold(message, None, places)


def test_they_are_handled_in_order_when_the_calls_are_here() -> None:
    now = Now()
    assert now.hold(b"one")
    now.s += 1
    assert now.hold(b"two")
    now.held.release(overdue=True)
    assert now.received == []
    now.held.release()
    assert now.received == [b"one", b"two"]
    now.held.release()
    assert now.received == [b"one", b"two"]


def test_one_that_waited_too_long_is_handled() -> None:
    now = Now()
    now.hold(b"one")
    now.s += HOLD_S - 0.1
    now.hold(b"two")
    now.s += 0.1
    now.held.release(overdue=True)
    assert now.received == [b"one"]


def test_what_is_held_is_bounded() -> None:
    now = Now()
    large = bytes(60_000)
    held = [now.hold(large) for _ in range(100)]
    assert sum(held) == MOST_BYTES // len(large) + 1
    now.held.release()
    assert now.hold(large)


def test_nothing_is_held_for_an_address_elsewhere() -> None:
    now = Now()
    assert not now.hold(b"one", ["192.0.2.1:5060;transport=udp"])
    assert now.hold(b"one", ["192.0.2.1:5060;transport=udp", *HERE])


@pytest.mark.parametrize(
    ("place", "here"),
    [
        ("127.0.0.1:5060;transport=udp", True),
        ("127.8.9.10:5060;transport=tcp", True),
        ("[::1]:5061;transport=tls", True),
        ("192.0.2.1:5060;transport=udp", False),
        ("[2001:db8::1]:5060;transport=udp", False),
        ("sip.example.net:5060;transport=udp", False),
    ],
)
def test_is_here(place: str, here: bool) -> None:
    assert is_here(place) is here
