"""The feature parameters of a Contact (RFC 3840) that cross. Pure functions on bytes."""

from __future__ import annotations

import re

from sip.grammar import name_addr
from sip.message import Message
from sip.privacy import wish_of

# RFC 3840 9, and those registered since (RFC 4569). All others begin with "+".
BASE = frozenset(
    b"audio automata class duplex data control mobility description events priority methods "
    b"extensions schemes application video language type isfocus actor text".split()
)
_PARAMETER = re.compile(
    rb'[ \t]*;[ \t]*([^\s;=,"<>]+)(?:[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s;,"<>]+))?'
)


def features(message: Message, *, to_trusted: bool) -> bytes:
    """The feature parameters of the first Contact, as they were written: for our own Contact on the
    other side. Parameters of the address or its registration (q, expires, reg-id, ob, GRUUs) do not
    cross. If the sender wants privacy, phones learn only the capabilities: no `description`, no
    `+sip.instance` (RFC 3323 4.1.1.3, RFC 5626 4.1)."""
    value = message.first(b"contact")
    if not value or value.endswith(b">"):
        return b""
    text = name_addr(value).parameters
    wish = wish_of(message)
    private = not to_trusted and (wish.number or wish.user)
    found, at = [], 0
    while (part := _PARAMETER.match(text, at)) is not None:
        at = part.end()
        name = part[1].lower()
        names_it = name == b"description" or name[:1] == b"+"
        if (name in BASE or name[:1] == b"+") and not (private and names_it):
            found.append(part[0].strip())
    return b"".join(found)
