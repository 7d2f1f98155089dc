"""docs/logs.md lists exactly the events that are logged at info or above."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "logs.md").read_text()
LEVELS = ("info", "warning", "error", "critical", "exception")


def logged() -> Iterator[str]:
    """The events of every call of a logger's method."""
    for package in ("engine", "manager", "notify", "rules", "sip", "store"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Call(func=ast.Attribute(attr=method, value=logger), args=[event, *_]):
                        if method in LEVELS and "log" in ast.unparse(logger).lower():
                            yield from names_of(event, path)


def names_of(event: ast.expr, path: Path) -> Iterator[str]:
    match event:
        case ast.Constant(value=str(name)):
            yield name
        case ast.IfExp(body=one, orelse=other):
            yield from names_of(one, path)
            yield from names_of(other, path)
        case _:
            raise AssertionError(f"{path}: an event without a name: {ast.unparse(event)}")


def test_every_event_is_in_the_page() -> None:
    first_columns = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    documented = {name for column in first_columns for name in re.findall(r"`([\w.]+)`", column)}
    assert documented == set(logged())
