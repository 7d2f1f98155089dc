"""The door: requests outside any dialog, and packets that are no SIP at all.

Whatever must be refused is refused here, before a dialog is made and before any other work is done:
strangers, overload, methods the engine does not serve, calls that have gone round too often.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sip import headers, pjsip, unrelayed, wire
from sip.capabilities import ALLOW, CAPABILITIES, UNDERSTOOD
from sip.gate import Gate
from sip.guard import HEAD_MAX, OnRejected, described
from sip.incoming import Incoming
from sip.message import Message
from sip.pjsip import ffi, lib, string_at
from sip.privacy import wish_of
from sip.reliable import Reliable
from sip.request import Request
from sip.response import Response
from sip.settings import LayoutError

if TYPE_CHECKING:
    from sip.endpoint import Endpoint

PROXY_UNDERSTOOD = frozenset((b"privacy",))  # RFC 3323: Privacy is honoured
Header = tuple[bytes, bytes]
LATE_S = 32.0  # 64*T1
DEFAULT_MAX_FORWARDS = 70


class Door:
    """Decides about each request outside a dialog and makes the incoming legs."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        on_invite: Callable[[Incoming], None],
        on_register: Callable[[Request], None] | None,
        gate: Gate,
        on_rejected: OnRejected,
    ) -> None:
        self._on_register = on_register
        self._endpoint = endpoint
        self._on_invite = on_invite
        self._gate = gate
        self._on_rejected = on_rejected
        self._created = ffi.new("pjsip_dialog **")
        self._done: dict[tuple[bytes | None, ...], float] = {}
        self._lists: dict[tuple[Header, ...], Any] = {}
        self.layout_checked = False
        self.asked = False  # the gate let in the INVITE that is handled now

    def start(self) -> None:
        self._pool = lib.pjsip_endpt_create_pool(self._endpoint.endpt, b"door", 4000, 4000)

    def on_request(self, rdata: Any) -> None:
        """A request without dialog; answered here, or made into a leg."""
        method = rdata.msg_info.msg.line.req.method.id
        if method == pjsip.ACK:
            return
        source = string_at(rdata.pkt_info.src_name)
        if method == pjsip.REGISTER and self._on_register is not None:
            self._on_registration(rdata, source)
            return
        if source not in self._endpoint.trusted:
            self._refuse(rdata, 403, "stranger")
            return
        if method != pjsip.INVITE:
            self._on_other(rdata, method)
            return
        wire.counts["in", "INVITE"] += 1
        siblings = self._endpoint.siblings
        if siblings is not None and siblings.takes(
            wire.received(), lambda: self._endpoint.packet_of(rdata)
        ):
            return
        if not self.asked and self._is_refused(rdata, source):
            return
        self._on_new_invite(rdata, source)

    def _is_refused(self, rdata: Any, source: bytes) -> bool:
        """Refuse a call that may not come in, and each time that its INVITE comes again."""
        invite, refused = wire.received(), self._endpoint.sieve.refused
        refusal = refused.get(invite.identity) if refused else None
        again = refusal is not None
        if refusal is None:
            refusal = self._gate.ask(source, invite.target)
        if refusal is None:
            return False
        fields = ((b"Retry-After", b"%d" % refusal.retry_after_s),) if refusal.retry_after_s else ()
        if again:
            self._respond(rdata, refusal.code, *fields)
        else:
            refused.put(invite.identity, refusal)
            self._refuse(rdata, refusal.code, refusal.reason, *fields)
        return True

    def _on_registration(self, rdata: Any, source: bytes) -> None:
        endpoint = self._endpoint
        if source not in endpoint.registrants:
            self._refuse(rdata, 403, "stranger")
            return
        wire.counts["in", "REGISTER"] += 1
        message = wire.received()
        request = endpoint.requests.take(
            endpoint.requests_module, rdata, message, trusted=source in endpoint.trusted
        )
        if request is not None and self._on_register is not None:
            self._on_register(request)

    def _on_other(self, rdata: Any, method: int) -> None:
        message = wire.received()
        if method == pjsip.OPTIONS:
            wire.counts["in", "OPTIONS"] += 1
            asked = headers.unsupported(message, b"require", frozenset(UNDERSTOOD))
            asked = asked or self._asks_too_much(message)
            if asked:
                self._refuse_options(rdata, asked)
                return
            self._respond(rdata, 503 if self._gate.draining else 200, *CAPABILITIES)
            return
        # 501 for what is no method we ever heard of, 405 for one that has no place here (RFC 3261
        # 21.4.6 and 21.5.2).
        unheard = wire.kind_of(message.method) == "other"
        self._refuse(rdata, 501 if unheard else 405, "unsupported", (b"Allow", ALLOW))

    def _on_new_invite(self, rdata: Any, source: bytes) -> None:
        endpoint = self._endpoint
        message = wire.received()
        if not self.layout_checked:
            self._check_first_packet(rdata)
        if self._is_late(message):
            endpoint.race("invite_again")
            return
        if message.truncated or message.head_size > HEAD_MAX:
            self._refuse(rdata, 513, "too_large")
            return
        max_fwd = rdata.msg_info.max_fwd
        if max_fwd != ffi.NULL and max_fwd.ivalue <= 0:
            self._refuse(rdata, 483, "loop_detected")
            return
        asked = self._asks_too_much(message)
        if asked:
            self._refuse_options(rdata, asked)
            return
        if lib.pjsip_tsx_detect_merged_requests(rdata) != ffi.NULL:
            endpoint.race("invite_again")
            self._refuse(rdata, 482, "loop_detected")
            return
        via = message.first(b"via") or b""
        contact = endpoint.transports.contact_at(rdata.tp_info.transport, via, source)
        made = self._created
        status = lib.pjsip_dlg_create_uas_and_inc_lock(endpoint.ua, rdata, contact.ref, made)
        if status != 0:
            no_contact = message.first(b"contact") is None
            self._refuse(rdata, 400, "no_contact" if no_contact else "malformed")
            return
        dlg = made[0]
        try:
            leg = self._make_leg(dlg, rdata, message, source)
        finally:
            lib.pjsip_dlg_dec_lock(dlg)
        self._on_invite(leg)
        # The call comes first: where it goes is often known before its caller would have its 100.
        endpoint.loop.call_soon(leg.trying)

    def _make_leg(self, dlg: Any, rdata: Any, message: Message, source: bytes) -> Incoming:
        endpoint = self._endpoint
        lib.pjsip_dlg_add_usage(dlg, endpoint.usage, ffi.NULL)
        lib.pjsip_dlg_inc_session(dlg, endpoint.usage)
        tsx = lib.pjsip_rdata_get_tsx(rdata)
        response = Response(dlg, rdata)
        leg = Incoming(endpoint, dlg, tsx, response, message)
        leg.source = source.decode("ascii")
        leg.flow = endpoint.streams.flow_of(rdata, leg.source)
        leg.wish = wish_of(message)
        max_fwd = rdata.msg_info.max_fwd
        leg.max_forwards = max_fwd.ivalue if max_fwd != ffi.NULL else DEFAULT_MAX_FORWARDS
        if message.head.find(b"100rel") >= 0 and headers.supports_100rel(message):
            leg.reliable = Reliable(leg, message)
        endpoint.sieve.entered.put(message.identity, True)
        endpoint.streams.prove(rdata.tp_info.transport)
        return leg

    def _check_first_packet(self, rdata: Any) -> None:
        """The one part of the layout that only a received packet can show."""
        datagrams = not self._endpoint.transports.has_streams
        # Line ends before the start line belong to the packet, not to the message.
        clean = rdata.pkt_info.packet[0] not in (b"\r", b"\n")
        if datagrams and clean and rdata.pkt_info.len != rdata.msg_info.len:
            raise LayoutError(
                f"PJSIP's layout differs at rx_data.pkt_info.len: read {rdata.pkt_info.len}, "
                f"expected {rdata.msg_info.len}"
            )
        self.layout_checked = True

    def remember(self, invite: Message) -> None:
        """This INVITE is acknowledged: copies of it that are still on their way start no call.

        PJSIP forgets an INVITE's branch with its ACK; RFC 6026 keeps it for 64*T1.
        """
        now = self._endpoint.loop.time()
        self._done[invite.identity] = now + LATE_S
        while self._done:
            key, until = next(iter(self._done.items()))
            if until > now:
                return
            del self._done[key]

    def _is_late(self, invite: Message) -> bool:
        return bool(self._done) and invite.identity in self._done

    def fail(self, rdata: Any) -> None:
        """Answer a request on which the engine stumbled."""
        if rdata.msg_info.msg.line.req.method.id != pjsip.ACK:
            self._refuse(rdata, 500, "internal")

    def refuse_foreign(self, rdata: Any) -> None:
        """Answer a request inside a dialog that its sender has no part in."""
        self._refuse(rdata, 403, "foreign")

    def answer_early(self, rdata: Any, message: Message) -> None:
        """Answer a request in an early dialog that nobody follows any more, though it stands."""
        wire.counts["in", wire.kind_of(message.method)] += 1
        code, block = unrelayed.answer(message.method, message, owes_answer=False)
        if message.method == b"UPDATE" and code < 300:
            code, block = 500, unrelayed.retry_after()  # a 2xx would need a Contact (RFC 3311 5.2)
        fields = [line.partition(b": ") for line in block.split(b"\r\n") if line]
        self._respond(rdata, code, *((name, value) for name, _, value in fields))

    def refuse_unknown(self, rdata: Any) -> None:
        """Answer a request that names no dialog (RFC 3261 12.2.2); an ACK gets no answer."""
        if rdata.msg_info.msg.line.req.method.id != pjsip.ACK:
            self._respond(rdata, 481)

    def count_foreign(self, rdata: Any) -> None:
        """The same for an ACK, which gets no answer."""
        self._on_rejected("foreign", lambda: described(rdata))

    # -- stateless responses ----------------------------------------------------------------------

    def _asks_too_much(self, message: Message) -> bytes:
        """What a proxy on the way would have to understand and this engine does not (RFC 3261
        16.3). What Require asks is for the phone to understand: it passes."""
        return headers.unsupported(message, b"proxy-require", PROXY_UNDERSTOOD)

    def _refuse_options(self, rdata: Any, asked: bytes) -> None:
        """420, saying which option tags are not understood (RFC 3261 8.2.2.3)."""
        endpt = self._endpoint.endpt
        self._on_rejected("unsupported", lambda: f"{asked!r} required; {described(rdata)}")
        pool = lib.pjsip_endpt_create_pool(endpt, b"refusal", 1000, 1000)
        try:
            extra = _list_in(pool, ((b"Unsupported", asked[:500]),))
            lib.pjsip_endpt_respond_stateless(endpt, rdata, 420, ffi.NULL, extra, ffi.NULL)
        finally:
            lib.pjsip_endpt_release_pool(endpt, pool)
        wire.count_response(420)

    def _refuse(self, rdata: Any, code: int, reason: str, *fields: Header) -> None:
        self._on_rejected(reason, lambda: described(rdata))
        self._respond(rdata, code, *fields)

    def _respond(self, rdata: Any, code: int, *fields: Header) -> None:
        extra = self._list_of(fields) if fields else ffi.NULL
        lib.pjsip_endpt_respond_stateless(
            self._endpoint.endpt, rdata, code, ffi.NULL, extra, ffi.NULL
        )
        wire.count_response(code)

    def _list_of(self, fields: tuple[Header, ...]) -> Any:
        """A header list of these fields, made once: Retry-After takes few values."""
        made = self._lists.get(fields)
        if made is None:
            made = self._lists[fields] = _list_in(self._pool, fields)
        return made


def _list_in(pool: Any, fields: tuple[Header, ...]) -> Any:
    """A header list of these fields, their text in `pool`."""
    made = ffi.new("pjsip_hdr *")
    made.prev = made.next = made
    for name, value in fields:
        field = lib.pjsip_generic_string_hdr_create(
            pool, wire.borrow(0, name), wire.borrow(1, value)
        )
        lib.pj_list_insert_before(made, field)
    return made
