"""Who calls: the callers for whom a forward applies. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class CallerKind(StrEnum):
    """Classes of callers. The first three exclude one another."""

    FLEET = "fleet"
    OUTSIDE = "outside"
    WITHHELD = "withheld"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Callers:
    """The callers for whom a forward applies. `name` is that of a list; `negated`: all callers that
    are not in it, withheld ones included."""

    kind: CallerKind
    name: str = ""
    negated: bool = False

    def __str__(self) -> str:
        if self.kind is not CallerKind.LIST:
            return self.kind.value
        return f"{'not ' if self.negated else ''}list:{self.name}"

    @classmethod
    def read(cls, text: str) -> Callers:
        """From `fleet`, `outside`, `withheld`, `list:NAME` or `not list:NAME`. Raises
        ValueError."""
        negated = text.startswith("not list:")
        kind, colon, name = text.removeprefix("not ").partition(":")
        if colon and kind == CallerKind.LIST and name and name == name.strip():
            return cls(CallerKind.LIST, name, negated)
        if text in (CallerKind.FLEET, CallerKind.OUTSIDE, CallerKind.WITHHELD):
            return cls(CallerKind(text))
        raise ValueError("expected fleet, outside, withheld, list:NAME or not list:NAME")


class CallerList:
    """A list of numbers in E.164 and of prefixes of them. Looking up a number takes one step for
    each length of prefix, however long the list is."""

    __slots__ = ("_lengths", "numbers", "prefixes")

    def __init__(self, numbers: Iterable[str] = (), prefixes: Iterable[str] = ()) -> None:
        self.numbers = frozenset(numbers)
        self.prefixes = frozenset(prefixes)
        self._lengths = tuple(sorted({len(prefix) for prefix in self.prefixes}))

    def __contains__(self, number: str) -> bool:
        if number in self.numbers:
            return True
        return any(number[:length] in self.prefixes for length in self._lengths)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CallerList):
            return NotImplemented
        return (self.numbers, self.prefixes) == (other.numbers, other.prefixes)

    def __hash__(self) -> int:
        return hash((self.numbers, self.prefixes))
