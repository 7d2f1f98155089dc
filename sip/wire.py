"""Writing messages through PJSIP: strings, header text, bodies, requests of a dialog.

The header fields that pass are added as one header whose value holds the rest of the text
("Subject: x" CRLF "Date: y" is the header Subject with a two-line value): one call into C,
whatever their number. The text was cut out of a parsed message, so no line in it can be anything
but a field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sip import pjsip
from sip.message import Message
from sip.pjsip import bytes_at, ffi, from_buffer, lib, string_at
from sip.structure import is_plain

# PJSIP prints into 4,000 bytes, and a request that does not fit reaches an assertion
# (pjsip_dlg_send_request ends a transaction that has no status yet). Via is added after the check.
PACKET_MAX = 4000
# What stands around the host in a Via (protocol, port, rport, branch), or in a response's Contact,
# which is added after the check as well.
ROOM_LEFT = 130
# RFC 3261 9.1: 64*T1 after its CANCEL an INVITE counts as cancelled, whatever the far end does.
CANCEL_TIMEOUT_S = 32.0
# Below this much text of ours a message cannot come near the limit and is not measured.
SURELY_FITS = 2000

NULL = ffi.NULL
RESPONSE_KINDS = ("other", "1xx", "2xx", "3xx", "4xx", "5xx", "6xx")
_METHOD_KINDS = {
    name.encode(): name
    for name in (
        "INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS", "INFO", "UPDATE", "PRACK",
        "REFER", "NOTIFY", "MESSAGE", "SUBSCRIBE", "PUBLISH",
    )
}  # fmt: skip

# SIP messages of this process by (direction, kind), retransmissions left out. PJSIP is one for the
# whole process, and so is this.
counts: Counter[tuple[str, str]] = Counter()

_created = ffi.new("pjsip_tx_data **")
_measure = ffi.new("char[]", PACKET_MAX)
_longest_host = 0  # of the names by which this process goes
_raw = b""
_rdata: Any = None
_message: Message | None = None
_plain = False  # as `take` was told
_cut = False  # the message that PJSIP handles now has lost its body on the way
_borrowed = [ffi.new("pj_str_t *") for _ in range(3)]
_held = [b"", b"", b""]


def kind_of(method_name: bytes) -> str:
    """A method's name for the counters, from a closed set."""
    return _METHOD_KINDS.get(method_name, "other")


def count_response(code: int) -> None:
    counts["out", RESPONSE_KINDS[code // 100]] += 1


class Text:
    """A pj_str_t over bytes of ours that stay where they are as long as this object."""

    __slots__ = ("_bytes", "ref")

    def __init__(self, value: bytes) -> None:
        self._bytes = ffi.new("char[]", value)
        self.ref = ffi.new("pj_str_t *", {"ptr": self._bytes, "slen": len(value)})


def borrow(place: int, value: bytes) -> Any:
    """A pj_str_t over `value` for one call into C that copies it; `place` is 0, 1 or 2."""
    string = _borrowed[place]
    _held[place] = value  # C reads it after this function's own reference is gone
    string.ptr = from_buffer(value)
    string.slen = len(value)
    return string


@lru_cache(maxsize=256)
def text(value: bytes) -> Text:
    """The Text of a value that comes again and again: a reason phrase, a media type, a Contact."""
    return Text(value)


def method(name: bytes) -> Any:
    """A pjsip_method by its name. A transaction copies it, so it need not live longer."""
    return _method(name)[0]


@lru_cache(maxsize=64)
def _method(name: bytes) -> tuple[Any, Text]:
    known = {b"INVITE": pjsip.INVITE, b"BYE": pjsip.BYE, b"OPTIONS": pjsip.OPTIONS}
    held = Text(name)
    made = ffi.new("pjsip_method *", {"id": known.get(name, pjsip.OTHER), "name": held.ref[0]})
    return made, held


ACK = lib.pjsip_get_ack_method()
BYE = lib.pjsip_get_bye_method()
INVITE = lib.pjsip_get_invite_method()


def string(value: Any) -> str:
    """A pj_str_t as text."""
    if value.ptr == NULL or value.slen <= 0:
        return ""
    return bytes(ffi.buffer(value.ptr, value.slen)).decode("latin-1")


def take(rdata: Any) -> tuple[bytes, bool]:
    """Copy a received message out of PJSIP's buffer, which is reused when the callback returns;
    and whether it is plain (structure.py)."""
    global _raw, _rdata, _plain, _message
    info = rdata.msg_info
    raw: bytes = bytes_at(info.msg_buf, info.len)
    _raw, _rdata, _message = raw, rdata, None
    _plain = is_plain(raw)
    return raw, _plain


def packet() -> bytes:
    """The bytes of the message that PJSIP is handling now."""
    return _raw


def received() -> Message:
    """The message that PJSIP is handling now: the guard took it, before any other callback."""
    global _message
    if _message is None:
        _message = Message(_raw, plain=_plain)
        _message.lost |= _cut
    return _message


def source() -> bytes:
    """The IP address that the message came from which PJSIP is handling now."""
    return string_at(_rdata.pkt_info.src_name)  # type: ignore[no-any-return]


@contextmanager
def cut() -> Iterator[None]:
    """What PJSIP is given meanwhile is the head of a message that was too large."""
    global _cut
    _cut = True
    try:
        yield
    finally:
        _cut = False


def add_block(tdata: Any, block: bytes) -> Any:
    """Add header fields (text without the last CRLF) to a message; the header that holds them."""
    head, _, rest = block.partition(b":")
    value = rest.lstrip()
    header = lib.pjsip_generic_string_hdr_create(tdata.pool, borrow(0, head), borrow(1, value))
    lib.pj_list_insert_before(tdata.msg.hdr.prev.next, header)  # before the list's own head
    return header


def set_body(tdata: Any, body: bytes, content_type: bytes) -> None:
    """Set the body as it came. The media type's parameters ride in its subtype, byte for byte."""
    if not body:
        tdata.msg.body = NULL
        return
    kind, _, subtype = content_type.partition(b"/")
    tdata.msg.body = lib.pjsip_msg_body_create(
        tdata.pool,
        text(kind.strip() or b"application").ref,
        text(subtype.strip() or b"octet-stream").ref,
        borrow(0, body),
    )


def goes_by(host: str) -> None:
    """This process shows itself by that host: there must be room for it."""
    global _longest_host
    _longest_host = max(_longest_host, len(host))


def fits(tdata: Any) -> bool:
    """Whether the message can be printed, with room for the Via or Contact still to come."""
    room = PACKET_MAX - ROOM_LEFT - _longest_host
    return bool(lib.pjsip_msg_print(tdata.msg, _measure, room) > 0)


def create_request(
    dlg: Any, method_: Any, block: bytes, body: bytes, content_type: bytes, *, measure: bool
) -> Any:
    """A request inside a dialog, ready to send; None when it would not fit a packet."""
    if lib.pjsip_dlg_create_request(dlg, method_, -1, _created) != 0:
        return None
    tdata = _created[0]
    if block:
        add_block(tdata, block)
    if body:
        set_body(tdata, body, content_type)
    if (measure or len(block) + len(body) > SURELY_FITS) and not fits(tdata):
        lib.pjsip_tx_data_dec_ref(tdata)
        return None
    return tdata


def readdress(tdata: Any, to_tag: bytes, uri: bytes) -> None:
    """Send a request into another early dialog of a forked call than the one heard last, which
    PJSIP's dialog follows: its To tag and its Contact."""
    to = ffi.cast("pjsip_fromto_hdr *", lib.pjsip_msg_find_hdr(tdata.msg, pjsip.H_TO, NULL))
    if bytes(ffi.buffer(to.tag.ptr, to.tag.slen)) == to_tag or not uri:
        return
    length = len(uri)
    copy = lib.pj_pool_calloc(tdata.pool, 1, length + 1)
    ffi.memmove(copy, uri, length)
    target = lib.pjsip_parse_uri(tdata.pool, copy, length, 0)
    if target != NULL:
        tdata.msg.line.req.uri = target
        lib.pj_strdup(tdata.pool, ffi.addressof(to, "tag"), borrow(0, to_tag))


def send_request(dlg: Any, tdata: Any, kind: str) -> bool:
    counts["out", kind] += 1
    return bool(lib.pjsip_dlg_send_request(dlg, tdata, -1, NULL) == 0)


def send_ack(dlg: Any, cseq: int, body: bytes, content_type: bytes) -> None:
    """ACK a 2xx (RFC 3261 13.2.2.4), with the INVITE's CSeq number."""
    if lib.pjsip_dlg_create_request(dlg, ACK, cseq, _created) == 0:
        tdata = _created[0]
        if body:
            set_body(tdata, body, content_type)
            if len(body) > SURELY_FITS and not fits(tdata):
                tdata.msg.body = NULL  # an ACK without its answer ends the far end's waiting
        send_request(dlg, tdata, "ACK")


def sample(dlg: Any) -> Message | None:
    """A request of this dialog, not to be sent: it shows the dialog's names, target and routes."""
    if lib.pjsip_dlg_create_request(dlg, ACK, 1, _created) != 0:
        return None
    tdata = _created[0]
    length = lib.pjsip_msg_print(tdata.msg, _measure, PACKET_MAX)
    text_ = bytes(ffi.buffer(_measure, length)) if length > 0 else b""
    lib.pjsip_tx_data_dec_ref(tdata)
    return Message(text_) if text_ else None


def send_bye(dlg: Any, tries: Iterator[tuple[bytes, bytes, bytes]]) -> None:
    """BYE, with the first of these header texts and bodies that fits."""
    for block, body, content_type in tries:
        tdata = create_request(dlg, BYE, block, body, content_type, measure=True)
        if tdata is not None:
            send_request(dlg, tdata, "BYE")
            return


def send_cancel(
    endpt: Any, dlg: Any, invite: Any, tries: Iterator[tuple[bytes, bytes, bytes]]
) -> None:
    """CANCEL the INVITE whose transmitted data is `invite` (RFC 3261 9.1), as `send_bye`."""
    for block, body, content_type in tries:
        if lib.pjsip_endpt_create_cancel(endpt, invite, _created) != 0:
            return
        tdata = _created[0]
        if block:
            add_block(tdata, block)
        if body:
            set_body(tdata, body, content_type)
        if fits(tdata):
            send_request(dlg, tdata, "CANCEL")
            return
        lib.pjsip_tx_data_dec_ref(tdata)


def answer(dlg: Any, tsx: Any, rdata: Any, code: int) -> None:
    """Answer a request inside a dialog at once, without header fields or body of anybody's."""
    if lib.pjsip_dlg_create_response(dlg, rdata, code, NULL, _created) == 0:
        count_response(code)
        lib.pjsip_dlg_send_response(dlg, tsx, _created[0])
