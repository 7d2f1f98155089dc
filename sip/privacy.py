"""The identity of a message's sender and who may learn it: one list of the fields that name
somebody, and one rule.

A *wish* is what the sender of a message wants to be private: by Privacy (RFC 3323, 3325, 7044), the
privacy parameter of Remote-Party-ID, or an anonymous From. Three kinds of party learn different
things:

- a *server*, a node of the trust domain (RFC 3325 2.3), everything, with its marks;
- a *phone* nothing that names a party that withholds its number, and no fields of the network's
  own;
- a *customer*, who reads records, no withheld number (`Wish.number`).

What is *believed* is a separate question: the fields that only a node of the trust domain may send
(TRUSTED_ONLY) do not cross from any other sender, to any recipient. docs/signalling.md describes
the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from sip.grammar import host_of, name_addr, parameter, split, unquoted, user_of
from sip.headers import entries, without_tag
from sip.message import Message

# The diversions of a call: RFC 5806, RFC 7044. Entries have privacy marks of their own.
HISTORY = frozenset((b"diversion", b"history-info"))

# The fields that ask for privacy, besides an anonymous From.
ASKING = frozenset((b"privacy", b"remote-party-id"))

# Fields that name the sender: hidden from phones if the number is withheld (RFC 3323 5.1, RFC 3325
# 7, RFC 8224 12.1: a PASSporT holds the number; RFC 3892, RFC 6442).
NAMING = HISTORY | frozenset(
    b"p-asserted-identity p-preferred-identity remote-party-id additional-identity identity "
    b"identity-info referred-by reply-to call-info geolocation geolocation-routing "
    b"p-associated-uri warning".split()
)

# What the user agent writes about its user: hidden if privacy of the user is requested (RFC 3323
# 4.1 and 5.3; Server is the User-Agent of a response).
WRITTEN = frozenset(
    b"subject call-info organization user-agent server reply-to in-reply-to".split()
)

# The network's own fields, which no phone gets: who is charged, served, where (RFC 7315 5, RFC
# 8496, RFC 5502, RFC 5002, RFC 4457, RFC 6050, RFC 7316, RFC 5503, 3GPP TS 24.229).
INSIDE = frozenset(
    b"p-charge-info p-charging-vector p-charging-function-addresses p-access-network-info "
    b"p-visited-network-id p-served-user p-user-database p-profile-key p-asserted-service "
    b"p-private-network-indication p-dcs-trace-party-id p-dcs-osps p-dcs-billing-info p-dcs-laes "
    b"p-dcs-redirect attestation-info origination-id relayed-charge cellular-network-info".split()
)

# What only a node of the trust domain may send (RFC 3325 5, RFC 5806 7, RFC 7044 12, RFC 5009 8 and
# those above). A phone itself sends its location in the network (P-Access-Network-Info).
TRUSTED_ONLY = (
    HISTORY
    | (INSIDE - {b"p-access-network-info"})
    | frozenset(
        b"p-asserted-identity p-preferred-identity remote-party-id additional-identity identity "
        b"identity-info p-called-party-id p-associated-uri p-early-media p-media-authorization"
        b"".split()
    )
)

# A request or response is meaningless without these: they cross although they may contain a number.
_NEEDED = frozenset(
    b"refer-to replaces target-dialog join event subscription-state require supported allow "
    b"content-encoding content-disposition session-expires date".split()
)
_LEAST_DIGITS, _TOLD_BY = 6, 8  # of a number, and of its end, by which it is recognised
_MOST_NUMBERS = 16  # of one sender that are searched for: each in every field of each message

MARK_NAME = "Renvoi-"
"""The prefix of the display name by which engines recognise a forward
(engine/diversion_marks.py)."""
_MARK = re.compile(rb'\s*"?%b[A-Z2-7]+"?\s*(?=<)' % MARK_NAME.encode())

_NO_DIGIT = re.compile(rb"\D+")
_NO_WORD = re.compile(rb"[\s\"';,]+")
_INDEX = re.compile(rb"[0-9.]{1,256}")

# The privacy that the engine provides for a phone: From, Via, Contact, Call-ID are its own on each
# leg. It does not provide `session` (RFC 3323 4.2) and unknown words.
_DONE = frozenset((b"id", b"user", b"header", b"history", b"none", b"critical"))


class Wish(NamedTuple):
    """What the sender of a message wants to be private, by this or an earlier message of the
    dialog.

    `number`: its identity. `user`: also what its user agent writes (RFC 3323 5.3). `history`: the
    history of the call (RFC 7044). `undone`: it requires (`critical`) something that the engine
    does not provide. `digits`: the end of each withheld number, to recognise it in any field.
    """

    number: bool = False
    user: bool = False
    history: bool = False
    undone: bool = False
    digits: frozenset[bytes] = frozenset()


NO_WISH = Wish()

ANONYMOUS = b'"Anonymous" <sip:anonymous@anonymous.invalid>'


def wish_of(message: Message) -> Wish:
    """The wish of the sender, from this message or noted from an earlier one."""
    wish = message.wish
    if wish is None:
        wish = message.wish = _asked(message)
    return wish  # type: ignore[no-any-return]


def kept(before: Wish, message: Message) -> Wish:
    """The wish after this message of a dialog. Requested privacy holds until the sender sends
    `Privacy: none`."""
    wish = _asked(message)
    if before is NO_WISH or (wish is NO_WISH and _words(message) == {b"none"}):
        return wish
    digits = before.digits | wish.digits
    return Wish(
        before.number or wish.number,
        before.user or wish.user,
        before.history or wish.history,
        before.undone or wish.undone,
        digits if len(digits) <= _MOST_NUMBERS else before.digits,
    )


def caller_shown(message: Message, *, trusted: bool) -> bytes:
    """The From of a new leg: as received, or anonymous towards a phone when the caller withholds
    the number (RFC 3323 4.1.1.3)."""
    if not trusted and wish_of(message).number:
        return ANONYMOUS
    return without_tag(message.first(b"from") or b"")


@lru_cache(maxsize=64)
def union(one: frozenset[bytes], other: frozenset[bytes]) -> frozenset[bytes]:
    """The union of both, cached, because there are few such sets of names."""
    return one | other


def passing(message: Message, hop: frozenset[bytes], *, to_trusted: bool) -> bytes:
    """The header fields of a message that its recipient may get, as text, without those in
    `hop`."""
    out = union(hop, TRUSTED_ONLY) if message.untrusted else hop
    if to_trusted:
        return message.passing(out)
    wish = wish_of(message)
    out = union(out, INSIDE if wish is NO_WISH else _hidden(*wish[:3]))
    if wish.digits or message.has_any(HISTORY):
        return b"\r\n".join(_public_fields(message, out, wish))
    return message.passing(out)


def history_entries(message: Message, name: bytes, *, to_trusted: bool) -> list[bytes]:
    """The entries of Diversion or History-Info that the recipient may get."""
    if message.first(name) is None:
        return []
    if to_trusted:
        return entries(message, name)
    wish = wish_of(message)
    if wish.number or wish.history:
        return []
    return [entry for value in message.values(name) for entry in _public_entries(name, value)]


def _public_fields(message: Message, out: frozenset[bytes], wish: Wish) -> Iterator[bytes]:
    for name, line, value in message.fields:
        if name in out:
            continue
        if name in HISTORY:
            title = line.partition(b":")[0]
            yield from (title + b": " + entry for entry in _public_entries(name, value))
        elif not wish.digits or name in _NEEDED or not _names(line, wish.digits):
            yield line


def _public_entries(name: bytes, value: bytes) -> Iterator[bytes]:
    """The entries that a phone may get, without those of diverting parties that want privacy (RFC
    5806 6), and without the marks for servers. A place in the history remains, so that later
    entries keep theirs (RFC 7044 10.1.2)."""
    for entry in split(value):
        if name == b"diversion":
            if not _is_marked(entry):
                yield _MARK.sub(b"", entry, 1) if _MARK.match(entry) else entry
        elif not _is_private_entry(entry):
            yield entry
        else:
            index = parameter(entry, b"index") or b""
            place = b";index=" + index if _INDEX.fullmatch(index) else b""
            yield b"<sip:anonymous@anonymous.invalid>" + place


def _names(line: bytes, digits: frozenset[bytes]) -> bool:
    """Whether a field contains one of these numbers, with any separators between its digits."""
    plain = _NO_DIGIT.sub(b"", line)
    return any(plain.find(number) >= 0 for number in digits)


@lru_cache(maxsize=8)
def _hidden(number: bool, user: bool, history: bool) -> frozenset[bytes]:
    """The fields that a phone does not get for such a wish."""
    hidden = INSIDE
    if number:
        hidden |= NAMING
    if user:
        hidden |= WRITTEN
    if history:
        hidden |= HISTORY
    return hidden


# -- the wish of a message ---------------------------------------------------------------------


def _asked(message: Message) -> Wish:
    if not message.may_withhold:
        return NO_WISH
    first = message.first
    anonymous = message.start_line[:4] != b"SIP/" and _is_anonymous(first(b"from") or b"")
    by_party = first(b"remote-party-id") is not None and any(
        _is_marked(entry) for entry in entries(message, b"remote-party-id")
        if _is_senders(message, entry)
    )  # fmt: skip
    words = _words(message) if first(b"privacy") is not None else frozenset()
    asks = words - {b"none"}
    number = anonymous or by_party or bool(asks - {b"history"})
    if not number and not asks:
        return NO_WISH
    undone = b"critical" in asks and not asks <= _DONE
    digits = frozenset(islice(_digits(message), _MOST_NUMBERS)) if number else frozenset()
    return Wish(number, b"user" in asks, b"history" in asks, undone, digits)


def _words(message: Message) -> frozenset[bytes]:
    """The words of Privacy, including unknown ones."""
    text = b";".join(message.values(b"privacy")).lower()
    return frozenset(_NO_WORD.split(text)) - {b""}


def _is_anonymous(from_: bytes) -> bool:
    """Whether a From is anonymous (RFC 3323 4.1.1.3), in its address or its display name."""
    low = from_.lower()
    if low.find(b"anonymous") < 0 and low.find(b".invalid") < 0:
        return False
    address = name_addr(low)
    user, host = user_of(address.uri), host_of(address.uri)
    if not address.uri:
        return False
    display = unquoted(address.shown.partition(address.uri)[0].rstrip(b"<").strip())
    return user == "anonymous" or display.strip() == b"anonymous" or host.endswith(b".invalid")


def _is_senders(message: Message, entry: bytes) -> bool:
    """Whether a Remote-Party-ID describes the message's sender."""
    request = message.start_line[:4] != b"SIP/"
    return not request or (parameter(entry, b"party") or b"").lower() != b"called"


def _is_marked(entry: bytes) -> bool:
    """Whether an entry of Diversion or Remote-Party-ID has a privacy parameter that asks for
    privacy: `full`, `uri`, `name` or an unknown word."""
    given = (parameter(entry, b"privacy") or b"").lower()
    return bool(frozenset(_NO_WORD.split(given)) - {b"", b"off", b"none", b"off-network"})


def _is_private_entry(entry: bytes) -> bool:
    """Whether an entry of History-Info has a Privacy of its own, as a header inside its URI."""
    fields = name_addr(entry).uri.partition(b"?")[2]
    for field in fields.split(b"&"):
        name, _, value = field.partition(b"=")
        if unquote_to_bytes(name).strip().lower() == b"privacy":
            words = frozenset(_NO_WORD.split(unquote_to_bytes(value).lower()))
            if words - {b"", b"none"}:
                return True
    return False


def _digits(message: Message) -> Iterator[bytes]:
    names = [b"p-asserted-identity", b"p-preferred-identity", b"remote-party-id"]
    if message.start_line[:4] != b"SIP/":
        names.insert(0, b"from")
    for name in names:
        for entry in entries(message, name):
            digits = _NO_DIGIT.sub(b"", user_of(name_addr(entry).uri).encode("latin-1", "replace"))
            if len(digits) >= _LEAST_DIGITS:
                yield digits[-_TOLD_BY:]
