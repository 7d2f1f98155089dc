"""Masks log lines, spans and crash reports: numbers by the policy of `log.numbers`, secrets always.
No other module masks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

Policy = str  # full | masked | none

# Telephone numbers as they occur in URIs, headers, errors and records: six digits or more in a row,
# with + or its escape, or in groups. Addresses, ports and dates have no such run of digits.
_NUMBER = re.compile(
    r"(?:\+|%2[Bb])\d(?:[-.() ]{0,2}\d){5,}"  # +33 (0)9 72 10 10 01
    r"|(?<![\d.])0\d(?:[-. ]\d{2}){3,}(?![\d.])"  # 09 72 10 10 01
    r"|\d{6,}"
)
LONGEST = 2000  # characters of one text, because a peer's text may have any length
_SHOWN_FIRST, _SHOWN_LAST = 4, 2  # characters of a masked number: enough to show the country

_SECRETS = (
    # userinfo of a URL: redis://user:secret@host
    (re.compile(r"(?<=://)[^/\s@'\"<>]*@"), "***@"),
    # the password of a SIP URI (RFC 3261 19.1.1)
    (re.compile(r"(sips?:[^\s:@;<>\"']+:)[^\s@<>\"']+(?=@)", re.I), r"\1***"),
    (re.compile(r"((?:proxy-)?authori[sz]ation[\"']?[ \t]*[:=][ \t]*).*", re.I), r"\1***"),
    (re.compile(r"\b(response|cnonce|nonce)(=[\"']?)[^\s,\"']+", re.I), r"\1\2***"),
    (
        re.compile(
            r"\b((?:pass(?:word|wd|phrase)?|secret|token|ha1(?:_sha256)?|api_?key)"
            r"[\"']?\s*[:=]\s*[\"']?)[^\s,;&\"']+",
            re.I,
        ),
        r"\1***",
    ),
    (re.compile(r"\b(Bearer|Basic|Digest)\s+\S.*", re.I), r"\1 ***"),
)
# Every secret is near one of these; lines without them are not checked further.
_SUSPECT = re.compile(r"@|auth|pass|secret|token|ha1|key|bearer|basic|digest|nonce|respons", re.I)
# Our own ids, made of counters and times, or the caller's Call-ID: not masked.
_OPAQUE = frozenset(("call", "call_id", "timestamp", "event", "level", "logger"))


def mask(text: str, policy: Policy) -> str:
    """`text` with its telephone numbers masked by the policy."""
    if policy == "full":
        return text
    return _NUMBER.sub(_masked if policy == "masked" else _left_out, text)


def _masked(found: re.Match[str]) -> str:
    number = found[0]
    hidden = max(1, len(number) - _SHOWN_FIRST - _SHOWN_LAST)
    return number[:_SHOWN_FIRST] + "*" * hidden + number[_SHOWN_FIRST + hidden :]


def _left_out(found: re.Match[str]) -> str:
    return "***"


def without_secrets(text: str) -> str:
    """`text` without passwords, credentials and tokens."""
    if _SUSPECT.search(text) is not None:
        for pattern, instead in _SECRETS:
            text = pattern.sub(instead, text)
    return text


def cleaner(policy: Policy) -> Callable[[Any], Any]:
    """A function that masks any value, including strings inside lists, mappings, structs and
    dataclasses."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            if len(value) > LONGEST:
                value = value[:LONGEST] + " ..."
            return mask(without_secrets(value), policy)
        if isinstance(value, bytes):
            return clean(value.decode("utf-8", "backslashreplace"))
        if isinstance(value, int | float) or value is None:
            return value
        if isinstance(value, Mapping):
            return {str(clean(key)): clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [clean(item) for item in value]
        if isinstance(value, msgspec.Struct):
            return clean(msgspec.structs.asdict(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: clean(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return clean(str(value))

    return clean


def clean_event(event: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """Mask a whole log event."""
    clean = cleaner(policy)
    return {k: v if k in _OPAQUE else clean(v) for k, v in event.items()}
