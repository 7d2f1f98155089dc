"""Requests outside any dialog: received ones that are answered later (REGISTER, which needs Redis),
and our OPTIONS that check servers (RFC 3261 10, 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sip.address import Address
from sip.dialog import Dialog, new_branch, token
from sip.flow import Flow
from sip.message import Message
from sip.transaction import Client, Server

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from sip.interfaces import Host
    from sip.layer import Layer

UNANSWERED = 408


class Request:
    """One received request that waits for its response. `flow` is the way it came by, `source` its
    source IP address, `trusted` whether that is in `sip.trusted_peers`."""

    __slots__ = ("_layer", "_server", "_waiting", "flow", "message", "source", "trusted")

    def __init__(
        self,
        layer: Layer,
        server: Server,
        message: Message,
        trusted: bool,
        waiting: set[Request],
    ) -> None:
        self._layer = layer
        self._server: Server | None = server
        self._waiting = waiting
        self.message = message
        self.flow: Flow = message.way.flow
        self.source: str = self.flow.host
        self.trusted = trusted
        server.user = self
        waiting.add(self)

    def respond(self, code: int, block: bytes = b"") -> None:
        """Send the final response with these header fields, once; later calls do nothing."""
        server = self._server
        self.forget()
        if server is not None:
            if 200 <= code < 300:
                self.message.way.prove()
            if not self._layer.respond(server, code, fields=block):
                server.end()  # it fits into no packet

    def forget(self) -> None:
        """Give up the transaction."""
        if self._server is not None:
            self._server.user = None
        self._server = None
        self._waiting.discard(self)

    def on_gone(self, server: Server, code: int) -> None:
        """The transaction ended before our response, because its transport broke."""
        self.forget()

    def on_cancel(self, message: Message) -> None:
        """A CANCEL affects only an INVITE (9.2)."""

    @property
    def dialog(self) -> None:
        return None

    def mark(self, message: Message) -> Message:
        return message


class Probes:
    """Our OPTIONS that wait for their response."""

    def __init__(self, endpoint: Host) -> None:
        self._endpoint = endpoint
        self._waiting: set[_Probe] = set()

    def ask(
        self, uri: str, server: Address, name: str, wait_s: float, listener: Callable[[int], None]
    ) -> None:
        """Send OPTIONS for `uri` to `server`, which has that name; `listener` gets the final code,
        UNANSWERED if none comes within `wait_s`, 503 if it cannot be sent."""
        endpoint = self._endpoint
        layer = endpoint.layer
        way = endpoint.way_for(server, name)
        target, tag = uri.encode(), token()
        dialog = Dialog(token(), b"<%s>;tag=%s" % (way.contact, tag), tag, way.contact)
        dialog.remote = b"<" + target + b">"
        dialog.set_route(target, ())
        dialog.way = way
        branch = new_branch()
        client = Client(layer.clients, layer.wheel, way, branch, b"OPTIONS", 1)
        probe = _Probe(self._waiting, client, listener)
        layer.count_out(b"OPTIONS")
        parts = dialog.parts(branch)
        if not client.start(dialog.request(b"OPTIONS", parts, 1), parts):
            probe.tell(503)
            return
        probe.timer = endpoint.loop.call_later(wait_s, probe.tell, UNANSWERED)

    def close(self) -> None:
        """Stop waiting for responses."""
        for probe in list(self._waiting):
            probe.drop()


class _Probe:
    """One OPTIONS."""

    __slots__ = ("_client", "_listener", "_waiting", "timer")

    def __init__(
        self, waiting: set[_Probe], client: Client, listener: Callable[[int], None]
    ) -> None:
        self._waiting, self._client, self._listener = waiting, client, listener
        self.timer: TimerHandle | None = None
        client.user = self
        waiting.add(self)

    def on_response(self, client: Client, code: int, message: Any) -> None:
        if code >= 200:
            self.tell(code)

    def on_failed_response(self, client: Client, message: Message) -> None:
        self.drop()

    def tell(self, code: int) -> None:
        self.drop()
        self._listener(code)

    def drop(self) -> None:
        self._waiting.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        if not self._client.is_over and self._client.state < 3:
            self._client.end()
        self._client.user = None
