"""Whether a head can be read in one way only: what opens on a line closes on that line. Pure.

A parser that looks for the end of a bracket, a comment or a quoted string on later lines sees
other header fields than one that reads line by line, and so one of the two is deceived. Such a
message is refused, whatever its header and its method. The common message is judged by two
look-ups: its skeleton (what is left without plain characters) and the order of those of its header
fields that may come only once. What differs is read field by field.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from sip.message import COMPACT, LONGEST, Message

_OPENING = b'"<>[]()\\&'
_PLAIN = bytes(c for c in (9, *range(32, 127), *range(128, 256)) if c not in _OPENING)
# A whole skeleton: line after line of quoted strings, addresses, IPv6 references and comments.
_CLOSED = re.compile(rb'(?:(?:"[<>\[\]()&]*+"|<(?:[&()]|\[\])*+>|\[\]|\(\))*+\r\n)*+')
_START = re.compile(rb"[!-~]+ [!#-;=?-~]+ SIP/2\.0\r\n|SIP/2\.0 [1-6]\d\d[ \r]")
# One line of a header field: the same with its text, and with quoted pairs (RFC 3261 25.1).
_LINE = re.compile(
    rb'(?:[^"<\[(]++|"(?:[^"\\]|\\.)*+"|<(?:[^<>"\[]|\[[^\]\[<>"]*+\])*+>|\[[^\]\[<>"]*+\]'
    rb"|\((?:[^()]|\([^()]*+\))*+\))*+"
)
_REQUEST_URI = re.compile(rb'(?:[^"<>\[\s]|\[[^\]\[\s]*+\])++')
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"|<[^>]*+>')
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_WORDS = re.compile(rb"[\s,;]")
_USER = re.compile(rb"(?:sips?|tel):[^@]*@[^&]*$", re.IGNORECASE)  # "&" may stand in a user part
_NAME = re.compile(rb"[!%'*+\-.0-9A-Z_`a-z~]++[ \t]*+:")
_CONTROL = re.compile(rb"[\0-\x08\x0a-\x1f\x7f]")
_IPV6 = re.compile(rb"\[[0-9a-f:.]*:[0-9a-f:.]*(?:%[\w.~-]+)?\]")
_ODD_BRACKET = re.compile(rb"\[(?![0-9a-f:.]*:[0-9a-f:.]*(?:%[\w.~-]+)?\])")
_SINGLES = frozenset((b"from", b"to", b"call-id", b"cseq", b"max-forwards", b"content-type"))
# The beginnings of lines that matter: those fields, routes, and what continues a line.
_MARKS = re.compile(
    rb"\n([ \t]|from|f|to|t|call-id|i|cseq|max-forwards|content-length|l|content-type|c|route"
    rb"|record-route|replaces)(?:(?<=[ \t])|[ \t]*:)"
)
_LENGTH = re.compile(rb"\n(?:content-length|l)[ \t]*:[ \t]*(\d{1,9})[ \t]*\r")
# Text for people, or a word (RFC 3261 25.1): anything may stand in it. Nobody may hide behind it
# either: a message with an open bracket there must say how long its body is, and be right.
_TEXT = frozenset((b"subject", b"organization", b"user-agent", b"server", b"call-id"))
# Their IPv6 references become addresses and parts of what is sent.
_ADDRESSES = frozenset((b"via", b"from", b"to", b"contact", b"route", b"record-route"))
# PJSIP takes "&" for the end of these, as in the header fields of a URI.
_ENDED_BY_AMPERSAND = frozenset(
    b"accept allow contact content-length content-type cseq expires from max-forwards "
    b"min-expires record-route route require retry-after supported to unsupported via "
    b"authorization proxy-authorization www-authenticate proxy-authenticate event "
    b"subscription-state replaces session-expires min-se".split()
)
_NEEDED = (b"via", b"from", b"to", b"call-id", b"cseq")
_SHAPES_KEPT = 4096
_closed: dict[bytes, bool] = {}  # skeletons that were met
_orders: dict[bytes, bool] = {}  # orders of the single header fields


class Fault(NamedTuple):
    """What is wrong with a message, as the reason phrase of a 400 has it."""

    phrase: bytes


def is_plain(raw: bytes) -> bool:
    """A quick look: nothing about this message has to be read twice. False proves nothing."""
    if _START.match(raw) is None:
        return False
    end = raw.find(b"\r\n\r\n")
    head = raw[: end + 2]
    skeleton = head.translate(None, _PLAIN)
    closed = _closed.get(skeleton)
    if closed is None:
        closed = _keep(_closed, skeleton, _CLOSED.fullmatch(skeleton) is not None)
    if not closed or end < 0:
        return False
    low = head.lower()
    order = b",".join(_MARKS.findall(low))
    once = _orders.get(order)
    if once is None:
        once = _keep(_orders, order, _is_once(order))
    if not once or low.find(b"maddr") >= 0:
        return False
    if skeleton.find(b"[") >= 0 and _ODD_BRACKET.search(low) is not None:
        return False
    length = _LENGTH.search(low)
    if length is not None:
        return int(length[1]) <= len(raw) - end - 4
    return order.find(b"content-length") < 0 and b"l" not in order.split(b",")


def is_closed(raw: bytes) -> bool:
    """A quick look: each line of the head closes what it opens. False proves nothing."""
    end = raw.find(b"\r\n\r\n")
    skeleton = raw[: end + 2].translate(None, _PLAIN)
    closed = _closed.get(skeleton)
    if closed is None:
        closed = _keep(_closed, skeleton, _CLOSED.fullmatch(skeleton) is not None)
    return closed and end >= 0


def _keep(kept: dict[bytes, bool], key: bytes, verdict: bool) -> bool:
    if len(kept) < _SHAPES_KEPT and len(key) < 512:
        kept[key] = verdict
    return verdict


def _is_once(order: bytes) -> bool:
    names = [COMPACT.get(name, name) for name in order.split(b",")]
    return len(set(names)) == len(names) and not any(
        name in (b" ", b"\t", b"replaces") or name.endswith(b"route") for name in names
    )


def fault_of(raw: bytes) -> Fault | None:
    """The first fault of a message, None for one that can be read in one way only."""
    head, end, body = raw.partition(b"\r\n\r\n")
    if not end:
        if len(raw) < LONGEST:
            return Fault(b"Head Without End")
        head = head.rpartition(b"\r\n")[0] or head  # its last line is not all there
    start, *lines = head.split(b"\r\n")
    controlled = _CONTROL.search(head.replace(b"\r\n", b"")) is not None
    if controlled and _CONTROL.search(start) is not None:
        return Fault(b"Malformed Start Line")
    fields = _fields(lines)
    if fields is None:
        return Fault(b"Malformed Header Field Name")
    if controlled:
        for name, physical in fields:
            if any(_CONTROL.search(line) is not None for line in physical):
                return _malformed(name)
    length = _length_fault(fields, len(body) if end and len(raw) < LONGEST else None)
    if length is not None:
        return length
    fits = _fits(fields, len(body))
    if not _is_start(start, fits):
        return Fault(b"Malformed Start Line")
    said: dict[bytes, bytes] = {}
    for name, physical in fields:
        if name in _SINGLES:
            value = b" ".join(physical).strip()
            if said.setdefault(name, value) != value:
                return Fault(b"More Than One " + shown(name))
        if name == b"replaces" and b";" not in physical[0]:
            return _malformed(name)  # PJSIP looks for it on the lines that follow, the body's too
        for line in physical:
            skeleton = line.translate(None, _PLAIN)
            if skeleton and skeleton != b"<>" and not _is_closed(name, line, skeleton, fits):
                return _malformed(name)
    return None


def content_length(head: bytes) -> int | Fault:
    """The one number that the Content-Length fields of a head give, 0 without any."""
    fields = _fields(head.rstrip(b"\r\n").split(b"\r\n")[1:])
    if fields is None:
        return Fault(b"Malformed Header Field Name")
    lengths = _lengths(fields)
    return _length_fault(fields, None) or (int(lengths[0][:12]) if lengths else 0)


def with_length(head: bytes, length: int) -> bytes:
    """A head with this Content-Length and no other."""
    start, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    kept, is_other = [start], True
    for line in lines:
        if line[:1] not in (b" ", b"\t"):
            low = line.partition(b":")[0].strip().lower()
            is_other = COMPACT.get(low, low) != b"content-length"
        if is_other:
            kept.append(line)
    return b"\r\n".join([*kept, b"Content-Length: %d" % length, b"", b""])


def missing(message: Message) -> Fault | None:
    """Which of the header fields that every message needs is not there (RFC 3261 8.1.1)."""
    for name in _NEEDED:
        if message.first(name) is None:
            return Fault(b"Missing " + shown(name))
    return None


def shown(name: bytes) -> bytes:
    """A header field's name as people write it."""
    special = {b"call-id": b"Call-ID", b"cseq": b"CSeq", b"rseq": b"RSeq", b"rack": b"RAck",
               b"min-se": b"Min-SE", b"www-authenticate": b"WWW-Authenticate"}  # fmt: skip
    return special.get(name, name.title())[:60]


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
            # The colon may stand on the next line (RFC 4475 3.1.1.1 folds nearly everything).
            after = lines[at + 1] if at + 1 < len(lines) else b""
            if not (after[:1] in (b" ", b"\t") and _NAME.match(line + after) is not None):
                return None
            low = line.strip().lower()
            fields.append((COMPACT.get(low, low), [b""]))
            continue
        fields.append((_full(named[0]), [line[named.end() :]]))
    return fields


@lru_cache(maxsize=1024)
def _full(named: bytes) -> bytes:
    low = named[:-1].strip().lower()
    return COMPACT.get(low, low)


def _lengths(fields: list[tuple[bytes, list[bytes]]]) -> list[bytes]:
    return [
        b" ".join(physical).strip().lstrip(b":").strip()
        for name, physical in fields
        if name == b"content-length"
    ]


def _length_fault(fields: list[tuple[bytes, list[bytes]]], came: int | None) -> Fault | None:
    """RFC 3261 18.3, 20.14. None for `came`: the datagram was cut off, which is another matter."""
    lengths = _lengths(fields)
    if any(not value.isdigit() for value in lengths):
        return _malformed(b"content-length")
    numbers = {int(value[:12]) for value in lengths}
    if len(numbers) > 1:
        return Fault(b"More Than One Content-Length")
    if came is not None and numbers and numbers.pop() > came:
        return Fault(b"Content-Length Exceeds Message")
    return None


def _fits(fields: list[tuple[bytes, list[bytes]]], came: int) -> bool:
    lengths = _lengths(fields)
    return bool(lengths) and int(lengths[0][:12]) == came


def _is_start(start: bytes, fits: bool) -> bool:
    if start[:4].upper() == b"SIP/":
        return fits or _LINE.fullmatch(start) is not None
    _, _, rest = start.partition(b" ")
    uri, _, version = rest.rpartition(b" ")
    return _REQUEST_URI.fullmatch(uri) is not None and version.upper() == b"SIP/2.0" and (
        uri.find(b"[") < 0 or _ODD_BRACKET.search(uri.lower()) is None
    )


def _is_closed(name: bytes, line: bytes, skeleton: bytes, fits: bool) -> bool:
    if name in _TEXT:
        return fits or _LINE.fullmatch(line) is not None
    if _LINE.fullmatch(line) is None:
        return False
    if b"[" in skeleton and name in _ADDRESSES:
        bare = _QUOTED.sub(b"", line).lower()
        if _ODD_BRACKET.search(bare) is not None:
            return False
    if b"&" in skeleton and name in _ENDED_BY_AMPERSAND:
        return not any(
            b"&" in word and not (name in _ADDRESSES and _USER.match(word) is not None)
            for word in _WORDS.split(_TOKENS.sub(b"", line))
        )
    return True
