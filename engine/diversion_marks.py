"""Marks in Diversion that identify a call that comes back from outside.

A loop through the outside shows in Diversion and its `counter`, in History-Info and in
Max-Forwards. A server on the way may drop or reset them all. Asterisk rewrites these fields and
keeps of Diversion one entry's number, reason and display name. So the display name holds a mark: a
signature of the line with a secret of all engines on one Redis. Nobody else can forge it.
"""

from __future__ import annotations

import hmac
import re
from base64 import b32encode
from typing import TYPE_CHECKING

from sip import headers
from sip.privacy import MARK_NAME as _NAME

if TYPE_CHECKING:
    from rules.numbers import Numbering
    from sip.message import Message

LIFE_S = 3600
"""Seconds that a mark is valid, at least; at most twice as long. Its hour is part of the
signature."""
MOST = 20
"""The number of Diversion entries that are checked."""
_LENGTH = 12  # of 5 bits each: impractical to guess
_MARK = re.compile(rf'"?{_NAME}([A-Z2-7]{{{_LENGTH}}})"?\s*<'.encode())


class Marks:
    """Makes and recognises marks. `secret` is shared by all engines on one Redis."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, line: str, now: float) -> str:
        """The display name for a forward by the line (E.164); `now` in unix seconds."""
        return _NAME + self._sign(line, int(now // LIFE_S))

    def forwarded(self, invite: Message, numbering: Numbering, now: float) -> tuple[str, ...]:
        """The lines (E.164) that forwarded this call before it came here, by their marks."""
        if invite.first(b"diversion") is None:
            return ()
        found = []
        for entry in headers.entries(invite, b"diversion")[:MOST]:
            mark = _MARK.match(entry.strip())
            line = numbering.quick(headers.user_of(entry)) if mark is not None else None
            if mark is not None and line is not None and self._is_ours(mark[1], line, now):
                found.append(line)
        return tuple(found)

    def _is_ours(self, mark: bytes, line: str, now: float) -> bool:
        hour = int(now // LIFE_S)
        return any(
            hmac.compare_digest(self._sign(line, each).encode(), mark) for each in (hour, hour - 1)
        )

    def _sign(self, line: str, hour: int) -> str:
        signed = hmac.digest(self._secret, f"diversion:{line}:{hour}".encode(), "sha256")
        return b32encode(signed)[:_LENGTH].decode()
