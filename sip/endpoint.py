"""PJSIP on the asyncio thread: its life cycle, its sockets, its callbacks to the legs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pjsua2

from sip import pjsip, wire
from sip.door import Door
from sip.guard import Guard
from sip.leg import Leg
from sip.pjsip import ffi, lib

TICK_S = 0.02  # PJSIP's timers
STREAM_TICK_S = 0.005  # with TCP or TLS, whose sockets come and go: no readers of their own yet
# How long an answered BYE is remembered for its retransmissions (those of 0.5, 1.5, 3.5 and 7.5 s).
# RFC 3261 17.2.2 has 32 s on UDP; a later copy finds no dialog and gets 481, which ends it as well.
# Each one holds its dialog, and PJSIP's table of dialogs has 511 chains for all of them.
BYE_MEMORY_S = 8.0
RECEIVE_BUFFER = 4 * 1024 * 1024


class ListenError(OSError):
    """An address of `sip.listen` could not be used; says which and why."""


class DialError(ValueError):
    """An outgoing leg could not even be made: the URI does not parse or the INVITE does not fit."""


@dataclass(frozen=True, slots=True)
class Address:
    """One listening address: transport "udp", "tcp" or "tls", host without brackets, port."""

    transport: str
    host: str
    port: int

    @property
    def shown_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.transport}:{self.shown_host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the endpoint needs to know. `outbound_proxy` is a SIP URI or None."""

    listen: tuple[Address, ...]
    advertise: str | None
    trusted_peers: tuple[str, ...]
    outbound_proxy: str | None


class Endpoint:
    """PJSIP and all legs of this process.

    `on_invite` gets each new incoming leg; `gate` is asked before any work is done on a new INVITE
    and answers None or (reason for the counter, Retry-After in seconds).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_invite: Callable[[Leg], None],
        gate: Callable[[], tuple[str, int] | None],
        on_rejected: Callable[[str], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self.settings = settings
        self.legs: dict[Any, Leg] = {}  # by dialog: pointers of cffi hash by their address
        self.counts = wire.counts  # (direction, kind) of SIP messages
        self.illegal_counts: Counter[str] = Counter()
        self.on_error = on_error
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.guard = Guard(on_rejected)
        self.door = Door(self, on_invite=on_invite, gate=gate, on_rejected=on_rejected)
        self._stack = contextlib.ExitStack()
        self._networks = [ip_network(peer, strict=False) for peer in settings.trusted_peers]
        self._trust: dict[bytes, bool] = {}
        self._readers: list[socket.socket] = []
        self._tick: asyncio.TimerHandle | None = None
        self._byes: dict[Any, float] = {}  # answered BYEs by transaction, with their loop time
        self._zero = ffi.new("long[2]", [0, 0])
        self._count = ffi.new("unsigned *")
        self._created = ffi.new("pjsip_dialog **")
        self._contacts: dict[tuple[str, bool], wire.Text] = {}  # by transport and IPv6
        self._closed = False

    # -- life cycle -------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises LayoutError when the library does not match, ListenError for a bad address."""
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise

    def _start(self) -> None:
        endpoint = self._stack.enter_context(pjsip.stack())
        self.listening = [_free(address) for address in self.settings.listen]
        for address in self.listening:
            self._listen(endpoint, address)
        endpoint.libStart()
        self.endpt = lib.pjsua_get_pjsip_endpt()
        self.ua = lib.pjsip_ua_instance()
        self._forget_capabilities()
        # The guard comes before PJSIP's transactions (16). Responses that no transaction takes are
        # strays, before mod-ua (32). Requests outside dialogs come to the door, after mod-ua found
        # no dialog for them.
        self._modules = [
            self._register(
                b"renvoi-guard",
                10,
                ("on_rx_request", self.guard.on_request),
                ("on_rx_response", self.guard.on_response),
            ),
            self._register(b"renvoi-stray", 31, ("on_rx_response", self._on_stray_response)),
            self._register(b"renvoi-door", 33, ("on_rx_request", self._on_new_request)),
            self._register(
                b"renvoi-usage",
                48,
                ("on_rx_request", self._on_dialog_request),
                ("on_tsx_state", self._on_tsx_state),
            ),
        ]
        self.usage = self._modules[-1][0]
        self._on_dropped = self._callback("void(pjsip_tp_dropped_data *)", self._dropped)
        lib.pjsip_tpmgr_set_drop_data_cb(lib.pjsip_endpt_get_tpmgr(self.endpt), self._on_dropped)
        self.door.start()
        self._watch_sockets()
        streams = any(address.transport != "udp" for address in self.listening)
        self._tick_s = STREAM_TICK_S if streams else TICK_S
        self._tick = self.loop.call_later(self._tick_s, self._on_tick)

    async def close(self, deadline_s: float = 2.0) -> None:
        """End every leg, let the last messages out, free PJSIP. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for leg in list(self.legs.values()):
            leg.detach()
            leg.hangup()
        until = time.monotonic() + deadline_s
        # A leg whose far end never said a word cannot be cancelled: nobody to wait for.
        while time.monotonic() < until and any(
            leg.incoming or leg.provisional for leg in self.legs.values()
        ):
            await asyncio.sleep(TICK_S)
        if self._tick is not None:
            self._tick.cancel()
        for reader in self._readers:
            self.loop.remove_reader(reader)
            reader.close()
        if hasattr(self, "endpt"):
            lib.pjsip_tpmgr_set_drop_data_cb(
                lib.pjsip_endpt_get_tpmgr(self.endpt), ffi.NULL
            )
            for module, _ in self._modules:
                lib.pjsip_endpt_unregister_module(self.endpt, module)
        self._stack.close()

    def _listen(self, endpoint: pjsua2.Endpoint, address: Address) -> None:
        kinds = {
            ("udp", False): pjsua2.PJSIP_TRANSPORT_UDP,
            ("udp", True): pjsua2.PJSIP_TRANSPORT_UDP6,
            ("tcp", False): pjsua2.PJSIP_TRANSPORT_TCP,
            ("tcp", True): pjsua2.PJSIP_TRANSPORT_TCP6,
            ("tls", False): pjsua2.PJSIP_TRANSPORT_TLS,
            ("tls", True): pjsua2.PJSIP_TRANSPORT_TLS6,
        }
        config = pjsua2.TransportConfig()
        config.port = address.port
        config.boundAddress = address.host
        if self.settings.advertise:
            config.publicAddress = self.settings.advertise
        try:
            number = endpoint.transportCreate(kinds[address.transport, ":" in address.host], config)
        except pjsua2.Error as error:
            raise ListenError(f"sip.listen: cannot listen on {address}: {error.reason}") from None
        host = self.settings.advertise or address.shown_host
        if address.host in ("0.0.0.0", "::") and not self.settings.advertise:
            host = endpoint.transportGetInfo(number).localName.rpartition(":")[0] or host
        suffix = "" if address.transport == "udp" else f";transport={address.transport}"
        contact = f"<sip:renvoi@{host}:{address.port}{suffix}>"
        key = address.transport, ":" in address.host
        self._contacts.setdefault(key, wire.Text(contact.encode()))
        self.host = getattr(self, "host", host)

    def _forget_capabilities(self) -> None:
        """Take Allow and Supported out of what PJSIP adds to responses: the far side's own pass."""
        for kind in (pjsip.H_ALLOW, pjsip.H_SUPPORTED):
            header = lib.pjsip_endpt_get_capability(self.endpt, kind, ffi.NULL)
            if header != ffi.NULL:
                header.prev.next, header.next.prev = header.next, header.prev

    def _register(self, name: bytes, priority: int, *callbacks: tuple[str, Any]) -> tuple[Any, ...]:
        kinds = {
            "on_rx_request": "int(pjsip_rx_data *)",
            "on_rx_response": "int(pjsip_rx_data *)",
            "on_tsx_state": "void(pjsip_transaction *, pjsip_event *)",
        }
        module = ffi.new("pjsip_module *")
        held = wire.Text(name)
        module.name, module.id, module.priority = held.ref[0], -1, priority
        kept: list[Any] = [held]
        for field, function in callbacks:
            callback = self._callback(kinds[field], function)
            setattr(module, field, callback)
            kept.append(callback)
        if lib.pjsip_endpt_register_module(self.endpt, module) != 0 or module.id < 0:
            raise pjsip.LayoutError("PJSIP's layout differs at module.id: it was not registered")
        return module, kept

    def _callback(self, kind: str, function: Callable[..., Any]) -> Any:
        result = 1 if kind.startswith("int") else None
        return ffi.callback(kind, function, result, onerror=self._stumbled)

    def _stumbled(self, kind: Any, error: BaseException, trace: Any) -> None:
        """No exception leaves a callback: it is counted and told, the message counts as taken."""
        self.illegal_counts["exception"] += 1
        self.on_error(error)

    # -- polling ----------------------------------------------------------------------------------

    def _watch_sockets(self) -> None:
        """Find PJSIP's UDP sockets by their bound port and read them when the loop says so."""
        ports = {a.port for a in self.listening if a.transport == "udp"}
        for name in os.listdir("/proc/self/fd"):
            try:
                probe = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            is_ip = probe.family in (socket.AF_INET, socket.AF_INET6)
            if is_ip and probe.type == socket.SOCK_DGRAM and probe.getsockname()[1] in ports:
                for option in (socket.SO_RCVBUF, getattr(socket, "SO_RCVBUFFORCE", 33)):
                    with contextlib.suppress(OSError):
                        probe.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
                self._readers.append(probe)
                # One turn reads up to 50 datagrams; the loop comes back while there are more.
                self.loop.add_reader(probe, self._poll)
            else:
                probe.close()

    def _poll(self) -> None:
        lib.pjsip_endpt_handle_events2(self.endpt, self._zero, self._count)

    def _on_tick(self) -> None:
        self._tick = self.loop.call_later(self._tick_s, self._on_tick)
        self._poll()
        self._forget_byes()

    def _forget_byes(self) -> None:
        forgotten = self.loop.time() - BYE_MEMORY_S
        while self._byes:
            tsx = next(iter(self._byes))
            if self._byes[tsx] > forgotten:
                return
            del self._byes[tsx]
            lib.pjsip_tsx_terminate(tsx, 200)

    # -- actions ----------------------------------------------------------------------------------

    def dial(
        self,
        uri: str,
        *,
        from_: bytes,
        to: bytes,
        block: bytes,
        body: bytes,
        content_type: bytes,
        max_forwards: int,
        routes: tuple[str, ...] = (),
        trusted: bool = True,
        listener: Callable[[Any], None],
    ) -> Leg:
        """Send an INVITE. `from_` and `to` are header values without tag, `block` the header text,
        `routes` Route values such as "<sip:edge;lr>".

        Raises DialError when it cannot be made; a failure to send comes as a Failed event.
        """
        made = self._created
        status = lib.pjsip_dlg_create_uac(
            self.ua,
            wire.borrow(0, from_),
            self._contact_for(routes[0] if routes else uri).ref,
            wire.borrow(1, to),
            wire.borrow(2, uri.encode()),
            made,
        )
        if status != 0:
            raise DialError(f"cannot place a call to {uri!r} (PJSIP status {status})")
        dlg = made[0]
        leg = Leg(self, dlg, incoming=False)
        lib.pjsip_dlg_inc_lock(dlg)
        try:
            lib.pjsip_dlg_add_usage(dlg, self.usage, ffi.NULL)
            lib.pjsip_dlg_inc_session(dlg, self.usage)
            if routes and not self._set_routes(dlg, routes):
                leg.abandon()
                raise DialError(f"cannot place a call to {uri!r}: bad route {routes!r}")
            # PJSIP may print a character of a user part as three.
            spare = 3 * (len(from_) + len(to) + len(uri)) + sum(map(len, routes))
            tdata = wire.create_request(
                dlg, wire.INVITE, block, body, content_type, measure=spare > 800
            )
            if tdata is None:
                leg.abandon()
                raise DialError(f"the INVITE to {uri!r} would not fit a packet")
            header = lib.pjsip_msg_find_hdr(tdata.msg, pjsip.H_MAX_FORWARDS, ffi.NULL)
            ffi.cast("pjsip_int_hdr *", header).ivalue = max_forwards
            lib.pjsip_tx_data_add_ref(tdata)
            leg.attach_outgoing(tdata, uri)
            leg.trusted = trusted
            leg.listener = listener
            if not wire.send_request(dlg, tdata, "INVITE"):
                leg.on_invite_failed(503)
        finally:
            lib.pjsip_dlg_dec_lock(dlg)
        return leg

    def _contact_for(self, hop: str) -> wire.Text:
        """The Contact of a leg whose INVITE goes to `hop`, a URI or a Route value."""
        if len(self._contacts) == 1:
            return next(iter(self._contacts.values()))
        low = hop.lower()
        named = low.partition(";transport=")[2]
        transport = "tls" if low.lstrip("<").startswith("sips:") else re.split("[;>?]", named)[0]
        return self.contact_of(transport or "udp", "[" in hop)

    def contact_of(self, transport: str, ipv6: bool) -> wire.Text:
        """The Contact for a dialog over this transport and address family."""
        found = self._contacts.get((transport, ipv6)) or self._contacts.get(("udp", ipv6))
        return found or next(iter(self._contacts.values()))

    def _set_routes(self, dlg: Any, routes: tuple[str, ...]) -> bool:
        """Give a new dialog its route set; False when a value does not parse."""
        pool = lib.pjsip_endpt_create_pool(self.endpt, b"routes", 1000, 1000)
        try:
            head = ffi.new("pjsip_hdr *")
            head.prev = head.next = head
            for route in routes:
                line = ffi.new("char[]", route.encode())
                header = lib.pjsip_parse_hdr(
                    pool, wire.text(b"Route").ref, line, len(line) - 1, ffi.NULL
                )
                if header == ffi.NULL:
                    return False
                lib.pj_list_insert_before(head, header)
            lib.pjsip_dlg_set_route_set(dlg, head)
            return True
        finally:
            lib.pjsip_endpt_release_pool(self.endpt, pool)

    def is_trusted(self, source: bytes) -> bool:
        """Whether this IP address may place calls; remembered by address."""
        known = self._trust.get(source)
        if known is None:
            if len(self._trust) > 10_000:
                self._trust.clear()
            ip = ip_address(source.decode("ascii").partition("%")[0])
            if ip.version == 6 and ip.ipv4_mapped is not None:
                ip = ip.ipv4_mapped
            known = any(ip.version == net.version and ip in net for net in self._networks)
            self._trust[source] = known
        return known

    def illegal(self, what: str) -> None:
        """Count an action or message that does not fit the state of its leg."""
        self.illegal_counts[what] += 1

    @property
    def dialogs(self) -> int:
        """PJSIP's dialogs, those that wait for their last transaction included."""
        return int(lib.pjsip_ua_get_dlg_set_count())

    @property
    def transactions(self) -> int:
        return int(lib.pjsip_tsx_layer_get_tsx_count())

    # -- callbacks --------------------------------------------------------------------------------

    def _on_new_request(self, rdata: Any) -> int:
        try:
            self.door.on_request(rdata)
        except Exception:
            self.door.fail(rdata)
            raise
        return 1

    def _dropped(self, dropped: Any) -> None:
        self.door.on_dropped(dropped)

    def _on_dialog_request(self, rdata: Any) -> int:
        """A request inside a dialog. ACK has no transaction; all others are handled in TRYING."""
        if rdata.msg_info.msg.line.req.method.id == pjsip.ACK:
            wire.counts["in", "ACK"] += 1
            leg = self.legs.get(lib.pjsip_rdata_get_dlg(rdata))
            if leg is not None:
                leg.on_ack(leg.mark(wire.received()))
        return 1

    def _on_stray_response(self, rdata: Any) -> int:
        """A response without transaction: a 2xx to INVITE again means that its ACK was lost.

        One with another To tag is of a forked call: mod-ua ends that one by ACK and BYE.
        """
        info = rdata.msg_info
        if info.cseq.method.id != pjsip.INVITE or not 200 <= info.msg.line.status.code < 300:
            return 0
        from_ = getattr(info, "from")
        call_id = ffi.addressof(info.cid, "hvalue")
        tags = ffi.addressof(from_, "tag"), ffi.addressof(info.to, "tag")
        dlg = lib.pjsip_ua_find_dialog(call_id, *tags, 0)
        if dlg == ffi.NULL:
            return 0
        leg = self.legs.get(dlg)
        if leg is None:
            wire.send_ack(dlg, info.cseq.cseq, b"", b"")
        else:
            leg.on_2xx_again(info.cseq.cseq)
        return 1

    def _on_tsx_state(self, tsx: Any, event: Any) -> None:
        cause = event.cause
        if tsx.role == pjsip.UAC:
            self._on_client_state(tsx, cause)
        elif cause != pjsip.EVENT_TX:
            self._on_server_state(tsx, cause, event)

    def _on_client_state(self, tsx: Any, cause: int) -> None:
        dlg = lib.pjsip_tsx_get_dlg(tsx)
        leg = self.legs.get(dlg)
        is_invite = tsx.method.id == pjsip.INVITE
        if leg is None:
            if is_invite and cause == pjsip.EVENT_RX and 200 <= tsx.status_code < 300:
                wire.send_ack(dlg, tsx.cseq, b"", b"")
            return
        if is_invite and not leg.incoming and not leg.invite_known:
            leg.on_invite_sent(tsx)
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
        if tsx == leg.invite_tsx:
            if message is None:
                leg.on_invite_failed(408 if cause == pjsip.EVENT_TIMER else max(code, 300))
            else:
                leg.on_invite_response(code, message)
        elif leg.exchanges is not None:
            if message is None:
                code = 408 if cause == pjsip.EVENT_TIMER else 503
            leg.exchanges.on_response(tsx, code, message)

    def _on_server_state(self, tsx: Any, cause: int, event: Any) -> None:
        state = tsx.state
        if state == pjsip.TSX_TRYING and cause == pjsip.EVENT_RX:
            self._on_server_request(tsx, event.source)
        elif state == pjsip.TSX_TERMINATED and tsx.method.id == pjsip.BYE:
            self._byes.pop(tsx, None)
        elif state == pjsip.TSX_TERMINATED and tsx.method.id != pjsip.CANCEL:
            leg = self.legs.get(lib.pjsip_tsx_get_dlg(tsx))
            if leg is None:
                return
            if tsx == leg.invite_tsx:
                leg.on_invite_server_gone()
            else:
                leg.on_server_gone(tsx)

    def _on_server_request(self, tsx: Any, rdata: Any) -> None:
        dlg = lib.pjsip_tsx_get_dlg(tsx)
        leg = self.legs.get(dlg)
        number = tsx.method.id
        message = wire.received()
        if leg is not None:
            leg.mark(message)
        method = message.method
        wire.counts["in", wire.kind_of(method)] += 1
        if number in (pjsip.BYE, pjsip.CANCEL) or leg is None:
            wire.answer(dlg, tsx, rdata, 200 if number in (pjsip.BYE, pjsip.CANCEL) else 481)
            if number == pjsip.BYE and tsx.state == pjsip.TSX_COMPLETED:
                self._byes[tsx] = self.loop.time()
            if leg is not None and number == pjsip.BYE:
                leg.on_bye(message)
            elif leg is not None and number == pjsip.CANCEL:
                leg.on_cancel(message)
        else:
            leg.on_request(method, tsx, rdata, message)


def _free(address: Address) -> Address:
    """The address with a port that is free: its own, or any one for port 0.

    PJSIP sets SO_REUSEADDR, which on some kinds of socket hides that the port is taken.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    kind = socket.SOCK_DGRAM if address.transport == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            reason = error.strerror or error
            raise ListenError(f"sip.listen: cannot listen on {address}: {reason}") from None
        return replace(address, port=probe.getsockname()[1])
