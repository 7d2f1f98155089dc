"""A request outside any dialog that is answered later: REGISTER, while Redis is asked.

Its server transaction takes the copies that a phone sends meanwhile, and repeats the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sip import wire
from sip.flow import Flow
from sip.message import Message
from sip.pjsip import ffi, lib

if TYPE_CHECKING:
    from sip.endpoint import Endpoint


class Request:
    """One request that waits for its answer. `flow` is the way it came by, `source` the IP address
    that sent it, `trusted` whether that is one of `sip.trusted_peers`."""

    __slots__ = (
        "_requests", "_tdata", "_transport", "_tsx", "flow", "message", "source", "trusted"
    )  # fmt: skip

    def __init__(
        self,
        requests: Requests,
        tsx: Any,
        tdata: Any,
        transport: Any,
        message: Message,
        flow: Flow,
        trusted: bool,
    ) -> None:
        self._requests = requests
        self._tsx = tsx
        self._tdata = tdata
        self._transport = transport  # that it came over, to be looked up only
        self.message = message
        self.flow = flow
        self.source = flow.host
        self.trusted = trusted

    def respond(self, code: int, block: bytes = b"") -> None:
        """Send the final response with these header fields, once; later calls do nothing."""
        tsx, tdata = self._tsx, self._tdata
        self.forget()
        if tsx is None:
            return
        status = tdata.msg.line.status
        status.code = code
        status.reason = lib.pjsip_get_status_text(code)[0]
        if 200 <= code < 300:
            self._requests.prove(self._transport)
        if block:
            wire.add_block(tdata, block)
        if len(block) > wire.SURELY_FITS and not wire.fits(tdata):
            lib.pjsip_tx_data_dec_ref(tdata)
            lib.pjsip_tsx_terminate(tsx, 500)
            return
        wire.count_response(code)
        lib.pjsip_tsx_send_msg(tsx, tdata)

    def forget(self) -> None:
        """The transaction is no longer ours to answer."""
        if self._tsx is not None:
            self._requests.waiting.pop(self._tsx, None)
        self._tsx = self._tdata = None

    def drop(self) -> None:
        """The transaction ended without our answer: its transport broke."""
        tdata = self._tdata
        self.forget()
        if tdata is not None:
            lib.pjsip_tx_data_dec_ref(tdata)


class Requests:
    """The requests that wait for their answer, by server transaction."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.waiting: dict[Any, Request] = {}
        self._tsx = ffi.new("pjsip_transaction **")
        self._tdata = ffi.new("pjsip_tx_data **")

    def take(self, module: Any, rdata: Any, message: Message, *, trusted: bool) -> Request | None:
        """Make a transaction for a request; None when PJSIP cannot."""
        if lib.pjsip_tsx_create_uas2(module, rdata, ffi.NULL, self._tsx) != 0:
            return None
        tsx = self._tsx[0]
        lib.pjsip_tsx_recv_msg(tsx, rdata)
        null = ffi.NULL
        if lib.pjsip_endpt_create_response(self._endpoint.endpt, rdata, 200, null, self._tdata):
            lib.pjsip_tsx_terminate(tsx, 500)
            return None
        source = ffi.string(rdata.pkt_info.src_name).decode("ascii")
        transport = rdata.tp_info.transport
        flow = self._endpoint.streams.flow_of(rdata, source)
        request = Request(self, tsx, self._tdata[0], transport, message, flow, trusted)
        self.waiting[tsx] = request
        return request

    def prove(self, transport: Any) -> None:
        """A phone was registered over this transport."""
        self._endpoint.streams.prove(transport)

    def on_tsx_state(self, tsx: Any) -> None:
        """A transaction changed its state; one that ends before it is answered is dropped."""
        request = self.waiting.get(tsx)
        if request is not None and tsx.state >= _TERMINATED:
            request.drop()

    def close(self) -> None:
        """Nobody is answered any more."""
        for request in list(self.waiting.values()):
            request.respond(503)


_TERMINATED = 6
