"""Answers written from the bytes of a request, before anything is parsed or made for it. Pure."""

from __future__ import annotations

import re
import secrets
from typing import Any

from sip.grammar import first_entry, parameter
from sip.message import Message

# The To tag of all of them: the ACK that one gets in return is known by it.
TAG = b";tag=" + secrets.token_hex(8).encode()

_RPORT = re.compile(rb";\s*rport\s*(?=[;,]|$)", re.IGNORECASE)
_SENT_BY = re.compile(
    rb"SIP\s*/\s*2\.0\s*/\s*\w+\s+(\[[^\]\s]*\]|[^\[;:,\s]+)\s*(?::\s*(\d{1,5}))?\s*(?=[;,]|$)",
    re.IGNORECASE,
)
_CONTROL = re.compile(rb"[\0-\x08\x0a-\x1f\x7f]")
Source = tuple[Any, ...]  # as recvfrom tells it


def answer(
    request: Message, status: bytes, source: Source, tag: bytes = TAG, *, retry_after_s: int = 0
) -> tuple[bytes, Source] | None:
    """The response to a request, and where it goes over UDP (RFC 3261 18.2.2, RFC 3581 4); None for
    a request that has not all it takes, for an ACK and for a response.

    `status` is the code and the reason phrase, `tag` the To tag with its semicolon, which a To
    that has one does without.
    """
    start = request.start_line
    if start[:4].upper() == b"SIP/" or request.method.upper() == b"ACK":
        return None
    lines = [b"SIP/2.0 " + status]
    to: Source | None = None
    seen = set()
    for name, line, value in request.fields:
        if name == b"via":
            if to is None:
                sent_by = _SENT_BY.match(value)
                if sent_by is None:
                    return None
                first, rest = first_entry(value)
                first, is_symmetric = _RPORT.subn(b";rport=%d" % source[1], first, count=1)
                first += b";received=" + source[0].partition("%")[0].encode()
                port = source[1] if is_symmetric else int(sent_by[2] or 5060)
                to = (source[0], port, *source[2:])
                line = b"Via: " + first + rest
        elif name not in (b"from", b"to", b"call-id", b"cseq") or name in seen:
            continue
        elif name == b"to" and parameter(value, b"tag") is None:
            line = line.rstrip() + tag
        if _CONTROL.search(line) is not None:
            return None
        seen.add(name)
        lines.append(line)
    if to is None or len(seen) < 5 or not 0 < to[1] < 65536:
        return None
    if retry_after_s:
        lines.append(b"Retry-After: %d" % retry_after_s)
    lines.append(b"Content-Length: 0\r\n\r\n")
    return b"\r\n".join(lines), to
