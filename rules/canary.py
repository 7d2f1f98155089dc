"""A key that means nothing, written once a second: how long the news of a write takes to arrive.

It measures the promise itself (a change is in force within a second), and it shows a stream that
answers pings but no longer tells of changes.
"""

import time

_MISSED_S = 2.0


class Canary:
    """Times one write until its invalidation is heard.

    Attributes:
        key: the Redis key, of this worker alone.
        ttl_s: how long the key outlives the worker, in seconds.
    """

    ttl_s = 60

    def __init__(self, worker: str) -> None:
        self.key = f"canary:{worker}"
        self._sent: float | None = None
        self._lag_s = 0.0

    def send(self) -> None:
        """It is about to be written. One that is still out goes on being timed."""
        if self._sent is None:
            self._sent = time.monotonic()

    def heard(self) -> None:
        """Its invalidation has arrived."""
        if self._sent is not None:
            self._lag_s = time.monotonic() - self._sent
            self._sent = None

    def forget(self) -> None:
        """Nothing is to be heard of the last one: it was not written, or the stream is new."""
        self._sent = None

    @property
    def lag_s(self) -> float:
        """Seconds the last one took, or has been out for, whichever is more."""
        if self._sent is None:
            return self._lag_s
        return max(self._lag_s, time.monotonic() - self._sent)

    @property
    def is_missed(self) -> bool:
        """Whether one has been out for too long."""
        return self._sent is not None and time.monotonic() - self._sent > _MISSED_S
