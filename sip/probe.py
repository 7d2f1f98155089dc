"""OPTIONS of our own: asks a server whether it lives (RFC 3261 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sip import wire
from sip.address import Address
from sip.pjsip import ffi, lib

if TYPE_CHECKING:
    from sip.endpoint import Endpoint

UNANSWERED = 408
_COMPLETED = 4


class Probes:
    """The OPTIONS that wait for their answer, by client transaction."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._waiting: dict[Any, Callable[[int], None]] = {}
        self._tsx = ffi.new("pjsip_transaction **")
        self._tdata = ffi.new("pjsip_tx_data **")

    def ask(
        self, uri: str, server: Address, wait_s: float, listener: Callable[[int], None]
    ) -> None:
        """Send OPTIONS for `uri` to `server`; `listener` gets the final code, UNANSWERED when none
        comes in `wait_s`, 503 when it cannot be sent."""
        endpoint = self._endpoint
        own = endpoint.transports.contact_of(server.transport, ":" in server.host).ref
        target = wire.borrow(0, uri.encode())
        null = ffi.NULL
        options = wire.method(b"OPTIONS")
        made = lib.pjsip_endpt_create_request(
            endpoint.endpt, options, target, own, target, own, null, -1, null, self._tdata
        )
        if made != 0:
            listener(503)
            return
        tdata = self._tdata[0]
        if lib.pjsip_tsx_create_uac(endpoint.requests_module, tdata, self._tsx) != 0:
            lib.pjsip_tx_data_dec_ref(tdata)
            listener(503)
            return
        tsx = self._tsx[0]
        self._waiting[tsx] = listener
        wire.counts["out", "OPTIONS"] += 1
        endpoint.resolving.pinned = server
        try:
            sent = lib.pjsip_tsx_send_msg(tsx, null) == 0
        finally:
            endpoint.resolving.pinned = None
        if not sent:
            lib.pjsip_tx_data_dec_ref(tdata)
            if self._waiting.get(tsx) is listener:
                lib.pjsip_tsx_terminate(tsx, 503)
            return
        endpoint.loop.call_later(wait_s, self._expire, tsx, listener)

    def _expire(self, tsx: Any, listener: Callable[[int], None]) -> None:
        # PJSIP may use the address of a transaction again: the listener tells them apart.
        if self._waiting.get(tsx) is listener:
            lib.pjsip_tsx_terminate(tsx, UNANSWERED)

    def on_tsx_state(self, tsx: Any) -> None:
        """A transaction changed its state."""
        if tsx.state >= _COMPLETED:
            listener = self._waiting.pop(tsx, None)
            if listener is not None:
                listener(tsx.status_code)

    def close(self) -> None:
        """Nobody waits for an answer any more."""
        for tsx in list(self._waiting):
            self._waiting.pop(tsx)
            lib.pjsip_tsx_terminate(tsx, UNANSWERED)
