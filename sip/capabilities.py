"""What this engine supports: for OPTIONS, and for responses that refuse a method."""

from __future__ import annotations

ALLOW = b"INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO, MESSAGE, REFER, NOTIFY"
# The engine's own capabilities in the response to OPTIONS (RFC 3261 11.2). Bodies and option tags
# of the two sides of a call pass through it.
UNDERSTOOD = (b"100rel", b"timer", b"replaces")
CAPABILITIES = (
    (b"Allow", ALLOW),
    (b"Accept", b"application/sdp, */*"),
    (b"Supported", b", ".join(UNDERSTOOD)),
)
CAPABILITY_FIELDS = b"\r\n".join(name + b": " + value for name, value in CAPABILITIES)
