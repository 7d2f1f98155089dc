"""A SIP message as it crossed the wire."""

from __future__ import annotations

from typing import NamedTuple

Place = tuple[str, int]


class Seen(NamedTuple):
    """A message on the wire: unix seconds, "udp", "tcp" or "tls", from where to where, its bytes,
    and the Call-ID of the caller's leg of the call it belongs to."""

    at: float
    transport: str
    source: Place
    destination: Place
    message: bytes
    call: bytes
