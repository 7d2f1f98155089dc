"""The interfaces between the parts of the core, so that none imports the module that uses it.

`Party` is the leg for its parts, `Host` the endpoint for its legs and sockets. `leg.py` and
`endpoint.py` implement them; mypy checks that they match.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from sip.address import Address
from sip.layer import DialogUser, Layer
from sip.message import Limits, Message
from sip.names import Names
from sip.peers import Peers
from sip.transaction import Server


class Host(Protocol):
    """The endpoint."""

    limits: Limits
    loop: asyncio.AbstractEventLoop
    names: Names
    trusted: Peers
    registrants: Peers
    waiting: set[Any]  # requests that wait for their response
    byes: set[Any]  # BYEs that wait for theirs
    on_refer: Any
    on_changed: Any  # both a leg_state.OnChange
    on_kept: Any
    dialog_names: Any  # a replaces.Dialogs
    siblings: Any  # a siblings.Siblings, None without other workers
    streams: Any  # a streams.Streams
    tracing: Any  # a tracing.Tracing, None without one
    layer: Layer

    def way_back(self, kept: Any, port: int) -> Any:
        """The way to the caller of a leg_state.LegState; `port` is that of its Via."""

    def socket_of(self, way: Any) -> int:
        """The number of the listening UDP address of a way, 0 if it is none."""

    def illegal(self, what: str) -> None:
        """Count an action or message that does not fit the state of its leg."""

    def receive(self, data: bytes, way: Any) -> None:
        """Handle a received message."""

    def oversize(self, data: bytes, way: Any) -> None:
        """Handle a message that is too large."""

    def answer_head(self, head: bytes, way: Any, code: int, phrase: bytes = b"") -> None:
        """Refuse a message that is too large."""

    def packet_of(self, message: Message) -> tuple[bytes, tuple[str, int], int] | None:
        """A datagram, its source and the number of the listening UDP address."""

    def way_for(self, server: Address, name: str) -> Any:
        """The way to a server with that name."""


class Party(DialogUser, Protocol):
    """A leg."""

    is_caller: bool
    trusted: bool
    exchanges: Any  # an exchange.Exchanges, None without requests inside the dialog

    @property
    def owner(self) -> object | None: ...

    @property
    def listener(self) -> Any: ...

    @property
    def peer(self) -> Party | None: ...

    @property
    def reliable(self) -> Any: ...

    @property
    def wish(self) -> Any: ...

    @property
    def has_left(self) -> bool: ...

    @property
    def name(self) -> tuple[bytes, bytes, bytes]: ...

    @property
    def endpoint(self) -> Host: ...

    @property
    def layer(self) -> Layer: ...

    def respond(
        self,
        server: Server,
        code: int,
        message: Any,
        extra: bytes = b"",
        routes: bytes = b"",
        before: Callable[[bytes], None] | None = None,
    ) -> bool:
        """Answer this leg's far end."""

    def tell(self, event: Any) -> None:
        """Send an event to the listener."""
