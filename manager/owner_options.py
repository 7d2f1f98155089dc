"""The owner of an account or a token: the options of the commands that make one."""

from __future__ import annotations

from typing import Any

import click
import orjson

from engine.commands.context import Wrong
from engine.config import Config
from rules.numbers import NumberError
from store.keys import line_key


def whose(command: Any) -> Any:
    """Adds --fleet F, --new-fleet, --line N and --operator."""
    command = click.option(
        "--line", metavar="N", help="Only this line of the fleet, and its forwards."
    )(command)
    command = click.option("--operator", is_flag=True, help="For all fleets.")(command)
    command = click.option("--new-fleet", is_flag=True, help="F has no line yet, and no document.")(
        command
    )
    return click.option(
        "--fleet", metavar="F", help="The fleet whose lines it may see and change."
    )(command)


def fleet_of(fleet: str | None, operator: bool) -> str | None:
    if operator == (fleet is not None):
        raise Wrong("--fleet: give either --fleet F or --operator")
    if fleet == "":
        raise Wrong("--fleet: expected the name of a fleet (got '')")
    return fleet


def line_of(line: str | None, fleet: str | None, config: Config, client: Any) -> str | None:
    """The number of --line, which must be a line of --fleet."""
    if line is None:
        return None
    if fleet is None:
        raise Wrong("--line: needs --fleet F")
    try:
        number = config.numbering.plan().normalise(line)
    except NumberError as error:
        raise Wrong(f"--line: {error}") from None
    raw = client.get(line_key(number))
    try:
        found = orjson.loads(raw or b"{}").get("fleet")
    except (orjson.JSONDecodeError, AttributeError):
        found = None
    if found != fleet:
        raise Wrong(f"--line: is no line of fleet {fleet} (got {line!r})")
    return number
