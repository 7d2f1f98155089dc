"""How many connections may be open at once, and for whom. Pure except for the counting.

Sources that may only register can be the whole Internet, and a source that has sent nothing yet can
be anybody. So each source has a share of the places, and some places are reserved for others. A
source is an IPv4 address or an IPv6 /64, the usual allocation of one customer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address

STRANGERS = 100  # connections of strangers at once: enough to send them 403


class PeerKind(IntEnum):
    """The rights of a connection's peer."""

    STRANGER = 0  # nothing: gets its 403 and is closed
    PHONE = 1  # register only
    PEER = 2  # place calls
    OURS = 3  # the engine made the connection


@dataclass(slots=True)
class Source:
    """A source of connections: how many are open, and whether one of them has registered a phone or
    placed a call."""

    held: int = 0
    proven: bool = False


class ConnectionLimits:
    """The places of an endpoint's connections.

    `most` is for all but strangers, who have `strangers` of their own. One source that is no
    trusted peer has at most `per_source`; a trusted peer has no share, but leaves a tenth to others
    until it has placed a call or registered a phone. The engine itself makes at most a quarter of
    all to one source that is no trusted peer: a phone's Contacts decide how many.
    """

    def __init__(self, most: int, per_source: int) -> None:
        self.sources: dict[object, Source] = {}
        self.made: dict[object, Source] = {}  # to which the engine made connections
        self.held = 0
        self.strangers_held = 0
        self.limit(most, per_source, STRANGERS)

    def limit(self, most: int, per_source: int, strangers: int) -> None:
        """Apply new limits; open connections keep their places."""
        self.most, self.per_source, self.strangers = most, per_source, strangers

    @property
    def count(self) -> int:
        """Connections that are open or being made, including those of strangers."""
        return self.held + self.strangers_held

    def take(self, host: str, standing: PeerKind, *, trusted: bool = False) -> Source | str:
        """Take a place for a connection of the IP address `host`, which may be a trusted peer's;
        returns the reason if there is none."""
        if standing is PeerKind.STRANGER:
            if self.strangers_held >= self.strangers:
                return "stranger"
            self.strangers_held += 1
            return Source()
        key = source_of(host)
        known = self.made if standing is PeerKind.OURS else self.sources
        source = known.get(key) or Source()
        tenth = self.most // 10
        if self.held >= self.most - (0, tenth, tenth // 2, 0)[standing]:
            return "connections"
        if standing is PeerKind.PHONE and source.held >= self.per_source:
            return "source_connections"
        if standing is PeerKind.OURS and not trusted and source.held >= max(1, self.most // 4):
            return "source_connections"
        if standing is PeerKind.PEER and not source.proven and source.held >= self.most - tenth:
            return "connections"
        self.held += 1
        source.held += 1
        known[key] = source
        return source

    def leave(self, host: str, standing: PeerKind, source: Source) -> None:
        """Free a place."""
        if standing is PeerKind.STRANGER:
            self.strangers_held -= 1
            return
        self.held -= 1
        source.held -= 1
        if not source.held:
            known = self.made if standing is PeerKind.OURS else self.sources
            known.pop(source_of(host), None)


def source_of(host: str) -> object:
    """The key of the source that an IP address belongs to."""
    if ":" not in host:
        return host
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped) if mapped is not None else int(address) >> 64
