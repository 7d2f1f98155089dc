"""How long tests wait for what must happen: in one place, because it is the machine's matter.

A test says how long a thing takes at most when nothing else runs. `within` makes of it what a
machine with other work is given: no test that waits for a state ends by this bound unless the state
never comes, so it costs nothing but when something is broken.
"""

from __future__ import annotations

import threading
import time
from typing import Self

FACTOR = 5


def within(seconds: float) -> float:
    """The bound for what takes at most `seconds` on a machine that has nothing else to do."""
    return seconds * FACTOR


class Stalls:
    """How long this machine let nobody of this process run, summed up, while it is entered.

    A thread looks at the clock every five milliseconds; what it comes late is what others had. A
    test that must say that something took no longer than so much adds `total_s`.
    """

    _EVERY_S = 0.005
    _LATE_S = 0.015  # what a machine without other work shows too

    def __init__(self) -> None:
        self.total_s = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        before = time.monotonic()
        while not self._done.is_set():
            time.sleep(self._EVERY_S)
            now = time.monotonic()
            late_s = now - before - self._EVERY_S
            if late_s > self._LATE_S:
                self.total_s += late_s
            before = now
