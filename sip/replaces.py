"""Dialogs named in headers: Replaces (RFC 3891), Join (RFC 3911), Target-Dialog (RFC 4538), and the
same inside URIs, of which the Replaces in a Refer-To (RFC 3515) is the one in use.

Each side of a call knows only its own dialog with this engine. When one side names a dialog to
another party, by Call-ID and tags, the name must be changed to that of the other side's dialog, or
the recipient would not recognise it. A dialog's name works like a key to it, so only its own far
end gets it: any other name of a dialog of ours is removed from the message. Names of other dialogs
pass unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sip.field_names import full
from sip.grammar import parameters, split
from sip.message import Message
from sip.state import ANSWERED, CONFIRMED

if TYPE_CHECKING:
    from sip.interfaces import Party


class Finder(Protocol):
    """Finds legs by name."""

    def leg_named(self, call_id: bytes, local: bytes, remote: bytes) -> Party | None:
        """The leg of the dialog with this Call-ID, our tag `local` and the far end's, or None."""


NAMING = (b"replaces", b"join", b"target-dialog")
NULL_TAG = b"0"  # as it is written here (RFC 3891 3)
_TAGS = re.compile(rb";[ \t]*(to-tag|remote-tag|from-tag|local-tag)[ \t]*=[ \t]*([^;,\s]+)", re.I)
_BRACKETED = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*")|<([^<>?]*+)\?([^<>]*+)>')
# An unclosed quote quotes nothing; otherwise each one would cause another search.
_UNQUOTED = re.compile(rb"(?!)()|<([^<>?]*+)\?([^<>]*+)>")
_CLOSED = re.compile(rb'(?:[^"]++|"[^"\\]*+(?:\\.[^"\\]*+)*")*')
_BARE = re.compile(rb"\?([^<>;\s]*+)")
_LONGEST = 512  # bytes of a Call-ID or tag; longer ones are not searched for

May = Callable[["Party"], bool]
"""Whether the dialog of a leg may be named; called with the leg of that name."""


def anybody(leg: Party) -> bool:
    """Allows every name of a dialog to its far end."""
    return True


class DialogName(NamedTuple):
    """A dialog from the recipient's point of view: `local` is the recipient's tag."""

    call_id: bytes
    local: bytes
    remote: bytes


class Named(NamedTuple):
    """The result of a name: `leg`, whose far end is meant, and `by`, the leg whose dialog has the
    name. They are the same if the name is the far end's own."""

    leg: Party
    by: Party

    @property
    def talks(self) -> bool:
        """Whether both sides of the call have answered."""
        peer = self.leg.peer
        states = (ANSWERED, CONFIRMED)
        return peer is not None and self.leg.state in states and peer.state in states


class End(NamedTuple):
    """The recipient of a message: the target of a new leg, or the leg of an existing dialog."""

    uri: str = ""
    routes: tuple[str, ...] = ()
    leg: Party | None = None

    def is_of(self, leg: Party) -> bool:
        """Whether that is the far end of a leg; only the far end gets the name of its dialog."""
        if leg is self.leg:
            return True
        return bool(self.uri) and leg.reached == (self.uri, self.routes)


def names_dialogs(message: Any) -> bool:
    """A quick check: whether a message, received or the engine's own (headers.py), may name a
    dialog, also inside a URI."""
    if isinstance(message, Message):
        return message.tells_dialogs
    first = message.first
    return bool(
        message.head.find(b"?") >= 0
        or first(b"replaces") is not None
        or first(b"join") is not None
        or first(b"target-dialog") is not None
    )


def parse(value: bytes) -> DialogName | None:
    """The dialog that a Replaces, Join or Target-Dialog value names; None if it names none."""
    call_id, semicolon, rest = value.partition(b";")
    call_id, tags = call_id.strip(), parameters(semicolon + rest)
    # All three are from the recipient's point of view: its own tag is to-tag, or local-tag.
    local = tags.get(b"to-tag", tags.get(b"local-tag"))
    remote = tags.get(b"from-tag", tags.get(b"remote-tag"))
    if not call_id or local is None or remote is None:
        return None
    if max(len(call_id), len(local), len(remote)) > _LONGEST:
        return None
    return DialogName(call_id, local, remote)


def is_clear(value: bytes) -> bool:
    """Whether a Replaces value names one dialog in one way only (RFC 3891 6.1: a tag once each)."""
    names = [name.lower() for name, _ in _TAGS.findall(value)]
    return len(set(names)) == len(names) and len(split(value)) <= 1


class Dialogs:
    """The dialogs of an endpoint by their names."""

    def __init__(self, endpoint: Finder) -> None:
        self._endpoint = endpoint

    def pass_on(self, block: bytes, end: End, may: May | None = None) -> bytes:
        """The header text of a message to `end`, without names of dialogs other than its own.

        `may` additionally checks the sender's right to name a dialog.
        """
        lines = (self._line(line, end, may) for line in block.split(b"\r\n"))
        return b"\r\n".join(line for line in lines if line)

    def in_uri(self, value: bytes, may: May, kept: frozenset[bytes] | None = None) -> bytes:
        """A header value whose URIs name dialogs only if `may` allows it, for any recipient; of
        their other headers only those in `kept`, if given."""
        return self._uris(value, lambda names: self._for_recipient(names, None, may), kept)

    def find(self, name: DialogName) -> Named | None:
        """Resolve a name: the other side of the leg whose far end uses it, or the leg whose far end
        has it as its own."""
        by = self._find(name.call_id, name.local, name.remote)
        if by is not None:
            return Named(by.peer, by) if by.peer is not None and by.peer.dialog else None
        leg = self._find(name.call_id, name.remote, name.local)
        return Named(leg, leg) if leg is not None else None

    def _line(self, line: bytes, end: End, may: May | None) -> bytes:
        field, _, value = line.partition(b":")
        if full(field) in NAMING:
            names = self._for_recipient(value, end, may)
            return field + b":" + names if names else b""
        if value.find(b"?") < 0:
            return line
        return (
            field + b":" + self._uris(value, lambda name: self._for_recipient(name, end, may), None)
        )

    def _uris(
        self,
        value: bytes,
        tell: Callable[[bytes], bytes],
        kept: frozenset[bytes] | None,
    ) -> bytes:
        def rewrite(parameters: bytes) -> bytes:
            kept_parameters = []
            for parameter in parameters.split(b"&"):
                name, _, escaped = parameter.partition(b"=")
                header = unquote_to_bytes(name.rpartition(b"?")[2]).strip().lower()
                if header in NAMING:
                    plain = unquote_to_bytes(escaped)
                    new = tell(plain)
                    if not new:
                        continue
                    if new != plain:
                        escaped = quote_from_bytes(new.strip(), safe="").encode()
                        parameter = name + b"=" + escaped
                elif kept is not None and header not in kept:
                    continue
                kept_parameters.append(parameter)
            return b"?" + b"&".join(kept_parameters) if kept_parameters else b""

        def in_brackets(found: re.Match[bytes]) -> bytes:
            if found[1] is not None:  # a display name
                return found[0]
            return b"<" + found[2] + rewrite(found[3]) + b">"

        if b"<" in value:
            is_closed = _CLOSED.fullmatch(value) is not None
            return (_BRACKETED if is_closed else _UNQUOTED).sub(in_brackets, value)
        return _BARE.sub(lambda found: rewrite(found[1]), value)

    def _for_recipient(self, value: bytes, end: End | None, may: May | None) -> bytes:
        """The names from the recipient's point of view; empty if it may not get any."""
        names = [self._one(one, end, may) for one in split(value)]
        if not any(names):
            return b""
        return value if names == split(value) else b" " + b", ".join(filter(None, names))

    def _one(self, value: bytes, end: End | None, may: May | None) -> bytes:
        name = parse(value)
        if name is None or not self.is_ours(name):
            return value
        named = self.find(name)
        if named is None or not (end is None or end.is_of(named.leg)):
            return b""
        if may is not None and not may(named.by):
            return b""
        if named.leg is named.by:
            return value
        own = DialogName(*named.leg.name)
        by_parameter = {
            b"to-tag": own.local, b"local-tag": own.local,
            b"from-tag": own.remote, b"remote-tag": own.remote,
        }  # fmt: skip
        rest = _TAGS.sub(
            lambda found: b";" + found[1] + b"=" + by_parameter[found[1].lower()],
            value[value.index(b";") :],
        )
        return own.call_id + rest

    def is_ours(self, name: DialogName) -> bool:
        """Whether a name belongs to a dialog of ours, from either side."""
        ours = self._find(name.call_id, name.local, name.remote)
        return ours is not None or self._find(name.call_id, name.remote, name.local) is not None

    def _find(self, call_id: bytes, local: bytes, remote: bytes) -> Party | None:
        return self._endpoint.leg_named(call_id, local, remote)
