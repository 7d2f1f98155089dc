"""How long tests wait for a state: in one place, because it depends on the machine.

A test states how long a step takes at most on an idle machine. `within` converts this into a bound
for a busy machine. A test that waits for a state reaches this bound only if the state never comes,
so a long bound costs no time unless something is broken.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Self

FACTOR = 5


def within(seconds: float) -> float:
    """The bound for a step that takes at most `seconds` on an idle machine."""
    return seconds * FACTOR


class Stalls:
    """Context manager: the total time for which the machine did not run this process.

    A thread looks at the clock every five milliseconds; its delay is the time that other processes
    had. A test that must limit a duration adds `total_s` to the limit. If the duration depends on
    another process too, `watch` adds the time for which that one was ready and did not run.
    """

    _EVERY_S = 0.005
    _LATE_S = 0.015  # an idle machine has such delays too

    def __init__(self) -> None:
        self._own_s = 0.0
        self._watched: dict[int, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def total_s(self) -> float:
        others = (_waited_s(pid) - before for pid, before in self._watched.items())
        return self._own_s + sum(max(0.0, waited_s) for waited_s in others)

    def watch(self, pid: int) -> None:
        """From now on, count the delays of that process too."""
        self._watched[pid] = _waited_s(pid)

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
                self._own_s += late_s
            before = now


def _waited_s(pid: int) -> float:
    """How long the main thread of a process has waited for a processor; 0 if it has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1]) / 1e9
    return 0.0
