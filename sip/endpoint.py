"""PJSIP on the asyncio thread: its life cycle, its sockets, its callbacks to the legs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sip import backlog, pjsip, stream_api, wire
from sip.address import Address
from sip.answer import Source
from sip.byes import Byes
from sip.dispatch import Dispatch
from sip.door import Door
from sip.gate import Gate
from sip.guard import Guard, OnRejected
from sip.incoming import Incoming
from sip.leg import Leg
from sip.message import LONGEST
from sip.names import Names
from sip.outgoing import Outgoing
from sip.peers import Peers
from sip.pjsip import ffi, lib
from sip.probe import Probes
from sip.referral import OnRefer, anywhere
from sip.reliable import Earlies
from sip.replaces import Dialogs
from sip.request import Request, Requests
from sip.resolving import Resolving
from sip.room import Room
from sip.seen import Seen
from sip.settings import DialError, LayoutError, ListenError, Settings, TooLarge
from sip.siblings import Siblings
from sip.sieve import Sieve, sockaddr
from sip.speakers import Speakers
from sip.streams import Streams
from sip.tracing import PRIORITY, Tracing
from sip.transports import Transports

__all__ = ["Address", "DialError", "Endpoint", "ListenError", "Settings", "TooLarge"]

TICK_S = 0.02  # PJSIP's timers
TIMERS_S = 0.005  # of each tick, at most, while more of them are due


class Endpoint:
    """PJSIP and all legs of this process.

    `on_invite` gets each new incoming leg; `gate` is asked before any work is done on a new INVITE,
    `on_refer` what becomes of a REFER from one side of a call to the other.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_invite: Callable[[Incoming], None],
        gate: Gate,
        on_rejected: OnRejected,
        on_register: Callable[[Request], None] | None,
        on_race: Callable[[str], None],
        on_connection: Callable[[str, str], None],
        on_error: Callable[[BaseException, str], None],
        on_message: Callable[[Seen], None] | None = None,
        on_refer: OnRefer = anywhere,
    ) -> None:
        self.settings = settings
        self.on_refer = on_refer
        self.legs: dict[Any, Leg] = {}  # by dialog: pointers of cffi hash by their address
        # Legs of whose INVITE several phones have shown a sign, with their tags, by Call-ID and
        # our own tag.
        self.forks: dict[tuple[bytes, bytes], tuple[Outgoing, set[bytes]]] = {}
        self.counts = wire.counts  # (direction, kind) of SIP messages
        self.illegal_counts: Counter[str] = Counter()
        self.race = on_race  # told of each race that is resolved, by its kind
        self.on_error = on_error
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.byes = Byes(self)
        self._speakers = Speakers(self)
        self.siblings: Siblings | None = None  # the other workers of this host
        self._injected: Any = None  # memory for what they hand on
        self.guard = Guard(on_rejected, self._is_taken, self._reply, self._is_known)
        self._dispatch = Dispatch(self)
        self.dialog_names = Dialogs(self)
        self.door = Door(
            self,
            on_invite=on_invite,
            on_register=on_register,
            gate=gate,
            on_rejected=on_rejected,
        )
        self.sieve = Sieve(self, gate, on_rejected)
        self._stack = contextlib.ExitStack()
        self._takes_registers = on_register is not None
        self.trust(settings.trusted_peers, settings.registrar_peers)
        self.requests = Requests(self)
        self.probes = Probes(self)
        families = {(item.transport, ":" in item.host) for item in settings.listen}
        self.names = Names(families, settings.nameservers)
        self.resolving = Resolving(self)
        self.streams = Streams(
            self,
            room=Room(settings.connections, settings.connections_per_source),
            idle_s=settings.idle_connection_s,
            server_tls=settings.server_tls,
            client_tls=settings.client_tls,
            on_refused=on_connection,
        )
        self._readers: list[tuple[socket.socket, Any]] = []
        self._tick: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the tick is to run
        self._gate = gate
        self._zero = ffi.new("long[2]", [0, 0])
        self._count = ffi.new("unsigned *")
        self._created = ffi.new("pjsip_dialog **")
        self.tracing = Tracing(self, on_message) if on_message is not None else None
        self._closed = False

    def trust(self, peers: tuple[str, ...], registrants: tuple[str, ...]) -> None:
        """From now on requests are taken from these networks only, and REGISTER from those."""
        self.trusted = Peers(peers)
        self.registrants = Peers(registrants if self._takes_registers else ())

    # -- life cycle -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises LayoutError when the library does not match, ListenError for a bad address."""
        try:
            self._start()
            if self.transports.has_streams:
                stream_api.check(self.endpt)
                self.transports.listen(self.streams)
        except BaseException:
            self._stack.close()
            raise

    def _start(self) -> None:
        endpoint = self._stack.enter_context(pjsip.stack())
        self.transports = Transports(self.settings.listen, self.settings.advertise)
        self.endpt = lib.pjsua_get_pjsip_endpt()
        self._timers = lib.pjsip_endpt_get_timer_heap(self.endpt)
        self.transports.open(self.endpt)
        endpoint.libStart()
        self.ua = lib.pjsip_ua_instance()
        self._forget_capabilities()
        self.resolving.start()
        # The guard comes before PJSIP's transactions (16). Responses that no transaction takes are
        # strays, before mod-ua (32). Requests outside dialogs come to the door, after mod-ua found
        # no dialog for them.
        dispatch = self._dispatch
        self._modules = [
            self._register(
                b"renvoi-guard",
                10,
                ("on_rx_request", self.guard.on_request),
                ("on_rx_response", self.guard.on_response),
            ),
            self._register(b"renvoi-stray", 31, ("on_rx_response", dispatch.on_stray_response)),
            self._register(b"renvoi-door", 33, ("on_rx_request", self._on_new_request)),
            self._register(
                b"renvoi-requests", 47, ("on_tsx_state", self._on_request_tsx)
            ),
            self._register(
                b"renvoi-usage",
                48,
                ("on_rx_request", dispatch.on_dialog_request),
                ("on_tsx_state", dispatch.on_tsx_state),
            ),
        ]
        if self.tracing is not None:
            self._trace(self.tracing)
        self.requests_module = self._modules[-2][0]
        self.usage = self._modules[-1][0]
        self._on_dropped = self.callback(
            "void(pjsip_tp_dropped_data *)", self.guard.on_unparsed
        )
        lib.pjsip_tpmgr_set_drop_data_cb(lib.pjsip_endpt_get_tpmgr(self.endpt), self._on_dropped)
        self.door.start()
        for udp, transport in self.transports.udp_sockets():
            self._readers.append((udp, transport))
            # One turn reads up to 50 datagrams; the loop comes back while there are more.
            self.loop.add_reader(udp, self._read, udp, transport)
            backlog.stamp(udp)
        self._due = self.loop.time() + TICK_S
        self._tick = self.loop.call_later(TICK_S, self._on_tick)

    async def close(self, deadline_s: float = 2.0) -> None:
        """End every leg, let the last messages out, free PJSIP. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.requests.close()
        self.probes.close()
        if self.siblings is not None:
            self.siblings.close()
        for leg in list(self.legs.values()):
            leg.detach()
            leg.hangup()
        until = time.monotonic() + deadline_s
        # A leg whose far end never said a word cannot be cancelled: nobody to wait for.
        while time.monotonic() < until and (
            self.byes.waiting
            or any(not isinstance(leg, Outgoing) or leg.provisional for leg in self.legs.values())
        ):
            await asyncio.sleep(TICK_S)
        self.byes.close()
        self.names.close()
        self.resolving.close()
        await self.streams.close()
        if self._tick is not None:
            self._tick.cancel()
        for reader, _ in self._readers:
            self.loop.remove_reader(reader)
            reader.close()
        if hasattr(self, "endpt"):
            lib.pjsip_tpmgr_set_drop_data_cb(
                lib.pjsip_endpt_get_tpmgr(self.endpt), ffi.NULL
            )
            self.streams.forget_factories()
            for module, _ in self._modules:
                lib.pjsip_endpt_unregister_module(self.endpt, module)
        self._stack.close()

    def _forget_capabilities(self) -> None:
        """Take Allow and Supported out of what PJSIP adds to responses: the far side's own pass."""
        for kind in (pjsip.H_ALLOW, pjsip.H_SUPPORTED):
            header = lib.pjsip_endpt_get_capability(self.endpt, kind, ffi.NULL)
            if header != ffi.NULL:
                header.prev.next, header.next.prev = header.next, header.prev

    def _trace(self, tracing: Tracing) -> None:
        received, sent = tracing.on_received, tracing.on_sent
        module = self._register(
            b"renvoi-trace",
            PRIORITY,
            ("on_rx_request", received),
            ("on_rx_response", received),
            ("on_tx_request", sent),
            ("on_tx_response", sent),
        )
        self._modules.insert(0, module)

    def place_of(self, transport: Any) -> tuple[str, tuple[str, int]] | None:
        """What a transport of PJSIP's is, and its address on this machine."""
        return self.transports.places.get(transport) or self.streams.place_of(transport)

    def _register(self, name: bytes, priority: int, *callbacks: tuple[str, Any]) -> tuple[Any, ...]:
        kinds = {
            "on_rx_request": "int(pjsip_rx_data *)",
            "on_rx_response": "int(pjsip_rx_data *)",
            "on_tsx_state": "void(pjsip_transaction *, pjsip_event *)",
            "on_tx_request": "int(pjsip_tx_data *)",
            "on_tx_response": "int(pjsip_tx_data *)",
        }
        module = ffi.new("pjsip_module *")
        held = wire.Text(name)
        module.name, module.id, module.priority = held.ref[0], -1, priority
        kept: list[Any] = [held]
        for field, function in callbacks:
            callback = self.callback(kinds[field], function)
            # Those for what is sent are declared without their type.
            setattr(module, field, ffi.cast("void *", callback) if "_tx_" in field else callback)
            kept.append(callback)
        if lib.pjsip_endpt_register_module(self.endpt, module) != 0 or module.id < 0:
            raise LayoutError("PJSIP's layout differs at module.id: it was not registered")
        return module, kept

    def callback(self, kind: str, function: Callable[..., Any]) -> Any:
        result = 1 if kind.startswith("int") else None
        return ffi.callback(kind, function, result, onerror=self._stumbled)

    def _stumbled(self, kind: Any, error: BaseException, trace: Any) -> None:
        """No exception leaves a callback: it is counted and told, the message counts as taken."""
        self.illegal_counts["exception"] += 1
        self.on_error(error, wire.received().call_id)

    @property
    def host(self) -> str:
        """The name of this engine towards others."""
        return self.transports.host

    # -- polling ----------------------------------------------------------------------------------

    def _read(self, udp: socket.socket, transport: Any) -> None:
        if self._gate.refusing:
            self.sieve.read(udp, transport)
        else:
            self._poll()

    def _poll(self) -> None:
        lib.pjsip_endpt_handle_events2(self.endpt, self._zero, self._count)

    def _on_tick(self) -> None:
        now = self.loop.time()
        waits = [backlog.oldest_s(udp) for udp, _ in self._readers]
        self._gate.waited(max(now - self._due, 0.0, *waits))
        self._due = now + TICK_S
        self._tick = self.loop.call_later(TICK_S, self._on_tick)
        if self._gate.refusing:  # PJSIP reads what comes between the two
            for udp, transport in self._readers:
                self.sieve.read(udp, transport)
        self._poll()
        # One turn runs ten timers, and each connection that is gone has one: a flood of them must
        # not make the others wait.
        while self.loop.time() < now + TIMERS_S and lib.pj_timer_heap_poll(self._timers, ffi.NULL):
            pass
        self.byes.forget()

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
        server: Address | None = None,
        call: str = "",
        trusted: bool = True,
        alone: bool = False,
        features: bytes = b"",
        listener: Callable[[Any], None],
    ) -> Outgoing:
        """Send an INVITE. `from_` and `to` are header values without tag, `block` the header text,
        `routes` Route values such as "<sip:edge;lr>". `server` is where to send it, None when the
        first hop is an IP address. `call` is the Call-ID of its caller, for
        traces. `alone` says that no other target can follow.

        Raises DialError when it cannot be made; a failure to send comes as a Failed event.
        """
        made = self._created
        status = lib.pjsip_dlg_create_uac(
            self.ua,
            wire.borrow(0, from_),
            self._contact_of(server, routes[0] if routes else uri).ref,
            wire.borrow(1, to),
            wire.borrow(2, uri.encode()),
            made,
        )
        if status != 0:
            raise DialError(f"cannot place a call to {uri!r} (PJSIP status {status})")
        dlg = made[0]
        leg = Outgoing(self, dlg, uri, routes)
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
                raise TooLarge(f"the INVITE to {uri!r} would not fit a packet")
            header = lib.pjsip_msg_find_hdr(tdata.msg, pjsip.H_MAX_FORWARDS, ffi.NULL)
            ffi.cast("pjsip_int_hdr *", header).ivalue = max_forwards
            leg.trusted = trusted
            leg.alone = alone
            if block.find(b"100rel") >= 0:
                leg.earlies = Earlies()
            leg.listener = listener
            self.resolving.pinned = server
            if self.tracing is not None:
                self.tracing.current = call.encode("latin-1")
            leg.send_invite(tdata)
        finally:
            self.resolving.pinned = None
            if self.tracing is not None:
                self.tracing.current = b""
            lib.pjsip_dlg_dec_lock(dlg)
        return leg

    def _contact_of(self, server: Address | None, hop: str) -> wire.Text:
        if server is None:
            return self.transports.contact_for(hop)
        return self.transports.contact_of(server.transport, ":" in server.host)

    def _set_routes(self, dlg: Any, routes: tuple[str, ...]) -> bool:
        """Give a new dialog its route set; False when a value does not parse."""
        pool = lib.pjsip_endpt_create_pool(self.endpt, b"routes", 1000, 1000)
        try:
            head = ffi.new("pjsip_hdr *")
            head.prev = head.next = head
            # Parsed headers point into their lines until the dialog has copied them.
            lines = [ffi.new("char[]", route.encode()) for route in routes]
            for line in lines:
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

    def leg_named(self, call_id: bytes, local: bytes, remote: bytes) -> Leg | None:
        """The leg of the dialog with this Call-ID, our tag `local` and the far end's, or None."""
        dlg = lib.pjsip_ua_find_dialog(
            wire.borrow(0, call_id), wire.borrow(1, local), wire.borrow(2, remote), 0
        )
        return self.legs.get(dlg) if dlg != ffi.NULL else None

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

    def _is_taken(self, rdata: Any) -> bool:
        """Whether a request is another worker's, or of somebody who has no part in its dialog."""
        siblings = self.siblings
        if siblings is not None and siblings.passes(
            wire.received().first(b"call-id"), lambda: self.packet_of(rdata)
        ):
            return True
        return self._speakers.refuses(rdata)

    def packet_of(self, rdata: Any) -> tuple[bytes, tuple[str, int], int] | None:
        """A datagram, where it came from and which of our UDP transports read it; None: it came by
        a connection."""
        udp = self.transports.own_udp()
        if rdata.tp_info.transport not in udp:
            return None
        source = stream_api.address_of(ffi.addressof(rdata.pkt_info, "src_addr"))
        return wire.packet(), source, udp.index(rdata.tp_info.transport)

    def inject(self, packet: bytes, source: tuple[str, int], via: int) -> None:
        """Take a datagram as if the UDP transport of that number had read it."""
        udp = self.transports.own_udp()
        if via < len(udp) and len(packet) <= LONGEST:
            if self._injected is None:
                self._injected = ffi.new("char[32768]")
            whole = (*source, 0, 0) if ":" in source[0] else source
            rdata = ffi.cast("pjsip_rx_data *", self._injected)
            address = sockaddr(whole)
            stream_api.receive(self.endpt, rdata, udp[via], whole, packet, address)

    def places(self) -> list[str]:
        """Where others reach this engine, as a SIP URI's host, port and transport."""
        return [
            f"{address.shown_host}:{address.port};transport={address.transport}"
            for address in self.transports.shown
        ]

    def meet(self, folder: Path) -> None:
        """Begin to talk to the other workers, whose sockets are in this folder. Raises OSError."""
        siblings = Siblings(self, folder)
        siblings.start()
        self.siblings = siblings

    def _on_new_request(self, rdata: Any) -> int:
        try:
            self.door.on_request(rdata)
        except Exception:
            self.door.fail(rdata)
            raise
        return 1

    def _on_request_tsx(self, tsx: Any, event: Any) -> None:
        if tsx.role == pjsip.UAC:
            self.probes.on_tsx_state(tsx)
        else:
            self.requests.on_tsx_state(tsx)

    def _is_known(self, source: bytes) -> bool:
        return source in self.trusted or source in self.registrants

    def _reply(
        self, transport: Any, came: bytes, source: Source, reply: bytes, to: Source
    ) -> None:
        """Send an answer that PJSIP knows nothing of: by its connection, or to where Via says."""
        if self.tracing is not None:
            self.tracing.refused(transport, came, source, reply, to)
        connection = self.streams.connections.get(transport)
        if connection is not None:
            connection.write(reply)
            return
        for udp, known in self._readers:
            if known == transport:
                with contextlib.suppress(OSError):  # as any answer that is lost
                    udp.sendto(reply, to)
