"""The responses that this engine gives inside dialogs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sip import wire
from sip.bodies import body_told
from sip.crossing import crossing
from sip.message import Message
from sip.pjsip import ffi, lib
from sip.replaces import End, names_dialogs

if TYPE_CHECKING:
    from sip.leg import Leg

_created = ffi.new("pjsip_tx_data **")


class Response:
    """The response of one server transaction, sent several times with different codes."""

    __slots__ = ("_block", "_tdata", "leg")

    def __init__(self, dlg: Any, rdata: Any) -> None:
        """Raises RuntimeError when PJSIP cannot make a response to this request."""
        status = lib.pjsip_dlg_create_response(dlg, rdata, 100, ffi.NULL, _created)
        if status != 0:
            raise RuntimeError(f"pjsip_dlg_create_response failed with status {status}")
        self._tdata = _created[0]
        self._block: Any = None
        self.leg: Leg | None = None  # whose far end gets it

    def send_trying(self, dlg: Any, tsx: Any) -> None:
        lib.pjsip_tx_data_add_ref(self._tdata)
        wire.count_response(100)
        lib.pjsip_dlg_send_response(dlg, tsx, self._tdata)

    def send(
        self,
        dlg: Any,
        tsx: Any,
        code: int,
        message: Message | None,
        extra: bytes = b"",
        *,
        to_trusted: bool = False,
    ) -> bool:
        """Send `code`, with the passing headers and the body of `message` and the fields `extra`.

        `to_trusted` as for `crossing`.

        False when it could not be sent: it did not come whole, does not fit a packet, or the
        transaction is over.
        """
        tdata = self._tdata
        if message is not None and (message.lost or (message.body and message.truncated)):
            return False  # half a session description is none
        phrase = message.phrase if message is not None else b""
        reason = wire.text(phrase).ref if 0 < len(phrase) < 80 else ffi.NULL
        if lib.pjsip_dlg_modify_response(dlg, tdata, code, reason) != 0:
            return False
        self._remove_block()
        body = kind = b""
        if message is not None:
            passing = crossing(message, to_trusted=to_trusted)
            if self.leg is not None and names_dialogs(message):
                passing = self.leg.endpoint.dialog_names.pass_on(passing, End(leg=self.leg))
            extra = extra + b"\r\n" + passing if extra and passing else extra or passing
            body, kind = body_told(message, to_trusted=to_trusted)
        if body:
            wire.set_body(tdata, body, kind)
        else:
            tdata.msg.body = ffi.NULL
        if extra:
            self._block = wire.add_block(tdata, extra)
        # What cannot be printed is not handed over: the transaction would be left unanswered.
        if len(extra) + len(body) > wire.SURELY_FITS and not wire.fits(tdata):
            lib.pjsip_tx_data_dec_ref(tdata)
            return False
        wire.count_response(code)
        return bool(lib.pjsip_dlg_send_response(dlg, tsx, tdata) == 0)

    def close(self) -> None:
        lib.pjsip_tx_data_dec_ref(self._tdata)

    def _remove_block(self) -> None:
        if self._block is not None:
            self._block.prev.next, self._block.next.prev = self._block.next, self._block.prev
            self._block = None
