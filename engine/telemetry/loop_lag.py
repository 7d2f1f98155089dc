"""How late the event loop runs its timers, and so how long a message may wait before it is read."""

from __future__ import annotations

import asyncio
from collections import deque

PROBE_S = 0.25
WINDOW_S = 15.0  # Prometheus' usual interval, so that nothing between two scrapes is missed


class LoopLag:
    """The worst lag of the last WINDOW_S, from its own timer, at no cost for calls."""

    def __init__(self) -> None:
        self._lags = deque([0.0], maxlen=round(WINDOW_S / PROBE_S))

    async def probe(self) -> None:
        """Wait PROBE_S and note how much longer it took."""
        loop = asyncio.get_running_loop()
        due = loop.time() + PROBE_S
        await asyncio.sleep(PROBE_S)
        self.note(max(0.0, loop.time() - due))

    def note(self, lag_s: float) -> None:
        """Add a sample and drop the oldest."""
        self._lags.append(lag_s)

    @property
    def worst_s(self) -> float:
        """Seconds."""
        return max(self._lags)
