"""Unknown fields of a document. They are kept for other programs, and reported when the document is
written, because one may be a misspelt known field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect

from rules.expected import alternatives, items_of

OWN = ("x_", "x-")
"""The prefix of fields that other programs keep in a document on purpose."""

_ALIKE = 0.75  # of 1 (difflib): "max_cals" and "max_calls" are 0.94
_MOST_PATHS = 1000  # a file of garbage may name as many as it has lines


@dataclass(frozen=True, slots=True)
class Unread:
    """An unknown field: its path, and the path of the known field that may be meant."""

    path: str
    meant: str | None

    def __str__(self) -> str:
        hint = f", did you mean {self.meant}?" if self.meant else ""
        return f"{self.path}: no such field: it is kept and has no effect{hint}"


def unread_fields(document: Mapping[str, Any], kind: type[msgspec.Struct]) -> list[Unread]:
    """The unknown fields of a document of type `kind`, without those that begin with `OWN`, and
    those that are null: they would have no effect either if they were known."""
    found: list[Unread] = []
    _look(document, "", "", _level(kind), kind, found)
    return found


class UnreadFields:
    """The unknown fields of many documents, each path once."""

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        self._kind = kind
        self._found: dict[str, Unread] = {}
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def note(self, where: str, document: Mapping[str, Any]) -> None:
        """Examine one document, named `where`."""
        for one in unread_fields(document, self._kind):
            if one.path in self._found or len(self._found) < _MOST_PATHS:
                self._found.setdefault(one.path, one)
                self._first.setdefault(one.path, where)
                self._counts[one.path] = self._counts.get(one.path, 0) + 1

    def __bool__(self) -> bool:
        return bool(self._found)

    def in_words(self) -> list[str]:
        """One line per field: where it was first, which, in how many more."""
        result = []
        for path, one in self._found.items():
            more = self._counts[path] - 1
            result.append(f"{self._first[path]}: {one}" + (f" ({more} more)" if more else ""))
        return result

    def plain(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [
            {"field": path, "meant": one.meant, "documents": self._counts[path],
             "first": self._first[path]}
            for path, one in self._found.items()
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Level:
    """The fields of one object: their names, and those that hold objects again: one, or a list of
    them, or an object with any keys (`listed`: only these)."""

    names: frozenset[str]
    inner: Mapping[str, _Level]
    listed: Mapping[str, _Level]


def _look(
    part: Mapping[str, Any],
    under: str,
    shape: str,
    level: _Level,
    kind: type[msgspec.Struct],
    found: list[Unread],
) -> None:
    """An import calls this a million times, so it is fast for documents without unknown fields.

    Args:
        under: the path of this object, such as "forwards.busy[0].".
        shape: the same without places and keys: "forwards.busy.".
    """
    if not level.names.issuperset(part):
        for name, value in part.items():
            if name not in level.names and value is not None and not name.startswith(OWN):
                beside, elsewhere = _meant(name, shape, kind)
                found.append(Unread(under + name, under + beside if beside else elsewhere))
    for name, inner in level.inner.items():
        value = part.get(name)
        if isinstance(value, dict):
            _look(value, f"{under}{name}.", f"{shape}{name}.", inner, kind, found)
    for name, inner in level.listed.items():
        value = part.get(name)
        named: Iterable[tuple[str, Any]] = ()
        if isinstance(value, list):
            named = ((f"[{place}]", item) for place, item in enumerate(value))
        elif isinstance(value, dict) and name not in level.inner:
            named = ((f".{key}", item) for key, item in value.items())
        for which, item in named:
            if isinstance(item, dict):
                _look(item, f"{under}{name}{which}.", f"{shape}{name}.", inner, kind, found)


@lru_cache(1024)
def _meant(name: str, shape: str, kind: type[msgspec.Struct]) -> tuple[str | None, str | None]:
    """The known field beside it with a similar name or a short form of this one (`mon` for
    `monday`), else the path of one with the same name elsewhere."""
    beside: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    for path in _paths(_level(kind)):
        parent, _, last = path.rpartition(".")
        if shape == (f"{parent}." if parent else ""):
            beside[_bare(last)] = last
        else:
            elsewhere[_bare(last)] = path
    alike = get_close_matches(_bare(name), beside, 1, _ALIKE)
    alike += [known for known in beside if len(known) > 2 and _bare(name).startswith(known)]
    return (beside[alike[0]], None) if alike else (None, elsewhere.get(_bare(name)))


def _paths(level: _Level, under: str = "") -> Iterator[str]:
    for name in sorted(level.names):
        yield under + name
    for name, inner in (*level.listed.items(), *level.inner.items()):
        yield from _paths(inner, f"{under}{name}.")


def _bare(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


@lru_cache(8)
def _level(kind: type[msgspec.Struct]) -> _Level:
    about = inspect.type_info(kind)
    assert isinstance(about, inspect.StructType)
    held = {field.encode_name: field.type for field in about.fields}
    return _Level(
        frozenset(held),
        {name: _level(cls) for name, of in held.items() if (cls := _struct(of)) is not None},
        {
            name: _level(cls)
            for name, of in held.items()
            if (items := items_of(of)) is not None and (cls := _struct(items)) is not None
        },
    )


def _struct(about: inspect.Type) -> type[msgspec.Struct] | None:
    """The class of the objects that a value may be."""
    for each in alternatives(about):
        if isinstance(each, inspect.StructType):
            return each.cls
    return None
