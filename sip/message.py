"""A received SIP message as bytes, read only as far as somebody asks.

PJSIP parses every message too, for its transactions and dialogs. What crosses the engine is taken
from the bytes instead: one copy out of C replaces a call into C for every header, and whatever
PJSIP has never heard of passes unchanged.
"""

from __future__ import annotations

import re
from typing import Any

# RFC 3261 7.3.3 and the registry of compact forms.
COMPACT = {
    b"a": b"accept-contact", b"b": b"referred-by", b"c": b"content-type",
    b"d": b"request-disposition", b"e": b"content-encoding", b"f": b"from", b"i": b"call-id",
    b"j": b"reject-contact", b"k": b"supported", b"l": b"content-length", b"m": b"contact",
    b"n": b"identity-info", b"o": b"event", b"r": b"refer-to", b"s": b"subject", b"t": b"to",
    b"u": b"allow-events", b"v": b"via", b"x": b"session-expires", b"y": b"identity",
}  # fmt: skip
# Names as they were received, by their full lower-case form: the same few come again and again.
_names: dict[bytes, bytes] = {}
_NAMES_KEPT = 4096
LONGEST = 3999  # bytes of a datagram that PJSIP reads
_LINE_END = re.compile(rb"\r\n|\n|\r")
Identity = tuple[bytes | None, ...]
_HEAD_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")


class Message:
    """One received request or response.

    `fields` holds the header fields in order as (lower-case full name, field as received, value);
    obsolete folding (RFC 3261 7.3.1) is unfolded.
    """

    __slots__ = (
        "_body",
        "_cut",
        "_fields",
        "_first",
        "_head",
        "_identity",
        "_lines",
        "lost",
        "start_line",
        "untrusted",
        "wish",
    )

    def __init__(self, raw: bytes, *, plain: bool = False) -> None:
        """`plain` says that every line of the head ends with CR LF, and that none is folded."""
        head, end, body = raw.partition(b"\r\n\r\n")
        lines = None if plain else head.splitlines()
        self.lost = False  # its end, on the way, and it is known
        if lines is not None and (not end or b"\r\n".join(lines) != head):
            # A bare CR or LF ends a line for PJSIP as well: one may not hide a header in a value.
            parts = _HEAD_END.split(raw, maxsplit=1)
            head = _LINE_END.sub(b"\r\n", parts[0])
            lines = head.split(b"\r\n")
            body = parts[1] if len(parts) == 2 else b""
            if len(parts) == 1 and len(raw) >= LONGEST:
                self.lost = True
        self.start_line, _, self._head = head.partition(b"\r\n")
        self._body = body
        self._cut = False  # the body ends where Content-Length says
        self.untrusted = False  # it came from outside the trust domain (RFC 3325)
        self.wish: Any = None  # what its sender wants kept private (privacy.py), once asked for
        # The start line and those of the header fields, still folded; None: none is.
        self._lines = lines
        self._fields: list[tuple[bytes, bytes, bytes]] | None = None
        self._first: dict[bytes, bytes] | None = None  # values by name
        self._identity: Identity | None = None

    @property
    def fields(self) -> list[tuple[bytes, bytes, bytes]]:
        if self._fields is None:
            self._fields = _split(self._head, self._lines)
        return self._fields

    def values(self, name: bytes) -> list[bytes]:
        """Every value of the header `name` (lower case), in order."""
        if self.first(name) is None:
            return []
        return [value for known, _, value in self.fields if known == name]

    def first(self, name: bytes) -> bytes | None:
        """The first value of the header `name` (lower case), or None."""
        found = self._first
        if found is None:
            found = self.names
        return found.get(name)

    def has_any(self, names: frozenset[bytes]) -> bool:
        """Whether it has a header field of one of these names (in lower case, full length)."""
        return not names.isdisjoint(self.names)

    @property
    def names(self) -> dict[bytes, bytes]:
        """The full lower-case names of its header fields, each with its first value."""
        found = self._first
        if found is None:
            found = self._first = {name: value for name, _, value in reversed(self.fields)}
        return found

    @property
    def identity(self) -> Identity:
        """What an INVITE and its repetitions have in common, and no other INVITE has."""
        if self._identity is None:
            first = self.first
            self._identity = first(b"via"), first(b"call-id"), first(b"cseq")
        return self._identity

    @property
    def head(self) -> bytes:
        """The header fields as text."""
        return self._head

    @property
    def head_size(self) -> int:
        """Bytes of the start line and the header fields."""
        return len(self.start_line) + len(self._head)

    @property
    def method(self) -> bytes:
        return self.start_line.partition(b" ")[0]

    @property
    def target(self) -> bytes:
        """The Request-URI."""
        return self.start_line.split(b" ")[1] if self.start_line.count(b" ") >= 2 else b""

    @property
    def phrase(self) -> bytes:
        """The reason phrase of a response."""
        return self.start_line.partition(b" ")[2].partition(b" ")[2]

    @property
    def body(self) -> bytes:
        """The body, by Content-Length where there is one (RFC 3261 18.3)."""
        if self._body and not self._cut:
            self._cut = True
            self._body = self._body[: self.declared_length]
        return self._body

    @property
    def declared_length(self) -> int | None:
        value = self.first(b"content-length")
        return int(value) if value is not None and value.isdigit() else None

    @property
    def truncated(self) -> bool:
        """Whether fewer bytes came than Content-Length promised: a datagram of more than 4,000."""
        length = self.declared_length
        return self.lost or (length is not None and length > len(self._body))

    @property
    def content_type(self) -> bytes:
        return self.first(b"content-type") or b""

    @property
    def answer(self) -> tuple[bytes, bytes]:
        """Body and media type of an ACK, nothing of a body that did not come whole: there is no
        refusing an ACK, and a far end without an answer ends the call by itself."""
        return (b"", b"") if self.truncated else (self.body, self.content_type)

    @property
    def cseq(self) -> int:
        """The CSeq number, -1 without one."""
        number = (self.first(b"cseq") or b"").partition(b" ")[0]
        return int(number) if number.isdigit() else -1

    @property
    def call_id(self) -> str:
        return (self.first(b"call-id") or b"").decode("latin-1")

    def without_body(self) -> Message:
        """The same message without its body."""
        copy = Message(b"")
        copy.start_line, copy._head, copy._lines = self.start_line, self._head, self._lines
        copy.untrusted, copy.wish = self.untrusted, self.wish
        return copy

    def passing(self, hop: frozenset[bytes]) -> bytes:
        """The header fields that cross the engine, as text: all whose name is not in `hop`."""
        return b"\r\n".join([line for name, line, _ in self.fields if name not in hop])


def _split(head: bytes, received: list[bytes] | None) -> list[tuple[bytes, bytes, bytes]]:
    lines = head.split(b"\r\n") if received is None else received[1:]
    # Not `in`, here and wherever each message passes: bytes are tried as a number first.
    if received is not None and (head.find(b"\r\n ") >= 0 or head.find(b"\r\n\t") >= 0):
        lines = _unfold(lines)
    known = _names.get
    return [
        (known(name) or _full_name(name), line, value.strip())
        for line in lines
        for name, _, value in (line.partition(b":"),)
    ]


def _full_name(name: bytes) -> bytes:
    low = name.strip().lower()
    full = COMPACT.get(low, low)
    if len(_names) < _NAMES_KEPT:
        _names[name] = full
    return full


def _unfold(lines: list[bytes]) -> list[bytes]:
    whole: list[bytes] = []
    for line in lines:
        if whole and line[:1] in (b" ", b"\t"):
            whole[-1] += b" " + line.strip()
        else:
            whole.append(line)
    return whole
