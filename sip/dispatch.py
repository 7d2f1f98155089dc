"""From PJSIP's callbacks to the legs: requests and responses inside dialogs.

Everything here runs inside a callback of PJSIP's. The message is the one that the guard took.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sip import pjsip, wire
from sip.leg import Leg
from sip.outgoing import Outgoing
from sip.pjsip import ffi, lib, string_at

if TYPE_CHECKING:
    from sip.endpoint import Endpoint


class Dispatch:
    """Finds the leg of each event by its dialog and tells it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._loop = endpoint.loop
        self._legs: dict[Any, Leg] = endpoint.legs

    def on_dialog_request(self, rdata: Any) -> int:
        """A request inside a dialog. ACK has no transaction; all others are handled in TRYING."""
        if rdata.msg_info.msg.line.req.method.id == pjsip.ACK:
            wire.counts["in", "ACK"] += 1
            leg = self._legs.get(lib.pjsip_rdata_get_dlg(rdata))
            if leg is not None:
                leg.on_ack(leg.mark(wire.received()))
        return 1

    def on_stray_response(self, rdata: Any) -> int:
        """A response without transaction: a 2xx to INVITE again means that its ACK was lost.

        One with another To tag is of a forked call: mod-ua ends that one by ACK and BYE. One
        without (RFC 3261 12.1.2: the tag is null) cannot be, and mod-ua must not see it: it would
        fork a dialog without a tag (sip_dialog.c, pjsip_dlg_fork asserts).
        """
        info = rdata.msg_info
        if info.cseq.method.id != pjsip.INVITE or not 200 <= info.msg.line.status.code < 300:
            return 0
        from_ = getattr(info, "from")
        call_id = ffi.addressof(info.cid, "hvalue")
        tags = ffi.addressof(from_, "tag"), ffi.addressof(info.to, "tag")
        dlg = lib.pjsip_ua_find_dialog(call_id, *tags, 0)
        if dlg == ffi.NULL:
            self._endpoint.race("fork_answered_late")
            # Nor one that comes to a dialog without a tag, which would take it over.
            is_null = lib.pjsip_ua_find_dialog(call_id, tags[0], wire.borrow(0, b""), 0) != ffi.NULL
            return int(is_null or info.to.tag.slen == 0)
        leg = self._legs.get(dlg)
        self._endpoint.race("ack_lost")
        if leg is None:
            wire.send_ack(dlg, info.cseq.cseq, b"", b"")
        else:
            leg.on_2xx_again(info.cseq.cseq)
        return 1

    def on_tsx_state(self, tsx: Any, event: Any) -> None:
        cause = event.cause
        if tsx.role == pjsip.UAC:
            self._on_client_state(tsx, cause, event)
        elif cause != pjsip.EVENT_TX:
            self._on_server_state(tsx, cause, event)

    def _on_client_state(self, tsx: Any, cause: int, event: Any) -> None:
        method = tsx.method.id
        if method == pjsip.BYE:
            self._endpoint.byes.on_client_state(tsx, cause)  # a leg is over when it says so
            return
        dlg = lib.pjsip_tsx_get_dlg(tsx)
        leg = self._legs.get(dlg)
        is_invite = method == pjsip.INVITE
        if leg is None:
            if is_invite and cause == pjsip.EVENT_RX and 200 <= tsx.status_code < 300:
                wire.send_ack(dlg, tsx.cseq, b"", b"")
            return
        callee = leg if isinstance(leg, Outgoing) else None
        if is_invite and callee is not None and not callee.invite_known:
            callee.on_invite_sent(tsx)
        elif leg.exchanges is not None and leg.exchanges.sending is not None:
            leg.exchanges.on_sent(tsx)
        if cause == pjsip.EVENT_TX:
            return
        code = tsx.status_code
        message = None
        if cause == pjsip.EVENT_RX:
            wire.counts["in", wire.RESPONSE_KINDS[code // 100]] += 1
            message = leg.mark(wire.received())
        elif tsx.state < pjsip.TSX_COMPLETED:
            return
        if callee is not None and callee.is_invite(tsx):
            if message is None:
                callee.on_invite_failed(408 if cause == pjsip.EVENT_TIMER else max(code, 300))
            else:
                if 180 <= code < 300:
                    callee.heard = string_at(event.source.pkt_info.src_name)
                callee.on_invite_response(code, message)
        elif leg.exchanges is not None:
            if message is None:
                code = 408 if cause == pjsip.EVENT_TIMER else 503
            leg.exchanges.on_response(tsx, code, message)

    def _on_server_state(self, tsx: Any, cause: int, event: Any) -> None:
        state = tsx.state
        if state == pjsip.TSX_TRYING and cause == pjsip.EVENT_RX:
            self._on_server_request(tsx, event.source)
        elif state == pjsip.TSX_TERMINATED and tsx.method.id == pjsip.BYE:
            self._endpoint.byes.on_server_gone(tsx)
        elif state == pjsip.TSX_TERMINATED and tsx.method.id != pjsip.CANCEL:
            leg = self._legs.get(lib.pjsip_tsx_get_dlg(tsx))
            if leg is not None:
                leg.on_server_gone(tsx)

    def _on_server_request(self, tsx: Any, rdata: Any) -> None:
        dlg = lib.pjsip_tsx_get_dlg(tsx)
        leg = self._legs.get(dlg)
        number = tsx.method.id
        message = wire.received()
        if leg is not None:
            leg.mark(message)
        method = message.method
        wire.counts["in", wire.kind_of(method)] += 1
        if number == pjsip.BYE and leg is not None:
            leg.on_bye(message, self._endpoint.byes.receive(leg, tsx, rdata))
        elif number == pjsip.BYE:
            self._endpoint.byes.refuse(dlg, tsx, rdata)
            self._endpoint.race("byes_crossed")
        elif number == pjsip.CANCEL or leg is None:
            wire.answer(dlg, tsx, rdata, 200 if number == pjsip.CANCEL else 481)
            if leg is not None:
                leg.on_cancel(message)
        else:
            leg.on_request(method, tsx, rdata, message)
