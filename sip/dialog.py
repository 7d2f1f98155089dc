# cython: language_level=3, boundscheck=True, wraparound=False, nonecheck=True
"""The state of a dialog at one of its ends (RFC 3261 12), and the text of its requests and
responses.

This module writes messages; legs decide what to send.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Sequence
from os import urandom
from typing import TYPE_CHECKING, Any

import cython

from sip.grammar import param, span_of, uri_in
from sip.message import Message
from sip.status import LINES, line

if TYPE_CHECKING:
    from sip.transaction import Server

# Methods whose requests and responses set the remote target (RFC 3261 12.1, 12.2).
WITH_CONTACT = frozenset((b"INVITE", b"UPDATE", b"SUBSCRIBE", b"REFER", b"NOTIFY"))
EMPTY = b"Content-Length: 0\r\n\r\n"
MOST_ROUTES = 50
POOL = 4096

_pool = b""
_pool_at = 0


def token() -> bytes:
    """Sixteen unpredictable hexadecimal digits, for branches, tags and Call-IDs."""
    global _pool, _pool_at
    if _pool_at >= len(_pool):
        _pool, _pool_at = hexlify(urandom(POOL)), 0
    _pool_at += 16
    return _pool[_pool_at - 16 : _pool_at]


def new_branch() -> bytes:
    return b"z9hG4bK" + token()


@cython.cfunc
def _ended(out: list[bytes], fields: bytes, body: bytes, content_type: bytes) -> bytes:
    """A message whose parts so far are `out`, with its last fields and its body."""
    if fields:
        out += (fields, b"\r\n")
    if body:
        out.append(b"Content-Type: %s\r\n" % (content_type or b"application/octet-stream"))
        out.append(b"Content-Length: %d\r\n\r\n" % len(body))
        out.append(body)
    else:
        out.append(EMPTY)
    return b"".join(out)


@cython.final
@cython.cclass
class Dialog:
    """One dialog.

    Attributes:
        local, remote: our and the far end's From or To value, with tags as far as they are known.
        target: the far end's URI; `routes`: Route values, the nearest first.
        contact: our URI in it. `way`: the way to the next hop, None until it is asked for.
        unacked: the server transaction of an INVITE whose 2xx had no ACK when the leg ended.
        sent, seen: the last CSeq numbers of ours and of the far end's, -1 before the first.
    """

    call_id: bytes = cython.declare(bytes, visibility="public")
    local: bytes = cython.declare(bytes, visibility="public")
    remote: bytes = cython.declare(bytes, visibility="public")
    local_tag: bytes = cython.declare(bytes, visibility="public")
    remote_tag: bytes = cython.declare(bytes, visibility="public")
    target: bytes = cython.declare(bytes, visibility="public")
    contact: bytes = cython.declare(bytes, visibility="public")
    routes: Any = cython.declare(object, visibility="public")
    way: Any = cython.declare(object, visibility="public")
    bye: Any = cython.declare(object, visibility="public")  # that waits for its response in it
    twin: Any = cython.declare(object, visibility="public")  # after a REFER (late_notify.py)
    unacked: Any = cython.declare(object, visibility="public")
    sent: int = cython.declare(cython.longlong, visibility="public")
    seen: int = cython.declare(cython.longlong, visibility="public")
    is_confirmed: bool = cython.declare(cython.bint, visibility="public")
    _uri: Any  # the Request-URI and the Route fields, made once
    _lines: Any

    def __init__(self, call_id: bytes, local: bytes, local_tag: bytes, contact: bytes) -> None:
        self.call_id = call_id
        self.local = local
        self.local_tag = local_tag
        self.contact = contact
        self.remote = self.remote_tag = self.target = b""
        self.routes = ()
        self.way = self.bye = self.twin = self.unacked = self._uri = self._lines = None
        self.sent = 0
        self.seen = -1
        self.is_confirmed = False

    # -- learning ---------------------------------------------------------------------------------

    def set_route(self, target: bytes, routes: Sequence[bytes]) -> None:
        """Set the route of its requests from now on."""
        if target != self.target or tuple(routes) != self.routes:
            self.target = target
            self.routes = tuple(routes)
            self.way = self._uri = self._lines = None

    def retarget(self, target: bytes) -> bool:
        """A target refresh (12.2). Whether the target has changed."""
        if not target or target == self.target:
            return False
        self.set_route(target, self.routes)
        return True

    def learn(self, message: Message) -> None:
        """Update the dialog from a response to our INVITE (12.1.2): from the latest early one,
        until a 2xx decides."""
        if self.is_confirmed:
            return
        # A phone that sends no tag has the null tag (12.1.2).
        tag = message.to_tag or b""
        if tag != self.remote_tag:
            self.seen = -1  # each phone of a fork counts its own requests
        self.remote, self.remote_tag = message.to, tag
        self.set_route(message.contact or self.target, routes_back(message))
        self.is_confirmed = message.status >= 200

    def sibling(self, to: bytes, tag: bytes, target: bytes, routes: Sequence[bytes]) -> Dialog:
        """Another dialog of the same INVITE: the far end with that To value and tag, and the route
        of its own response (13.2.2.4)."""
        other = Dialog(self.call_id, self.local, self.local_tag, self.contact)
        other.remote, other.remote_tag = to, tag
        other.set_route(target or self.target, routes)
        other.sent, other.is_confirmed = self.sent, True
        return other

    def is_of(self, message: Message) -> bool:
        """Whether a request is in this dialog (12.2.2), whose local tag it names."""
        return message.raw_call_id == self.call_id and (message.from_tag or b"") == self.remote_tag

    # -- writing ----------------------------------------------------------------------------------

    @property
    def hop(self) -> bytes:
        """The URI of the next hop."""
        return uri_in(self.routes[0]) if self.routes else self.target

    @cython.cfunc
    def _route(self) -> None:
        """The Request-URI and the Route fields (12.2.1.1), for a strict router too."""
        routes: list[bytes] = list(self.routes)
        self._uri = self.target
        if routes:
            first = uri_in(routes[0])
            # Its user part may contain semicolons and commas (25.1).
            if param(first, max(0, first.find(b"@")), b"lr") is None:
                self._uri = first
                routes = [*routes[1:], b"<" + self.target + b">"]
        self._lines = b"".join([b"Route: " + route + b"\r\n" for route in routes])

    def parts(self, branch: bytes) -> tuple[bytes, ...]:
        """The common parts of a request and its CANCEL or ACK; the way must be known."""
        if self._uri is None:
            self._route()
        via = b"%s;rport;branch=%s" % (self.way.via, branch)
        return (self._uri, via, self._lines, self.local, self.remote, self.call_id)

    def request(
        self,
        method: bytes,
        parts: tuple[bytes, ...],
        cseq: int,
        max_forwards: int = 70,
        fields: bytes = b"",
        body: bytes = b"",
        content_type: bytes = b"",
        features: bytes = b"",
    ) -> bytes:
        """A request of ours. `fields` is header text without its last line end."""
        uri, via, routes, local, remote, call_id = parts
        out: list[bytes] = [
            method, b" ", uri, b" SIP/2.0\r\nVia: ", via, b"\r\n", routes,
            b"Max-Forwards: %d\r\nFrom: " % max_forwards, local, b"\r\nTo: ", remote,
            b"\r\nCall-ID: ", call_id, b"\r\nCSeq: %d " % cseq, method, b"\r\n",
        ]  # fmt: skip
        if method in WITH_CONTACT:
            out += (b"Contact: <", self.contact, b">", features, b"\r\n")
        return _ended(out, fields, body, content_type)


def response(
    server: Server,
    code: int,
    *,
    tag: bytes = b"",
    phrase: bytes = b"",
    contact: bytes = b"",
    routes: bytes = b"",
    fields: bytes = b"",
    body: bytes = b"",
    content_type: bytes = b"",
    features: bytes = b"",
) -> bytes:
    """A response of a server transaction. `tag` is our To tag, `routes` the Record-Route fields,
    `fields` header text without its last line end."""
    out: list[bytes] = [
        line(code, phrase) if phrase else LINES.get(code) or line(code),
        server.head,
    ]
    if code > 100 and not server.tagged:
        out += (b";tag=", tag or token())
    out.append(b"\r\n")
    if 100 < code < 300:
        out.append(routes)
        if contact and server.method in WITH_CONTACT:
            out += (b"Contact: <", contact, b">", features, b"\r\n")
    return _ended(out, fields, body, content_type)


def routes_back(message: Message) -> list[bytes]:
    """The route set to the sender of a response to our INVITE (12.1.2)."""
    routes: list[bytes] = message.record_routes
    routes.reverse()
    return routes[:MOST_ROUTES]


def record_route_lines(message: Message) -> bytes:
    """The Record-Route fields of a request, to be repeated in its responses (12.1.1)."""
    return b"".join([b"Record-Route: " + entry + b"\r\n" for entry in message.record_routes])


def of_request(message: Message, contact: bytes) -> Dialog:
    """Our end of the dialog that an INVITE creates (12.1.1)."""
    tag = token()
    dialog = Dialog(message.raw_call_id, message.to + b";tag=" + tag, tag, contact)
    dialog.remote = message.sender
    dialog.remote_tag = message.from_tag or b""
    dialog.seen = message.cseq
    dialog.set_route(message.contact, message.record_routes[:MOST_ROUTES])
    return dialog


def is_name_addr(value: bytes) -> bool:
    """Whether a value is valid in From or To."""
    return bool(span_of(value)[1])
