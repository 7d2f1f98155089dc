"""A key without meaning, written once a second, to measure how long the notification of a write
takes.

It measures the promise to customers (a change is in force within a second), and it detects a stream
that answers pings but no longer reports changes. While no write succeeds, or none is reported, the
lag grows, whatever the reason.
"""

import time

from store.keys import CANARY

_MISSED_S = 2.0


class Canary:
    """Measures the time from a write to its invalidation.

    Attributes:
        prefix: the prefix of its key, for this worker alone.
        key: the Redis key; in a cluster one in a slot of the server it is sent to.
    """

    def __init__(self, worker: str) -> None:
        self.prefix = self.key = CANARY + worker
        self._since: float | None = None
        """When the first write without an invalidation so far was tried."""
        self._out_since: float | None = None
        """The same for writes that this stream should report."""
        self._lag_s = 0.0

    def send(self) -> None:
        """Note that a write is tried. A pending one continues to be timed."""
        now = time.monotonic()
        self._since = self._since or now
        self._out_since = self._out_since or now

    def reported(self) -> None:
        """Note that its invalidation has arrived. If none is pending, the last key has expired."""
        if self._since is not None and self._out_since is not None:
            self._lag_s = time.monotonic() - self._since
            self._since = self._out_since = None

    def expect_nothing(self) -> None:
        """The stream will not report the last write, because it failed or the stream is newer."""
        self._out_since = None

    @property
    def lag_s(self) -> float:
        """Seconds that the last write took or has been pending, whichever is more."""
        if self._since is None:
            return self._lag_s
        return max(self._lag_s, time.monotonic() - self._since)

    @property
    def is_missed(self) -> bool:
        """Whether the stream has not reported a write for too long."""
        return self._out_since is not None and time.monotonic() - self._out_since > _MISSED_S
