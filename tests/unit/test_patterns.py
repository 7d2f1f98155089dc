"""Regular expressions have the same meaning in every supported Python.

Python before 3.11.5, including that of Debian 12, has a bug in possessive quantifiers after a
group: what the group consumed before it failed stays consumed (gh-106052). With it, a header field
with an unclosed quoted string was accepted."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

import engine
import manager
import rules
import sip
import store

# The standard library's parser of patterns; it has no public name.
parser: Any = importlib.import_module("re._parser")
constants: Any = importlib.import_module("re._constants")
ONE_CHARACTER = {constants.LITERAL, constants.NOT_LITERAL, constants.IN, constants.ANY}


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    for package in (engine, manager, rules, sip, store):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                module = importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                if error.name != "pjsua2":  # for phones of the demo; may not be installed
                    raise
                continue
            for name, value in vars(module).items():
                if isinstance(value, re.Pattern):
                    yield f"{found.name}.{name}", value


def doubtful(parsed: Any) -> list[Any]:
    """The possessive repeats of a parsed pattern that repeat more than one character, and its
    atomic groups."""
    found = []
    for operation, argument in parsed:
        if operation is constants.POSSESSIVE_REPEAT:
            repeated = argument[2]
            if len(repeated) != 1 or repeated[0][0] not in ONE_CHARACTER:
                found.append(repeated)
        if operation is constants.ATOMIC_GROUP:
            found.append(argument)
        for part in _parts(argument):
            found += doubtful(part)
    return found


def _parts(argument: Any) -> Iterator[Any]:
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, list | tuple):
        for one in argument:
            yield from _parts(one)


def test_possessive_quantifiers_follow_single_characters_only() -> None:
    wrong = {name: pattern.pattern for name, pattern in patterns()
             if doubtful(parser.parse(pattern.pattern, pattern.flags))}  # fmt: skip
    assert not wrong


@pytest.mark.parametrize("pattern", [r"(?:ab?c)*+", r"x(?:a|(?:b(?:cd)++))", r"(?>ab)", r"(a)?+"])
def test_a_group_that_is_possessive_is_seen(pattern: str) -> None:
    assert doubtful(parser.parse(pattern))


def test_single_characters_are_accepted() -> None:
    assert not doubtful(parser.parse(r"[ab]*+\s++.?+(?:a[^b]*+)*"))
