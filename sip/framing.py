"""Whole SIP messages out of a stream of bytes (RFC 3261 18.3). Pure."""

from __future__ import annotations

import re

from sip.ambiguity import Fault, content_length, fault_of, number_of, with_length

SKIPPED_MAX = 1 << 20  # bytes of a too large message that are skipped to find the next one
PING, PONG = b"\r\n\r\n", b"\r\n"  # keep-alive and its answer (RFC 5626 3.5.1)

_NAMES = re.compile(rb"\r\n(?:content-length|l)[ \t\r\n]*:", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:[ \t]*(\d+)[ \t]*\r\n(?![ \t])", re.I)
# A bare CR or LF beside another line end, or before a length. A parser for which it ends a line
# finds another end of the head, or another length.
_BARE = rb"(?:\r(?!\n)|(?<!\r)\n)"
_OTHERWISE = re.compile(
    rb"[\r\n]%b|%b(?:[\r\n]|(?:content-length|l)[ \t\r\n]*:)" % (_BARE, _BARE), re.IGNORECASE
)
_START = re.compile(rb"SIP/2\.0[ \t]+\d{3}|[!-~]+[ \t]+\S.*[ \t]SIP/\d", re.IGNORECASE)


class FramingError(ValueError):
    """The stream is not SIP, or its next message cannot be found: the connection is unusable.

    `head` is that of a message which may still be answered, `fault` what is wrong with it.
    """

    def __init__(self, text: str, head: bytes = b"", fault: Fault | None = None) -> None:
        super().__init__(text)
        self.head, self.fault = head, fault


class Frames:
    """The messages of one connection, of at most `most` bytes and heads of `head_most`.

    `pings` counts keep-alives to be answered with PONG; `oversize` holds the heads of messages too
    large to be taken; `error` is why no more messages can be found; None while they can.
    """

    __slots__ = (
        "_buffer", "_head_most", "_most", "_need", "_searched", "_skip",
        "error", "oversize", "pings",
    )  # fmt: skip

    def __init__(self, most: int, head_most: int) -> None:
        self._buffer = bytearray()
        self._most, self._head_most = most, head_most
        self._skip = 0
        self._need = 0  # bytes of the first message, when its head is there
        self._searched = 0  # bytes in which no end of a head is
        self.pings = 0
        self.oversize: list[bytes] = []
        self.error: FramingError | None = None

    @property
    def is_between(self) -> bool:
        """Whether no message has begun. A line end alone is none, but may be half a keep-alive."""
        is_ping = len(self._buffer) < len(PING) and PING.startswith(self._buffer)
        return is_ping and not self._skip

    @property
    def rest(self) -> bytes | None:
        """What has come of the next message; None if the stream cannot be continued elsewhere."""
        return bytes(self._buffer) if not self._skip and self.error is None else None

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes and return the messages that are complete now."""
        buffer = self._buffer
        buffer += data
        messages = []
        while buffer and self.error is None:
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
                try:
                    message = self._next()
                except FramingError as error:
                    self.error = error
                    break
                if message is None:
                    break
                if message:
                    messages.append(message)
        return messages

    def _next(self) -> bytes | None:
        """The first message of the buffer; None if it is incomplete, empty if it is too large."""
        buffer = self._buffer
        most = self._head_most
        if len(buffer) < self._need:
            return None
        end = buffer.find(b"\r\n\r\n", self._searched, most)
        if end < 0:
            if len(buffer) > most:
                head = bytes(buffer[: buffer.rfind(b"\r\n", 0, most) + 2])
                text = f"no end of a message head in {most} bytes"
                raise FramingError(text, head, Fault(b"Head Too Long"))
            self._searched = max(0, len(buffer) - 3)
            return None
        head = bytes(buffer[: end + 4])
        if not _START.match(head):
            raise FramingError(f"no SIP: {head[:80]!r}")
        length, plain = _length_of(head)
        if plain is not head:
            buffer[: end + 4] = head = plain
        size = len(head) + length
        if size > self._most:
            if size > SKIPPED_MAX:
                fault = Fault(b"Content-Length Too Large")
                raise FramingError(f"a message of {size} bytes", head, fault)
            self.oversize.append(head)
            self._skip = size
            self._need = self._searched = 0
            return b""
        if len(buffer) < size:
            self._need, self._searched = size, 0
            return None
        message = bytes(buffer[:size])
        del buffer[:size]
        self._need = self._searched = 0
        return message


def _length_of(head: bytes) -> tuple[int, bytes]:
    """The Content-Length, 0 without one, and the head with the field on one line. Raises
    FramingError if it is invalid or ambiguous (RFC 3261 18.3)."""
    if _may_end_elsewhere(head):
        raise FramingError("line ends that are read in two ways", head, fault_of(head))
    named = len(_NAMES.findall(head))
    if named == 0:
        return 0, head
    found = _LENGTH.search(head)
    if named == 1 and found is not None:
        return number_of(found[1]), head
    length = content_length(head)
    if isinstance(length, int):
        return length, with_length(head, length)
    raise FramingError(length.phrase.decode(), head, length)


def _may_end_elsewhere(head: bytes) -> bool:
    """Whether other parsers may find the end of this message at another place. The message would be
    refused anyway, but what they count as its body would be read as the next one."""
    whole = head.count(b"\r\n")
    if head.count(b"\r") == whole == head.count(b"\n"):
        return False
    return _OTHERWISE.search(head) is not None
