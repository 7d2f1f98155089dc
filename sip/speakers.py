"""Who may speak inside a dialog: its far end, the proxies of its route set, and trusted peers.

Call-ID and tags are no secret: whoever sees a dump, a log or a dialog event has them. A request
inside a dialog is therefore taken only from an address at which that dialog's far end was heard or
is reached; anybody else gets 403 before the dialog sees it, so that not even its CSeq moves
(RFC 3261 12.2.2 knows no such check; RFC 3261 26.1.3 names the attack). Addresses are compared
without their ports: a NAT may change those while a call stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from sip.names import Names, is_address, place_of
from sip.peers import Peers

if TYPE_CHECKING:
    from sip.late_notify import Twin
    from sip.leg import Leg


class Speakers:
    """Asked about each request inside a dialog. `trusted` gives the networks of peers that may."""

    def __init__(self, trusted: Callable[[], Peers], names: Callable[[], Names]) -> None:
        self._trusted = trusted
        self._names = names

    def is_peer(self, host: bytes) -> bool:
        """Whether an IP address is that of a trusted peer."""
        return host in self._trusted()

    def may_speak(self, leg: Leg | Twin, way: Any) -> bool | None:
        """Whether a leg's far end, or a proxy on the way to it, is there; None while a name on the
        way is being looked up. Trusted peers cost one look into a dictionary."""
        if self._trusted()[way.host]:
            return True
        source = _plain(way.host.decode("ascii"))
        if _plain(leg.heard) == source:
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


def _hops(leg: Leg | Twin) -> Iterator[str]:
    """Where requests to the far end go: its Contact and the route set, as the dialog has them now,
    and what was dialled."""
    dialog = leg.dialog
    yield dialog.target.decode("latin-1")
    for route in dialog.routes:
        yield route.decode("latin-1")
    uri, routes = leg.reached
    if uri:
        yield uri
        yield from routes


def _plain(host: str) -> str:
    """One spelling of an IP address; anything else as it is."""
    try:
        ip = ip_address(host.partition("%")[0].strip("[]"))
    except ValueError:
        return host
    return str(getattr(ip, "ipv4_mapped", None) or ip)
