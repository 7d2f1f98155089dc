"""Names of header fields: the compact ones, and as people write them. Pure."""

from __future__ import annotations

# RFC 3261 7.3.3 and the registry of compact forms.
COMPACT = {
    b"a": b"accept-contact", b"b": b"referred-by", b"c": b"content-type",
    b"d": b"request-disposition", b"e": b"content-encoding", b"f": b"from", b"i": b"call-id",
    b"j": b"reject-contact", b"k": b"supported", b"l": b"content-length", b"m": b"contact",
    b"n": b"identity-info", b"o": b"event", b"r": b"refer-to", b"s": b"subject", b"t": b"to",
    b"u": b"allow-events", b"v": b"via", b"x": b"session-expires", b"y": b"identity",
}  # fmt: skip
_SPECIAL = {
    b"call-id": b"Call-ID", b"cseq": b"CSeq", b"rseq": b"RSeq", b"rack": b"RAck",
    b"min-se": b"Min-SE", b"www-authenticate": b"WWW-Authenticate",
}  # fmt: skip


def full(name: bytes) -> bytes:
    """The full lower-case name of a header field that may be compact."""
    low = name.strip().lower()
    return COMPACT.get(low, low)


def shown(name: bytes) -> bytes:
    """A header field's name as people write it."""
    return _SPECIAL.get(name, name.title())[:60]
