"""The guard: every received message, before PJSIP's transactions and dialogs see it.

The wheel is built with assertions on, and a few messages that its parser takes end the process
later, some of them from any address at all. They are named here, each with the place in PJSIP
2.15.1 that it would reach, and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from sip import pjsip, wire
from sip.grammar import split_list
from sip.message import Message
from sip.pjsip import ffi, lib

# Header fields must leave room for PJSIP's own in what it prints into 4,000 bytes.
HEAD_MAX = 3400

# Written otherwise they only cost their memory.
_CAPABILITIES = (
    (b"\nAllow:", pjsip.H_ALLOW),
    (b"\nSupported:", pjsip.H_SUPPORTED),
    (b"\nAccept:", pjsip.H_ACCEPT),
)
_EMPTY_HOST = re.compile(rb"\[\s*\]")
_HIDE = re.compile(rb";\s*hide\b", re.IGNORECASE)
_SIP_URI = re.compile(rb"[^<]*<\s*sips?:|\s*sips?:", re.IGNORECASE)


# Told of each message that is refused: the reason for the counter, and a text for the log that is
# made only if it is asked for.
OnRejected = Callable[[str, Callable[[], str]], None]


class Guard:
    """Copies each message once, for every later callback, and decides whether it may go on."""

    def __init__(self, on_rejected: OnRejected, refuses: Callable[[Any], bool]) -> None:
        self._on_rejected = on_rejected
        self._refuses = refuses  # whether a request's sender has no part in its dialog

    def _drop(self, rdata: Any, reason: str) -> int:
        self._on_rejected(reason, lambda: described(rdata))
        return 1

    def on_request(self, rdata: Any) -> int:
        """1 drops the request."""
        raw = wire.take(rdata)
        info = rdata.msg_info
        method, named = info.msg.line.req.method, info.cseq.method
        same = method.id == named.id
        if same and method.id == pjsip.OTHER:
            same = _text(method.name) == _text(named.name)
        # A request that names another method in CSeq finds a transaction that is not its own
        # (sip_transaction.c, tsx_on_state_confirmed).
        if same and not (is_suspect(raw) and is_poison(wire.received())):
            if self._refuses(rdata):
                return 1
            if method.id == pjsip.INVITE:
                _lighten(info.msg, raw)
            return 0
        return self._drop(rdata, "malformed")

    def on_response(self, rdata: Any) -> int:
        """1 drops the response."""
        raw = wire.take(rdata)
        info = rdata.msg_info
        if info.cseq.method.id == pjsip.INVITE:
            if len(raw) > HEAD_MAX and wire.received().head_size > HEAD_MAX:
                return self._drop(rdata, "too_large")
            _lighten(info.msg, raw)
        if is_suspect(raw) and is_poison(wire.received()):
            return self._drop(rdata, "malformed")
        return 0


def _lighten(message: Any, raw: bytes) -> None:
    """Take out of PJSIP's copy what its dialog would keep clones of as long as the call stands,
    8 KB for both sides, and nobody asks for: what crosses the engine comes from the bytes."""
    for line, kind in _CAPABILITIES:
        if raw.find(line) >= 0:
            lib.pjsip_msg_find_remove_hdr(message, kind, ffi.NULL)


def described(rdata: Any) -> str:
    """The start line of a message and where it came from, for people."""
    source = ffi.string(rdata.pkt_info.src_name).decode("latin-1")
    line = wire.received().start_line[:80].decode("latin-1")
    return f"{line!r} from {source}:{rdata.pkt_info.src_port}"


def is_suspect(raw: bytes) -> bool:
    """A quick look at the bytes: whether `is_poison` has to read them."""
    low = raw.lower()
    return (
        low.find(b"route") >= 0
        or low.find(b"maddr") >= 0
        or (raw.find(b"[") >= 0 and bool(_EMPTY_HOST.search(raw)))
    )


def is_poison(message: Message) -> bool:
    """Whether PJSIP would stumble over this message when it prints or routes by it."""
    head, start = message.head, message.start_line
    if (b"[" in head or b"[" in start) and _EMPTY_HOST.search(start + b" " + head):
        return True  # sip_uri.c prints no empty host
    low = head.lower()
    if b"route" in low and any(
        _is_bad_route(entry)
        for name in (b"record-route", b"route")
        for value in message.values(name)
        for entry in split_list(value)
    ):
        return True
    # A Via's maddr is where the response goes, and a name there is looked up while all calls wait.
    return b"maddr" in low and b"maddr" in (message.first(b"via") or b"").lower()


def _is_bad_route(entry: bytes) -> bool:
    # sip_msg.c asserts on the parameter `hide`; any URI is read as if it were a SIP URI.
    plain = unquote_to_bytes(entry)
    return _HIDE.search(plain) is not None or _SIP_URI.match(plain) is None


def _text(name: Any) -> bytes:
    return bytes(ffi.buffer(name.ptr, name.slen))
