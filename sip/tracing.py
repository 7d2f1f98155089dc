"""Every SIP message as it crosses the wire, told to whoever traces them.

A module of PJSIP's between its transports and everything else, which exists only while somebody
traces. Retransmissions are told too: they were on the wire.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sip import stream_api
from sip.pjsip import ffi
from sip.seen import Place, Seen
from sip.settings import LayoutError

if TYPE_CHECKING:
    from sip.endpoint import Endpoint

ffi.cdef("""
typedef struct {
  pjsip_tx_data head;
  struct {
    unsigned count;
    struct { int type; unsigned priority, weight; char addr[28]; int addr_len; } entry[16];
    unsigned current;
  } addresses;
  void *transport; char dst_addr[28]; int dst_addr_len; char dst_name[46]; int dst_port;
} traced_tx_data;
""")

PRIORITY = 7  # just inside PJSIP's transports (8): the first to see what comes, the last what goes
REMEMBERED = 200_000  # Call-IDs of outgoing legs, with that of their caller
_CALL_ID = re.compile(rb"^(?:call-id|i)[ \t]*:[ \t]*([^\s]+)", re.IGNORECASE | re.MULTILINE)


class Tracing:
    """Tells `tell` of each message. `current` is the caller's Call-ID while an outgoing leg is
    made: what is sent then belongs to it, and all that follows under its Call-ID."""

    def __init__(self, endpoint: Endpoint, tell: Callable[[Seen], None]) -> None:
        self.current = b""
        self._endpoint = endpoint
        self._tell = tell
        self._callers: dict[bytes, bytes] = {}
        self._checked = False

    def on_received(self, rdata: Any) -> int:
        """A message came in. PJSIP goes on with it."""
        info, packet = rdata.msg_info, rdata.pkt_info
        place = self._endpoint.place_of(rdata.tp_info.transport)
        if place is not None:
            source = ffi.string(packet.src_name).decode("ascii"), packet.src_port
            data = bytes(ffi.buffer(info.msg_buf, info.len))
            self._told(place[0], source, place[1], data)
        return 0

    def on_sent(self, tdata: Any) -> int:
        """A message goes out."""
        sent = ffi.cast("traced_tx_data *", tdata)
        place = self._endpoint.place_of(sent.transport)
        if not self._checked:
            self._check(sent, place)
        if place is not None:
            start = tdata.buf.start
            data = bytes(ffi.buffer(start, tdata.buf.cur - start))
            name = ffi.string(sent.dst_name).decode("ascii")
            self._told(place[0], place[1], (name, sent.dst_port), data)
        return 0

    def refused(
        self, transport: Any, came: bytes, source: Sequence[Any], reply: bytes, to: Sequence[Any]
    ) -> None:
        """A request that PJSIP never saw, and its answer."""
        place = self._endpoint.place_of(transport)
        if place is not None:
            self._told(place[0], (source[0], source[1]), place[1], came)
            self._told(place[0], place[1], (to[0], to[1]), reply)

    def _told(self, transport: str, source: Place, destination: Place, data: bytes) -> None:
        found = _CALL_ID.search(data)
        call_id = found[1] if found else b""
        if self.current and call_id not in self._callers:
            if len(self._callers) >= REMEMBERED:
                del self._callers[next(iter(self._callers))]
            self._callers[call_id] = self.current
        call = self._callers.get(call_id, call_id)
        self._tell(Seen(time.time(), transport, source, destination, data, call))

    def _check(self, sent: Any, place: object) -> None:
        """The part of the layout that only a sent message can show."""
        self._checked = True
        told = stream_api.address_of(sent.dst_addr)
        if place is None or told != (ffi.string(sent.dst_name).decode("ascii"), sent.dst_port):
            raise LayoutError(f"PJSIP's layout differs at tx_data.tp_info: read {told!r}")
