# cython: language_level=3, boundscheck=True, wraparound=False, nonecheck=True
"""One received SIP message: the positions of its header fields, and the fields that steer it.

One pass over the bytes records each field's kind and offsets and parses what every message needs.
The rest is parsed on demand. There is no second parser: what is malformed here is refused, and
fields that pass are copied from these offsets.

Strict in what steers (start line, Via, From, To, Call-ID, CSeq, Max-Forwards, Content-Length: each
well formed, none twice but Via), lenient in what only passes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import cython

from sip import relayed_values
from sip.field_names import COMPACT, KNOWN, shown
from sip.grammar import (
    has_gap,
    is_plain_address,
    is_sip_uri,
    param,
    span_of,
    split,
    trimmed,
    unsigned,
    via,
)

if not cython.compiled:
    from sip.native import at, cut, note, room, seek, widen
else:
    from cython.cimports.sip.native import (  # type: ignore[no-redef]
        at,
        cut,
        note,
        room,
        seek,
        widen,
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on received data: bytes of a message, and of its head on a stream."""

    message_bytes: int = 262_144
    head_bytes: int = 65_535


# -- kinds of header fields: the place of each in KNOWN; C integers, thus not seen by importers

VIA = cython.declare(cython.int, 0)
FROM = cython.declare(cython.int, 1)
TO = cython.declare(cython.int, 2)
CALL_ID = cython.declare(cython.int, 3)
CSEQ = cython.declare(cython.int, 4)
MAX_FORWARDS = cython.declare(cython.int, 5)
CONTENT_LENGTH = cython.declare(cython.int, 6)
RECORD_ROUTE = cython.declare(cython.int, 7)
CONTACT = cython.declare(cython.int, 8)
CONTENT_TYPE = cython.declare(cython.int, 9)
TIMESTAMP = cython.declare(cython.int, 10)
OTHER = cython.declare(cython.int, 255)

REPLACES = cython.declare(cython.int, KNOWN.index(b"replaces"))
JOIN = cython.declare(cython.int, KNOWN.index(b"join"))
TARGET_DIALOG = cython.declare(cython.int, KNOWN.index(b"target-dialog"))
PRIVACY = cython.declare(cython.int, KNOWN.index(b"privacy"))
REMOTE_PARTY_ID = cython.declare(cython.int, KNOWN.index(b"remote-party-id"))
# 1 for the kinds whose values are checked; for each kind, the results of its values, because those
# of Allow repeat.
_CHECKED = cython.declare(bytes, bytes(name in relayed_values.CHECKED for name in KNOWN))
_verdicts: list[dict[bytes, bool]] = cython.declare(list, [{} for _ in KNOWN])
_SHORT = {full: short for short, full in COMPACT.items()}
# Every way to write a known name, in lower case, and the kind it is.
FULL: list[bytes] = cython.declare(list, KNOWN)
NAMES: list[bytes] = cython.declare(list, KNOWN + [_SHORT[n] for n in KNOWN if n in _SHORT])
KINDS = cython.declare(bytes, bytes(KNOWN.index(COMPACT.get(name, name)) for name in NAMES))
# The bit of each kind in the set of those that a message has: one for all that steer, one for what
# has no known name.
_BITS = cython.declare(bytes, bytes(max(0, kind - 10) for kind in range(len(KNOWN))))
OTHER_BIT = cython.declare(cython.int, 63)

# What is noted of each field, in this order: its kind; where it starts, where its value does and
# ends, where the next field starts.
KIND = cython.declare(cython.int, 0)
START = cython.declare(cython.int, 1)
VALUE = cython.declare(cython.int, 2)
END = cython.declare(cython.int, 3)
AFTER = cython.declare(cython.int, 4)
WIDTH = cython.declare(cython.int, 5)
USUAL_FIELDS = cython.declare(cython.int, 25)  # a message that has more gets a larger table
MOST_FIELDS = cython.declare(cython.int, 336)
ROOM = cython.declare(cython.int, 16)
FIELDS = MOST_FIELDS - ROOM  # more of them are refused
CSEQ_MAX = cython.declare(cython.longlong, 0x7FFFFFFF)  # RFC 3261 8.1.1.5
DEFAULT_MAX_FORWARDS = cython.declare(cython.int, 70)
CR = cython.declare(cython.int, 13)
LF = cython.declare(cython.int, 10)
SPACE = cython.declare(cython.int, 32)

_LINE_END = re.compile(rb"\r\n|\n|\r")
_HEAD_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_FOLD = re.compile(rb"(?<![ \t])[ \t]*+\r\n[ \t]+")  # each run of blanks is read once
_RPORT = re.compile(rb";\s*rport\s*(?=;|,|$)", re.IGNORECASE)
_NO_NAME = re.compile(rb"[^!-~]")
_BAD_URI = re.compile(rb"[\s<>\"]")
_VERSION = re.compile(rb"sip/\d{1,3}\.\d{1,3}\Z", re.IGNORECASE)

_passing: dict[frozenset[bytes], bytes] = {}  # by the names that do not pass: 1 for kinds that do
_bits: dict[frozenset[bytes], int] = {}  # by names: the bits of their kinds
_names: dict[bytes, bytes] = {}  # of unknown fields as received: in lower case
_REMEMBERED = 4096
_LONGEST_NAME = 64
_VERDICTS = 256  # of the values of one kind


@cython.cfunc
@cython.inline
def _place(
    name: bytes, start: cython.Py_ssize_t, end: cython.Py_ssize_t, by: cython.int
) -> cython.int:
    """The place of a field's name in the table; case is ignored."""
    first: cython.int = name[start] | 32
    middle: cython.int = name[(start + end) >> 1] | 32
    last: cython.int = name[end - 1] | 32
    return (first * by + middle * 61 + last * 5 + cython.cast(cython.int, end - start) * 37) & 4095


@cython.cfunc
def _beside(names: frozenset[bytes]) -> bytes:
    """For each kind 1 if it is none of these names."""
    table: bytes | None = _passing.get(names)
    if table is None:
        table = bytes(name not in names for name in KNOWN)
        if len(_passing) < _REMEMBERED:
            _passing[names] = table
    return table


@cython.cfunc
@cython.inline
def _bit(kind: cython.int) -> cython.ulonglong:
    return cython.cast(cython.ulonglong, 1) << (OTHER_BIT if kind == OTHER else _BITS[kind])


def _bits_of(names: frozenset[bytes]) -> int:
    bits = 0
    for name in names:
        bits |= _bit(_kind(name, 0, len(name)))
    if len(_bits) < _REMEMBERED:
        _bits[names] = bits
    return bits


def _perfect() -> tuple[int, bytes]:
    """A factor that gives each known name a place of its own, and the table of places."""
    by: cython.int
    for by in range(1, 65536):
        table = bytearray(b"\xff" * 4096)
        for k, name in enumerate(NAMES):
            at = _place(name, 0, len(name), by)
            if table[at] != 255:
                break
            table[at] = k
        else:
            return by, bytes(table)
    raise AssertionError("no factor gives each name a place of its own")


@cython.cfunc
@cython.inline
def _blank(c: cython.int) -> cython.bint:
    return c == 32 or c == 9


@cython.cfunc
def _same(v: bytes, start: cython.Py_ssize_t, end: cython.Py_ssize_t, name: bytes) -> cython.bint:
    i: cython.Py_ssize_t
    c: cython.int
    if end - start != len(name):
        return False
    for i in range(len(name)):
        c = v[start + i]
        if 65 <= c <= 90:
            c += 32
        if c != name[i]:
            return False
    return True


@cython.cfunc
def _kind(data: bytes, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
    """The kind of the header field named in data[start:end]."""
    k: cython.int
    if start >= end:
        return OTHER
    k = PLACES[_place(data, start, end, FACTOR)]
    if k < 255 and _same(data, start, end, NAMES[k]):
        return KINDS[k]
    return OTHER


@cython.cfunc
def _sound(kind: cython.int, value: bytes) -> cython.bint:
    known: dict[bytes, bool] = _verdicts[kind]
    verdict = known.get(value)
    if verdict is None and kind == CONTACT and is_plain_address(value):
        return True
    if verdict is None:
        verdict = relayed_values.is_sound(FULL[kind], value)
        if len(known) < _VERDICTS and len(value) < 512:
            known[value] = verdict
    return verdict is True


@cython.cfunc
def _hides(v: bytes) -> cython.bint:
    """Whether "anonymous" or ".invalid" is in a From."""
    i: cython.Py_ssize_t
    end: cython.Py_ssize_t = len(v)
    for i in range(end - 7):
        if v[i] == ord(".") and _same(v, i, i + 8, b".invalid"):
            return True
        if (v[i] | 32) == ord("a") and i + 9 <= end and _same(v, i, i + 9, b"anonymous"):
            return True
    return False


def _shown(name: bytes) -> str:
    """The usual spelling of a field's name, with a ? for each invalid byte."""
    return _NO_NAME.sub(b"?", shown(name)).decode("ascii")


_by, _places = _perfect()
FACTOR = cython.declare(cython.int, _by)
PLACES = cython.declare(bytes, _places)


@cython.final
@cython.no_gc
@cython.cclass
class Message:
    """A request or response as it was received; obsolete folding (RFC 3261 7.3.1) is undone.

    `bad` is 0 for a well-formed message, the status with which to refuse a request, or -1 if it
    must be dropped: not SIP, no way to answer it, or a malformed response. `fault` names what is
    wrong. Names of fields are given in lower case and full length.
    """

    bad: int = cython.declare(cython.int, visibility="public")
    fault: str = cython.declare(str, visibility="public")
    method: bytes = cython.declare(bytes, visibility="public")  # empty for a response
    target: bytes = cython.declare(bytes, visibility="public")  # the Request-URI
    status: int = cython.declare(cython.int, visibility="public")  # 0 for a request
    branch: bytes = cython.declare(bytes, visibility="public")  # of the first Via
    raw_call_id: bytes = cython.declare(bytes, visibility="public")
    sender: bytes = cython.declare(bytes, visibility="public")  # the value of From
    to: bytes = cython.declare(bytes, visibility="public")  # the value of To
    from_tag: Any = cython.declare(object, visibility="public")  # bytes, None without one
    to_tag: Any = cython.declare(object, visibility="public")
    cseq: int = cython.declare(cython.longlong, visibility="public")
    cseq_method: bytes = cython.declare(bytes, visibility="public")
    max_forwards: int = cython.declare(cython.longlong, visibility="public")
    rport: bool = cython.declare(cython.bint, visibility="public")
    lost: bool = cython.declare(cython.bint, visibility="public")  # too large: only the head came
    port: int = cython.declare(cython.int, visibility="public")  # of the first Via, 0 without one
    host: bytes = cython.declare(bytes, visibility="public")  # of the first Via
    untrusted: bool = cython.declare(cython.bint, visibility="public")  # from a phone (RFC 3325)
    wish: Any = cython.declare(object, visibility="public")  # what its sender wants to be private
    way: Any = cython.declare(object, visibility="public")  # that it came by
    data: bytes = cython.declare(bytes, visibility="public")
    _line: cython.int  # past the start line
    _count: cython.int
    _has: cython.ulonglong  # the kinds of fields that there are
    _table: bytearray  # WIDTH numbers for each field
    _via: cython.int
    _vias: cython.int
    _sent_by: cython.int  # where it ends in the datagram
    _sent_by_start: cython.int
    _cseq: cython.int
    _contact: cython.int
    _type: cython.int
    _stamp: cython.int
    _routed: cython.bint
    _torn: cython.bint  # the empty line behind the header fields is missing
    _length: cython.longlong  # as Content-Length says, -1 without
    _body: cython.int
    _body_end: cython.int
    _fields: Any
    _named: Any

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._table = room(USUAL_FIELDS * WIDTH)
        self._has = 0
        self.method = self.target = self.branch = self.raw_call_id = b""
        self.sender = self.to = self.cseq_method = self.host = b""
        self.fault = ""
        self.from_tag = self.to_tag = self._fields = self._named = None
        self.wish = self.way = None
        self.untrusted = self.rport = self.lost = self._routed = self._torn = False
        self._count = self._vias = self._sent_by = self._sent_by_start = self.port = 0
        self._body = self._body_end = self._line = self.status = self.bad = 0
        self._via = self._cseq = self._contact = self._type = self._stamp = -1
        self._length = self.cseq = -1
        self.max_forwards = DEFAULT_MAX_FORWARDS
        self.bad = self._parse(True)

    # -- reading ----------------------------------------------------------------------------------

    @cython.cfunc
    @cython.inline
    def _at(self, i: cython.int, what: cython.int) -> cython.int:
        return at(self._table, i * WIDTH + what)

    @cython.cfunc
    def _text(self, i: cython.int) -> bytes:
        if i < 0 or i >= self._count:
            raise IndexError("no such field")
        return cut(self.data, self._at(i, VALUE), self._at(i, END))

    @cython.cfunc
    def _fail(self, code: cython.int, fault: str) -> cython.int:
        """Record the first fault."""
        if self.bad == 0:
            self.bad = code
            self.fault = fault
        return code

    @cython.cfunc
    def _drop(self, fault: str) -> cython.int:
        self.fault = fault
        return -1

    @cython.cfunc
    def _start_line(self) -> cython.bint:
        """Parse the request or status line; False if it is not SIP."""
        data: bytes = self.data
        size: cython.Py_ssize_t = len(data)
        skip: cython.Py_ssize_t = 0
        while skip < size and (data[skip] == CR or data[skip] == LF):
            skip += 1
        if skip:
            self.data = data = cut(data, skip, size)
            size -= skip
        lf: cython.Py_ssize_t = seek(data, LF, 0, size)
        if lf < 12 or lf == size:
            return False
        last: cython.Py_ssize_t = lf
        if data[last - 1] == CR:
            last -= 1
        trailing: cython.bint = _blank(data[last - 1])
        while last > 12 and _blank(data[last - 1]):
            last -= 1
        self._line = lf + 1
        self.status = 0
        if _same(data, 0, 8, b"sip/2.0 "):
            self.status = unsigned(data, 8, 11)
            self.method = b""
            return 100 <= self.status <= 699 and (last <= 12 or data[11] == SPACE)
        first: cython.Py_ssize_t = seek(data, SPACE, 0, size)
        end: cython.Py_ssize_t = last
        while end > first and data[end - 1] != SPACE:
            end -= 1
        if first == 0 or end <= first + 1 or not _VERSION.match(cut(data, end, last)):
            return False
        self.method = cut(data, 0, first)
        self.target = cut(data, first + 1, end - 1)
        if not _same(data, end, last, b"sip/2.0"):
            self._fail(505, "SIP-Version")
        elif trailing:
            self._fail(400, "a blank behind the start line")
        elif not self.target or _BAD_URI.search(self.target):
            self._fail(400, "Request-URI")
        return True

    @cython.cfunc
    def _parse(self, once: cython.bint) -> cython.int:
        here: cython.Py_ssize_t
        size: cython.Py_ssize_t
        i: cython.Py_ssize_t
        end: cython.Py_ssize_t
        lf: cython.Py_ssize_t
        after_colon: cython.Py_ssize_t
        n: cython.int
        kind: cython.int
        sender: cython.int = -1
        to: cython.int = -1
        call_id: cython.int = -1
        limit: cython.int = -1
        number: cython.longlong
        length: cython.longlong
        self.bad = 0
        if not self._start_line():
            return self._drop("no SIP")
        data: bytes = self.data
        size = len(data)
        here = self._line
        self._via = self._cseq = self._contact = self._type = self._stamp = -1
        self._count = self._vias = 0
        self._has = 0
        self._length = -1
        self.max_forwards = DEFAULT_MAX_FORWARDS
        if here < 2 or data[here - 2] != CR:
            return self._again(once)
        while True:
            if here >= size:
                return self._again(once)
            end = seek(data, CR, here, size)
            lf = seek(data, LF, here, size)
            if lf != end + 1:  # a line that does not end in CRLF, or has a CR or LF inside
                return self._again(once)
            if end == here:
                here = lf + 1
                break
            if lf + 1 < size and _blank(data[lf + 1]):
                return self._again(once)
            i = seek(data, ord(":"), here, end)
            n = self._count
            if i == end:
                self._fail(400, "a line without a colon")
                here = lf + 1
                continue
            after_colon = i + 1
            while i > here and _blank(data[i - 1]):
                i -= 1
            kind = _kind(data, here, i)
            if i == here or (kind == OTHER and seek(data, SPACE, here, i) < i):
                self._fail(400, "the name of a header field")
            if n >= MOST_FIELDS - ROOM:  # what is needed for the refusal still finds room
                self._fail(513, "too many header fields")
                if kind > TIMESTAMP or n == MOST_FIELDS:
                    here = lf + 1
                    continue
            if (n + 1) * WIDTH * 4 > len(self._table):
                widen(self._table, MOST_FIELDS * WIDTH)
            self._count = n + 1
            self._has |= _bit(kind)
            note(self._table, n * WIDTH + KIND, kind)
            note(self._table, n * WIDTH + START, here)
            note(self._table, n * WIDTH + AFTER, lf + 1)
            i = after_colon
            here = lf + 1
            while i < end and _blank(data[i]):
                i += 1
            while end > i and _blank(data[end - 1]):
                end -= 1
            note(self._table, n * WIDTH + VALUE, i)
            note(self._table, n * WIDTH + END, end)
            if kind != OTHER and _CHECKED[kind] and not _sound(kind, cut(data, i, end)):
                self._fail(400, _shown(FULL[kind]))
            if kind > TIMESTAMP:
                continue
            if kind == VIA:
                self._vias += 1
                if self._via < 0:
                    self._via = n
            elif kind == FROM:
                if sender >= 0:
                    self._fail(400, "From")
                sender = n
            elif kind == TO:
                if to >= 0:
                    self._fail(400, "To")
                to = n
            elif kind == CALL_ID:
                if call_id >= 0:
                    self._fail(400, "Call-ID")
                call_id = n
            elif kind == CSEQ:
                if self._cseq >= 0:
                    self._fail(400, "CSeq")
                self._cseq = n
            elif kind == CONTACT:
                if self._contact < 0:
                    self._contact = n
            elif kind == CONTENT_LENGTH:
                length = unsigned(data, i, end)
                if length < 0 or (self._length >= 0 and length != self._length):
                    self._fail(400, "Content-Length")
                self._length = length
            elif kind == MAX_FORWARDS:
                if limit >= 0:
                    self._fail(400, "Max-Forwards")
                limit = n
                number = unsigned(data, i, end)  # may not fit the attribute
                if 0 <= number <= 255:
                    self.max_forwards = number
                else:
                    self._fail(400, "Max-Forwards")
            elif kind == RECORD_ROUTE:
                self._routed = True
            elif kind == CONTENT_TYPE:
                if self._type >= 0 and self._text(self._type) != cut(data, i, end):
                    self._fail(400, "Content-Type")
                self._type = n
            elif kind == TIMESTAMP:
                self._stamp = n
        if self._torn:
            self._fail(400, "no end of the header fields")
        i = seek(data, 0, 0, size)
        if i < here:
            self._fail(400, self._nul(i))
        self._body = here
        self._body_end = size
        if self._via < 0 or not self._top_via():
            return self._drop("Via")
        # Missing fields are missing in the refusal, too.
        self.raw_call_id = self._text(call_id) if call_id >= 0 else b""
        if not self.raw_call_id:
            self._fail(400, "Call-ID")
        self.sender = self._text(sender) if sender >= 0 else b""
        self.to = self._text(to) if to >= 0 else b""
        self._addresses()
        self._read_cseq()
        if self._length > size - here:
            self._fail(400, "Content-Length")
        elif self._length >= 0:
            self._body_end = here + self._length
        return self.bad if self.status == 0 or self.bad == 0 else -1

    @cython.cfunc
    def _nul(self, place: cython.Py_ssize_t) -> str:
        """What a NUL there is in."""
        n: cython.int
        for n in range(self._count):
            if self._at(n, START) <= place < self._at(n, AFTER):
                return "a NUL in " + _shown(self._name(n))
        return "a NUL in the head"

    @cython.cfunc
    def _again(self, once: cython.bint) -> cython.int:
        """Parse the message again with its odd line ends changed to CRLF and its folds undone. A
        byte that another parser takes for a line end may not hide a header field in a value."""
        if not once:
            return self._drop("no end of the header fields")
        parts = _HEAD_END.split(self.data, maxsplit=1)
        self._torn = len(parts) < 2
        head = _FOLD.sub(b" ", _LINE_END.sub(b"\r\n", parts[0].rstrip(b"\r\n")))
        self.data = head + b"\r\n\r\n" + (b"" if self._torn else parts[1])
        return self._parse(False)

    @cython.cfunc
    def _addresses(self) -> None:
        # Every URI has a colon; an unquoted name may contain the comma (RFC 4475 3.1.2.15).
        span: tuple[int, int, int] = span_of(self.sender)
        if span[1] == 0 or seek(self.sender, ord(":"), span[0], span[1]) + 1 >= span[1]:
            self._fail(400, "From")
        self.from_tag = param(self.sender, span[2], b"tag")
        span = span_of(self.to)
        if span[1] == 0 or seek(self.to, ord(":"), span[0], span[1]) + 1 >= span[1]:
            self._fail(400, "To")
        self.to_tag = param(self.to, span[2], b"tag")

    @cython.cfunc
    def _read_cseq(self) -> None:
        v: bytes = self._text(self._cseq) if self._cseq >= 0 else b""
        i: cython.Py_ssize_t = 0
        end: cython.Py_ssize_t = len(v)
        while i < end and not _blank(v[i]):
            i += 1
        self.cseq = unsigned(v, 0, i)
        self.cseq_method = trimmed(v, i, end)
        known: cython.bint = 0 <= self.cseq <= CSEQ_MAX and len(self.cseq_method) > 0
        if not known or (self.status == 0 and self.cseq_method != self.method):
            self._fail(400, "CSeq")

    @cython.cfunc
    def _top_via(self) -> cython.bint:
        v: bytes = self._text(self._via)
        # Senders with another version write it in Via, too.
        read: tuple[bytes, int, int, bytes, int] | None = via(v, self.bad == 505)
        if read is None:
            return False
        if has_gap(v, read[2]):
            self._fail(400, "Via")
        self._sent_by_start = self._at(self._via, VALUE) + read[1]
        self._sent_by = self._at(self._via, VALUE) + read[2]
        self.host = read[3]
        self.port = read[4]
        self.branch = param(v, read[2], b"branch") or b""
        self.rport = self.status == 0 and param(v, read[2], b"rport") is not None
        return True

    # -- for transactions --------------------------------------------------------------------------

    def key(self, method: bytes) -> bytes:
        """The common key of the requests of one server transaction (RFC 3261 17.2.3)."""
        sent_by: bytes = cut(self.data, self._sent_by_start, self._sent_by)
        if self.branch.startswith(b"z9hG4bK") and len(self.branch) > 7:
            return self.branch + b" " + method + b" " + sent_by
        return b"|".join(
            (method, self.raw_call_id, b"%d" % self.cseq, self.from_tag or b"", sent_by)
        )

    @property
    def vias(self) -> int:
        """The number of Via fields."""
        return self._vias

    def response_head(self, host: bytes, port: int) -> bytes:
        """The header fields that every response to this request repeats, Via to To, without the
        last line end. `host` and `port` are its source (18.2.1, RFC 3581 4)."""
        parts: list[bytes] = []
        i: cython.int
        for i in range(self._via, self._count):
            if self._at(i, KIND) != VIA:
                continue
            parts.append(b"Via: ")
            if i > self._via:
                parts.append(self._text(i))
            else:
                parts.append(cut(self.data, self._at(i, VALUE), self._sent_by))
                parts.append(b";received=")
                parts.append(host)
                rest: bytes = cut(self.data, self._sent_by, self._at(i, END))
                if self.rport:
                    rest = _RPORT.sub(b";rport=%d" % port, rest, count=1)
                parts.append(rest)
            parts.append(b"\r\n")
        cseq: bytes = self._text(self._cseq) if self._cseq >= 0 else b""
        if self.sender and self.raw_call_id and cseq and self.to:
            parts += [b"From: ", self.sender, b"\r\nCall-ID: ", self.raw_call_id, b"\r\nCSeq: "]
            parts += [cseq, b"\r\nTo: ", self.to]
        else:  # to be refused for what is missing
            values = zip(
                (b"From: ", b"Call-ID: ", b"CSeq: ", b"To: "),
                (self.sender, self.raw_call_id, cseq, self.to),
                strict=True,
            )
            parts.append(b"\r\n".join([name + value for name, value in values if value]))
        return b"".join(parts)

    @property
    def record_routes(self) -> list[bytes]:
        """The entries of every Record-Route, in order."""
        out: list[bytes] = []
        i: cython.int
        if self._routed:
            for i in range(self._count):
                if self._at(i, KIND) == RECORD_ROUTE:
                    out += split(self._text(i))
        return out

    @property
    def steering_fault(self) -> str:
        """The malformed one of the fields that determine a dialog's target and route, "" if none
        is: Contact and Record-Route contain SIP URIs with a host (12.1)."""
        if self._contact >= 0:
            uri = self.contact
            if not is_sip_uri(uri) and not _same(uri, 0, min(4, len(uri)), b"tel:"):
                return "Contact"
        for entry in self.record_routes:
            span: tuple[int, int, int] = span_of(entry)
            if not is_sip_uri(cut(entry, span[0], span[1])):
                return "Record-Route"
        return ""

    @property
    def contact(self) -> bytes:
        """The URI of the first Contact, b"" without one."""
        if self._contact < 0:
            return b""
        v: bytes = self._text(self._contact)
        span: tuple[int, int, int] = span_of(v)
        return cut(v, span[0], span[1])

    @property
    def timestamp(self) -> bytes:
        """The Timestamp field for a 100 (8.2.6.1), b"" without one."""
        return b"" if self._stamp < 0 else b"Timestamp: " + self._text(self._stamp)

    # -- for all others ----------------------------------------------------------------------------

    @property
    def fields(self) -> list[tuple[bytes, bytes, bytes]]:
        """The header fields in order: name in lower case and full length, field, value."""
        if self._fields is None:
            self._fields = [
                (self._name(i), self._line_of(i), self._text(i)) for i in range(self._count)
            ]
        found: list[tuple[bytes, bytes, bytes]] = self._fields
        return found

    @cython.cfunc
    def _line_of(self, i: cython.int) -> bytes:
        return cut(self.data, self._at(i, START), self._at(i, AFTER) - 2)

    @cython.cfunc
    def _name(self, i: cython.int) -> bytes:
        if self._at(i, KIND) != OTHER:
            return FULL[self._at(i, KIND)]
        written: bytes = cut(self.data, self._at(i, START), self._at(i, VALUE))
        known = _names.get(written)
        if known is None:
            name = written.partition(b":")[0].strip().lower()
            known = COMPACT.get(name, name)
            if len(_names) < _REMEMBERED and len(written) <= _LONGEST_NAME:
                _names[written] = known
        return known

    @cython.cfunc
    def _find(self, name: bytes, start: cython.int) -> cython.int:
        """The first field of that name from `start` on, or -1."""
        i: cython.int
        kind: cython.int = _kind(name, 0, len(name))
        if not self._has & _bit(kind):
            return -1
        for i in range(start, self._count):
            if self._at(i, KIND) == kind and (kind != OTHER or self._name(i) == name):
                return i
        return -1

    def values(self, name: bytes) -> list[bytes]:
        """Every value of the header `name`, in order."""
        out: list[bytes] = []
        i: cython.int = self._find(name, 0)
        while i >= 0:
            out.append(self._text(i))
            i = self._find(name, i + 1)
        return out

    def first(self, name: bytes) -> bytes | None:
        """The first value of the header `name`, or None."""
        i: cython.int = self._find(name, 0)
        return None if i < 0 else self._text(i)

    @property
    def names(self) -> dict[bytes, bytes]:
        """The names of its header fields, each with its first value."""
        if self._named is None:
            self._named = {name: value for name, _, value in reversed(self.fields)}
        named: dict[bytes, bytes] = self._named
        return named

    @property
    def tells_dialogs(self) -> bool:
        """A quick check: whether it may name a dialog, also inside a URI (sip/replaces.py)."""
        if seek(self.data, ord("?"), self._line, self._body) < self._body:
            return True
        return self._has & (_bit(REPLACES) | _bit(JOIN) | _bit(TARGET_DIALOG)) != 0

    @property
    def may_withhold(self) -> bool:
        """A quick check: whether its sender may ask for privacy (sip/privacy.py)."""
        if self._has & (_bit(PRIVACY) | _bit(REMOTE_PARTY_ID)):
            return True
        i: cython.int = self._find(b"from", 0) if self.status == 0 else -1
        return i >= 0 and _hides(self._text(i))

    def has_any(self, names: frozenset[bytes]) -> bool:
        """Whether it has a header field of one of these names (in lower case, full length)."""
        bits: int | None = _bits.get(names)
        if bits is None:
            bits = _bits_of(names)
        if not self._has & cython.cast(cython.ulonglong, bits):
            return False
        table: bytes = _beside(names)
        i: cython.int
        kind: cython.int
        for i in range(self._count):
            kind = self._at(i, KIND)
            if (not table[kind]) if kind != OTHER else self._name(i) in names:
                return True
        return False

    def passing(self, hop: frozenset[bytes]) -> bytes:
        """The header fields that cross the engine, as text: all whose name is not in `hop`."""
        table: bytes = _beside(hop)
        parts: list[bytes] = []
        i: cython.int
        first: cython.int = -1
        kind: cython.int
        for i in range(self._count):
            kind = self._at(i, KIND)
            if table[kind] if kind != OTHER else self._name(i) not in hop:
                if first < 0:
                    first = i
            elif first >= 0:
                parts.append(cut(self.data, self._at(first, START), self._at(i - 1, AFTER)))
                first = -1
        if first >= 0:
            parts.append(cut(self.data, self._at(first, START), self._at(self._count - 1, AFTER)))
        text: bytes = b"".join(parts)
        return cut(text, 0, len(text) - 2) if text else b""

    @property
    def start_line(self) -> bytes:
        return self.data[: max(0, self._line - 2)]

    @property
    def head(self) -> bytes:
        """The header fields as text."""
        return cut(self.data, self._line, max(self._line, self._body - 4))

    @property
    def head_size(self) -> int:
        """Bytes of the start line and the header fields."""
        return self._body

    @property
    def phrase(self) -> bytes:
        """The reason phrase of a response."""
        return self.start_line.partition(b" ")[2].partition(b" ")[2]

    @property
    def body(self) -> bytes:
        """The body, by Content-Length where there is one (RFC 3261 18.3)."""
        return cut(self.data, self._body, self._body_end)

    @property
    def content_type(self) -> bytes:
        return b"" if self._type < 0 else self._text(self._type)

    @property
    def declared_length(self) -> int | None:
        return None if self._length < 0 else self._length

    @property
    def truncated(self) -> bool:
        return self._length > len(self.data) - self._body

    @property
    def call_id(self) -> str:
        return self.raw_call_id.decode("latin-1")

    @property
    def identity(self) -> bytes:
        """Identifies an INVITE and its retransmissions, in few bytes."""
        values = self._text(self._via), self.raw_call_id, self._text(self._cseq)
        return blake2b(b"\0".join(values), digest_size=16).digest()

    def without_body(self) -> Message:
        """The same message without its body."""
        copy = Message(cut(self.data, 0, self._body))
        copy._body_end = copy._body
        copy.untrusted, copy.wish = self.untrusted, self.wish
        return copy
