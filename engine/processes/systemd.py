"""Reports to systemd (sd_notify) by datagrams on the socket that it names.

Without `NOTIFY_SOCKET` in the environment every call does nothing. The unit needs `Type=notify` or
`notify-reload`, and `WatchdogSec=` for the watchdog.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping

MUST_S = 0.5
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Systemd:
    """The connection to systemd, if it started us. Nothing here raises. Messages that must arrive
    wait at most half a second if systemd is slow."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._path = environ.get("NOTIFY_SOCKET", "")
        if self._path.startswith("@"):
            self._path = "\0" + self._path[1:]
        self.watchdog_s = 0.0  # the watchdog interval, 0 = none
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if self._path and ours:
            with contextlib.suppress(ValueError):
                self.watchdog_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6

    def ready(self, status: str) -> None:
        """Report that the start, or a reload, is done."""
        self._tell("READY=1", f"STATUS={status}", within_s=MUST_S)

    def reloading(self) -> None:
        since = f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"
        self._tell("RELOADING=1", since, within_s=MUST_S)

    def stopping(self, status: str) -> None:
        self._tell("STOPPING=1", f"STATUS={status}", within_s=MUST_S)

    def status(self, text: str, *, extend_s: float = 0.0) -> None:
        """One line for `systemctl status`. `extend_s`: the stop takes at least so long."""
        lines = [f"STATUS={text}"]
        if extend_s:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(extend_s * 1e6)}")
        self._tell(*lines)

    async def pet(self) -> None:
        """Notify the watchdog twice per `watchdog_s`; returns at once without a watchdog."""
        while self.watchdog_s:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)

    def _tell(self, *lines: str, within_s: float = 0.0) -> None:
        if not self._path:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(within_s)
            out.sendto("\n".join(lines).encode(), self._path)
