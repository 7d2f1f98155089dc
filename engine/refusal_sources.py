"""Counts of refused requests by reason and source since they were last logged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

MOST = 1000  # sources counted separately, for all reasons together
SHOWN = 10  # of each reason, those that were refused most


@dataclass(frozen=True)
class RefusalCounts:
    """The counts of one reason: the total, the most frequent sources by IP address, and the
    rest."""

    reason: str
    count: int
    sources: dict[str, int]
    others: int


class Sources:
    """The counts. Sources beyond the limit are counted as others."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, bytes]] = Counter()
        self._beyond: Counter[str] = Counter()

    def count(self, reason: str, source: bytes) -> None:
        key = reason, source
        if key in self._counts or len(self._counts) < MOST:
            self._counts[key] += 1
        else:
            self._beyond[reason] += 1

    def take(self) -> list[RefusalCounts]:
        """The counts since the last call, one entry per reason."""
        counts, self._counts = self._counts, Counter()
        beyond, self._beyond = self._beyond, Counter()
        result = []
        for reason in sorted({reason for reason, _ in counts} | beyond.keys()):
            own = Counter({src: n for (known, src), n in counts.items() if known == reason})
            shown = {src.decode("ascii", "replace"): n for src, n in own.most_common(SHOWN) if src}
            total = own.total() + beyond[reason]
            result.append(RefusalCounts(reason, total, shown, total - sum(shown.values())))
        return result
