"""One worker's place under the supervisor: the process that holds it, and how often it was lost."""

from __future__ import annotations

from collections import Counter

from engine.processes.child import Child

# Before a restart, by the processes in a row that died before they took a call. One that has taken
# calls is replaced at once, however often: a pause would add to what ended it, and the time that a
# process takes to start bounds how often that can be.
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


class WorkerSlot:
    """The place of worker `index`."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.child: Child | None = None
        self.generation = 0  # of the configuration and code that the process was started with
        self.retiring = False  # its process was asked to drain, for another to take the place
        self.restarts: Counter[str] = Counter()  # by reason: died, not_started, replaced
        self.failures = 0  # processes in a row that never served

    def __repr__(self) -> str:
        return f"<WorkerSlot {self.index} {self.child!r} failures={self.failures}>"

    def pause_s(self, *, served: bool) -> float:
        """How long its place stays empty after its process has died, which `served` if it took
        calls: not at all, or ever longer while one after the other dies at its start."""
        if served:
            self.failures = 0
            return 0.0
        pause_s = BACK_OFF_S[min(self.failures, len(BACK_OFF_S) - 1)]
        self.failures += 1
        return pause_s
