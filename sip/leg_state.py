"""The state of a leg as another process needs it to continue the call: written while the leg lives,
read after its process has ended. `Leg.snapshot` writes it, `Incoming.continued` and
`Outgoing.continued` make the leg again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sip.dialog import Dialog
from sip.flow import Flow
from sip.privacy import NO_WISH, Wish

# A request of ours may have been sent after the last snapshot. CSeq numbers may have gaps (RFC 3261
# 12.2.2), but must not repeat.
CSEQ_GAP = 32


class Asked(msgspec.Struct, array_like=True, gc=False):
    """An INVITE of the far end inside the dialog, and where it came from. `answer` is our 2xx while
    it waits for its ACK."""

    invite: bytes
    transport: str
    host: str
    port: int
    socket: int
    answer: bytes = b""


class Asking(msgspec.Struct, array_like=True, gc=False):
    """The last INVITE that was sent to the far end for the other side. It waits for its final
    response if it has `parts`, and is repeated until the first one if it has `request`. It has its
    ACK if it has one: body and media type."""

    cseq: int
    branch: bytes = b""
    parts: tuple[bytes, ...] = ()
    ack: tuple[bytes, bytes] | None = None
    request: bytes = b""


class LegState(msgspec.Struct, array_like=True, gc=False):
    """A leg. New fields go to the end, with a default: another version may read it.

    `branch` and `parts` are those of a callee's INVITE, `invite` and `answer` are a caller's INVITE
    and our 2xx, all as long as they are needed. `transport`, `host`, `port` and `socket` are where
    a caller's INVITE came from, or a callee's goes to. `referred`: a REFER has crossed.
    """

    state: int
    call_id: bytes
    local: bytes
    remote: bytes
    local_tag: bytes
    remote_tag: bytes
    target: bytes
    contact: bytes
    routes: tuple[bytes, ...]
    sent: int
    seen: int
    is_confirmed: bool
    trusted: bool
    last_source: str
    wish: Wish | None
    transport: str = ""
    host: str = ""
    port: int = 0
    socket: int = 0  # the number of the listening UDP address
    # a caller's
    max_forwards: int = 70
    phone: str = ""
    invite: bytes = b""
    answer: bytes = b""
    # a callee's
    uri: str = ""
    routed: tuple[str, ...] = ()
    alone: bool = False
    invite_cseq: int = 0
    ack: tuple[bytes, bytes] | None = None
    branch: bytes = b""
    parts: tuple[bytes, ...] = ()
    offers_100rel: bool = False
    # both
    asked: Asked | None = None
    asking: Asking | None = None
    referred: bool = False

    @property
    def flow(self) -> Flow:
        """A caller's. A connection of the other process is none of ours: its serial is -1."""
        return Flow(self.transport, self.host, self.port, 0 if self.transport == "udp" else -1)


def dialog_of(kept: LegState) -> Dialog:
    """The dialog of a leg, with room for requests that were sent later."""
    dialog = Dialog(kept.call_id, kept.local, kept.local_tag, kept.contact)
    dialog.remote, dialog.remote_tag = kept.remote, kept.remote_tag
    dialog.set_route(kept.target, kept.routes)
    dialog.sent = kept.sent + CSEQ_GAP
    # The last request may be repeated: its response may be lost with the other process.
    dialog.seen = kept.seen - 1 if kept.seen > 0 else kept.seen
    dialog.is_confirmed = kept.is_confirmed
    return dialog


def wish_of(kept: LegState) -> Wish:
    """NO_WISH is compared by identity."""
    return kept.wish or NO_WISH


OnChange = Callable[[Any], None]
"""Gets a leg whose state has changed."""
