"""Open files: how many this process may have, and how many of them SIP connections may take.

The admin pages, Redis, the records and the log must work while every connection that is let in
stands: their descriptors are set aside, and connections are refused before they run out.
"""

from __future__ import annotations

import os
import resource

from engine.config import Config
from sip.connection_limits import STRANGERS

# The admin pages (64 at once), Redis, the spool, traces, name look-ups.
RESERVED = 128
AT_START = 64  # what an engine has open without a connection, roughly


def in_use() -> int:
    """Descriptors that this process has open."""
    return len(os.listdir("/proc/self/fd"))


def raised(connections: int) -> int:
    """The limit on open files, raised as far as so many connections need and the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed(connections, AT_START)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft if soft != resource.RLIM_INFINITY else wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def needed(connections: int, used: int) -> int:
    """The limit on open files that lets in so many connections."""
    return used + connections + STRANGERS + RESERVED


def fit(limit: int, used: int, connections: int) -> tuple[int, int]:
    """How many connections may stand under this limit on open files, and how many of strangers
    beside them; one of each in any case."""
    spare = limit - used - min(RESERVED, limit // 4)
    strangers = min(STRANGERS, max(1, spare // 10))
    return max(1, min(connections, spare - strangers)), strangers


def streams_of(config: Config) -> bool:
    """Whether TCP or TLS is listened to."""
    return any(listen.transport != "udp" for listen in config.sip.listen)


def possible(config: Config) -> int:
    """How many connections at once the system lets an engine with this configuration have."""
    connections = config.limits.connections
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or not streams_of(config):
        return connections
    return fit(hard, AT_START, connections)[0]
