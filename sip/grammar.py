# cython: language_level=3, boundscheck=True, wraparound=False, nonecheck=True
"""The grammar of SIP, with one parser each: numbers, tokens, parameters, lists, addresses, Via.

All functions work on bytes and raise nothing. Malformed input gives -1, None or an empty span, and
the caller decides what that means. Only this module handles quoted strings, angle brackets and
escapes (RFC 3261 25.1).
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import cython

from sip.text_cache import remembered

if not cython.compiled:
    from sip.native import cut, seek
else:
    from cython.cimports.sip.native import cut, seek  # type: ignore[no-redef]

LF = cython.declare(cython.int, 10)
MOST_DIGITS = cython.declare(cython.int, 10)
NUMBER_MAX = cython.declare(cython.longlong, 0xFFFFFFFF)


class NameAddr(NamedTuple):
    """A value of From, To, Contact, Route and their like: `shown` is all of it without its header
    parameters, `parameters` their text from the first ";" on."""

    uri: bytes
    shown: bytes
    parameters: bytes


# Where the URI of a name-addr or addr-spec starts and ends, and where its parameters start. A plain
# tuple: compiled code reads one without asking its class.
Span = tuple[int, int, int]
NOWHERE: Span = (0, 0, 0)

# -- tokens and numbers


@cython.cfunc
@cython.inline
def _blank(c: cython.int) -> cython.bint:
    return c == 32 or c == 9


@cython.ccall
def trimmed(v: bytes, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> bytes:
    """v[start:end] without the blanks around it."""
    while start < end and _blank(v[start]):
        start += 1
    while end > start and _blank(v[end - 1]):
        end -= 1
    return cut(v, start, end)


@cython.ccall
def unsigned(v: bytes, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.longlong:
    """The decimal number that v[start:end] is, -1 for anything else or above 32 bits."""
    n: cython.longlong = 0
    i: cython.Py_ssize_t
    c: cython.int
    if start >= end or end > len(v) or end - start > MOST_DIGITS:
        return -1
    for i in range(start, end):
        c = v[i]
        if c < 48 or c > 57:
            return -1
        n = n * 10 + c - 48
    return n if n <= NUMBER_MAX else -1


@cython.ccall
def same(v: bytes, start: cython.Py_ssize_t, end: cython.Py_ssize_t, name: bytes) -> cython.bint:
    """Whether v[start:end] is the token `name`, which is given in lower case."""
    i: cython.Py_ssize_t
    c: cython.int
    if end - start != len(name) or start < 0 or end > len(v):
        return False
    for i in range(len(name)):
        c = v[start + i]
        if 65 <= c <= 90:
            c += 32
        if c != name[i]:
            return False
    return True


@cython.cfunc
def _past_quoted(v: bytes, i: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.Py_ssize_t:
    """Past the quoted string that begins at i; `end` when it never ends."""
    i += 1
    while i < end:
        if v[i] == ord("\\"):
            i += 1
        elif v[i] == ord('"'):
            return i + 1
        i += 1
    return end


# -- lines that close what they open

# The class of a byte for `is_closed`: 0 plain; each of these its own, from 1 on; 10 a backslash or
# a control character.
_MARKS = b'"<>[]()\r\n'
_PLAIN_BYTE = cython.declare(cython.int, 0)
_NOWHERE_BYTE = cython.declare(cython.int, 10)
_ODD = bytes((*range(9), *range(10, 32), 92, 127))
_CLASSES = cython.declare(
    bytes,
    bytes(
        _MARKS.find(bytes((c,))) + 1 or (_NOWHERE_BYTE if _ODD.find(bytes((c,))) >= 0 else 0)
        for c in range(256)
    ),
)
# Where a line is: outside of everything, in quotes, in <>, in [] in <>, in [], in (), behind CR.
_OUT = cython.declare(cython.int, 0)
_QUOTES = cython.declare(cython.int, 1)
_ANGLES = cython.declare(cython.int, 2)
_INNER = cython.declare(cython.int, 3)
_SQUARES = cython.declare(cython.int, 4)
_ROUNDS = cython.declare(cython.int, 5)
_RETURN = cython.declare(cython.int, 6)


@cython.ccall
def is_closed(v: bytes) -> cython.bint:
    """A quick check of a message: whether each line of its head closes what it opens, and the head
    ends. False is not final: `structure.fault_of` checks in detail."""
    end: cython.Py_ssize_t = v.find(b"\r\n\r\n") + 2
    c: cython.int
    k: cython.int
    where: cython.int = _OUT
    if end < 2:
        return False
    head: bytes = cut(v, 0, end)
    for c in head:
        k = _CLASSES[c & 255]  # in C a byte may be negative
        if k == _PLAIN_BYTE:
            continue
        if where == _OUT:
            if k == 1:
                where = _QUOTES
            elif k == 2:
                where = _ANGLES
            elif k == 4:
                where = _SQUARES
            elif k == 6:
                where = _ROUNDS
            elif k == 8:
                where = _RETURN
            else:
                return False
        elif where == _QUOTES:
            if k == 1:
                where = _OUT
            elif k == 8 or k == 9 or k == _NOWHERE_BYTE:
                return False
        elif where == _ANGLES:
            if k == 3:
                where = _OUT
            elif k == 4:
                where = _INNER
            elif k != 6 and k != 7:
                return False
        elif where == _INNER and k == 5:
            where = _ANGLES
        elif (
            (where == _SQUARES and k == 5)
            or (where == _ROUNDS and k == 7)
            or (where == _RETURN and k == 9)
        ):
            where = _OUT
        else:
            return False
    return where == _OUT


# -- parameters and lists


@cython.cfunc
def _scan(v: bytes, i: cython.Py_ssize_t, name: bytes | None, found: Any) -> Any:
    """The value of the parameter `name` in v from i to the first comma, None if there is none;
    without a name, all go into the dictionary `found` by their names in lower case."""
    end: cython.Py_ssize_t = len(v)
    start: cython.Py_ssize_t
    stop: cython.Py_ssize_t
    hit: cython.bint
    c: cython.int
    while i < end:
        c = v[i]
        if c == ord(","):
            break
        if c == ord('"'):
            i = _past_quoted(v, i, end)
            continue
        i += 1
        if c != ord(";"):
            continue
        while i < end and _blank(v[i]):
            i += 1
        start = i
        while i < end:
            c = v[i]
            if c == ord("=") or c == ord(";") or c == ord(",") or _blank(c):
                break
            i += 1
        stop = i
        hit = name is None or same(v, start, stop, name)
        key: Any = cut(v, start, stop).lower() if name is None else name
        while i < end and _blank(v[i]):
            i += 1
        start = i
        if i < end and v[i] == ord("="):
            i += 1
            while i < end and _blank(v[i]):
                i += 1
            start = i
            if i < end and v[i] == ord('"'):
                i = _past_quoted(v, i, end)
                if i == start + 1 or v[i - 1] != ord('"'):
                    start = i  # it never ends
            else:
                while i < end:
                    c = v[i]
                    if c == ord(";") or c == ord(",") or _blank(c):
                        break
                    i += 1
        if not hit:
            continue
        value: bytes = cut(v, start, i)
        if name is not None:
            return value
        if key:
            found.setdefault(key, unquoted(value))
    return None


@cython.ccall
def param(v: bytes, i: cython.Py_ssize_t, name: bytes) -> bytes | None:
    """The value of the parameter `name` (lower case) in v from i to the first comma; b"" for one
    without value, None if there is none. A quoted value keeps its quotes."""
    value: bytes | None = _scan(v, i, name, None)
    return value


def parameters(text: bytes) -> dict[bytes, bytes]:
    """Parameters by their lower-case names, from `;name=value;name="value";name`. Values are
    without quotes, b"" where there is none; of several with one name the first counts."""
    found: dict[bytes, bytes] = {}
    _scan(text, 0, None, found)
    return found


def unquoted(value: bytes) -> bytes:
    """A token as it is, a quoted string without its quotes and escapes."""
    return _ESCAPED.sub(rb"\1", value[1 : len(value) - 1]) if value[:1] == b'"' else value


@cython.ccall
def split(v: bytes) -> list[bytes]:
    """The entries of a list, cut at the commas outside quotes and angle brackets."""
    out: list[bytes] = []
    one: bytes
    i: cython.Py_ssize_t = 0
    start: cython.Py_ssize_t = 0
    end: cython.Py_ssize_t = len(v)
    inside: cython.bint = False
    c: cython.int
    while i < end:
        c = v[i]
        if c == ord('"') and not inside:
            i = _past_quoted(v, i, end)
            continue
        if c == ord("<"):
            inside = True
        elif c == ord(">"):
            inside = False
        elif c == ord(",") and not inside:
            one = trimmed(v, start, i)
            if one:
                out.append(one)
            start = i + 1
        i += 1
    one = trimmed(v, start, end)
    if one:
        out.append(one)
    return out


# -- name-addr


@cython.cfunc
def _scheme_end(v: bytes, i: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.Py_ssize_t:
    """The position after the scheme and colon of a URI that begins at i, 0 without one."""
    c: cython.int
    start: cython.Py_ssize_t = i
    while i < end:
        c = v[i]
        if c == ord(":"):
            return i + 1 if i > start else 0
        if not (97 <= (c | 32) <= 122 or (i > start and (48 <= c <= 57 or 43 <= c <= 46))):
            return 0
        i += 1
    return 0


@cython.cfunc
def _bare(v: bytes) -> tuple[int, int, int]:
    """The Span of an addr-spec without brackets: a URI with a scheme. It ends at its first ";"
    behind the user part: parameters without brackets are the header's (20.10)."""
    start: cython.Py_ssize_t = 0
    end: cython.Py_ssize_t = len(v)
    user: cython.Py_ssize_t
    i: cython.Py_ssize_t
    c: cython.int
    while start < end and _blank(v[start]):
        start += 1
    i = _scheme_end(v, start, end)
    if i == 0:
        return NOWHERE
    user = i
    while user < end and not _ends_uri(v[user]) and v[user] != ord("@"):
        user += 1
    if user < end and v[user] == ord("@"):
        i = user + 1
    while i < end:
        c = v[i]
        if _ends_uri(c) or c == ord(";"):
            break
        i += 1
    return (start, i, i)


@cython.cfunc
@cython.inline
def _ends_uri(c: cython.int) -> cython.bint:
    return c <= 32 or c == ord("<") or c == ord(">") or c == ord('"') or c == ord(",")


@cython.ccall
def span_of(v: bytes) -> tuple[int, int, int]:
    """The Span of the first name-addr or addr-spec in v (RFC 3261 20.10): NOWHERE if its brackets
    or quotes do not close, it is empty, or it is not a URI."""
    i: cython.Py_ssize_t = 0
    end: cython.Py_ssize_t = len(v)
    close: cython.Py_ssize_t
    c: cython.int
    while i < end:
        c = v[i]
        if c == ord("<") or c == ord(";") or c == ord(","):
            break
        if c == ord('"'):
            i = _past_quoted(v, i, end)
            if v[i - 1] != ord('"'):
                return NOWHERE
        else:
            i += 1
    if i == end or v[i] != ord("<"):
        return _bare(v)
    close = seek(v, ord(">"), i, end)
    if close == end or close == i + 1 or seek(v, ord("<"), i + 1, close) < close:
        return NOWHERE
    return (i + 1, close, close + 1)


def name_addr(value: bytes) -> NameAddr:
    """`"name" <URI>;parameters` or `URI;parameters` in its parts; empty when it is neither."""
    span = span_of(value)
    if span[1] == 0:
        return NameAddr(b"", b"", b"")
    uri, shown = value[span[0] : span[1]], value[: span[2]]
    return NameAddr(uri.strip(), shown.strip(), value[span[2] :])


def parameter(value: bytes, name: bytes) -> bytes | None:
    """A header parameter of a name-addr by its lower-case name, without quotes; None without it."""
    span = span_of(value)
    found = param(value, span[2], name) if span[1] else None
    return None if found is None else unquoted(found)


@cython.ccall
def uri_in(v: bytes) -> bytes:
    """The URI of a name-addr or addr-spec, b"" if there is none."""
    span = span_of(v)
    return cut(v, span[0], span[1])


@cython.ccall
def tag_in(v: bytes) -> bytes | None:
    """The tag of a From or To value, None without one."""
    span = span_of(v)
    return param(v, span[2], b"tag")


# -- host and port, Via


@cython.cfunc
def _host_end(v: bytes, i: cython.Py_ssize_t) -> cython.Py_ssize_t:
    """Past the host that begins at i: a name, an IPv4 address, an IPv6 reference; i if there is
    none (RFC 3261 25.1, hostname leniently)."""
    end: cython.Py_ssize_t = len(v)
    start: cython.Py_ssize_t = i
    c: cython.int
    if i < end and v[i] == ord("["):
        i += 1
        while i < end and v[i] != ord("]"):
            c = v[i]
            if not (48 <= c <= 58 or 65 <= (c & ~32) <= 70 or c == ord(".")):
                return start
            i += 1
        return i + 1 if i < end and i > start + 2 else start
    while i < end:
        c = v[i]
        if not (48 <= c <= 57 or 65 <= (c & ~32) <= 90 or c == ord(".") or c == ord("-")
                or c == ord("_")):  # fmt: skip
            break
        i += 1
    return i


@cython.ccall
def has_gap(v: bytes, i: cython.Py_ssize_t) -> cython.bint:
    """Whether, from i on, there is a semicolon or a comma with nothing behind it."""
    end: cython.Py_ssize_t = len(v)
    c: cython.int
    owed: cython.bint = False
    while i < end:
        c = v[i]
        if c == ord('"'):
            i = _past_quoted(v, i, end)
            owed = False
            continue
        if c == ord(";") or c == ord(","):
            if owed:
                return True
            owed = True
        elif not _blank(c):
            owed = False
        i += 1
    return owed


@cython.ccall
def via(v: bytes, any_version: cython.bint = False) -> tuple[bytes, int, int, bytes, int] | None:
    """The first entry of a Via value (RFC 3261 20.42): the transport in lower case, where its
    sent-by starts and ends in the value, and its host and port (0 if it names none); None if it is
    none. `any_version` takes one of another SIP than 2.0."""
    i: cython.Py_ssize_t = 0
    end: cython.Py_ssize_t = len(v)
    start: cython.Py_ssize_t = 0
    host_end: cython.Py_ssize_t
    part: cython.int
    port: cython.longlong = 0
    transport: bytes
    for part in range(2):  # SIP / 2.0 /, blanks allowed around the slashes
        start = i
        while i < end and v[i] != ord("/"):
            i += 1
        if i == end:
            return None
        one = trimmed(v, start, i).lower()
        if one != (b"2.0" if part else b"sip") and not (part and any_version):
            return None
        i += 1
    while i < end and _blank(v[i]):
        i += 1
    start = i
    while i < end and not _blank(v[i]):
        i += 1
    transport = cut(v, start, i).lower()
    while i < end and _blank(v[i]):
        i += 1
    start = i
    host_end = i = _host_end(v, i)
    if host_end == start or not transport:
        return None
    while i < end and _blank(v[i]):
        i += 1
    if i < end and v[i] == ord(":"):
        i += 1
        while i < end and _blank(v[i]):
            i += 1
        digits: cython.Py_ssize_t = i
        while i < end and 48 <= v[i] <= 57:
            i += 1
        port = unsigned(v, digits, i)
        if port < 1 or port > 65535:
            return None
    else:
        i = host_end
    if i < end and v[i] != ord(";") and v[i] != ord(",") and not _blank(v[i]):
        return None
    return (transport, start, i, cut(v, start, host_end), port)


# -- URIs (RFC 3261 19.1)

_URI = re.compile(
    rb"(sips?):(?:([^@]*)@)?(\[[^\]]*\]|[^:;?\[\]]*)(?:(:)([0-9]{0,9}))?((?:;[^?]*)?)(?:\?(.*))?",
    re.IGNORECASE | re.DOTALL,
)
_TEL = re.compile(rb"tel:([^;?]*)", re.IGNORECASE)
_HEX = re.compile(rb"%([0-9a-f]{2})", re.IGNORECASE)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_NO_USER = re.compile(rb"[\s<>\"]")
_RESERVED = b";/?:@&=+$,"  # RFC 2396 2.2: these have another meaning when escaped
# For parameters that say where or how a request is sent, absence differs from every value.
_TELLING = frozenset((b"user", b"ttl", b"method", b"maddr", b"transport"))


@cython.cfunc
@cython.inline
def _plain_char(c: cython.int) -> cython.bint:
    return 48 <= c <= 57 or 97 <= (c | 32) <= 122 or c == ord(".") or c == ord("-")


@cython.cfunc
def _plain_user(v: bytes) -> cython.Py_ssize_t:
    """A quick check of a URI: where its host begins if it is sip:user@ or sips:user@ with letters,
    digits and +.-_ in the user part, or without user part; 0 is not final."""
    i: cython.Py_ssize_t = 4
    end: cython.Py_ssize_t = len(v)
    start: cython.Py_ssize_t
    if end < 6 or (v[0] | 32) != ord("s") or (v[1] | 32) != ord("i") or (v[2] | 32) != ord("p"):
        return 0
    if v[3] != ord(":"):
        if (v[3] | 32) != ord("s") or v[4] != ord(":"):
            return 0
        i = 5
    start = i
    while i < end and (_plain_char(v[i]) or v[i] == ord("+") or v[i] == ord("_")):
        i += 1
    if i < end and v[i] == ord("@"):
        return i + 1 if i > start else 0
    return 0 if seek(v, ord("@"), i, end) < end else start


@cython.cfunc
def _is_plain(v: bytes) -> cython.bint:
    """A quick check for a valid SIP URI: a plain user and host, a port, one parameter at most.
    False is not final."""
    end: cython.Py_ssize_t = len(v)
    i: cython.Py_ssize_t = _plain_user(v)
    start: cython.Py_ssize_t = i
    port: cython.longlong
    if i == 0:
        return False
    while i < end and _plain_char(v[i]):
        i += 1
    if i == start:
        return False
    if i < end and v[i] == ord(":"):
        start = i + 1
        i = start
        while i < end and 48 <= v[i] <= 57:
            i += 1
        port = unsigned(v, start, i)
        if port < 1 or port > 65535:
            return False
    if i < end and v[i] == ord(";"):
        start = i + 1
        i = start
        while i < end and _plain_char(v[i]):
            i += 1
        if i == start:
            return False
        if i < end and v[i] == ord("="):
            i += 1
            while i < end and _plain_char(v[i]):
                i += 1
    return i == end


@cython.ccall
def is_plain_address(v: bytes) -> cython.bint:
    """A quick check for <URI> without a name or parameters and with a valid URI. False is not
    final."""
    end: cython.Py_ssize_t = len(v)
    return end > 2 and v[0] == ord("<") and v[end - 1] == ord(">") and _is_plain(cut(v, 1, end - 1))


@cython.ccall
def is_sip_uri(uri: bytes) -> cython.bint:
    """Whether this is a valid SIP or SIPS URI: it has a host and a valid port, and no parameter is
    repeated or without a name (RFC 3261 19.1.1)."""
    if _is_plain(uri):
        return True
    found = _URI.fullmatch(uri)
    if found is None:
        return False
    user, host = found[2], found[3]
    if user is not None and (not user or _NO_USER.search(user) is not None):
        return False
    if not host or _host_end(host, 0) != len(host):
        return False
    if found[4] and not 0 < int(found[5] or 0) < 65536:
        return False
    names = [_plain(one.partition(b"=")[0].strip()).lower() for one in found[6].split(b";")[1:]]
    return all(names) and len(set(names)) == len(names)


def user_of(uri: bytes) -> str:
    """The user of a SIP URI, or the number of a tel URI; "" if there is none.

    Neither the password nor the parameters of a telephone number are part of it (19.1.1, 19.1.6:
    `sip:+33972101001;npdi:secret@host`). Escapes are undone.
    """
    host: cython.Py_ssize_t = _plain_user(uri)
    if host > 5 and uri[host - 1] == ord("@"):
        return cut(uri, seek(uri, ord(":"), 0, host) + 1, host - 1).decode("latin-1")
    found = _URI.match(uri)
    if found is not None:
        user = (found[2] or b"").partition(b":")[0].partition(b";")[0]
    else:
        tel = _TEL.match(uri)
        user = tel[1] if tel is not None else b""
    if user.find(b"%") >= 0:
        user = unquote_to_bytes(user)
    return user.strip().decode("latin-1")


def host_of(uri: bytes) -> bytes:
    """The host of a SIP URI as written, without a final dot; b"" if there is none."""
    found = _URI.match(uri)
    return found[3].rstrip(b".") if found is not None else b""


def uri_parameters(uri: bytes) -> dict[bytes, bytes]:
    """The parameters of a SIP URI itself, as `parameters` reads them."""
    found = _URI.fullmatch(uri)
    return parameters(found[6]) if found is not None else {}


def uri_headers(uri: bytes) -> bytes:
    """The text of a URI's header fields, after its "?" (RFC 3261 19.1.1)."""
    found = _URI.fullmatch(uri)
    return (found[7] or b"") if found is not None else uri.partition(b"?")[2]


# -- equivalence (19.1.4) -----------------------------------------------------------------------


class Uri(NamedTuple):
    """A URI prepared for comparison: `telling` must be equal; of `others`, parameters by name, only
    those that both URIs have."""

    telling: tuple[object, ...]
    others: dict[bytes, bytes]


@remembered  # the same contacts, registration after registration
def comparable(uri: bytes) -> Uri:
    """Prepare a URI for comparison. One that is not a SIP URI equals only itself, byte by byte."""
    found = _URI.fullmatch(uri.strip())
    if found is None:
        return Uri((uri.strip(),), {})
    user, colon, password = (found[2] or b"").partition(b":")
    given = parameters(found[6])
    known = {_plain(name).lower(): _plain(value).lower() for name, value in given.items()}
    headers = sorted(
        (_plain(name).lower(), _plain(value))
        for name, _, value in (item.partition(b"=") for item in (found[7] or b"").split(b"&"))
    )
    telling = (
        found[1].lower(),
        None if found[2] is None else _plain(user),
        _plain(password) if colon else None,
        _host(found[3]),
        int(found[5]) if found[5] else None,
        frozenset(item for item in known.items() if item[0] in _TELLING),
        tuple(headers),
    )
    return Uri(telling, {n: v for n, v in known.items() if n not in _TELLING})


def same_uri(one: bytes, other: bytes) -> bool:
    """Whether two URIs are equivalent by RFC 3261 19.1.4. That is not transitive."""
    if one == other:
        return True
    first, second = comparable(one), comparable(other)
    return first.telling == second.telling and all(
        second.others.get(name, value) == value for name, value in first.others.items()
    )


def same_urn(one: bytes, other: bytes) -> bool:
    """Whether two URNs are equivalent (RFC 8141 3.1; those of UUIDs in any case, RFC 9562 4)."""
    return _urn(one) == _urn(other)


def _urn(urn: bytes) -> bytes:
    low = urn.strip(b" <>").lower()
    if low.startswith(b"urn:uuid:"):
        return low
    scheme, _, rest = urn.strip(b" <>").partition(b":")
    kind, _, name = rest.partition(b":")
    return b":".join((scheme.lower(), kind.lower(), name))


def _plain(text: bytes) -> bytes:
    """Unescape all but reserved characters, whose escapes are kept in capitals."""
    if text.find(b"%") < 0:
        return text
    return _HEX.sub(_unescaped, text)


def _unescaped(found: re.Match[bytes]) -> bytes:
    char = bytes.fromhex(found[1].decode())
    return found[0].upper() if _RESERVED.find(char) >= 0 else char


def _host(host: bytes) -> str:
    name = host.decode("latin-1").lower().rstrip(".")
    try:
        return str(ip_address(name.strip("[]")))
    except ValueError:
        return name
