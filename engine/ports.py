"""Tries the addresses that `renvoi serve` would listen on, without serving, and reports why one
fails."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass

from engine.config import Config, Listen

_WORDS = {
    errno.EADDRINUSE: "port already in use",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "not permitted: ports below 1024 need root or CAP_NET_BIND_SERVICE",
}


@dataclass(frozen=True, slots=True)
class Refused:
    """An address on which the engine cannot listen. `key` is the path of its key in the
    configuration."""

    key: str
    where: Listen
    in_use: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: cannot listen on {self.where}: {self.reason}"


def refused(config: Config) -> list[Refused]:
    """The addresses on which the engine cannot listen now. Each is bound for a moment; nothing is
    accepted."""
    result = []
    for key, where in config.ports():
        try:
            _bind(where)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            result.append(Refused(key, where, in_use, why(error)))
    return result


def why(error: OSError) -> str:
    """Why the engine cannot listen on an address."""
    number = error.errno or 0
    return _WORDS.get(number) or error.strerror or os.strerror(number)


def _bind(where: Listen) -> None:
    """Bind like the listening sockets. Raises OSError."""
    kind = socket.SOCK_DGRAM if where.transport == "udp" else socket.SOCK_STREAM
    family, _, _, _, address = socket.getaddrinfo(where.host, where.port, type=kind)[0]
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)
