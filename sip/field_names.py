"""Names of header fields: compact forms, and usual spelling. Pure."""

from __future__ import annotations

# RFC 3261 7.3.3 and the registry of compact forms.
COMPACT = {
    b"a": b"accept-contact", b"b": b"referred-by", b"c": b"content-type",
    b"d": b"request-disposition", b"e": b"content-encoding", b"f": b"from", b"i": b"call-id",
    b"j": b"reject-contact", b"k": b"supported", b"l": b"content-length", b"m": b"contact",
    b"n": b"identity-info", b"o": b"event", b"r": b"refer-to", b"s": b"subject", b"t": b"to",
    b"u": b"allow-events", b"v": b"via", b"x": b"session-expires", b"y": b"identity",
}  # fmt: skip
# Fields that are known by a number (message.py): those that steer first, then others by name.
KNOWN = (
    b"via from to call-id cseq max-forwards content-length record-route contact content-type "
    b"timestamp route require supported allow accept accept-encoding accept-language alert-info "
    b"allow-events authorization call-info content-disposition content-encoding content-language "
    b"date diversion error-info event expires history-info identity info-package in-reply-to "
    b"join min-expires min-se mime-version organization p-access-network-info "
    b"p-asserted-identity p-charging-vector p-early-media p-preferred-identity path priority "
    b"privacy proxy-authenticate proxy-authorization proxy-require rack reason recv-info "
    b"refer-to referred-by remote-party-id replaces reply-to retry-after rseq server "
    b"service-route session-expires subject subscription-state target-dialog unsupported "
    b"user-agent user-to-user warning www-authenticate"
).split()
_SPECIAL = {
    b"call-id": b"Call-ID", b"cseq": b"CSeq", b"rseq": b"RSeq", b"rack": b"RAck",
    b"min-se": b"Min-SE", b"www-authenticate": b"WWW-Authenticate",
}  # fmt: skip


def full(name: bytes) -> bytes:
    """The full lower-case name of a header field that may be compact."""
    low = name.strip().lower()
    return COMPACT.get(low, low)


def shown(name: bytes) -> bytes:
    """The usual spelling of a header field's name."""
    return _SPECIAL.get(name, name.title())[:60]
