"""What a field of a document must be, in words, and where it is: from the struct that decodes it.

A path is written as msgspec writes it: `forwards.busy[0].when`, and `calendars[...].zone`, where
`[...]` stands for a value of an object with any keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect

_UNITS = {"_s": " seconds", "_seconds": " seconds", "_hours": " hours"}
_STEP = re.compile(r"\[[0-9]+\]|\[\.\.\.\]|[^.\[\]]+")
_ANY = "[...]"


@lru_cache(256)
def expected(kind: type[msgspec.Struct], path: str) -> str:
    """What the field at `path` of a document of type `kind` must be, such as "expected 5 to 60
    seconds"; path "" = the document."""
    about: inspect.Type = inspect.type_info(kind)
    for step in _STEP.findall(path):
        about = _inner(about, step)
    return "expected " + " or ".join(_words(each, path) for each in alternatives(about))


def locate(kind: type[msgspec.Struct], path: str, document: Any) -> tuple[str, Any]:
    """The path of the first wrong field that `path` may mean, with keys instead of `[...]`, and its
    value; None if it is not there: a key that occurs twice is in `document` with its last value."""
    about: inspect.Type = inspect.type_info(kind)
    named, value = "", document
    for step in _STEP.findall(path):
        about = _inner(about, step)
        if step == _ANY:
            if not isinstance(value, dict):
                return path, None
            name, value = _first_wrong(about, value)
            named += name
            continue
        if step[0] == "[":
            place = int(step[1:-1])
            if not isinstance(value, list) or place >= len(value):
                return path, None
            value = value[place]
            named += step
            continue
        if not isinstance(value, dict):
            break
        value = value.get(step)
        named += f".{step}" if named else step
    return named, value


def alternatives(about: inspect.Type) -> list[inspect.Type]:
    """The types that a value may have besides None."""
    if isinstance(about, inspect.UnionType):
        return [part for part in about.types if not isinstance(part, inspect.NoneType)]
    return [about]


def items_of(about: inspect.Type) -> inspect.Type | None:
    """The type of the items if a value may be a list, or of the values if it may be an object with
    any keys; None if it may be neither."""
    for each in alternatives(about):
        if isinstance(each, inspect.ListType):
            return each.item_type
        if isinstance(each, inspect.DictType):
            return each.value_type
    return None


def _inner(about: inspect.Type, step: str) -> inspect.Type:
    """The type of a field, or of an item."""
    if step[0] == "[":
        found = items_of(about)
        assert found is not None
        return found
    for each in alternatives(about):
        if isinstance(each, inspect.StructType):
            return next(field.type for field in each.fields if field.encode_name == step)
    raise AssertionError(step)


def _first_wrong(about: inspect.Type, values: Mapping[str, Any]) -> tuple[str, Any]:
    """The first value that is not of a type, with its name in a path."""
    read: Any = Any
    if isinstance(about, inspect.StructType):
        read = about.cls
    elif isinstance(about, inspect.ListType):
        read = list[str]
    for key, value in values.items():
        try:
            msgspec.convert(value, read)
        except msgspec.ValidationError:
            return f".{key}", value
    return _ANY, values


def _words(about: inspect.Type, path: str) -> str:
    if isinstance(about, inspect.BoolType):
        return "true or false"
    if isinstance(about, inspect.StrType):
        return "text that is not empty" if about.min_length else "text"
    if isinstance(about, inspect.IntType | inspect.FloatType):
        unit = next((words for end, words in _UNITS.items() if path.endswith(end)), "")
        whole = "whole " if isinstance(about, inspect.IntType) else ""
        if about.le is None:
            return f"a {whole}number{unit} from {about.ge:g}"
        return f"{about.ge:g} to {about.le:.10g}{unit or f', a {whole}number'}"
    if isinstance(about, inspect.EnumType):
        return _one_of(each.value for each in about.cls)
    if isinstance(about, inspect.LiteralType):
        return _one_of(about.values)
    if isinstance(about, inspect.ListType):
        if about.max_length is not None:
            return f"a list of {about.min_length or 0} to {about.max_length}"
        return "a list that is not empty" if about.min_length else "a list"
    return "a JSON object"


def _one_of(values: Iterable[object]) -> str:
    return "one of " + ", ".join(map(str, values))
