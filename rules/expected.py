"""What a field of a document must be, in words, derived from the struct that decodes it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec
from msgspec import inspect

_UNITS = {"_s": " seconds", "_seconds": " seconds", "_hours": " hours"}


@lru_cache(256)
def expected(kind: type[msgspec.Struct], path: str) -> str:
    """What the field at `path` of a document of type `kind` must be, such as "expected 5 to 60
    seconds"; path "" = the document."""
    about: inspect.Type = inspect.type_info(kind)
    for name in path.split(".") if path else ():
        about = _inner(about, name)
    return f"expected {_words(bare(about), path)}"


def bare(about: inspect.Type) -> inspect.Type:
    """The type without None."""
    if isinstance(about, inspect.UnionType):
        return next(part for part in about.types if not isinstance(part, inspect.NoneType))
    return about


def _inner(about: inspect.Type, name: str) -> inspect.Type:
    """The type of a field; of an item of a list that is named `name[...]`."""
    struct = bare(about)
    assert isinstance(struct, inspect.StructType)
    plain = name.partition("[")[0]
    found = next(field.type for field in struct.fields if field.encode_name == plain)
    if plain == name:
        return found
    items = bare(found)
    assert isinstance(items, inspect.ListType)
    return items.item_type


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
        return "a list"
    return "a JSON object"


def _one_of(values: Iterable[object]) -> str:
    return "one of " + ", ".join(map(str, values))
