"""Networks of peers: who may place calls, who may register."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

_REMEMBERED = 10_000


class Peers:
    """A set of networks, asked by IP address; answers are remembered. What is no address is in
    none."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        self._networks = [ip_network(network, strict=False) for network in networks]
        self._known: dict[bytes, bool] = {}

    def __contains__(self, source: bytes) -> bool:
        known = self._known.get(source)
        if known is None:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            known = self._known[source] = self._holds(source)
        return known

    def _holds(self, source: bytes) -> bool:
        try:
            ip = ip_address(source.decode("ascii").partition("%")[0])
        except ValueError:
            return False
        if ip.version == 6 and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip.version == net.version and ip in net for net in self._networks)
