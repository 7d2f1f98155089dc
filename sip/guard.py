"""The guard: every received message, before PJSIP's transactions and dialogs see it.

A message must be read in one way only (structure.py): PJSIP reads some tokens across line ends.
And the wheel is built with assertions on, which a few messages that its parser takes reach later,
some of them from any address at all. They are named here, each with the place in PJSIP 2.15.1 that
it would reach. A request that is refused gets 400, a response is dropped.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from sip import pjsip, wire
from sip.answer import Source, answer
from sip.grammar import split_list
from sip.message import COMPACT, Message
from sip.pjsip import ffi, lib
from sip.structure import Fault, fault_of, missing, shown

# Header fields must leave room for PJSIP's own in what it prints into 4,000 bytes.
HEAD_MAX = 3400

# Written otherwise they only cost their memory.
_CAPABILITIES = (
    (b"\nAllow:", pjsip.H_ALLOW),
    (b"\nSupported:", pjsip.H_SUPPORTED),
    (b"\nAccept:", pjsip.H_ACCEPT),
)
_HIDE = re.compile(rb";\s*hide\b", re.IGNORECASE)
_SIP_URI = re.compile(rb"[^<]*<\s*sips?:|\s*sips?:", re.IGNORECASE)
# PJSIP makes one header of each of their values, and one of all lines of the merged.
_LISTS = (b"via", b"contact", b"route", b"record-route")
_MERGED = (b"require", b"supported")
# Malformed messages of strangers in a second that are read a second time and answered; the rest are
# dropped unread. An answer costs twice what their 403 costs.
STRANGERS_S = 500
FIELDS_MAX = 400  # that are compared one by one
_PACKET_AT = ffi.offsetof("pjsip_rx_data", "pkt_info", "packet")
_MISMATCH = Fault(b"Malformed CSeq")
_NO_LENGTH = Fault(b"Missing Content-Length")
_UNREADABLE = Fault(b"Malformed Message")

# Told of each message that is refused: the reason for the counter, and a text for the log that is
# made only if it is asked for.
OnRejected = Callable[[str, Callable[[], str]], None]
# Sends an answer: PJSIP's transport, the request, where it came from, the answer, where it goes.
Reply = Callable[[Any, bytes, Source, bytes, Source], None]


class Guard:
    """Copies each message once, for every later callback, and decides whether it may go on."""

    def __init__(
        self,
        on_rejected: OnRejected,
        refuses: Callable[[Any], bool],
        reply: Reply,
        is_known: Callable[[bytes], bool],
    ) -> None:
        self._on_rejected = on_rejected
        self._refuses = refuses  # whether a request's sender has no part in its dialog
        self._reply = reply
        self._is_known = is_known  # whether an address may send anything but what is refused
        self._second = 0
        self._left = 0  # of STRANGERS_S in this second

    def _drop(self, rdata: Any, reason: str) -> int:
        self._on_rejected(reason, lambda: described(rdata))
        return 1

    def _refuse(self, rdata: Any, raw: bytes, fault: Fault) -> int:
        """Count a message that is not taken; a request gets its 400."""
        message = Message(raw)
        source = ffi.string(rdata.pkt_info.src_name).decode("latin-1"), rdata.pkt_info.src_port
        status = b"513 Message Too Large" if message.lost else b"400 " + fault.phrase
        start = message.start_line[:80].decode("latin-1")
        told = status[4:].decode("latin-1")
        self._on_rejected(
            "too_large" if message.lost else "malformed",
            lambda: f"{told}: {start!r} from {source[0]}:{source[1]}",
        )
        reply = answer(message, status, source)
        if reply is not None:
            wire.count_response(int(status[:3]))
            self._reply(rdata.tp_info.transport, raw, source, *reply)
        return 1

    def on_request(self, rdata: Any) -> int:
        """1 drops the request."""
        raw, plain = wire.take(rdata)
        info = rdata.msg_info
        method, named = info.msg.line.req.method, info.cseq.method
        same = method.id == named.id
        if same and method.id == pjsip.OTHER:
            same = _text(method.name) == _text(named.name)
        # A request that names another method in CSeq finds a transaction that is not its own
        # (sip_transaction.c, tsx_on_state_confirmed).
        if not same:
            return self._refuse(rdata, raw, _MISMATCH)
        if not plain:
            if self._is_too_much(rdata):
                return self._drop(rdata, "malformed")
            fault = _fault(info.msg, raw)
            if fault is not None:
                return self._refuse(rdata, raw, fault)
        if self._refuses(rdata):
            return 1
        if method.id == pjsip.INVITE:
            _lighten(info.msg, raw)
        return 0

    def on_response(self, rdata: Any) -> int:
        """1 drops the response."""
        raw, plain = wire.take(rdata)
        info = rdata.msg_info
        if not plain and (fault := _fault(info.msg, raw)) is not None:
            return self._refuse(rdata, raw, fault)
        if info.cseq.method.id == pjsip.INVITE:
            if len(raw) > HEAD_MAX and wire.received().head_size > HEAD_MAX:
                return self._drop(rdata, "too_large")
            _lighten(info.msg, raw)
        return 0

    def on_unparsed(self, dropped: Any) -> None:
        """A packet that PJSIP could not parse. Line ends alone are keep-alives (RFC 5626 3.5.1)."""
        if dropped.status == 0 or dropped.len <= 4:
            return
        raw = bytes(ffi.buffer(dropped.data, dropped.len))
        rdata = _rdata_of(dropped)
        if rdata is None:
            self._on_rejected("malformed", lambda: f"no SIP: {raw[:80]!r}")
        else:
            if self._is_too_much(rdata):
                self._on_rejected("malformed", lambda: f"{raw[:80]!r}")
                return
            self._refuse(rdata, raw, fault_of(raw) or _blamed(Message(raw)))

    def _is_too_much(self, rdata: Any) -> bool:
        """Whether a malformed message is one too many of strangers'."""
        if self._is_known(pjsip.string_at(rdata.pkt_info.src_name)):
            return False
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._left = second, STRANGERS_S
        self._left -= 1
        return self._left < 0


def _rdata_of(dropped: Any) -> Any:
    """What PJSIP read a dropped packet into, which it does not tell; None if it is not found."""
    data = ffi.cast("char *", dropped.data)
    for passed in range(8):  # line ends before the start line
        rdata = ffi.cast("pjsip_rx_data *", data - passed - _PACKET_AT)
        if rdata.msg_info.msg_buf == data and rdata.tp_info.transport == dropped.tp:
            return rdata
    return None


def _blamed(message: Message) -> Fault:
    """The header field for which PJSIP does not take a message: the first that it cannot parse."""
    absent = missing(message)
    if absent is not None:
        return absent
    endpt = lib.pjsua_get_pjsip_endpt()
    pool = lib.pjsip_endpt_create_pool(endpt, b"blame", 4000, 4000)
    length = ffi.new("int *")
    try:
        for name, _, value in message.fields[:FIELDS_MAX]:
            full = shown(name)
            text = value + b"\r\n"
            copy = ffi.new("char[]", text)
            made = lib.pjsip_parse_hdr(pool, wire.borrow(0, full), copy, len(text), length)
            if made == ffi.NULL or length[0] < len(text):
                return Fault(b"Malformed " + full)
    finally:
        lib.pjsip_endpt_release_pool(endpt, pool)
    # A datagram does without (RFC 3261 20.14); nothing else is left to be wrong.
    return _NO_LENGTH if message.first(b"content-length") is None else _UNREADABLE


def _fault(msg: Any, raw: bytes) -> Fault | None:
    """The fault of a message that has to be read twice."""
    fault = fault_of(raw)
    if fault is not None:
        return fault
    message = wire.received()
    return poison_of(message) or (None if message.lost else _differs(msg, message))


def _differs(msg: Any, message: Message) -> Fault | None:
    """Whether PJSIP has found other header fields than we have. What deceives one of the two in a
    way that nobody thought of shows here."""
    if len(message.fields) > FIELDS_MAX:
        return Fault(b"Too Many Header Fields")
    ours: Counter[bytes] = Counter()
    for name, _, value in message.fields:
        ours[name] += len(split_list(value)) if name in _LISTS else 1
    theirs = Counter(_names(msg))
    for name in ours | theirs:
        if name not in _MERGED and ours[name] != theirs[name]:
            return Fault(b"Malformed " + shown(name))
    return None


def _names(msg: Any) -> Iterator[bytes]:
    """The full lower-case names of PJSIP's headers."""
    first = ffi.addressof(msg, "hdr")
    header = first.next
    while header != first:
        low = _text(header.name).lower()
        yield COMPACT.get(low, low)
        header = header.next


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


def poison_of(message: Message) -> Fault | None:
    """Whether PJSIP would stumble over this message when it prints or routes by it."""
    for name in (b"record-route", b"route"):
        for value in message.values(name):
            if any(_is_bad_route(entry) for entry in split_list(value)):
                return Fault(b"Malformed " + shown(name))
    # A Via's maddr is where the response goes, and a name there is looked up while all calls wait.
    if b"maddr" in (message.first(b"via") or b"").lower():
        return Fault(b"Via With Maddr")
    return None


def _is_bad_route(entry: bytes) -> bool:
    # sip_msg.c asserts on the parameter `hide`; any URI is read as if it were a SIP URI.
    plain = unquote_to_bytes(entry)
    return _HIDE.search(plain) is not None or _SIP_URI.match(plain) is None


def _text(name: Any) -> bytes:
    return bytes(ffi.buffer(name.ptr, name.slen))
