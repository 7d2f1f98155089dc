"""Searching lines by name and number. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Listed:
    """A line in the index. `text`: its label and number, folded, for searching."""

    number: str
    fleet: str
    label: str
    fax: bool
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list. `total` counts all results, `after` is None on the last page."""

    lines: Sequence[Listed]
    total: int
    after: str | None


class View:
    """The lines of a fleet by number, cached until one of them changes."""

    def __init__(self, lines: Sequence[Listed]) -> None:
        self.lines = lines
        self._texts = [line.text for line in lines]
        self._names = [line.text.partition(f" {line.number}")[0] for line in lines]

    @cached_property
    def fax(self) -> View:
        """Only those with the fax offer."""
        return View([line for line in self.lines if line.fax])

    def having(self, words: Sequence[str], names_first: bool) -> tuple[Sequence[Listed], int]:
        """The lines with all words, and how many of them come first: those whose name has the
        words, if `names_first`, otherwise all. Some 100 ns per line, because fleets have
        thousands."""
        if not words:
            return self.lines, len(self.lines)
        places = _having(self._texts, words, None)
        named = _having(self._names, words, places) if names_first else places
        if len(named) < len(places):
            places = [*named, *sorted(set(places).difference(named))]
        return [self.lines[n] for n in places], len(named)


def _having(texts: Sequence[str], words: Sequence[str], places: list[int] | None) -> list[int]:
    """Those of the positions, None = all, whose text has every word."""
    first = words[0]
    if places is None:
        found = [n for n, text in enumerate(texts) if first in text]
    else:
        found = [n for n in places if first in texts[n]]
    for word in words[1:]:
        found = [n for n in found if word in texts[n]]
    return found


def fold(text: str) -> str:
    """Lower case without accents, for searching."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in plain if not unicodedata.combining(c))
