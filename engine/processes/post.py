"""One worker's place under the supervisor: the process that holds it, and how often it was lost."""

from __future__ import annotations

from collections import Counter

from engine.processes.child import Child

STEADY_S = 60.0  # a process that lived so long has not failed at its start
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # before a restart, by failures in a row


class Post:
    """The place of worker `index`."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.child: Child | None = None
        self.generation = 0  # of the configuration and code that the process was started with
        self.retiring = False  # its process was asked to drain, for another to take the place
        self.restarts: Counter[str] = Counter()  # by reason: died, not_started, replaced
        self.failures = 0  # in a row

    def __repr__(self) -> str:
        return f"<Post {self.index} {self.child!r} failures={self.failures}>"

    def pause_s(self, lived_s: float, started: bool) -> float:
        """How long its place stays empty after its process has died: the first time not at all,
        ever longer when it goes on dying at its start."""
        young = lived_s < STEADY_S or not started
        pause_s = BACK_OFF_S[min(self.failures, len(BACK_OFF_S) - 1)] if young else 0.0
        self.failures = self.failures + 1 if young else 1
        return pause_s
