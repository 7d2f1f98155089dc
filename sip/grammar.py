"""How header values, parameters, lists and URIs are read (RFC 3261 25.1): one way each. Pure.

A value is read by its structure: what stands in quotes is text, whatever it looks like. What does
not fit ends what is read of it; nothing here raises.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

_QUOTED = rb'"(?:[^"\\]|\\.)*+"'
# A display name, which may be quoted, and <URI>; or a URI alone, which ends at its first ";"
# behind the user part (20.10: parameters without brackets are the header's).
_NAMED = re.compile(rb"(?:" + _QUOTED + rb'|[^"<])*+<([^<>]*)>', re.DOTALL)
_BARE = re.compile(rb'\s*([a-z][a-z0-9+.-]*:(?:[^@"<>,\s]*@)?[^;,"<>\s]*)', re.IGNORECASE)
_PARAMETER = re.compile(
    rb"\s*;\s*(?:([^\s;=,\"<>]++)\s*(?:=\s*(" + _QUOTED + rb'|[^\s;,"]*+))?)?', re.DOTALL
)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_ENTRY = re.compile(rb"(?:" + _QUOTED + rb'|<[^<>]*>|[^",])++', re.DOTALL)
_URI = re.compile(
    rb"(sips?):(?:([^@]*)@)?(\[[^\]]*\]|[^:;?\[\]]*)(?::([0-9]{0,9}))?((?:;[^?]*)?)(?:\?(.*))?",
    re.IGNORECASE | re.DOTALL,
)
_TEL = re.compile(rb"tel:([^;?]*)", re.IGNORECASE)
_HEX = re.compile(rb"%([0-9a-f]{2})", re.IGNORECASE)
_RESERVED = b";/?:@&=+$,"  # RFC 2396 2.2: these mean something else when they are escaped
# Where a parameter says where or how a request is sent, its lack is not the same as any value.
_TELLING = frozenset((b"user", b"ttl", b"method", b"maddr", b"transport"))


class NameAddr(NamedTuple):
    """A value of From, To, Contact, Route and their like: `shown` is all of it without its header
    parameters, `parameters` their text from the first ";" on."""

    uri: bytes
    shown: bytes
    parameters: bytes


def name_addr(value: bytes) -> NameAddr:
    """Read `"name" <URI>;parameters` or `URI;parameters`; an empty URI when it is neither."""
    found = _BARE.match(value) or _NAMED.match(value)
    if found is None:
        return NameAddr(b"", b"", b"")
    end = found.end()
    return NameAddr(found[1].strip(), value[:end].strip(), value[end:])


def parameters(text: bytes) -> dict[bytes, bytes]:
    """Parameters by their lower-case names, from `;name=value;name="value";name`. Values are
    without quotes, b"" where there is none; of several with one name the first counts."""
    found: dict[bytes, bytes] = {}
    at = 0
    while (part := _PARAMETER.match(text, at)) is not None:
        at = part.end()
        name, value = part[1], part[2] or b""
        if name:
            found.setdefault(name.lower(), unquoted(value))
    return found


def parameter(value: bytes, name: bytes) -> bytes | None:
    """A header parameter of a name-addr by its lower-case name; None without it."""
    text = name_addr(value).parameters
    return parameters(text).get(name) if text else None


def unquoted(value: bytes) -> bytes:
    """A token as it is, a quoted string without its quotes and escapes."""
    return _ESCAPED.sub(rb"\1", value[1:-1]) if value[:1] == b'"' else value


def split_list(value: bytes) -> list[bytes]:
    """Split a value at its commas outside quotes and angle brackets (7.3.1); no empty entries."""
    if value.find(b",") < 0:
        entry = value.strip()
        return [entry] if entry else []
    found, start, at = [], 0, 0
    while at < len(value):
        at = _end_of(value, at)
        found.append(value[start:at].strip())
        start = at = at + 1
    return [entry for entry in found if entry]


def first_entry(value: bytes) -> tuple[bytes, bytes]:
    """The first entry of a list as it stands, and the rest with its comma."""
    end = _end_of(value, 0)
    return value[:end], value[end:]


def _end_of(value: bytes, at: int) -> int:
    """Where the entry ends that begins at `at`: a quote that is never closed takes all."""
    part = _ENTRY.match(value, at)
    end = part.end() if part is not None else at
    return end if value[end : end + 1] == b"," else len(value)


def user_of(uri: bytes) -> str:
    """The user of a SIP URI, or the number of a tel URI; "" if there is none.

    Neither the password nor the parameters of a telephone number are part of it (19.1.1, 19.1.6:
    `sip:+33972101001;npdi:secret@host`). Escapes are undone.
    """
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
    """The host of a SIP URI as it stands, without a dot at its end; b"" if there is none."""
    found = _URI.match(uri)
    return found[3].rstrip(b".") if found is not None else b""


def uri_parameters(uri: bytes) -> dict[bytes, bytes]:
    """The parameters of a SIP URI itself, as `parameters` reads them."""
    found = _URI.fullmatch(uri)
    return parameters(found[5]) if found is not None else {}


def uri_headers(uri: bytes) -> bytes:
    """The text of a URI's header fields, what stands behind its "?" (RFC 3261 19.1.1)."""
    found = _URI.fullmatch(uri)
    return (found[6] or b"") if found is not None else uri.partition(b"?")[2]


# -- equivalence (19.1.4) -----------------------------------------------------------------------


class Uri(NamedTuple):
    """A URI as it is compared: `telling` must be the same; of `others`, parameters by name, only
    those that both URIs have."""

    telling: tuple[object, ...]
    others: dict[bytes, bytes]


@lru_cache(maxsize=4096)  # the same contacts, registration after registration
def comparable(uri: bytes) -> Uri:
    """A URI to be compared. One that is no SIP URI is the same only as itself, byte by byte."""
    found = _URI.fullmatch(uri.strip())
    if found is None:
        return Uri((uri.strip(),), {})
    user, colon, password = (found[2] or b"").partition(b":")
    given = parameters(found[5])
    known = {_plain(name).lower(): _plain(value).lower() for name, value in given.items()}
    headers = sorted(
        (_plain(name).lower(), _plain(value))
        for name, _, value in (item.partition(b"=") for item in (found[6] or b"").split(b"&"))
    )
    telling = (
        found[1].lower(),
        None if found[2] is None else _plain(user),
        _plain(password) if colon else None,
        _host(found[3]),
        int(found[4]) if found[4] else None,
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
    """Escapes undone but for reserved characters, which stay in capitals."""
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
