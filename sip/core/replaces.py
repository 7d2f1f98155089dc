"""Dialogs named in headers: Replaces (RFC 3891), Join (RFC 3911), Target-Dialog (RFC 4538) and the
Replaces inside Refer-To (RFC 3515).

Each side of a call knows only its own dialog with this engine. When one side tells somebody of a
dialog, by Call-ID and tags, the name has to be turned into that of the other side's dialog: whoever
gets the message would not know it otherwise.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

if TYPE_CHECKING:
    from sip.core.layer import Layer
    from sip.core.leg import Leg

_HEADER = re.compile(rb"^(replaces|join|target-dialog)[ \t]*:([^\r\n]*)", re.I | re.M)
_REFER_TO = re.compile(rb"^(?:refer-to|r)[ \t]*:[^\r\n]*", re.I | re.M)
_IN_URI = re.compile(rb"(?<=[?&])(replaces|join|target-dialog)=([^&>\s]+)", re.I)
_TAGS = re.compile(
    rb";[ \t]*(to-tag|remote-tag|from-tag|local-tag)[ \t]*=[ \t]*([^;,\s]+)", re.I
)
_LONGEST = 512  # bytes of a Call-ID or tag worth looking for


class DialogName(NamedTuple):
    """A dialog as the one who is to find it sees it: `local` is its own tag."""

    call_id: bytes
    local: bytes
    remote: bytes


class Target(NamedTuple):
    """Where the far end of a leg is reached: its URI and the Route values on the way."""

    uri: str
    routes: tuple[str, ...]
    trusted: bool
    leg: Leg


def parse(value: bytes) -> DialogName | None:
    """The dialog that a Replaces, Join or Target-Dialog value names; None if it names none."""
    call_id = value.partition(b";")[0].strip()
    tags = {name.lower(): tag for name, tag in _TAGS.findall(value)}
    # All three speak from the recipient's side: its own tag is to-tag, or local-tag.
    local = tags.get(b"to-tag", tags.get(b"local-tag"))
    remote = tags.get(b"from-tag", tags.get(b"remote-tag"))
    if not call_id or local is None or remote is None:
        return None
    if max(len(call_id), len(local), len(remote)) > _LONGEST:
        return None
    return DialogName(call_id, local, remote)


class Dialogs:
    """The dialogs of an endpoint by their names."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def translate(self, block: bytes) -> bytes:
        """The header text with each dialog named as its recipient knows it.

        A name that is no dialog of ours, or the far end's own already, stays as it is.
        """
        block = _HEADER.sub(self._translate_header, block)
        return _REFER_TO.sub(self._translate_refer_to, block)

    def holder(self, invite: Any) -> Target | None:
        """Whose dialog an INVITE wants to replace (RFC 3891), if it is a live one of ours."""
        value = invite.first(b"replaces")
        name = parse(value) if value is not None else None
        if name is None:
            return None
        leg = self._peer_of(name) or self._find(name.call_id, name.remote, name.local)
        return _target(leg) if leg is not None else None

    def _translate_header(self, line: re.Match[bytes]) -> bytes:
        return line[1] + b":" + self._translate_value(line[2])

    def _translate_refer_to(self, line: re.Match[bytes]) -> bytes:
        return _IN_URI.sub(self._translate_escaped, line[0])

    def _translate_escaped(self, parameter: re.Match[bytes]) -> bytes:
        plain = unquote_to_bytes(parameter[2])
        told = self._translate_value(plain)
        if told == plain:
            return parameter[0]
        return parameter[1] + b"=" + quote_from_bytes(told.strip(), safe="").encode()

    def _translate_value(self, value: bytes) -> bytes:
        name = parse(value)
        leg = self._peer_of(name) if name is not None else None
        if leg is None:
            return value
        told = name_of(leg)
        by_parameter = {
            b"to-tag": told.local, b"local-tag": told.local,
            b"from-tag": told.remote, b"remote-tag": told.remote,
        }  # fmt: skip
        rest = _TAGS.sub(
            lambda found: b";" + found[1] + b"=" + by_parameter[found[1].lower()],
            value[value.index(b";") :],
        )
        return b" " + told.call_id + rest

    def _peer_of(self, name: DialogName) -> Leg | None:
        """The other side of the leg that goes by this name with its far end."""
        leg = self._find(name.call_id, name.local, name.remote)
        peer = leg.peer if leg is not None else None
        return peer if peer is not None and peer.dialog is not None else None

    def _find(self, call_id: bytes, local: bytes, remote: bytes) -> Leg | None:
        leg = self._layer.legs.get(local)
        if leg is None or leg.dialog is None:
            return None
        dialog = leg.dialog
        return leg if dialog.call_id == call_id and dialog.remote_tag == remote else None


def _target(leg: Leg) -> Target:
    uri = getattr(leg, "uri", None)
    if uri is not None:  # somebody who was called
        return Target(uri, leg.routes, leg.trusted, leg)  # type: ignore[attr-defined]
    routes = tuple(route.decode("latin-1") for route in leg.dialog.routes)
    return Target(leg.dialog.target.decode("latin-1"), routes, leg.trusted, leg)


def name_of(leg: Leg) -> DialogName:
    """A leg's dialog as its far end sees it: the far end's tag is its own."""
    dialog = leg.dialog
    return DialogName(dialog.call_id, dialog.remote_tag, dialog.local_tag)
