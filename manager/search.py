"""Searching lines by name and number. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listed:
    """A line as the index knows it. `text`: its label and number, folded, for searching."""

    number: str
    fleet: str
    label: str
    fax: bool
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list. `total` counts all that were found, `after` is None on the last page."""

    lines: Sequence[Listed]
    total: int
    after: str | None


class View:
    """The lines of a fleet by number, made once and kept until one of them changes."""

    def __init__(self, lines: Sequence[Listed]) -> None:
        self.lines = lines
        self.fax = [line for line in lines if line.fax]
        self._texts = [line.text for line in lines]

    def having(self, words: Sequence[str]) -> list[Listed]:
        """Those with every one of the words. Some 100 ns a line: fleets have thousands."""
        places = [n for n, text in enumerate(self._texts) if words[0] in text]
        for word in words[1:]:
            places = [n for n in places if word in self._texts[n]]
        return [self.lines[n] for n in places]


def by_name(found: Sequence[Listed], words: Sequence[str]) -> tuple[list[Listed], int]:
    """Those whose name has the words before those whose number has them, and how many they are."""
    named: list[Listed] = []
    numbered: list[Listed] = []
    for line in found:
        name = line.text.partition(f" {line.number}")[0]
        (named if all(word in name for word in words) else numbered).append(line)
    return [*named, *numbered], len(named)


def fold(text: str) -> str:
    """Lower case without accents, as people search."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in plain if not unicodedata.combining(c))
