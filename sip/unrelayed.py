"""The engine's responses to requests inside a dialog that cannot be relayed now. Pure.

The dialog exists, so 481 would be wrong, and phones hang up on it. The request has no recipient
while several phones ring, between a line and the target of its forward, before the first 18x, or
for a phone that is being cancelled. An INVITE must also wait for the ACK.
"""

from __future__ import annotations

import random

from sip import session_expires
from sip.capabilities import CAPABILITY_FIELDS
from sip.message import Message

_LONGEST_WAIT_S = 10  # RFC 3261 14.2, RFC 3311 5.2: chosen at random


def answer(method: bytes, message: Message, *, owes_answer: bool) -> tuple[int, bytes]:
    """The code and header fields of the final response.

    `owes_answer`: the sender's own INVITE is not answered yet. The sender is the caller, and its
    offer must wait (500). Otherwise an offer crosses one of ours (491).
    """
    if method == b"OPTIONS":
        return 200, CAPABILITY_FIELDS
    if method == b"PRACK" and not message.body:
        return 200, b""  # the early dialog that it acknowledges has ended
    offers = method == b"INVITE" or (method == b"UPDATE" and message.body)
    if method == b"UPDATE" and not offers:
        return session_expires.refreshed_here(message)
    if offers and not owes_answer:
        return 491, b""
    return 500, retry_after()


def retry_after() -> bytes:
    """The field that says when to try again."""
    return b"Retry-After: %d" % random.randint(1, _LONGEST_WAIT_S)
