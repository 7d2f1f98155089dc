"""What the sieve remembers, and addresses as C has them."""

from __future__ import annotations

import socket

import pytest

from sip.sieve import Recent, sockaddr


def test_addresses_as_c_has_them() -> None:
    four = sockaddr(("10.1.2.3", 5060))
    assert four[:8] == socket.AF_INET.to_bytes(2, "little") + b"\x13\xc4\x0a\x01\x02\x03"
    six = sockaddr(("2001:db8::1", 5060, 0, 4))
    assert six[2:4] == b"\x13\xc4"
    assert six[8:24] == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert (len(four), len(six), six[24]) == (28, 28, 4)


def test_what_was_met_is_known_for_half_a_minute_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("sip.sieve.time.monotonic", lambda: now)
    recent: Recent[int] = Recent()
    recent.put((b"via", b"id", b"1 INVITE"), 3)
    now += 32
    recent.put((b"other", b"id", b"1 INVITE"), 4)
    assert recent.get((b"via", b"id", b"1 INVITE")) == 3
    for _ in range(2):
        now += 40
        recent.put((b"next", b"id", b"1 INVITE"), 5)
    assert recent.get((b"via", b"id", b"1 INVITE")) is None
