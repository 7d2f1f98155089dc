"""`renvoi line dnd` and `renvoi line profile`: what is switched on a line as a whole."""

from __future__ import annotations

import time
from typing import Any
from zoneinfo import ZoneInfo

import click

from engine.changes.acks import in_force_blocking
from engine.commands.context import (
    Failed,
    Named,
    Wrong,
    open_redis,
    read_number,
    with_config,
    with_json,
)
from engine.commands.documents import Document, Documents
from engine.commands.moments import iso, read_when
from engine.commands.output import print_json
from engine.config import Config
from rules.applies import is_undisturbed, profile_now
from rules.decision import Circumstances
from rules.line_document import load_line
from rules.model import DocumentError, Line
from rules.switches import switch_do_not_disturb, switch_profile

NONE = "none"


@click.command("dnd", short_help="Turn do not disturb of line N on or off.")
@click.argument("n")
@click.argument("state", type=Named(["on", "off"]), metavar="on|off")
@with_config
@with_json
def switch_dnd(n: str, state: str, config: Config, as_json: bool) -> None:
    """Turn do not disturb of line N on or off. While it is on the line is busy without being rung,
    whatever profile is used: its busy forward, else 486.

    \b
    Example:
      renvoi line dnd 0972101001 on
    """
    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    with open_redis(config) as client:
        documents = Documents(client, numbering)
        line = documents.edit(number, lambda given: switch_do_not_disturb(given, state == "on"))
        acks = in_force_blocking(client, number)
        found = circumstances_of(documents, line)
    use = profile_now(line, found)
    held = state == "off" and is_undisturbed(line, found) and use is not None
    if as_json:
        shown = {"number": number, "do_not_disturb": line.do_not_disturb}
        print_json({**shown, "now": is_undisturbed(line, found), "in_force": acks.plain()})
        return
    more = f" (but profile {use.name} has it on)" if held and use is not None else ""
    click.echo(f"{number} do not disturb: {state}{more}, {acks.in_words()}")


@click.command("profile", short_help="Show or choose the profile of line N.")
@click.argument("n")
@click.argument("name", required=False)
@click.option(
    "--until", "moment", metavar="ISO8601",
    help="Use it until then, and after it what was used before: 2026-12-07T08:00, in "
    "numbering.timezone unless it has an offset.",
)  # fmt: skip
@with_config
@with_json
def choose_profile(
    n: str, name: str | None, moment: str | None, config: Config, as_json: bool
) -> None:
    """Use profile NAME of line N from now on: its forwards replace those of the line as a whole.
    `none` leaves all profiles. Without NAME, show the profiles and which is used.

    \b
    Examples:
      renvoi line profile 0972101001
      renvoi line profile 0972101001 holidays --until 2026-12-07T08:00
      renvoi line profile 0972101001 none
    """
    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    if moment is not None and name is None:
        raise Wrong("--until: needs NAME")
    zone, now = ZoneInfo(config.numbering.timezone), time.time()
    until = None if moment is None else _end(moment, zone)

    def change(document: Document) -> None:
        try:
            chosen = None if name == NONE and NONE not in (document.get("profiles") or {}) else name
            switch_profile(document, chosen, until, now)
        except DocumentError as error:
            option = {"until": "--until", "use": "NAME"}.get(error.field, error.field)
            raise Wrong(f"line {number}: {option}: {error.problem} (got {error.value!r})") from None

    with open_redis(config) as client:
        documents = Documents(client, numbering)
        if name is None:
            line, acks = _read(documents, number, numbering), None
        else:
            line = documents.edit(number, change)
            acks = in_force_blocking(client, number)
        use = profile_now(line, circumstances_of(documents, line))
    used = None if use is None else use.name
    if as_json:
        shown: dict[str, Any] = {"number": number, "profiles": sorted(line.profiles), "now": used}
        print_json(shown if acks is None else {**shown, "in_force": acks.plain()})
    elif acks is not None:
        click.echo(f"{number} profile now: {used or NONE}, {acks.in_words()}")
    else:
        click.echo(f"{'now':<14} {used or NONE}")
        click.echo(f"{'profiles':<14} {', '.join(sorted(line.profiles)) or NONE}")
        for text in uses_in_words(line, zone):
            click.echo(f"{'used':<14} {text}")


def _end(moment: str, zone: ZoneInfo) -> str:
    """The end of a use of a profile as documents have it. Raises Wrong."""
    until = iso(read_when("--until", moment, zone), zone)
    if until is None:  # not even a date of the zone; the rules refuse others
        raise Wrong(f"--until: expected a moment from 1970 to 9997 (got {moment!r})")
    return until


def uses_in_words(line: Line, zone: ZoneInfo) -> list[str]:
    """The entries of a line's `profile`, in order."""
    result = []
    for use in line.profile:
        when = "" if use.when is None else f", when {use.when}"
        until = "" if use.until is None else f", until {iso(use.until, zone)}"
        result.append(f"{use.name}{when}{until}")
    return result


def _read(documents: Documents, number: str, numbering: Any) -> Line:
    try:
        return load_line(documents.raw(number), number, numbering)
    except DocumentError as error:
        raise Failed(f"line {number}: its document is refused: {error}") from None


def circumstances_of(documents: Documents, line: Line) -> Circumstances:
    """What decides now which profile of a line is used."""
    fleet = documents.fleet(line.fleet)
    return Circumstances(time.time(), False, fleet.calendars, fleet.lists)
