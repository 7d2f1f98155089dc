"""Who may speak inside a dialog: its far end, the proxies of its route set, and trusted peers.

Call-ID and tags are no secret: whoever sees a dump, a log or a dialog event has them. A request
inside a dialog is therefore taken only from an address at which that dialog's far end was heard or
is reached; anybody else gets 403 before the dialog sees it, so that not even its CSeq moves
(RFC 3261 12.2.2 knows no such check; RFC 3261 26.1.3 names the attack). Addresses are compared
without their ports: a NAT may change those while a call stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from sip import pjsip, wire
from sip.headers import tag_of
from sip.incoming import Incoming
from sip.names import is_address, place_of
from sip.outgoing import Outgoing
from sip.pjsip import ffi, lib, string_at
from sip.state import EARLY

if TYPE_CHECKING:
    from sip.endpoint import Endpoint
    from sip.leg import Leg

_UAS = 1


class Speakers:
    """Asked about each request, before PJSIP's transactions and dialogs see it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._key = ffi.new("pj_str_t *")

    def refuses(self, rdata: Any) -> bool:
        """Whether a request names a dialog that its sender has no part in; it is answered then.

        Sources that are trusted peers cost one look into a dictionary.
        """
        source = string_at(rdata.pkt_info.src_name)
        if self._endpoint.forks and self._is_of_a_fork(rdata, source):
            return True
        if source in self._endpoint.trusted:
            return False
        dlg = self._dialog_of(rdata)
        if dlg is None:
            return False
        if dlg == ffi.NULL:
            # mod-ua compares no Call-IDs, and would find one all the same (sip_ua_layer.c).
            self._endpoint.door.refuse_unknown(rdata)
            return True
        leg = self._endpoint.legs.get(dlg)
        if leg is None or leg.dialog is None:
            return False
        known = self._is_of(leg, _plain(source.decode("ascii")))
        if known:
            return False
        is_ack = rdata.msg_info.msg.line.req.method.id == pjsip.ACK
        if known is None and not _is_reliable(wire.received().first(b"via") or b""):
            return True  # a name is being looked up: its repetition finds the answer
        if is_ack:
            self._endpoint.door.count_foreign(rdata)
        else:
            self._endpoint.door.refuse_foreign(rdata)
        return True

    def _is_of_a_fork(self, rdata: Any, source: bytes) -> bool:
        """Whether a request comes from a phone that rings behind a contact at which another has
        shown a sign later; it is answered then. PJSIP has no dialog for it, and would say 481."""
        info = rdata.msg_info
        method = info.msg.line.req.method.id
        if info.to.tag.slen == 0 or method in (pjsip.ACK, pjsip.CANCEL, pjsip.BYE, pjsip.REGISTER):
            return False
        message = wire.received()
        call_id, to = message.first(b"call-id") or b"", message.first(b"to") or b""
        leg, tags = self._endpoint.forks.get((call_id, tag_of(to)), (None, frozenset()))
        if leg is None or leg.state > EARLY or self._dialog_of(rdata) != ffi.NULL:
            return False
        if tag_of(message.first(b"from") or b"") not in tags:
            return False
        if source not in self._endpoint.trusted and not self._is_of(leg, _plain(source.decode())):
            return False
        self._endpoint.door.answer_early(rdata, message)
        return True

    def _dialog_of(self, rdata: Any) -> Any:
        """The dialog that a request belongs to; None outside any, NULL when it names one that is
        not there."""
        info = rdata.msg_info
        method = info.msg.line.req.method.id
        if method == pjsip.CANCEL:
            # A CANCEL finds its dialog through the INVITE's transaction, whatever its tags.
            pool, key = rdata.tp_info.pool, self._key
            if lib.pjsip_tsx_create_key(pool, key, _UAS, wire.INVITE, rdata) != 0:
                return None
            tsx = lib.pjsip_tsx_layer_find_tsx(key, 0)
            return None if tsx == ffi.NULL else lib.pjsip_tsx_get_dlg(tsx) or None
        if info.to.tag.slen == 0 or method == pjsip.REGISTER:
            return None
        tags = ffi.addressof(info.to, "tag"), ffi.addressof(getattr(info, "from"), "tag")
        call_id = ffi.addressof(info.cid, "hvalue")
        dlg = lib.pjsip_ua_find_dialog(call_id, *tags, 0)
        if dlg == ffi.NULL:  # a far end without a tag yet, or for good, is found by any
            dlg = lib.pjsip_ua_find_dialog(call_id, tags[0], wire.borrow(0, b""), 0)
        return dlg

    def _is_of(self, leg: Leg, source: str) -> bool | None:
        """Whether a leg's far end, or a proxy on the way to it, is at this address; None while a
        name on the way is being looked up."""
        if isinstance(leg, Incoming) and _plain(leg.source) == source:
            return True
        if isinstance(leg, Outgoing) and _plain(leg.heard.decode("ascii")) == source:
            return True
        names, asked = self._endpoint.names, False
        for hop in set(_hops(leg)):
            place = place_of(hop)
            if is_address(place):
                if _plain(place.host) == source:
                    return True
                continue
            servers = names.known(place)
            if servers is None:
                asked = True
                names.tell(place, lambda _: None)
            elif any(_plain(server.host) == source for server in servers):
                return True
        return None if asked else False


def _hops(leg: Leg) -> Iterator[str]:
    """Where requests to the far end go: its Contact and the route set, as the dialog has them now,
    and what was dialled."""
    request = wire.sample(leg.dialog)
    if request is not None:
        yield request.target.decode("latin-1")
        for route in request.values(b"route"):
            yield route.decode("latin-1")
    if isinstance(leg, Outgoing):
        yield leg.uri
        yield from leg.routes


def _is_reliable(via: bytes) -> bool:
    """Whether nobody repeats this request: it came over TCP or TLS."""
    return b"/UDP" not in via.upper().partition(b";")[0]


def _plain(host: str) -> str:
    """One spelling of an IP address; anything else as it is."""
    try:
        ip = ip_address(host.partition("%")[0].strip("[]"))
    except ValueError:
        return host
    return str(getattr(ip, "ipv4_mapped", None) or ip)
