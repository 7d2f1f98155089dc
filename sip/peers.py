"""Networks of peers that may place calls or register."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

_REMEMBERED = 10_000


class Peers(dict[bytes, bool]):
    """A set of networks, queried by IP address; a text that is not an address is in none. Results
    are cached: `peers[source]` costs one dictionary look-up."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        super().__init__()
        self._networks = [ip_network(network, strict=False) for network in networks]

    def __missing__(self, source: bytes) -> bool:
        if len(self) > _REMEMBERED:
            self.clear()
        known = self[source] = self._holds(source)
        return known

    def __contains__(self, source: object) -> bool:
        return isinstance(source, bytes) and self[source]

    def _holds(self, source: bytes) -> bool:
        try:
            ip = ip_address(source.decode("ascii").partition("%")[0])
        except ValueError:
            return False
        if ip.version == 6 and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip.version == net.version and ip in net for net in self._networks)
