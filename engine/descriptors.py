"""Open files: how many this process may have, and how many of them SIP connections may use.

The admin pages, Redis, the records and the log must work while all accepted connections are open.
So their descriptors are reserved, and connections are refused before descriptors run out.
"""

from __future__ import annotations

import os
import resource

from engine.config import Config
from sip.connection_limits import STRANGERS

# The admin pages (64 at once), Redis, the spool, traces, name look-ups.
RESERVED = 128
AT_START = 64  # open files of an engine without connections, roughly
TO_HAND_OVER = 32  # what handing over needs besides


def in_use() -> int:
    """Descriptors that this process has open."""
    return len(os.listdir("/proc/self/fd"))


def raised(connections: int) -> int:
    """Raise the limit on open files for so many connections, as far as the system allows, and
    return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed(connections, AT_START)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft if soft != resource.RLIM_INFINITY else wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def needed(connections: int, used: int) -> int:
    """The limit on open files that so many connections need."""
    return used + connections + STRANGERS + RESERVED


def fit(limit: int, used: int, connections: int) -> tuple[int, int]:
    """How many connections fit under this limit on open files, and how many of strangers beside
    them; at least one of each."""
    spare = limit - used - min(RESERVED, limit // 4)
    strangers = min(STRANGERS, max(1, spare // 10))
    return max(1, min(connections, spare - strangers)), strangers


def for_copies(count: int) -> int:
    """How many of so many descriptors can be copied, for a process that takes them over; some are
    left for the rest of what that needs."""
    return max(0, min(count, raised(2 * count) - in_use() - TO_HAND_OVER))


def streams_of(config: Config) -> bool:
    """Whether the engine listens on TCP or TLS."""
    return any(listen.transport != "udp" for listen in config.sip.listen)


def possible(config: Config) -> int:
    """How many connections at once the system allows an engine with this configuration."""
    connections = config.limits.connections
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or not streams_of(config):
        return connections
    return fit(hard, AT_START, connections)[0]
