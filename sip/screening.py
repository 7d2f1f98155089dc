"""Screening of requests outside any dialog: calls, registrations, OPTIONS.

Refusals happen here, before a dialog or a transaction is made and before any other work is done:
strangers, overload, unsupported methods, loops. A stranger gets 403 (`layer.py` refuses what it
sends inside a dialog of others likewise, and answers 500 of all strangers' malformed messages a
second with 400); only a REGISTER from where phones may register goes further.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from sip import headers
from sip.capabilities import ALLOW, CAPABILITY_FIELDS, UNDERSTOOD
from sip.dialog import of_request
from sip.grammar import same
from sip.incoming import Incoming
from sip.layer import OnRejected, described
from sip.message import Message
from sip.outside_dialogs import Request
from sip.privacy import wish_of
from sip.reliable import Reliable

if TYPE_CHECKING:
    from sip.interfaces import Host

HEARD_OF = frozenset((b"REGISTER", b"SUBSCRIBE", b"PUBLISH", *ALLOW.split(b", ")))
PROXY_UNDERSTOOD = frozenset((b"privacy",))  # RFC 3323: Privacy is honoured
REMEMBERED_S = 32.0  # 64*T1: as long as an INVITE may be sent again (RFC 3261 17.1.1.2)
MOST_REMEMBERED = 50_000
_T = TypeVar("_T")


class Rejection(NamedTuple):
    """A refused call: the reason for the counter, the code, Retry-After in seconds."""

    reason: str
    code: int
    retry_after_s: int


class AdmissionPolicy(Protocol):
    """While `draining`, no new call is admitted."""

    draining: bool

    def ask(self, source: bytes, target: bytes) -> Rejection | None:
        """Decide on a call from the IP address `source` to the Request-URI `target`. None admits
        and counts it."""

    def waited(self, seconds: float) -> None:
        """Called many times a second with the seconds that a message waits before it is handled."""


class Recent(Generic[_T]):
    """The INVITEs of the last half minute, in two generations."""

    def __init__(self) -> None:
        self._now: dict[bytes, _T] = {}
        self._before: dict[bytes, _T] = {}
        self._since = 0.0

    def put(self, key: bytes, known: _T) -> None:
        now = time.monotonic()
        if now - self._since > REMEMBERED_S or len(self._now) >= MOST_REMEMBERED:
            self._before, self._now, self._since = self._now, {}, now
        self._now[key] = known

    def __bool__(self) -> bool:
        return bool(self._now or self._before)

    def get(self, key: bytes) -> _T | None:
        return self._now.get(key) or self._before.get(key)


class Screening:
    """Decides about each request outside a dialog and makes the incoming legs."""

    def __init__(
        self,
        endpoint: Host,
        *,
        on_invite: Callable[[Any], None],
        on_register: Callable[[Any], None] | None,
        policy: AdmissionPolicy,
        on_rejected: OnRejected,
    ) -> None:
        self._endpoint = endpoint
        self._layer = endpoint.layer
        self._on_invite = on_invite
        self._on_register = on_register
        self._policy = policy
        self._on_rejected = on_rejected
        # A refused INVITE stays refused: otherwise a retransmission could start a call that its
        # caller has given up.
        self._refused: Recent[Rejection] = Recent()

    def receive(self, message: Message, way: Any, key: bytes) -> None:
        """A request without dialog and without transaction."""
        method, source = message.method, way.host
        if method == b"REGISTER" and self._on_register is not None:
            self._on_registration(message, way, key)
        elif not self._endpoint.trusted[source]:
            self._refuse(message, way, 403, "stranger")
        elif method == b"INVITE":
            self._layer.count_in(method)
            if not (self._is_elsewhere(message) or self._is_refused(message, way, source)):
                self._on_new_invite(message, way, key)
        else:
            self._on_other(message, way)

    def _is_elsewhere(self, invite: Message) -> bool:
        """Whether an INVITE waits for other workers because it names a dialog."""
        endpoint = self._endpoint
        siblings: Any = endpoint.siblings
        if siblings is None:
            return False
        return bool(siblings.takes(invite, lambda: endpoint.packet_of(invite)))

    def _is_refused(self, invite: Message, way: Any, source: bytes) -> bool:
        """Refuse a call that is not admitted, and each retransmission of its INVITE."""
        rejection = self._refused.get(invite.identity) if self._refused else None
        again = rejection is not None
        if rejection is None:
            rejection = self._policy.ask(source, invite.target)
        if rejection is None:
            return False
        if not again:
            self._refused.put(invite.identity, rejection)
            self._on_rejected(rejection.reason, lambda: described(invite, way), source)
        fields = b"Retry-After: %d" % rejection.retry_after_s if rejection.retry_after_s else b""
        self._layer.refuse(invite, way, rejection.code, fields=fields)
        return True

    def _on_registration(self, message: Message, way: Any, key: bytes) -> None:
        endpoint = self._endpoint
        if way.host not in endpoint.registrants:
            self._refuse(message, way, 403, "stranger")
            return
        self._layer.count_in(b"REGISTER")
        server = self._layer.serve(message, way, key)
        trusted = way.host in endpoint.trusted
        request = Request(self._layer, server, message, trusted, endpoint.waiting)
        if self._on_register is not None:
            self._on_register(request)

    def _on_other(self, message: Message, way: Any) -> None:
        method = message.method
        if method == b"OPTIONS" and not _is_called(message.target):
            self._refuse(message, way, 416, "malformed")
        elif method == b"OPTIONS":
            self._layer.count_in(method)
            asked = headers.unsupported(message, b"require", frozenset(UNDERSTOOD))
            asked = asked or self._asks_too_much(message)
            if asked:
                self._refuse_options(message, way, asked)
                return
            code = 503 if self._policy.draining else 200
            self._layer.refuse(message, way, code, fields=CAPABILITY_FIELDS)
        elif method == b"BYE" or method == b"PRACK":
            self._refuse(message, way, 481, "unsupported")
        else:
            # 501 for an unknown method, 405 for one that is not allowed here (RFC 3261 21.4.6 and
            # 21.5.2).
            code = 405 if method in HEARD_OF else 501
            self._refuse(message, way, code, "unsupported", b"Allow: " + ALLOW)

    def _on_new_invite(self, message: Message, way: Any, key: bytes) -> None:
        endpoint, layer = self._endpoint, self._layer
        if message.max_forwards == 0:
            self._refuse(message, way, 483, "loop_detected")
            return
        asked = self._asks_too_much(message)
        if asked:
            self._refuse_options(message, way, asked)
            return
        if not _is_sip(message.contact):
            no_contact = message.first(b"contact") is None
            self._refuse(message, way, 400, "no_contact" if no_contact else "malformed")
            return
        fault = message.steering_fault
        if fault:
            self._on_rejected("malformed", lambda: f"{fault}: {described(message, way)}", way.host)
            layer.refuse(message, way, 400, phrase=b"Bad Request (%s)" % fault.encode())
            return
        if not _is_called(message.target):
            self._refuse(message, way, 416, "malformed")
            return
        server = layer.serve(message, way, key)
        if not layer.note(server, message):
            layer.race("invite_again")
            server.end()
            self._refuse(message, way, 482, "loop_detected")
            return
        leg = Incoming(endpoint, of_request(message, way.contact), server, message)
        leg.wish = wish_of(message)
        way.prove()
        if headers.names_100rel(message.head) and headers.supports_100rel(message):
            leg.reliable = Reliable(leg, message)
        self._on_invite(leg)
        # Handle the call before the 100: its target is often known before the caller would get the
        # 100.
        endpoint.loop.call_soon(leg.trying)

    # -- refusals ---------------------------------------------------------------------------------

    def _asks_too_much(self, message: Message) -> bytes:
        """The option tags of Proxy-Require that this engine does not support (RFC 3261 16.3).
        Require is for the phone: it passes."""
        return headers.unsupported(message, b"proxy-require", PROXY_UNDERSTOOD)

    def _refuse_options(self, message: Message, way: Any, asked: bytes) -> None:
        """420 with the unsupported option tags (RFC 3261 8.2.2.3)."""
        self._on_rejected(
            "unsupported",
            lambda: f"{asked[:200]!r} required; {described(message, way)}",
            way.host,
        )
        self._layer.refuse(message, way, 420, fields=b"Unsupported: " + asked[:500])

    def _refuse(
        self, message: Message, way: Any, code: int, reason: str, fields: bytes = b""
    ) -> None:
        self._on_rejected(reason, lambda: described(message, way), way.host)
        self._layer.refuse(message, way, code, fields=fields)


def _is_called(uri: bytes) -> bool:
    """Whether a Request-URI is of a supported kind."""
    return _is_sip(uri) or _starts(uri, b"tel:")


def _is_sip(uri: bytes) -> bool:
    return _starts(uri, b"sip:") or _starts(uri, b"sips:")


def _starts(uri: bytes, scheme: bytes) -> bool:
    return bool(same(uri, 0, len(scheme), scheme)) and len(uri) > len(scheme)
