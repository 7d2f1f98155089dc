"""Which parts of a body a phone gets when the sender withholds its number. Pure functions on bytes.

Bodies pass byte for byte. The one exception, towards a phone, are parts that name the sender: the
signalling of another network (ISUP and QSIG contain the calling number), a location (PIDF-LO, RFC
6442), a card, a signed identity (RFC 3893).
"""

from __future__ import annotations

import re

from sip.grammar import parameters
from sip.message import Message
from sip.privacy import wish_of

_NAMING = (
    rb"application/(?:isup|qsig|pidf\+xml|cpim-pidf\+xml|vcard\+xml|vcard\+json|rs-metadata\+xml)"
    rb"|text/(?:vcard|x-vcard|directory)"
)
_ALONE = re.compile(_NAMING, re.IGNORECASE)
_PART = re.compile(
    rb"^content-type[ \t]*:\s*(?:" + _NAMING + rb"|message/(?:sip|sipfrag))\b",
    re.IGNORECASE | re.MULTILINE,
)


def passing_body(message: Message, *, to_trusted: bool) -> tuple[bytes, bytes]:
    """The body and media type of a message, reduced to what its recipient may learn."""
    body, kind = message.body, message.content_type
    if to_trusted or not body or not wish_of(message).number:
        return body, kind
    media, semicolon, rest = kind.partition(b";")
    media = media.strip().lower()
    if _ALONE.fullmatch(media):
        return b"", b""
    if media[:10] != b"multipart/":
        return body, kind
    boundary = parameters(semicolon + rest).get(b"boundary", b"")
    rest_of_body = _without_naming(body, boundary) if boundary else b""
    return (rest_of_body, kind) if rest_of_body else (b"", b"")


def ack_body(ack: Message | None, *, to_trusted: bool) -> tuple[bytes, bytes]:
    """The same of an ACK; empty without one."""
    return passing_body(ack, to_trusted=to_trusted) if ack is not None else (b"", b"")


def _without_naming(body: bytes, boundary: bytes) -> bytes:
    """A multipart body (RFC 2046 5.1) without the parts that name the sender, or that hold such a
    part; empty when none is left."""
    delimiter = b"--" + boundary
    before, *parts = re.split(
        rb"(?:(?<=\n)|\A)" + re.escape(delimiter) + rb"(?=--|[ \t]*\r?\n)", body
    )
    kept = [part for part in parts if part[:2] != b"--" and not _PART.search(part)]
    if not kept:
        return b""
    return before + b"".join(delimiter + part for part in kept) + delimiter + b"--\r\n"
