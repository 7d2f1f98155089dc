"""A key that means nothing, written once a second: how long the news of a write takes to arrive.

It measures the promise itself (a change is in force within a second), and it shows a stream that
answers pings but no longer tells of changes. What cannot be shown counts as late: while no write
succeeds, or none is told of, the lag grows, whatever the reason.
"""

import time

from store.keys import CANARY

_MISSED_S = 2.0


class Canary:
    """Times writes until their invalidation is heard.

    Attributes:
        prefix: what its key begins with, for this worker alone.
        key: the Redis key; in a cluster one in a slot of the server it is sent to.
    """

    def __init__(self, worker: str) -> None:
        self.prefix = self.key = CANARY + worker
        self._since: float | None = None
        """When the first write was tried of which nothing was heard yet."""
        self._out_since: float | None = None
        """The same, of those that this stream ought to tell of."""
        self._lag_s = 0.0

    def send(self) -> None:
        """A write is tried. One that is still out goes on being timed."""
        now = time.monotonic()
        self._since = self._since or now
        self._out_since = self._out_since or now

    def heard(self) -> None:
        """Its invalidation has arrived. When none is out, it is the last one that has expired."""
        if self._since is not None and self._out_since is not None:
            self._lag_s = time.monotonic() - self._since
            self._since = self._out_since = None

    def expect_nothing(self) -> None:
        """The stream will not tell of the last one: it was not written, or the stream is newer."""
        self._out_since = None

    @property
    def lag_s(self) -> float:
        """Seconds the last one took, or has been out for, whichever is more."""
        if self._since is None:
            return self._lag_s
        return max(self._lag_s, time.monotonic() - self._since)

    @property
    def is_missed(self) -> bool:
        """Whether the stream has failed to tell of one for too long."""
        return self._out_since is not None and time.monotonic() - self._out_since > _MISSED_S
