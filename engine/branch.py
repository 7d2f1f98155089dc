"""One contact or target that a call rings, and its servers (RFC 3263)."""

from __future__ import annotations

import math

import msgspec

from rules.contact import Contact
from sip.address import Address
from sip.names import Place, is_address, place_of


class Branch(msgspec.Struct, eq=False):
    """A contact or target. `role`, `number`, `uri`, `routes`, `trusted`, `alone`: as passed to
    `Ringing.dial`; `contact` the registered contact, None for all but phones. `servers` are those
    not tried yet, `server` the one that is being tried, `move_at` the loop time at which a silent
    one is replaced by the next."""

    role: str
    number: str
    uri: str
    routes: tuple[str, ...]
    trusted: bool
    alone: bool
    contact: Contact | None = None
    servers: list[Address] = []
    server: Address | None = None
    move_at: float = math.inf

    def place(self) -> Place | None:
        """The name to resolve before ringing; None for an IP address."""
        place = place_of(self.routes[0] if self.routes else self.uri)
        return None if is_address(place) else place
