"""How many connections may stand at once, and for whom. Pure but for the counting.

Whoever may only register may be the whole Internet, and who has said nothing yet may be anybody: a
source has a share of the places, and some are kept for others. A source is an IPv4 address or an
IPv6 network of 64 bits, which is what one customer is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address

STRANGERS = 100  # connections of those who may send nothing, at once: enough to tell them so


class PeerKind(IntEnum):
    """What the peer of a connection may do."""

    STRANGER = 0  # nothing: gets its 403 and is closed
    PHONE = 1  # register only
    PEER = 2  # place calls
    OURS = 3  # the engine made the connection


@dataclass(slots=True)
class Source:
    """Where connections come from: how many stand, and whether one of them has registered a phone
    or placed a call."""

    held: int = 0
    proven: bool = False


class ConnectionLimits:
    """The places of an endpoint's connections.

    `most` is for all but strangers, who have `strangers` of their own. One source that is no
    trusted peer has at most `per_source`; a trusted peer has no share, but leaves a tenth to others
    until it has placed a call or registered a phone.
    """

    def __init__(self, most: int, per_source: int) -> None:
        self.sources: dict[object, Source] = {}
        self.held = 0
        self.strangers_held = 0
        self.limit(most, per_source, STRANGERS)

    def limit(self, most: int, per_source: int, strangers: int) -> None:
        """These hold from now on; connections that stand keep their places."""
        self.most, self.per_source, self.strangers = most, per_source, strangers

    @property
    def count(self) -> int:
        """Connections that stand or are being made, of strangers too."""
        return self.held + self.strangers_held

    def take(self, host: str, standing: PeerKind) -> Source | str:
        """A place for a connection of the IP address `host`; the reason if there is none."""
        if standing is PeerKind.STRANGER:
            if self.strangers_held >= self.strangers:
                return "stranger"
            self.strangers_held += 1
            return Source()
        key = source_of(host)
        source = Source() if standing is PeerKind.OURS else self.sources.get(key) or Source()
        tenth = self.most // 10
        if self.held >= self.most - (0, tenth, tenth // 2, 0)[standing]:
            return "connections"
        if standing is PeerKind.PHONE and source.held >= self.per_source:
            return "source_connections"
        if standing is PeerKind.PEER and not source.proven and source.held >= self.most - tenth:
            return "connections"
        self.held += 1
        source.held += 1
        if standing is not PeerKind.OURS:
            self.sources[key] = source
        return source

    def leave(self, host: str, standing: PeerKind, source: Source) -> None:
        """A place that was taken is free again."""
        if standing is PeerKind.STRANGER:
            self.strangers_held -= 1
            return
        self.held -= 1
        source.held -= 1
        if not source.held and standing is not PeerKind.OURS:
            self.sources.pop(source_of(host), None)


def source_of(host: str) -> object:
    """The key of the source that an IP address belongs to."""
    if ":" not in host:
        return host
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped) if mapped is not None else int(address) >> 64
