# cython: language_level=3, boundscheck=True, wraparound=False, nonecheck=True
"""How SIP writes things down, one way each: numbers, tokens, parameters, lists, addresses, Via.

Everything works on bytes and raises nothing: what is malformed gives -1, None or an empty span, and
the caller says what that means. Quoted strings, angle brackets and escapes are told apart here and
nowhere else (RFC 3261 25.1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cython

if not cython.compiled:
    from sip.core.native import cut, seek
else:
    from cython.cimports.sip.core.native import cut, seek  # type: ignore[no-redef]

LF = cython.declare(cython.int, 10)
MOST_DIGITS = cython.declare(cython.int, 10)
NUMBER_MAX = cython.declare(cython.longlong, 0xFFFFFFFF)


class Span(NamedTuple):
    """Where the URI of a name-addr or addr-spec starts and ends, and where its parameters start.
    All 0 for what is neither."""

    start: int
    end: int
    parameters: int


class Via(NamedTuple):
    """The first entry of a Via value: the transport in lower case, where its sent-by starts and
    ends in the value, and its host and port (0 if it names none)."""

    transport: bytes
    start: int
    end: int
    host: bytes
    port: int


class Uri(NamedTuple):
    """A SIP or SIPS URI in its parts, escapes undone where they mean nothing (RFC 3261 19.1.4)."""

    scheme: bytes
    user: bytes
    password: bytes | None
    host: bytes
    port: int  # 0: none given
    parameters: dict[bytes, bytes]
    headers: tuple[bytes, ...]


NOWHERE = Span(0, 0, 0)
# What a named tuple's own constructor calls, without the interpreter: three messages of a call
# make a dozen of them.
_made: Any = cython.declare(object, tuple.__new__)

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


# -- parameters and lists


@cython.ccall
def param(v: bytes, i: cython.Py_ssize_t, name: bytes) -> bytes | None:
    """The value of the parameter `name` (lower case) in v from i to the first comma; b"" for one
    without value, None if there is none. A quoted value keeps its quotes."""
    end: cython.Py_ssize_t = len(v)
    start: cython.Py_ssize_t
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
        hit = same(v, start, i, name)
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
            else:
                while i < end:
                    c = v[i]
                    if c == ord(";") or c == ord(",") or _blank(c):
                        break
                    i += 1
        if hit:
            return cut(v, start, i)
    return None


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


@cython.ccall
def name_addr(v: bytes) -> Span:
    """The Span of the first name-addr or addr-spec in v (RFC 3261 20.10): NOWHERE if its brackets
    or quotes do not close, or it is empty."""
    i: cython.Py_ssize_t = 0
    end: cython.Py_ssize_t = len(v)
    start: cython.Py_ssize_t
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
    if i < end and v[i] == ord("<"):
        close = seek(v, ord(">"), i)
        if close == end or close == i + 1:
            return NOWHERE
        inside: Span = _made(Span, (i + 1, close, close + 1))
        return inside
    start = 0
    while start < i and _blank(v[start]):
        start += 1
    close = i
    while close > start and _blank(v[close - 1]):
        close -= 1
    if close == start or v[start] == ord('"'):
        return NOWHERE
    bare: Span = _made(Span, (start, close, i))
    return bare


@cython.ccall
def uri_in(v: bytes) -> bytes:
    """The URI of a name-addr or addr-spec, b"" if there is none."""
    span = name_addr(v)
    return cut(v, span[0], span[1])


@cython.ccall
def tag_in(v: bytes) -> bytes | None:
    """The tag of a From or To value, None without one."""
    span = name_addr(v)
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
def via(v: bytes, any_version: cython.bint = False) -> Via | None:
    """The Via of a value's first entry, None if it is none (RFC 3261 20.42). `any_version` takes
    one of another SIP than 2.0."""
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
    made: Via = _made(Via, (transport, start, i, cut(v, start, host_end), port))
    return made


# -- URI and its equivalence (RFC 3261 19.1)

_NONE: frozenset[bytes] = frozenset()
# Parameters that make two URIs differ even if only one of them has them.
_TELLING = frozenset((b"user", b"ttl", b"method", b"maddr"))
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!~*'()")


def unescaped(v: bytes) -> bytes:
    """%HH undone for characters that mean the same without it; what is reserved stays escaped, in
    upper case. A % that escapes nothing stays."""
    if b"%" not in v:
        return v
    out = bytearray()
    i = 0
    while i < len(v):
        if v[i] == 37 and i + 3 <= len(v):
            try:
                c = int(v[i + 1 : i + 3].decode("ascii"), 16)
            except ValueError:
                out.append(37)
                i += 1
                continue
            out += bytes((c,)) if c in _PLAIN else v[i : i + 3].upper()
            i += 3
        else:
            out.append(v[i])
            i += 1
    return bytes(out)


def parse_uri(v: bytes) -> Uri | None:
    """A SIP or SIPS URI, None for what is none: another scheme, no host, a port that is none."""
    scheme, colon, rest = v.partition(b":")
    scheme = scheme.strip().lower()
    if not colon or scheme not in (b"sip", b"sips"):
        return None
    userinfo, at, place = rest.rpartition(b"@")
    if at and (not userinfo or b"@" in userinfo):
        return None
    place, _, headers = place.partition(b"?")
    where, *parameters = place.split(b";")
    end = _host_end(where, 0)
    host, port = where[:end], 0
    if not host:
        return None
    if end < len(where):
        port = unsigned(where, end + 1, len(where))
        if where[end : end + 1] != b":" or not 0 < port < 65536:
            return None
    user, has_password, password = userinfo.partition(b":")
    named: dict[bytes, bytes] = {}
    for one in parameters:
        name, _, value = one.partition(b"=")
        name = unescaped(name.strip()).lower()
        if not name or name in named:
            return None
        named[name] = unescaped(value.strip()).lower()
    return Uri(
        scheme,
        unescaped(user),
        unescaped(password) if has_password else None,
        host.lower(),
        port,
        named,
        tuple(sorted(unescaped(one) for one in headers.split(b"&") if one)),
    )


def same_uri(a: bytes, b: bytes) -> bool:
    """Whether two URIs are equivalent (RFC 3261 19.1.4). Of another scheme than sip and sips they
    are if they are the same bytes."""
    one, other = parse_uri(a), parse_uri(b)
    if one is None or other is None:
        return one is other is None and a == b
    if one[:5] != other[:5] or one.headers != other.headers:
        return False
    both = one.parameters.keys() & other.parameters.keys()
    if any(one.parameters[name] != other.parameters[name] for name in both):
        return False
    return not ((one.parameters.keys() ^ other.parameters.keys()) & _TELLING)
