"""DEST, the notation for the target of a forward in commands and CSV files."""

from __future__ import annotations

import re

from rules.model import Kind

_BARE_NUMBER = re.compile(r"[+(]?[0-9][-+0-9 .()/]*")
WANTED = "expected voicemail[:N], fax:N, number:N or a number"


def read(text: str) -> tuple[Kind, str]:
    """Kind and number of `voicemail[:N]`, `fax:N`, `number:N` or a bare number; "" = none given,
    which for a voicemail means the line's own. Raises ValueError."""
    if _BARE_NUMBER.fullmatch(text):
        return Kind.NUMBER, text
    name, colon, number = text.partition(":")
    try:
        kind = Kind(name.strip().lower())
    except ValueError:
        raise ValueError(WANTED) from None
    number = number.strip()
    if not number and (colon or kind is not Kind.VOICEMAIL):
        raise ValueError(f"expected a number, as in {kind}:0972101002")
    return kind, number
