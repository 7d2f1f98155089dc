"""Reading header fields. Pure functions on bytes; what crosses is in `relayed_fields.py`."""

from __future__ import annotations

import re
from urllib.parse import quote

from sip import grammar
from sip.grammar import name_addr, parameter, parameters, split
from sip.message import Message

_LONGEST_RSEQ = 10  # digits: 2**31 - 1
_CAUSE_PARAM = re.compile(rb"(?:[;?&]|%3B)\s*cause(?:=|%3D)\s*\d{3}", re.IGNORECASE)


def user_of(value: bytes) -> str:
    """The user of the SIP URI, or the number of the tel URI, in a header value; "" without one. For
    a Request-URI, which is not a header value, use `grammar.user_of`."""
    return grammar.user_of(name_addr(value).uri)


def without_tag(value: bytes) -> bytes:
    """A From or To value without its tag and other parameters of the header."""
    return name_addr(value).shown


def q850_cause(message: Message | None) -> int | None:
    """The ISUP cause of the Reason header (RFC 3326), None without one."""
    if message is None or message.first(b"reason") is None:
        return None
    for value in entries(message, b"reason"):
        protocol, semicolon, rest = value.partition(b";")
        if protocol.strip().upper() == b"Q.850":
            cause = parameters(semicolon + rest).get(b"cause", b"")
            if cause.isdigit() and len(cause) <= 3:
                return int(cause)
    return None


def entries(message: Message, name: bytes) -> list[bytes]:
    """The comma-separated entries of every `name` header, in order."""
    values = message.values(name)
    return [entry for value in values for entry in split(value)] if values else []


def diversions(message: Message) -> int:
    """How often the call was forwarded before it came here: the larger count of Diversion (RFC
    5806, with its counters) and History-Info (RFC 7044, entries with a cause)."""
    if message.first(b"diversion") is None and message.first(b"history-info") is None:
        return 0
    by_diversion = 0
    for entry in entries(message, b"diversion"):
        counter = parameter(entry, b"counter") or b""
        by_diversion += max(1, int(counter[:9])) if counter.isdigit() else 1
    uris = [name_addr(entry).uri for entry in entries(message, b"history-info")]
    by_history = sum(1 for uri in uris if _CAUSE_PARAM.search(uri))
    return max(by_diversion, by_history)


def has_option(message: Message, name: bytes, tag: bytes) -> bool:
    """Whether the header `name` (Supported, Require ...) lists the option `tag`."""
    return message.first(name) is not None and any(
        word.strip().lower() == tag for value in message.values(name) for word in value.split(b",")
    )


def unsupported(message: Message, name: bytes, known: frozenset[bytes]) -> bytes:
    """The option tags in the header `name` that are not `known`, for Unsupported."""
    if message.first(name) is None:
        return b""
    words = (word.strip() for value in message.values(name) for word in value.split(b","))
    return b", ".join(word for word in words if word and word.lower() not in known)


def names_100rel(text: bytes) -> bool:
    """A quick check: whether header text contains the option tag 100rel, in any case (RFC 3261
    7.3.1)."""
    at = text.find(b"100")
    return at >= 0 and text.lower().find(b"100rel", at) >= 0


def requires_100rel(message: Message) -> bool:
    return names_100rel(message.head) and has_option(message, b"require", b"100rel")


def supports_100rel(message: Message) -> bool:
    return has_option(message, b"supported", b"100rel") or requires_100rel(message)


def rseq(message: Message) -> int:
    """The RSeq of a reliable provisional response (RFC 3262 7.1), 0 if it is not reliable."""
    value = message.first(b"rseq")
    if value is None or not value.isdigit() or not requires_100rel(message):
        return 0
    return int(value) if len(value) <= _LONGEST_RSEQ else 0


def rack(message: Message) -> tuple[int, int, bytes] | None:
    """The RAck of a PRACK (RFC 3262 7.2): RSeq, CSeq number, method; None without a valid one."""
    words = (message.first(b"rack") or b"").split()
    if len(words) != 3 or not all(w.isdigit() and len(w) <= _LONGEST_RSEQ for w in words[:2]):
        return None
    return int(words[0]), int(words[1]), words[2]


def tag_of(value: bytes) -> bytes:
    """The tag parameter of a From or To value, empty without one."""
    return parameter(value, b"tag") or b""


def uri_of(value: bytes) -> bytes:
    """The URI of a Contact value, empty if there is none between angle brackets or bare."""
    return name_addr(value).uri


def voicemail_parameters(mailbox_uri: str, cause: int) -> str:
    """RFC 4458 2: the mailbox and the reason, as parameters of the voicemail's Request-URI."""
    return f";target={quote(mailbox_uri, safe='')};cause={cause}"
