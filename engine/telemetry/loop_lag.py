"""How late the event loop runs its timers: what a message may have to wait before it is read."""

from __future__ import annotations

import asyncio
from collections import deque

PROBE_S = 0.25
WINDOW_S = 15.0  # Prometheus' usual interval: what happens between two scrapes is seen


class LoopLag:
    """The worst lag of the last WINDOW_S, from a timer of its own; calls pay nothing for it."""

    def __init__(self) -> None:
        self._lags = deque([0.0], maxlen=round(WINDOW_S / PROBE_S))

    async def probe(self) -> None:
        """Wait PROBE_S and note how much longer it took."""
        loop = asyncio.get_running_loop()
        due = loop.time() + PROBE_S
        await asyncio.sleep(PROBE_S)
        self.note(max(0.0, loop.time() - due))

    def note(self, lag_s: float) -> None:
        """One more sample; the oldest goes."""
        self._lags.append(lag_s)

    @property
    def worst_s(self) -> float:
        """Seconds."""
        return max(self._lags)
