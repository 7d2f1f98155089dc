"""The cheapest refusal: new calls that cannot come in, answered from their bytes.

While the engine is full (`Gate.refusing`) its datagrams are read here instead of by PJSIP. An
INVITE that the gate refuses is answered before anything is parsed or made for it, and the ACK that
it gets in return is dropped. Everything else is handed to PJSIP as if it had read it.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sip import stream_api, wire
from sip.answer import TAG, Source, answer
from sip.gate import Gate, Refusal
from sip.grammar import parameter
from sip.guard import OnRejected
from sip.message import LONGEST, Identity, Message
from sip.pjsip import ffi

if TYPE_CHECKING:
    from sip.endpoint import Endpoint

AT_ONCE = 100  # datagrams, or
BUDGET_S = 0.005  # this time, before the loop turns
REMEMBERED_S = 32.0  # 64*T1: as long as an INVITE may be sent again (RFC 3261 17.1.1.2)
MOST_REMEMBERED = 50_000

_PHRASES = {403: b"Forbidden", 480: b"Temporarily Unavailable", 503: b"Service Unavailable"}
_STRANGER = Refusal("stranger", 403, 0)
_T = TypeVar("_T")


class Recent(Generic[_T]):
    """What is known of the INVITEs of the last half minute, in two generations."""

    def __init__(self) -> None:
        self._now: dict[int, _T] = {}
        self._before: dict[int, _T] = {}
        self._since = 0.0

    def put(self, key: Identity, known: _T) -> None:
        now = time.monotonic()
        if now - self._since > REMEMBERED_S or len(self._now) >= MOST_REMEMBERED:
            self._before, self._now, self._since = self._now, {}, now
        self._now[hash(key)] = known

    def __bool__(self) -> bool:
        return bool(self._now or self._before)

    def get(self, key: Identity) -> _T | None:
        place = hash(key)
        return self._now.get(place) or self._before.get(place)


class Sieve:
    """Reads the UDP sockets while new calls are refused.

    `entered` knows the INVITEs that came in: sent again, they are no new calls. `refused` knows
    those that did not: refused once, refused for good, or a caller would hear of a call that it
    has given up.
    """

    def __init__(self, endpoint: Endpoint, gate: Gate, on_rejected: OnRejected) -> None:
        self.entered: Recent[bool] = Recent()
        self.refused: Recent[Refusal] = Recent()
        self._endpoint = endpoint
        self._gate = gate
        self._on_rejected = on_rejected
        self._memory = ffi.new("char[32768]")
        self._rdata = ffi.cast("pjsip_rx_data *", self._memory)

    def read(self, udp: socket.socket, transport: Any) -> None:
        """Take what waits in the socket of PJSIP's `transport`."""
        until = time.monotonic() + BUDGET_S
        for _ in range(AT_ONCE):
            try:
                data, source = udp.recvfrom(LONGEST)
            except OSError:
                return
            if data.startswith(b"INVITE "):
                if not self._is_refused(udp, transport, data, source):
                    self._pass_on(transport, data, source)
                    self._endpoint.door.asked = False
            elif not (data.startswith(b"ACK ") and TAG in data):
                self._pass_on(transport, data, source)
            if time.monotonic() > until:
                return

    def _pass_on(self, transport: Any, data: bytes, source: Source) -> None:
        endpt = self._endpoint.endpt
        stream_api.receive(endpt, self._rdata, transport, source, data, sockaddr(source))

    def _is_refused(
        self, udp: socket.socket, transport: Any, data: bytes, source: Source
    ) -> bool:
        """Refuse a call that may not come in; False for whatever PJSIP is to see."""
        invite = Message(data)
        key = invite.identity
        to = invite.first(b"to")
        if to is None or None in key or parameter(to, b"tag") is not None or self.entered.get(key):
            return False
        host = source[0].partition("%")[0].encode()
        refusal = self.refused.get(key)
        if refusal is None:
            stranger = host not in self._endpoint.trusted
            refusal = _STRANGER if stranger else self._gate.ask(host, invite.target)
            if refusal is None:
                self._endpoint.door.asked = True
                return False
            wire.counts["in", "INVITE"] += not stranger
            self._on_rejected(refusal.reason, lambda: described(invite, source))
        status = b"%d %s" % (refusal.code, _PHRASES[refusal.code])
        reply = answer(invite, status, source, retry_after_s=refusal.retry_after_s)
        if reply is None:
            return False
        self.refused.put(key, refusal)
        wire.count_response(refusal.code)
        if self._endpoint.tracing is not None:
            self._endpoint.tracing.refused(transport, data, source, *reply)
        try:
            udp.sendto(*reply)
        except OSError:
            pass  # as any answer that is lost: the INVITE comes again
        return True


def described(invite: Message, source: Source) -> str:
    """The start line of a message and where it came from, for people."""
    return f"{invite.start_line[:80].decode('latin-1')!r} from {source[0]}:{source[1]}"


def sockaddr(source: Source) -> bytes:
    """The address as C has it: a sockaddr_in, or a sockaddr_in6."""
    host, port = source[0], source[1]
    if len(source) == 2:
        return struct.pack("=H", socket.AF_INET) + struct.pack(
            "!H4s20x", port, socket.inet_aton(host)
        )
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    flow = struct.pack("!HI16s", port, source[2], packed)
    return struct.pack("=H", socket.AF_INET6) + flow + struct.pack("=I", source[3])
