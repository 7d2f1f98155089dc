"""Checks where a contact leads when it is dialled, by resolving each name of its route.

The owner of a name can change it after the registration was checked. A contact that leads to a
destination or to the engine is not called, whoever wrote it. A contact that is an IP address costs
one dictionary and two set look-ups.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from functools import lru_cache, partial
from typing import NamedTuple

from engine.config import Config
from engine.registration.own_addresses import (
    LOOPBACK,
    OwnAddresses,
    Spot,
    goes_by_path,
    hops_of,
    places_of,
    spot_of,
    spots_of,
)
from engine.sip_settings import nameservers
from rules.contact import Contact
from sip.address import Address
from sip.names import Names, Place, address_of, place_of
from sip.peers import Peers
from sip.text_cache import LONGEST, MOST

HERE = "leads to the engine itself"
THERE = "leads to a server of destinations or sip.outbound_proxy"
UNANSWERED = "is a name that no name server answers for"
TRANSPORTS = ("udp", "tcp", "tls")
EVERY_KIND = [(name, ipv6) for name in TRANSPORTS for ipv6 in (False, True)]
REFRESH_S = 5.0
START_S = 1.0
LOOK_UP_S = 1.0  # the longest wait of a call for names that only later hops use
KEPT_S = 3600.0  # how long an address of a destination counts after its name last led there
Tell = Callable[[str | None], None]


class Way(NamedTuple):
    """The route of a call to a contact. `edge` is the topmost hop of its Path ("" = none), `beyond`
    the later spots as written, `names` all names to resolve; of these `own` belong to the contact
    itself, not to hops of the Path."""

    edge: str
    beyond: frozenset[Spot]
    names: tuple[Place, ...]
    own: frozenset[Place]


def way_of(uri: str, path: str | None) -> Way:
    """The route to a contact with this URI and Path."""
    is_short = len(uri) + len(path or "") <= LONGEST
    return _known_way(uri, path) if is_short else _way_of(uri, path)


def _way_of(uri: str, path: str | None) -> Way:
    edge, *hops = hops_of(path) or ("",)
    own = [] if edge and goes_by_path(edge) else [uri]
    spots = [spot for hop in hops + own for spot in spots_of(hop)]
    names = _names([hop for hop in (edge, *hops, *own) if hop])
    return Way(edge, frozenset(spots), names, frozenset(_names(own)))


_known_way = lru_cache(maxsize=MOST)(_way_of)


class Dialled:
    """Decides which contacts may be called. `trusted` returns the networks of possible edges."""

    def __init__(self, config: Config, places: OwnAddresses, trusted: Callable[[], Peers]) -> None:
        sip = config.sip
        self._loop = asyncio.get_running_loop()
        self._places = places
        self._trusted = trusted
        # The next hop may use transports that the engine does not have, and these look-ups must not
        # be cached for the engine's own calls.
        self._names = Names(EVERY_KIND, nameservers(config))
        named = sip.advertise if sip.advertise and not _is_ip(sip.advertise) else None
        self._advertised = [Place(named.lower(), 5060)] if named else []
        self._timer: asyncio.TimerHandle | None = None
        self._compare_with(config)

    def _compare_with(self, config: Config) -> None:
        given = [uri for uri in astuple(config.destinations) if _has_fixed_host(uri)]
        proxy = [config.sip.outbound_proxy] if config.sip.outbound_proxy else []
        self._written = frozenset(spot for uri in given for spot in spots_of(uri))
        self._proxy = frozenset(spot for uri in proxy for spot in spots_of(uri))
        self._of_servers, self._of_proxy = _names(given), _names(proxy)
        self._found: dict[Spot, float] = {}  # of destinations, with their expiry
        self._found_proxy: dict[Spot, float] = {}
        self._compile()

    def apply(self, config: Config) -> None:
        """Use other destinations or another proxy from now on."""
        self._compare_with(config)
        if self._timer is not None:
            self._timer.cancel()
        self._refresh()

    async def start(self) -> None:
        """Resolve the names of the configuration, now and periodically. Waits a moment for the
        first answers, so that the first calls have them."""
        asked = [self._names.ask(place) for place in (*self._of_servers, *self._of_proxy)]
        if asked:
            await asyncio.wait([self._loop.create_task(ask) for ask in asked], timeout=START_S)
        self._refresh()

    def _refresh(self) -> None:
        for place in dict.fromkeys((*self._of_servers, *self._of_proxy)):
            self._ask(place, partial(self._note, place))
        for place in self._advertised:
            self._ask(place, self._note_own)
        if self._of_servers or self._of_proxy or self._advertised:
            self._timer = self._loop.call_later(REFRESH_S, self._refresh)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._names.close()

    # -- contacts ---------------------------------------------------------------------------------

    def bars(self, contact: Contact) -> str | None:
        """Why a contact may not be called, without resolving names; None if it may."""
        way = way_of(contact.uri, contact.path)
        why = self._bars_beyond(way.beyond)
        if why is None and way.edge:
            return self._bars_edge(way.edge, spots_of(way.edge))
        return why

    def names_of(self, contact: Contact, direct: Place | None) -> Sequence[Place]:
        """The names to resolve before it may be called, except `direct`, which is resolved to place
        the call and then checked by `bars_servers`."""
        names = way_of(contact.uri, contact.path).names
        if direct is None or not names:
            return names
        return [place for place in names if place[:2] != direct[:2]]  # over any transport

    def look_up(self, contact: Contact, names: Sequence[Place], tell: Tell) -> None:
        """Report, now or within LOOK_UP_S, the result of `bars` with resolved names. A name without
        an answer may lead anywhere, except the edge's own."""
        way = way_of(contact.uri, contact.path)
        reasons: dict[Place, str | None] = {}

        def hear(place: Place, servers: Iterable[Address]) -> None:
            if not servers and not self._names.is_answered(place):
                reasons[place] = None if _is_edge(way, place) else UNANSWERED
            else:
                reasons[place] = self._bars_place(way, place, servers)
            if len(reasons) == len(names) and not timer.cancelled():
                timer.cancel()
                tell(next(filter(None, reasons.values()), None))

        def give_up() -> None:
            for place in [place for place in names if place not in reasons]:
                hear(place, ())

        timer = self._loop.call_later(LOOK_UP_S, give_up)
        for place in names:
            self._ask(place, partial(hear, place))

    def bars_servers(self, contact: Contact, servers: Sequence[Address]) -> str | None:
        """Why a contact with its first hop at these servers may not be called; every server
        counts."""
        way = way_of(contact.uri, contact.path)
        place = place_of(way.edge or contact.uri)
        return self._bars_place(way, place, servers)

    def is_destination(self, uri: str) -> bool:
        """Whether a URI leads to a destination, without resolving names."""
        return self._are_there(spots_of(uri))

    # -- inside -----------------------------------------------------------------------------------

    def _bars_place(self, way: Way, place: Place, servers: Iterable[Address]) -> str | None:
        spots = frozenset(map(spot_of, servers))
        if _is_edge(way, place):
            return self._bars_edge(way.edge, spots)
        why = self._bars_beyond(spots)
        if why is None and place in way.own and not way.beyond <= self._proxy:
            return THERE if self._at_proxy(spots) else None
        return why

    def _bars_beyond(self, spots: frozenset[Spot]) -> str | None:
        if self._places.are_here(spots):
            return HERE
        return THERE if self._are_there(spots) else None

    def _bars_edge(self, edge: str, spots: frozenset[Spot]) -> str | None:
        """A gateway may also be the edge, if it is a trusted peer and the entry names it by its
        address or as the configuration does."""
        if self._places.are_here(spots):
            return HERE
        if not self._are_there(spots):
            return None
        written, peers = spots_of(edge), self._trusted()
        named = written == spots or written <= self._written
        addresses = [spot.host for spot in spots if _is_ip(spot.host)]
        return None if named and all(host.encode() in peers for host in addresses) else THERE

    def _are_there(self, spots: frozenset[Spot]) -> bool:
        if not self._there.isdisjoint(spots):
            return True
        return bool(self._loopback) and self._places.on_this_machine(spots, self._loopback)

    def _at_proxy(self, spots: frozenset[Spot]) -> bool:
        return not (self._proxy.isdisjoint(spots) and self._found_proxy.keys().isdisjoint(spots))

    def _ask(self, place: Place, hear: Callable[[list[Address]], None]) -> None:
        servers = self._names.known(place)
        if servers is None:
            self._names.tell(place, hear)
        else:
            hear(servers)

    def _note(self, place: Place, servers: Iterable[Address]) -> None:
        until = self._loop.time() + KEPT_S
        for of, found in ((self._of_servers, self._found), (self._of_proxy, self._found_proxy)):
            if place in of:
                found.update((spot_of(server), until) for server in servers)
        self._compile()

    def _note_own(self, servers: Iterable[Address]) -> None:
        for server in servers:
            self._places.also_here(server.host)

    def _compile(self) -> None:
        now = self._loop.time()
        for found in (self._found, self._found_proxy):
            for spot in [spot for spot, until in found.items() if until <= now]:
                del found[spot]
        self._there = self._written | self._found.keys()
        self._loopback = frozenset(spot.port for spot in self._there if spot.host == LOOPBACK)


def _names(uris: Iterable[str]) -> tuple[Place, ...]:
    """The places of these URIs to resolve; without port and transport, the service of each
    transport."""
    places = []
    for uri in uris:
        for place in places_of(uri):
            if address_of(place) is not None or not place.host:
                continue
            places.append(place)
            if not place.port and not place.transport:
                places += [place._replace(transport=name) for name in TRANSPORTS]
    return tuple(dict.fromkeys(places))


def _is_edge(way: Way, place: Place) -> bool:
    return bool(way.edge) and place.host in {hop.host for hop in places_of(way.edge)}


def _has_fixed_host(uri: str) -> bool:
    return not any("{" in place.host for place in places_of(uri))


def _is_ip(host: str) -> bool:
    return address_of(Place(host)) is not None
