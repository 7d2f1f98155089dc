"""The settings of a worker's SIP endpoint, from the configuration."""

from __future__ import annotations

from engine import tls
from engine.config import Config, Limits
from sip.address import Address
from sip.settings import Settings


def settings(config: Config, index: int) -> Settings:
    """`index`, the worker's, is added to each port. Raises TlsError."""
    sip = config.sip
    trusted_peers, registrar_peers = peers(config)
    return Settings(
        listen=tuple(Address(item.transport, item.host, item.port + index) for item in sip.listen),
        advertise=sip.advertise,
        trusted_peers=trusted_peers,
        registrar_peers=registrar_peers,
        outbound_proxy=sip.outbound_proxy,
        nameservers=nameservers(config),
        connections=config.limits.connections,
        connections_per_source=per_source(config.limits),
        idle_connection_s=config.timers.idle_connection_s,
        message_bytes=config.limits.message_bytes,
        server_tls=tls.server_context(sip),
        client_tls=tls.client_context(sip),
    )


def nameservers(config: Config) -> tuple[tuple[str, int], ...] | None:
    """Host and port of each; None = those of this machine."""
    given = config.sip.nameservers
    return None if given is None else tuple((item.host, item.port) for item in given)


def peers(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The networks that may send requests, and those that may send REGISTER."""
    sip = config.sip
    registrars = sip.trusted_peers if sip.registrar_peers is None else sip.registrar_peers
    return tuple(map(str, sip.trusted_peers)), tuple(map(str, registrars))


def per_source(limits: Limits) -> int:
    """How many connections one source may have; by default a quarter of all."""
    configured = limits.connections_per_source
    if configured is None:
        return max(1, limits.connections // 4)
    return configured or limits.connections
