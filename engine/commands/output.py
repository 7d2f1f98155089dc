"""The output of commands: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import orjson

_JSON = orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE


def print_json(value: Any, indent: bool = True) -> None:
    """Print one JSON value; with `indent` over several lines, otherwise on one."""
    options = _JSON | (orjson.OPT_INDENT_2 if indent else 0)
    click.echo(orjson.dumps(value, default=str, option=options), nl=False)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns as wide as their widest cell, separated by two blanks."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def warn(text: str) -> None:
    click.echo(f"renvoi: warning: {text}", err=True)


def warn_of(texts: Sequence[str], most: int = 20) -> None:
    """Print a warning for each of the first, and the number of the others."""
    for text in texts[:most]:
        warn(text)
    if len(texts) > most:
        warn(f"and {len(texts) - most} more of the kind")


def _cell(value: object) -> str:
    """A value in one line, without control characters."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(c if c.isprintable() else "?" for c in str(value))
