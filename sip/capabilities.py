"""What this engine itself understands: said to OPTIONS, and where a method is refused."""

from __future__ import annotations

ALLOW = b"INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO, MESSAGE, REFER, NOTIFY"
# What the answer to OPTIONS says (RFC 3261 11.2): the engine's own part. Bodies and options of the
# two sides of a call pass it.
UNDERSTOOD = (b"100rel", b"timer", b"replaces")
CAPABILITIES = (
    (b"Allow", ALLOW),
    (b"Accept", b"application/sdp, */*"),
    (b"Supported", b", ".join(UNDERSTOOD)),
)
CAPABILITY_FIELDS = b"\r\n".join(name + b": " + value for name, value in CAPABILITIES)
