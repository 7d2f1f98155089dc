"""How many forwards the lines of one worker have: standing ones, and those of the last hour.

Both are limits against loops through the outside and toll fraud. They are counted per worker:
behind a front that shards by called number a line's calls meet one worker, and the count is exact.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

HOUR_S = 3600.0
_SWEEP = 10_000  # lines that were forwarded, before those without forwards lately are forgotten


class Forwards:
    """Forwards by forwarding line. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._standing: Counter[str] = Counter()
        self._recent: dict[str, deque[float]] = {}
        self._clock = clock
        self._sweep_at = _SWEEP

    def __len__(self) -> int:
        """Lines with standing forwards."""
        return len(self._standing)

    def standing(self, line: str) -> int:
        """Forwarded calls of the line that stand now."""
        return self._standing[line]

    def last_hour(self, line: str, most: int) -> int:
        """Forwards of the line in the last hour; 0 without asking when `most` is 0 (no limit)."""
        times = self._recent.get(line) if most else None
        if not times:
            return 0
        since = self._clock() - HOUR_S
        while times and times[0] <= since:
            times.popleft()
        return len(times)

    def begin(self, line: str, most_per_hour: int) -> None:
        """A forward is carried out; times are kept only while there is a limit on them."""
        self._standing[line] += 1
        if most_per_hour:
            times = self._recent.get(line)
            if times is None:
                self._sweep()
                times = self._recent[line] = deque()
            times.append(self._clock())

    def end(self, line: str) -> None:
        """One standing forward of the line less."""
        self._standing[line] -= 1
        if self._standing[line] <= 0:
            del self._standing[line]

    def _sweep(self) -> None:
        """Forget the lines without forwards lately, each time their number has doubled."""
        if len(self._recent) < self._sweep_at:
            return
        since = self._clock() - HOUR_S
        for line in [line for line, times in self._recent.items() if times[-1] <= since]:
            del self._recent[line]
        self._sweep_at = max(_SWEEP, 2 * len(self._recent))
