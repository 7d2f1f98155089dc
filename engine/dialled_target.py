"""One contact or target that a call rings, and its servers (RFC 3263)."""

from __future__ import annotations

import math

import msgspec

from engine.records.record import ForwardRecord
from rules.contact import Contact
from sip.address import Address
from sip.names import Place, is_address, place_of
from sip.relayed_fields import Diverted


class Branch(msgspec.Struct, eq=False):
    """A contact or target that a call rings.

    Attributes:
        role: "line", "voicemail", "fax" or "number".
        number: the number that is rung, E.164.
        uri: the Request-URI.
        routes: the values of Route.
        trusted: it is a node of the trust domain, not a phone.
        alone: no other target can follow it. Only then may its early answer be final, in a reliable
            provisional response (RFC 3262).
        contact: the registered contact; None for all but phones.
        forward: what a line pays if this one answers, for a target of a list or one that rings
            beside a line; None for all others.
        turn: the place of its target in a list, from 1; 0 = it is in none.
        ring_s: how many seconds it may be silent, and then ring, if it has a time of its own.
        beside: the line beside which it rings, for the headers; None = it does not.
        servers: those not tried yet.
        server: the one that is being tried.
        move_at: the loop time at which a silent server is replaced by the next.
        until: the loop time at which it is given up, by `ring_s`.
    """

    role: str
    number: str
    uri: str
    routes: tuple[str, ...]
    trusted: bool
    alone: bool
    contact: Contact | None = None
    forward: ForwardRecord | None = None
    turn: int = 0
    ring_s: float = math.inf
    beside: Diverted | None = None
    servers: list[Address] = []
    server: Address | None = None
    move_at: float = math.inf
    until: float = math.inf

    def place(self) -> Place | None:
        """The name to resolve before ringing; None for an IP address."""
        place = place_of(self.routes[0] if self.routes else self.uri)
        return None if is_address(place) else place
