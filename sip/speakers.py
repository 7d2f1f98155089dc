"""Who may send requests inside a dialog: its far end, the proxies of its route set, and trusted
peers.

Call-ID and tags are not secret: they are in dumps, logs and dialog events. A request inside a
dialog is therefore accepted only from an address from which that dialog's far end has sent or at
which it is reached. Others get 403 before the dialog sees the request, so that not even its CSeq
changes (RFC 3261 12.2.2 has no such check; RFC 3261 26.1.3 describes the attack). Addresses are
compared without their ports, because a NAT may change those during a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, Protocol

from sip.names import Names, is_address, place_of
from sip.peers import Peers


class Speaker(Protocol):
    """What is known of the far end of a dialog."""

    @property
    def dialog(self) -> Any: ...

    @property
    def last_source(self) -> str: ...

    @property
    def reached(self) -> tuple[str, tuple[str, ...]]: ...


class Speakers:
    """Checks each request inside a dialog. `trusted` returns the networks of trusted peers."""

    def __init__(self, trusted: Callable[[], Peers], names: Callable[[], Names]) -> None:
        self._trusted = trusted
        self._names = names

    def is_peer(self, host: bytes) -> bool:
        """Whether an IP address is that of a trusted peer."""
        return host in self._trusted()

    def may_speak(self, leg: Speaker, way: Any) -> bool | None:
        """Whether a leg's far end, or a proxy of its route, is at this address; None while a name
        of the route is being resolved. For trusted peers this costs one dictionary look-up."""
        if self._trusted()[way.host]:
            return True
        source = _plain(way.host.decode("ascii"))
        if _plain(leg.last_source) == source:
            return True
        names, asked = self._names(), False
        for hop in set(_hops(leg)):
            place = place_of(hop)
            if is_address(place):
                if _plain(place.host) == source:
                    return True
                continue
            servers = names.known(place)
            if servers is None:
                asked = True
                names.tell(place, lambda _: None)
            elif any(_plain(server.host) == source for server in servers):
                return True
        return None if asked else False


def _hops(leg: Speaker) -> Iterator[str]:
    """The hops of requests to the far end: its Contact and route set, as the dialog has them now,
    and the dialled URI."""
    dialog = leg.dialog
    yield dialog.target.decode("latin-1")
    for route in dialog.routes:
        yield route.decode("latin-1")
    uri, routes = leg.reached
    if uri:
        yield uri
        yield from routes


def _plain(host: str) -> str:
    """The canonical form of an IP address; anything else unchanged."""
    try:
        ip = ip_address(host.partition("%")[0].strip("[]"))
    except ValueError:
        return host
    return str(getattr(ip, "ipv4_mapped", None) or ip)
