"""Session timers (RFC 4028), between the two sides. Pure.

The two sides refresh the session. The engine requests a timer if the caller does not (section 8, as
a proxy may), and watches the expiry: `Call._converse` (engine/call.py) ends a call whose session
runs out.
"""

from __future__ import annotations

import re

from sip.headers import has_option
from sip.message import Message

MIN_S = 90  # RFC 4028 4: the shortest interval
_REFRESHER = re.compile(rb";\s*refresher\s*=\s*(ua[cs])", re.IGNORECASE)
_SECONDS = re.compile(rb"\s*(\d{1,9})\s*(?:;|$)")


def seconds_of(message: Message, name: bytes = b"session-expires") -> int:
    """The seconds of a Session-Expires or Min-SE header, 0 without a valid one."""
    value = message.first(name)
    found = _SECONDS.match(value) if value is not None else None
    return int(found[1]) if found else 0


def request_field(invite: Message, ours_s: int) -> bytes:
    """The Session-Expires that the engine adds to an INVITE which has none, never below the
    caller's Min-SE (8.1); empty if there is nothing to add, as with `ours_s` 0."""
    if not ours_s or seconds_of(invite):
        return b""
    return b"Session-Expires: %d" % max(ours_s, seconds_of(invite, b"min-se"))


def response_fields(request: Message, response: Message, ours_s: int = 0) -> tuple[bytes, int]:
    """The fields to add to a 2xx for the asker, and the seconds until the session expires, 0 =
    never.

    A callee without session timer support answers without them; an asker that supports them then
    refreshes (8.2).
    """
    agreed_s = seconds_of(response)
    if agreed_s:
        return b"", agreed_s
    asked_s = seconds_of(request) or (ours_s and max(ours_s, seconds_of(request, b"min-se")))
    if not asked_s or not has_option(request, b"supported", b"timer"):
        return b"", 0
    return b"Session-Expires: %d;refresher=uac\r\nRequire: timer" % asked_s, asked_s


def refreshed_here(update: Message) -> tuple[int, bytes]:
    """The engine's own response to an UPDATE without an offer: code and fields. The final response
    to the INVITE negotiates the session's time again."""
    asked_s = seconds_of(update)
    if not asked_s or not has_option(update, b"supported", b"timer"):
        return 200, b""
    if asked_s < MIN_S:
        return 422, b"Min-SE: %d" % MIN_S
    wanted = _REFRESHER.search(update.first(b"session-expires") or b"")
    by = wanted[1].lower() if wanted else b"uac"
    return 200, b"Session-Expires: %d;refresher=%s\r\nRequire: timer" % (asked_s, by)
