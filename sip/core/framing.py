"""Whole SIP messages out of a stream of bytes (RFC 3261 18.3). Pure."""

from __future__ import annotations

import re

HEAD_MAX = 65_536  # beyond this no end of the head is looked for
SKIPPED_MAX = 4 << 20  # bytes of a message too large that are read past to find the next one
PING, PONG = b"\r\n\r\n", b"\r\n"  # keep-alive and its answer (RFC 5626 3.5.1)

_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)


class FramingError(ValueError):
    """The stream is no SIP, or its next message cannot be found: the connection is of no use."""


class Frames:
    """The messages of one connection, of at most `most` bytes each. `pings` counts keep-alives to
    be answered with PONG; `oversize` holds the heads of messages too large to be taken, as messages
    without body."""

    __slots__ = ("_buffer", "_looked", "_most", "_skip", "oversize", "pings")

    def __init__(self, most: int) -> None:
        self._buffer = bytearray()
        self._most = most
        self._skip = 0
        self._looked = 0  # bytes of the buffer that hold no end of a head
        self.pings = 0
        self.oversize: list[bytes] = []

    @property
    def is_between(self) -> bool:
        """Whether no message has begun."""
        return not self._buffer and not self._skip

    def feed(self, data: bytes) -> list[bytes]:
        """Take what was received; the messages that are whole now. Raises FramingError."""
        buffer = self._buffer
        buffer += data
        messages = []
        while buffer:
            if self._skip:
                passed = min(self._skip, len(buffer))
                del buffer[:passed]
                self._skip -= passed
            elif buffer[0] in b"\r\n":
                if len(buffer) < len(PING) and PING.startswith(buffer):
                    break
                self.pings += buffer.startswith(PING)
                del buffer[: len(PING) if buffer.startswith(PING) else 1]
            else:
                message = self._next()
                if message is None:
                    break
                if message:
                    messages.append(message)
        return messages

    def _next(self) -> bytes | None:
        """The first message of the buffer; None if it is not whole, empty if it is too large."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(0, self._looked - 3), HEAD_MAX)
        if end < 0:
            if len(buffer) > HEAD_MAX:
                raise FramingError(f"no end of a message head in {HEAD_MAX} bytes")
            self._looked = len(buffer)
            return None
        found = _LENGTH.search(buffer, 0, end + 2)
        size = end + 4 + (int(found[1][:12]) if found else 0)
        if size > self._most:
            if size > SKIPPED_MAX:
                raise FramingError(f"a message of {size} bytes")
            self._looked = 0
            head = bytes(buffer[: end + 4])
            if found is not None:
                head = head[: found.start(1)] + b"0" + head[found.end(1) :]
            self.oversize.append(head)
            self._skip = size
            return b""
        if len(buffer) < size:
            self._looked = end
            return None
        self._looked = 0
        message = bytes(buffer[:size])
        del buffer[:size]
        return message
