"""The interface of the core for `engine/`: its life cycle, its sockets, the calls it places."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from sip import backlog
from sip.address import Address
from sip.ambiguity import with_length
from sip.bye import Bye
from sip.connection_limits import ConnectionLimits
from sip.dialog import Dialog, is_name_addr, new_branch, token
from sip.grammar import is_sip_uri
from sip.headers import names_100rel
from sip.incoming import Incoming
from sip.layer import Layer, OnRejected
from sip.leg import Leg
from sip.leg_state import LegState, OnChange
from sip.listening import Listening
from sip.message import Limits, Message
from sip.names import Names, place_of
from sip.outgoing import Outgoing
from sip.outside_dialogs import Probes, Request
from sip.peers import Peers
from sip.referral import anywhere
from sip.reliable import Earlies
from sip.replaces import NULL_TAG, Dialogs
from sip.screening import AdmissionPolicy, Screening
from sip.settings import DialError, Settings, TooLarge
from sip.siblings import Siblings
from sip.speakers import Speakers
from sip.streams import Streams
from sip.tracing import Tracing
from sip.transaction import Client
from sip.wire_message import Seen

TICK_S = 0.02
HEAD_BYTES = 65_535
LARGEST_DATAGRAM = 65_507
HANDED_ON = 60_000  # bytes of a message that goes to another worker


class Endpoint:
    """All legs of this process.

    `on_invite` gets each new incoming leg. `policy` decides on a new INVITE before any other work
    is done. `on_refer` decides on a REFER from one side of a call to the other. `on_changed` gets
    each leg whose state has changed, and `on_kept` those whose change must outlive this process
    before the next message is sent: an answer, another remote target.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_invite: Callable[[Any], None],
        policy: AdmissionPolicy,
        on_rejected: OnRejected,
        on_register: Callable[[Any], None] | None,
        on_race: Callable[[str], None],
        on_connection: Callable[[str, str], None],
        on_error: Callable[[BaseException, str], None],
        on_message: Callable[[Seen], None] | None = None,
        on_refer: Any = anywhere,
        on_changed: OnChange = lambda leg: None,
        on_kept: OnChange = lambda leg: None,
    ) -> None:
        self.settings = settings
        self.limits = Limits(settings.message_bytes, min(settings.message_bytes, HEAD_BYTES))
        self.on_refer = on_refer
        self.on_changed = on_changed
        self.on_kept = on_kept
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.waiting: set[Request] = set()  # requests that wait for their response
        self.byes: set[Bye] = set()  # BYEs that wait for theirs
        self.tracing = Tracing(on_message) if on_message is not None else None
        families = {(item.transport, ":" in item.host) for item in settings.listen}
        self.names = Names(families, settings.nameservers)
        self._takes_registers = on_register is not None
        self.trust(settings.trusted_peers, settings.registrar_peers)
        self.streams = Streams(
            self,
            room=ConnectionLimits(settings.connections, settings.connections_per_source),
            idle_s=settings.idle_connection_s,
            server_tls=settings.server_tls,
            client_tls=settings.client_tls,
            on_refused=on_connection,
        )
        self.transports = Listening(self, settings.listen, settings.advertise)
        self.layer = Layer(
            find_way=self._find_way,
            packet_of=self.packet_of,
            speakers=Speakers(lambda: self.trusted, lambda: self.names),
            on_rejected=on_rejected,
            on_error=on_error,
            on_race=on_race,
        )
        self.layer.screening = Screening(
            self,
            on_invite=on_invite,
            on_register=on_register,
            policy=policy,
            on_rejected=on_rejected,
        )
        self.dialog_names = Dialogs(self)
        self.probes = Probes(self)
        self.siblings: Siblings | None = None  # the other workers of this host
        self._on_rejected = on_rejected
        self._policy = policy
        self._tick: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the next tick is due
        self._closed = False

    def trust(self, peers: tuple[str, ...], registrants: tuple[str, ...]) -> None:
        """From now on accept requests only from the former networks, and REGISTER only from the
        latter."""
        self.trusted = Peers(peers)
        self.registrants = Peers(registrants if self._takes_registers else ())

    # -- life cycle -------------------------------------------------------------------------------

    async def open(self, opened: Mapping[str, socket.socket] = MappingProxyType({})) -> None:
        """Open the sockets, except those `opened` by another process, by address as in the
        configuration. Nothing is read before `start`. Raises ListenError."""
        try:
            self.transports.open(self._taker, opened)
        except BaseException:
            self.transports.close()
            await self.streams.close()
            raise

    async def start(self) -> None:
        """Begin to read, after `open` if that has not been called. Raises ListenError."""
        if not self.transports.addresses:
            await self.open()
        self.streams.start()
        for udp in self.transports.udp:
            if self.tracing is not None:
                udp.trace = self.tracing.sent
            self.loop.add_reader(udp.socket, udp.read)
        self._due = self.loop.time() + TICK_S
        self._tick = self.loop.call_later(TICK_S, self._on_tick)

    def pause(self) -> None:
        """Read and accept nothing more. What arrives waits in the sockets."""
        for udp in self.transports.udp:
            self.loop.remove_reader(udp.socket)
        self.streams.stop_listening(close=False)
        for connection in self.streams.connections:
            connection.pause()

    async def close(self, deadline_s: float = 2.0) -> None:
        """End every leg, let the last messages out, close the sockets. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for request in list(self.waiting):
            request.respond(503)
        self.probes.close()
        for leg in list(self.legs.values()):
            leg.detach()
            leg.hangup()
        until = time.monotonic() + deadline_s
        # A leg whose far end never responded cannot be cancelled, so there is nothing to wait for.
        while time.monotonic() < until and (
            self.byes
            or any(not isinstance(leg, Outgoing) or leg.provisional for leg in self.legs.values())
        ):
            await asyncio.sleep(TICK_S)
        for bye in list(self.byes):
            bye.answer(200)
        if self.siblings is not None:
            self.siblings.close()
        self.names.close()
        await self.streams.close()
        if self._tick is not None:
            self._tick.cancel()
        for udp in self.transports.udp:
            self.loop.remove_reader(udp.socket)
        self.transports.close()

    @property
    def host(self) -> str:
        """The host name or address of this engine for others."""
        return self.transports.host

    def _on_tick(self) -> None:
        now = self.loop.time()
        waits = [backlog.oldest_s(udp.socket) for udp in self.transports.udp]
        self._policy.waited(max(now - self._due, 0.0, *waits))
        self._due = now + TICK_S
        self._tick = self.loop.call_later(TICK_S, self._on_tick)
        self.layer.tick()

    def meet(self, folder: Path, index: int) -> None:
        """Connect to the other workers, whose sockets are in this folder; `index` is the number of
        this one. Raises OSError."""
        siblings = Siblings(self, folder, index)
        siblings.start()
        self.siblings = self.layer.siblings = siblings

    def way_back(self, kept: LegState, port: int) -> Any:
        """The way to the caller of a leg of another process; `port` is that of its Via."""
        return self.transports.way_back(kept.transport, kept.host, kept.port, kept.socket, port)

    def socket_of(self, way: Any) -> int:
        """The number of the listening UDP address of a way, 0 if it is none."""
        udp = self.transports.udp
        return udp.index(way.owner) if way.transport == "udp" else 0

    def inject(self, packet: bytes, source: tuple[str, int], via: int) -> None:
        """Handle a datagram as if the listening UDP address of that number had read it."""
        if via < len(self.transports.udp):
            way = self.transports.udp[via].way_to(*source)
            if way is not None:
                self.receive(packet, way)

    def packet_of(self, message: Message) -> tuple[bytes, tuple[str, int], int] | None:
        """A datagram, its source and the number of the listening UDP address; None if it came over
        a connection, or is too large to be passed on."""
        flow, udp = message.way.flow, self.transports.udp
        if flow.transport != "udp" or len(message.data) > HANDED_ON:
            return None
        return message.data, (flow.host, flow.port), udp.index(message.way.owner)

    def is_ours(self, contact: bytes) -> bool:
        """Whether that is our URI at one of the listening addresses."""
        return contact in self.transports.contacts

    def places(self) -> list[str]:
        """Where others reach this engine, as a SIP URI's host, port and transport."""
        return self.transports.places

    # -- messages ---------------------------------------------------------------------------------

    @property
    def _taker(self) -> Callable[[bytes, Any], None]:
        """What takes datagrams: the layer itself if none is traced and none can be too large."""
        if self.tracing is None and self.limits.message_bytes >= LARGEST_DATAGRAM:
            return self.layer.receive
        return self.receive

    def receive(self, data: bytes, way: Any) -> None:
        """Handle a received message."""
        if self.tracing is not None:
            self.tracing.received(way, data)
        if len(data) > self.limits.message_bytes:
            self.oversize(data, way)
            return
        self.layer.receive(data, way)

    def oversize(self, data: bytes, way: Any) -> None:
        """Handle a message that is too large: only its head is read."""
        text = f"{data[:80]!r} from {way.host.decode()}"
        self._on_rejected("too_large", lambda: text, way.host)
        head, end, _ = data.partition(b"\r\n\r\n")
        if len(head) <= self.limits.head_bytes and end:
            self.layer.receive(with_length(head, 0), way, lost=True)
        else:
            self.answer_head(data[: self.limits.head_bytes], way, 513)

    def answer_head(self, head: bytes, way: Any, code: int, phrase: bytes = b"") -> None:
        """Refuse a message that is too large, if its head is that of a request."""
        try:
            if b"\r\n\r\n" not in head:
                head = head[: head.rfind(b"\r\n") + 2] + b"\r\n"
            message = Message(head)
            is_request = message.bad >= 0 and message.method not in (b"", b"ACK")
            if is_request and self.layer.may_answer(way):
                self.layer.refuse(message, way, code, phrase=phrase)
        except Exception as error:
            self.layer.internal_error(error, "")

    def _find_way(self, hop: bytes) -> Any:
        return self.transports.way_to(hop.decode("latin-1"))

    def way_for(self, server: Address, name: str) -> Any:
        """The way to a server with that name."""
        return self.transports.way_for(server, name)

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
        first hop is an IP address. `call` is the Call-ID of its caller, for traces. `alone`: no
        other target can follow; `features` are parameters of our Contact (features.py).

        Raises DialError if the leg cannot be made, TooLarge if the INVITE fits into no packet. A
        failure to send arrives as a Failed event.
        """
        target, hops = uri.encode(), [route.encode() for route in routes]
        if not is_sip_uri(target) or not (is_name_addr(from_) and is_name_addr(to)):
            raise DialError(f"cannot place a call to {uri!r}")
        if not all(is_name_addr(route) for route in hops):
            raise DialError(f"cannot place a call to {uri!r}: bad route {routes!r}")
        first = routes[0] if routes else uri
        if server is not None:
            way = self.way_for(server, place_of(first).host)
        else:
            way = self.transports.way_to(first)
        tag, branch, layer = token(), new_branch(), self.layer
        local = b"%s;tag=%s" % (_bracketed(from_), tag)
        dialog = Dialog(token() + token(), local, tag, way.contact)
        dialog.remote = _bracketed(to)
        dialog.set_route(target, hops)
        dialog.way = way
        dialog.sent = 1
        parts = dialog.parts(branch)
        request = dialog.request(
            b"INVITE", parts, 1, max_forwards, block, body, content_type, features
        )
        if len(request) > way.most:
            raise TooLarge(f"the INVITE to {uri!r} fits no packet: {len(request)} bytes")
        leg = Outgoing(self, dialog, uri, routes)
        leg.trusted, leg.alone, leg.listener = trusted, alone, listener
        if names_100rel(block):
            leg.earlies = Earlies()
        client = Client(layer.clients, layer.wheel, way, branch, b"INVITE", 1)
        client.user = leg
        leg.sent(client)
        layer.count_out(b"INVITE")
        if self.tracing is not None:
            self.tracing.current = call.encode("latin-1")
        is_sent = client.start(request, parts)
        if self.tracing is not None:
            self.tracing.current = b""
        if not is_sent:
            self.loop.call_soon(leg.on_response, client, 503, None)
        return leg

    def leg_named(self, call_id: bytes, local: bytes, remote: bytes) -> Any:
        """The leg of the dialog with this Call-ID, our tag `local` and the far end's, or None."""
        leg = self.layer.legs.get(local.lower())  # tags are tokens: case is ignored
        if leg is None or leg.dialog is None or leg.dialog.call_id != call_id:
            return None
        known = leg.dialog.remote_tag.lower()
        return leg if known == remote.lower() or (not known and remote == NULL_TAG) else None

    def illegal(self, what: str) -> None:
        """Count an action or message that does not fit the state of its leg."""
        self.layer.illegal[what] += 1

    # -- counts -----------------------------------------------------------------------------------

    @property
    def legs(self) -> dict[bytes, Leg]:
        return cast(dict[bytes, Leg], self.layer.legs)

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        return self.layer.counts

    @property
    def illegal_counts(self) -> Counter[str]:
        return self.layer.illegal

    @property
    def dialogs(self) -> int:
        """The number of dialogs, including ended ones that are still kept."""
        return len(self.layer.legs) + len(self.layer.past)

    @property
    def transactions(self) -> int:
        return len(self.layer.servers) + len(self.layer.clients)


def _bracketed(value: bytes) -> bytes:
    """A name-addr, to which a tag can be added, from a name-addr or addr-spec."""
    return value if b"<" in value else b"<" + value.strip() + b">"


__all__ = ["Endpoint", "Incoming", "Outgoing"]
