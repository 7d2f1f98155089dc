"""Reports every SIP message on the wire to the tracer, including retransmissions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from sip.wire_message import Place, Seen

REMEMBERED = 200_000  # Call-IDs of outgoing legs, with their caller's
_CALL_ID = re.compile(rb"^(?:call-id|i)[ \t]*:[ \t]*([^\s]+)", re.IGNORECASE | re.MULTILINE)


class Tracing:
    """Calls `listener` with each message. `current` is the caller's Call-ID while an outgoing leg
    is made: the messages sent then, and all later ones with their Call-ID, belong to that call."""

    def __init__(self, listener: Callable[[Seen], None]) -> None:
        self.current = b""
        self._listener = listener
        self._callers: dict[bytes, bytes] = {}

    def received(self, way: Any, data: bytes) -> None:
        """Report a received message."""
        self._report(way.transport, _far(way), way.local, data)

    def sent(self, way: Any, data: bytes) -> None:
        """Report a sent message."""
        self._report(way.transport, way.local, _far(way), data)

    def _report(self, transport: str, source: Place, destination: Place, data: bytes) -> None:
        found = _CALL_ID.search(data)
        call_id = found[1] if found else b""
        if self.current and call_id not in self._callers:
            if len(self._callers) >= REMEMBERED:
                del self._callers[next(iter(self._callers))]
            self._callers[call_id] = self.current
        call = self._callers.get(call_id, call_id)
        self._listener(Seen(time.time(), transport, source, destination, data, call))


def _far(way: Any) -> Place:
    return way.host.decode("ascii"), way.port
