"""Whether a head is unambiguous: whatever opens on a line closes on that line. Pure.

A parser that looks for the end of a bracket, a comment or a quoted string on later lines sees other
header fields than one that reads line by line. Such a message is refused, whatever its header and
its method, because the next hop may have such a parser. Ordinary messages pass by a quick check of
their bytes (`grammar.is_closed`). Others are checked field by field.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sip.field_names import full, shown
from sip.text_cache import remembered

# One line of a header field: the same with its text, and with quoted pairs (RFC 3261 25.1).
_LINE = re.compile(
    rb'(?:[^"<\[(]++|"[^"\\]*+(?:\\.[^"\\]*+)*"|<(?:[^<>"\[]++|\[[^\]\[<>"]*+\])*>'
    rb"|\[[^\]\[<>\"]*+\]|\((?:[^()]++|\([^()]*+\))*\))*"
)
_REQUEST_URI = re.compile(rb'(?:[^"<>\[\s]++|\[[^\]\[\s]*+\])+')
_QUOTED = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*"')
_NAME = re.compile(rb"[!%'*+\-.0-9A-Z_`a-z~]++[ \t]*+:")
_CONTROL = re.compile(rb"[\0-\x08\x0a-\x1f\x7f]")
# A control character may be quoted (RFC 3261 25.1, RFC 4475 3.1.1.2).
_QUOTED_CONTROL = re.compile(rb"\\[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ODD_BRACKET = re.compile(rb"\[(?![0-9a-f:.]*:[0-9a-f:.]*(?:%[\w.~-]+)?\])")
# Free text, or a word (RFC 3261 25.1): anything is allowed in it. It must not hide anything either:
# a message with an open bracket there must have the exact length of its body.
_TEXT = frozenset((b"subject", b"organization", b"user-agent", b"server", b"call-id"))
# Their IPv6 references are used as addresses and in sent messages.
_ADDRESSES = frozenset((b"via", b"from", b"to", b"contact", b"route", b"record-route"))


class Fault(NamedTuple):
    """A fault of a message, as in the reason phrase of a 400."""

    phrase: bytes


def fault_of(raw: bytes) -> Fault | None:
    """The first line that does not close what it opens, in an otherwise well-formed message
    (message.py); None if there is none."""
    raw = _QUOTED_CONTROL.sub(b"", raw.lstrip(b"\r\n"))
    head, end, body = raw.partition(b"\r\n\r\n")
    if not end:
        return Fault(b"Head Without End")
    start, *lines = head.split(b"\r\n")
    fields = _fields(lines)
    if fields is None:
        return Fault(b"Malformed Header Field Name")
    fits = _fits(fields, len(body))
    if _CONTROL.search(start) is not None or not _is_start(start, fits):
        return Fault(b"Malformed Start Line")
    for name, physical in fields:
        for line in physical:
            if _CONTROL.search(line) is not None or not _is_closed(name, line, fits):
                return _malformed(name)
    return None


def content_length(head: bytes) -> int | Fault:
    """The only number in the Content-Length fields of a head, 0 without one (RFC 3261 18.3)."""
    fields = _fields(head.rstrip(b"\r\n").split(b"\r\n")[1:])
    if fields is None:
        return Fault(b"Malformed Header Field Name")
    lengths = _lengths(fields)
    if any(not value.isdigit() for value in lengths):
        return _malformed(b"content-length")
    numbers = {number_of(value) for value in lengths}
    return Fault(b"More Than One Content-Length") if len(numbers) > 1 else max(numbers, default=0)


def number_of(digits: bytes) -> int:
    """The number of a Content-Length. Zeros before it mean nothing; of more than 12 other digits
    the first 12 are too large already."""
    return int(digits.lstrip(b"0")[:12] or b"0")


def with_length(head: bytes, length: int) -> bytes:
    """The head with only this Content-Length."""
    start, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    kept, is_other = [start], True
    for line in lines:
        if line[:1] not in (b" ", b"\t"):
            is_other = full(line.partition(b":")[0]) != b"content-length"
        if is_other:
            kept.append(line)
    return b"\r\n".join([*kept, b"Content-Length: %d" % length, b"", b""])


def _malformed(name: bytes) -> Fault:
    return Fault(b"Malformed " + shown(name))


def _fields(lines: list[bytes]) -> list[tuple[bytes, list[bytes]]] | None:
    """Full lower-case names with the lines of each field; None when a line has no name."""
    fields: list[tuple[bytes, list[bytes]]] = []
    for at, line in enumerate(lines):
        if line[:1] in (b" ", b"\t"):
            if not fields:
                return None
            fields[-1][1].append(line)
            continue
        named = _NAME.match(line)
        if named is None:
            # The colon may be on the next line (RFC 4475 3.1.1.1 folds nearly everything).
            after = lines[at + 1] if at + 1 < len(lines) else b""
            if not (after[:1] in (b" ", b"\t") and _NAME.match(line + after) is not None):
                return None
            fields.append((full(line), [b""]))
            continue
        fields.append((_full(named[0][:-1]), [line[named.end() :]]))
    return fields


_full = remembered(full)


def _lengths(fields: list[tuple[bytes, list[bytes]]]) -> list[bytes]:
    return [
        b" ".join(physical).strip().lstrip(b":").strip()
        for name, physical in fields
        if name == b"content-length"
    ]


def _fits(fields: list[tuple[bytes, list[bytes]]], came: int) -> bool:
    lengths = _lengths(fields)
    return bool(lengths) and lengths[0].isdigit() and number_of(lengths[0]) == came


def _is_start(start: bytes, fits: bool) -> bool:
    if start[:4].upper() == b"SIP/":
        return fits or _LINE.fullmatch(start) is not None
    uri = start.partition(b" ")[2].rpartition(b" ")[0]
    return _REQUEST_URI.fullmatch(uri) is not None and _ODD_BRACKET.search(uri.lower()) is None


def _is_closed(name: bytes, line: bytes, fits: bool) -> bool:
    if name in _TEXT:
        return fits or _LINE.fullmatch(line) is not None
    if _LINE.fullmatch(line) is None:
        return False
    return name not in _ADDRESSES or _ODD_BRACKET.search(_QUOTED.sub(b"", line).lower()) is None
