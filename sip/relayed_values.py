"""Checks the values of header fields that only pass against their grammar.

Fields pass unchanged, so a malformed value would reach the next parser. A request with such a field
gets 400 with the field's name, a response is dropped (RFC 3261 21.4.1, 8.1.3). Lists may have no
empty entry, numbers must be numbers, addresses must be valid. `Message` caches results.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sip.grammar import is_sip_uri, name_addr, parameters, split

_TOKEN = rb"[!%'*+\-.0-9A-Z_`a-z~]+"
# Possessive quantifiers follow single characters only: Python before 3.11.5, as in Debian 12,
# handles groups wrongly (gh-106052). Groups are written so that there is one way to match.
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*"'
_PARAMETERS = rb"(?:\s*+;\s*+[^;=\s\"]++(?:\s*+=\s*+(?:%b|[^;\"\s]++))?)*\s*+" % _TEXT
_INNER = rb"\([^()\\]*+(?:\\.[^()\\]*+)*\)"  # a comment in a comment
_COMMENT = rb"(?:\s*+\([^()\\]*+(?:(?:\\.|%b)[^()\\]*+)*\))?" % _INNER
_NUMBER = re.compile(rb"\d+")
_NUMBER_AND_MORE = re.compile(rb"\d+%b%b" % (_COMMENT, _PARAMETERS))
_EMPTY_ENTRY = re.compile(rb"\s*,|(?:%b|[^\"])*?,\s*(?:,|$)" % _TEXT)
_MEDIA = re.compile(rb"%b\s*/\s*%b%b" % (_TOKEN, _TOKEN, _PARAMETERS))
_WORD = re.compile(rb"%b%b" % (_TOKEN, _PARAMETERS))
_PAIR = rb"%b\s*=\s*(?:%b|[^\",\s]+)" % (_TOKEN, _TEXT)
_CREDENTIALS = re.compile(
    rb"(?:(?!(?i:digest)\s)%b\s+\S.*|(?i:digest)\s+%b(?:\s*+,\s*+%b)*)" % (_TOKEN, _PAIR, _PAIR)
)
_DIALOG = re.compile(rb"[^\s;]+\s*;\s*[^\s;].*")
_URI = re.compile(rb"(?!(?i:sips?):)[A-Za-z][A-Za-z0-9+.-]*:.+")
_Q = re.compile(rb"0(?:\.\d{0,3})?|1(?:\.0{0,3})?")
_HIDE = re.compile(rb";\s*hide\b", re.IGNORECASE)


def is_sound(name: bytes, value: bytes) -> bool:
    """Whether this value, with folds undone, is valid for the field of that full, lower-case
    name."""
    if name in _LISTS:
        return _EMPTY_ENTRY.match(value) is None
    if name in _ROUTES:
        return not _HIDE.search(value) and _are_addresses(value, is_sip_uri)
    if name == b"contact":
        return value == b"*" or _are_addresses(value, _is_uri)
    form = _FORMS.get(name)
    return form is None or form.fullmatch(value) is not None


def _are_addresses(value: bytes, is_place: Callable[[bytes], bool]) -> bool:
    entries = split(value)
    if not entries or _EMPTY_ENTRY.match(value.rpartition(b">")[2] or value) is not None:
        return False
    for entry in entries:
        address = name_addr(entry)
        rest = address.parameters.strip()
        if not is_place(address.uri) or (rest and rest[:1] != b";"):
            return False
        q = parameters(address.parameters).get(b"q")
        if q is not None and _Q.fullmatch(q) is None:
            return False
    return True


def _is_uri(uri: bytes) -> bool:
    return is_sip_uri(uri) or _URI.fullmatch(uri) is not None


_LISTS = frozenset(b"allow accept supported require unsupported proxy-require allow-events".split())
_ROUTES = frozenset((b"route", b"record-route"))
_FORMS = {
    b"content-type": _MEDIA,
    b"expires": _NUMBER,
    b"min-expires": _NUMBER,
    b"min-se": _NUMBER_AND_MORE,
    b"session-expires": _NUMBER_AND_MORE,
    b"retry-after": _NUMBER_AND_MORE,
    b"event": _WORD,
    b"subscription-state": _WORD,
    b"authorization": _CREDENTIALS,
    b"proxy-authorization": _CREDENTIALS,
    b"www-authenticate": _CREDENTIALS,
    b"proxy-authenticate": _CREDENTIALS,
    b"replaces": _DIALOG,
}
# The checked fields.
CHECKED = _LISTS | _ROUTES | frozenset((b"contact",)) | frozenset(_FORMS)
