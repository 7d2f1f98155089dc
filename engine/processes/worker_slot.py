"""One worker's slot under the supervisor: its process, and how often it was lost."""

from __future__ import annotations

from collections import Counter

from engine.processes.child import Child

# Pauses before a restart, by the number of consecutive processes that died before they took a call.
# A process that has taken calls is replaced at once, however often: a pause would only lengthen the
# outage, and the start time of a process limits the rate.
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


class WorkerSlot:
    """The slot of worker `index`."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.child: Child | None = None
        self.generation = 0  # of the configuration and code that the process was started with
        self.retiring = False  # its process was asked to drain, to be replaced
        self.restarts: Counter[str] = Counter()  # by reason: died, not_started, replaced
        self.failures = 0  # consecutive processes that never served

    def __repr__(self) -> str:
        return f"<WorkerSlot {self.index} {self.child!r} failures={self.failures}>"

    def pause_s(self, *, served: bool) -> float:
        """How long the slot stays empty after its process has died: not at all if the process
        `served` calls, otherwise longer with each process that dies at its start."""
        if served:
            self.failures = 0
            return 0.0
        pause_s = BACK_OFF_S[min(self.failures, len(BACK_OFF_S) - 1)]
        self.failures += 1
        return pause_s
