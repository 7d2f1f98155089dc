"""Counts the forwards of a line on all workers: those in progress, and those of the last hour.

Both counts have limits, against loops through the outside and toll fraud. One eighth of a limit is
split among the live workers as local quotas; a forward within the quota costs no round trip. The
rest is a shared pool in Redis (`forwards:<number>`, `forwards:hour:<number>`), from which a forward
beyond the quota takes a place in one atomic step. So a line never exceeds its limit and can always
reach seven eighths of it, whichever workers its calls reach. A worker that is alone, or gets all
calls of its lines, counts by itself and has the whole limit.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

from engine.config import Limits
from engine.leases import LiveCalls
from store.client import Client
from store.keys import FORWARDS, FORWARDS_LAST_HOUR

HOUR_S = 3600.0
STANDING, LAST_HOUR = "forwards_per_line", "forwards_per_line_per_hour"
"""The limits, by their names in the configuration and in `rules.decide.PREVENTED`."""
_DEALT = 8  # one part in so many is split into local quotas
_SWEEP = 10_000  # lines with forwards, before those without recent ones are dropped


def share_of(limit: int, workers: int) -> int:
    """A worker's local quota of a limit: all of it if it is alone."""
    return limit // (_DEALT * workers) if workers > 1 else limit


def pool_of(limit: int, workers: int) -> int:
    """The shared pool of a limit, beyond the local quotas."""
    return limit - workers * share_of(limit, workers)


class _Hour:
    """When this worker forwarded calls of a line in the last hour; `own`: within its quota."""

    __slots__ = ("all", "own")

    def __init__(self) -> None:
        self.all: deque[float] = deque()
        self.own: deque[float] = deque()

    def forget(self, since: float) -> None:
        """Drop older ones."""
        for times in (self.all, self.own):
            while times and times[0] <= since:
                times.popleft()


class Forwards:
    """Forwards by forwarding line.

    Args:
        redis: where the pools are; None = this worker counts by itself.
        lease_s: life in seconds of a forward's place in its pool, renewed while the forward is in
            progress.
        clock: monotonic seconds.
        on_error: gets each failure of Redis.

    Attributes:
        workers: how many workers share the limits, set from outside. When it grows, the limit may
            be exceeded briefly, at most by the forwards in progress within the former, larger
            quota.
    """

    def __init__(
        self,
        redis: Client | None = None,
        *,
        lease_s: float = 60,
        clock: Callable[[], float] = time.monotonic,
        workers: int = 1,
        on_error: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.workers = workers
        self._shared = redis is not None
        self._pool = LiveCalls(
            redis, shared=self._shared, lease_s=lease_s, kind=FORWARDS, on_error=on_error
        )
        self._hour_pool = LiveCalls(
            redis,
            shared=self._shared,
            lease_s=HOUR_S,
            kind=FORWARDS_LAST_HOUR,
            key_s=int(HOUR_S),
            on_error=on_error,
        )
        self._standing: Counter[str] = Counter()
        self._pooled: set[tuple[str, str]] = set()  # line and call of the forwards in the pool
        self._in_pool: Counter[str] = Counter()
        self._recent: dict[str, _Hour] = {}
        self._clock = clock
        self._sweep_at = _SWEEP

    def __len__(self) -> int:
        """The number of lines with forwards in progress."""
        return len(self._standing)

    @property
    def pools(self) -> tuple[LiveCalls, LiveCalls]:
        """The counts in Redis: forwards in progress, and those of the last hour."""
        return self._pool, self._hour_pool

    def standing(self, line: str) -> int:
        """Forwarded calls of the line in progress in this worker."""
        return self._standing[line]

    def last_hour(self, line: str, most: int) -> int:
        """Forwards of the line in the last hour by this worker; always 0 if `most` is 0 (no
        limit)."""
        hour = self._hour_of(line) if most else None
        return len(hour.all) if hour is not None else 0

    def begin(self, line: str, limits: Limits) -> bool:
        """Count a forward within this worker's quota; False if the pool must be asked."""
        standing, hour = limits.forwards_per_line, limits.forwards_per_line_per_hour
        if self._shared and self.workers > 1:
            if standing and not self._has_share(line, standing):
                return False
            if hour and not self._has_share_of_hour(line, hour):
                return False
        self._standing[line] += 1
        if hour:
            self._note(line)
        return True

    def carry(self, line: str) -> None:
        """Count a forward in progress that was admitted before."""
        self._standing[line] += 1

    async def ask(self, line: str, call_id: str, limits: Limits) -> str | None:
        """Count a forward beyond the quota. None, or the shared limit that is reached."""
        standing, hour = limits.forwards_per_line, limits.forwards_per_line_per_hour
        pooled = bool(standing) and not self._has_share(line, standing)
        decided_before = self._pool.local_decisions
        if not pooled:
            self._standing[line] += 1
        elif await self._pool.admit(line, call_id, pool_of(standing, self.workers)) is not None:
            return STANDING
        else:
            self._standing[line] += 1
            self._in_pool[line] += 1
            self._pooled.add((line, call_id))
        if not hour:
            return None
        if self._has_share_of_hour(line, hour):
            self._note(line)
            return None
        if self._pool.local_decisions > decided_before:  # Redis does not answer: do not wait twice
            self._note(line, own=False)
            return None
        try:
            found = await self._hour_pool.admit(line, call_id, pool_of(hour, self.workers))
        except BaseException:
            self.end(line, call_id)
            raise
        if found is not None:
            self.end(line, call_id)
            return LAST_HOUR
        self._hour_pool.keep(line, call_id)
        self._note(line, own=False)
        return None

    def end(self, line: str, call_id: str) -> None:
        """End the forward of this call."""
        self._standing[line] -= 1
        if self._standing[line] <= 0:
            del self._standing[line]
        if self._pooled and (line, call_id) in self._pooled:
            self._pooled.discard((line, call_id))
            self._in_pool[line] -= 1
            if self._in_pool[line] <= 0:
                del self._in_pool[line]
            self._pool.leave(line, call_id)

    def release(self, line: str, call_id: str) -> None:
        """Remove a forward that a dead process may have left in the pool."""
        if self._shared:
            self._pool.release(line, call_id)

    @property
    def local_decisions(self) -> int:
        """Forwards for which Redis should have answered and did not."""
        return self._pool.local_decisions + self._hour_pool.local_decisions

    async def start(self) -> None:
        """Start the exchange with Redis."""
        for pool in self.pools:
            await pool.start()

    async def close(self) -> None:
        """Release the places in the pool."""
        for pool in self.pools:
            await pool.close()

    def _share(self, limit: int) -> int:
        return share_of(limit, self.workers) if self._shared else limit

    def _has_share(self, line: str, limit: int) -> bool:
        return self._standing[line] - self._in_pool[line] < self._share(limit)

    def _has_share_of_hour(self, line: str, limit: int) -> bool:
        hour = self._hour_of(line)
        return (len(hour.own) if hour is not None else 0) < self._share(limit)

    def _hour_of(self, line: str) -> _Hour | None:
        hour = self._recent.get(line)
        if hour is not None:
            hour.forget(self._clock() - HOUR_S)
        return hour

    def _note(self, line: str, *, own: bool = True) -> None:
        hour = self._recent.get(line)
        if hour is None:
            self._sweep()
            hour = self._recent[line] = _Hour()
        now = self._clock()
        hour.all.append(now)
        if own:
            hour.own.append(now)

    def _sweep(self) -> None:
        """Drop lines without recent forwards, each time their number has doubled."""
        if len(self._recent) < self._sweep_at:
            return
        since = self._clock() - HOUR_S
        for line in [
            line for line, hour in self._recent.items() if not hour.all or hour.all[-1] <= since
        ]:
            del self._recent[line]
        self._sweep_at = max(_SWEEP, 2 * len(self._recent))
