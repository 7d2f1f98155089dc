"""Whole SIP messages out of a stream of bytes (RFC 3261 18.3). Pure."""

from __future__ import annotations

import re

from sip.message import Message

# What PJSIP takes: a packet of 4,000 bytes, the last for its own end mark.
MESSAGE_MAX = 3999
HEAD_MAX = 8192  # beyond this no end of the head is looked for
SKIPPED_MAX = 1 << 20  # bytes of a message too large that are read past to find the next one
PING, PONG = b"\r\n\r\n", b"\r\n"  # keep-alive and its answer (RFC 5626 3.5.1)

_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_COPIED = (b"via", b"from", b"to", b"call-id", b"cseq")


class FramingError(ValueError):
    """The stream is no SIP, or its next message cannot be found: the connection is of no use."""


class Frames:
    """The messages of one connection. `pings` counts keep-alives to be answered with PONG;
    `oversize` holds the heads of messages too large to be taken."""

    __slots__ = ("_buffer", "_skip", "oversize", "pings")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0
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
        end = buffer.find(b"\r\n\r\n", 0, HEAD_MAX)
        if end < 0:
            if len(buffer) > HEAD_MAX:
                raise FramingError(f"no end of a message head in {HEAD_MAX} bytes")
            return None
        head = bytes(buffer[: end + 4])
        found = _LENGTH.search(head, 0, end + 2)
        size = end + 4 + (int(found[1][:12]) if found else 0)
        if size > MESSAGE_MAX:
            if size > SKIPPED_MAX:
                raise FramingError(f"a message of {size} bytes")
            self.oversize.append(head)
            self._skip = size
            return b""
        if len(buffer) < size:
            return None
        message = bytes(buffer[:size])
        del buffer[:size]
        return message


def without_body(head: bytes) -> bytes:
    """The head of a message too large, as a whole message; empty if that is too large as well."""
    found = _LENGTH.search(head)
    if found is None or len(head) > MESSAGE_MAX:
        return b""
    return head[: found.start(1)] + b"0" + head[found.end(1) :]


def too_large(head: bytes) -> bytes:
    """The 513 for a request that cannot be taken; empty for what is none (RFC 3261 21.5.14)."""
    message = Message(head)
    if message.start_line.startswith(b"SIP/2.0") or message.method == b"ACK":
        return b""
    lines = [b"SIP/2.0 513 Message Too Large"]
    lines += [line for name, line, _ in message.fields if name in _COPIED]
    return b"\r\n".join([*lines, b"Content-Length: 0", b"", b""])
