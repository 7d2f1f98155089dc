"""Calendars and lists that a fleet no longer has, and that its lines still name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.commands.documents import Documents
from rules.fleet import Fleet, check_fleet, fleet_of
from rules.line_document import load_line
from rules.model import DocumentError, Line
from rules.numbers import Numbering
from rules.validate import names_used

_LINES_SHOWN = 20


@dataclass(slots=True)
class StillNamed:
    """A calendar or a list (`what`) that a fleet no longer has and lines still name: how many
    lines, and the first of them."""

    fleet: str
    what: str
    name: str
    lines: int = 0
    first: list[str] = field(default_factory=list)

    def in_words(self) -> str:
        first = ", ".join(self.first) + (", ..." if self.lines > len(self.first) else "")
        return (
            f"fleet {self.fleet}: {self.what} {self.name} is gone, {self.lines} lines still name "
            f"it, and those forwards no longer apply: {first}"
        )


def still_named(
    client: Any,
    before: Mapping[str, bytes],
    fleets: Mapping[str, dict[str, Any] | None],
    numbering: Numbering,
) -> list[StillNamed]:
    """After a change of fleets, from `before` to `fleets` (None = deleted). Reads every line if a
    calendar or a list is gone."""
    gone: dict[tuple[str, str, str], StillNamed] = {}
    for name, document in fleets.items():
        was = fleet_of(before.get(name), name, numbering)
        now = Fleet(name) if document is None else check_fleet(document, numbering)
        for what, old, new in (
            ("calendar", was.calendars, now.calendars),
            ("list", was.lists, now.lists),
        ):
            for each in sorted(old.keys() - new.keys()):
                gone[name, what, each] = StillNamed(name, what, each)
    if not gone:
        return []
    for number, raw in Documents(client, numbering).every():
        try:
            line = load_line(raw, number, numbering)
        except DocumentError:
            continue
        calendars, lists = names_used(line)
        used = [("calendar", each) for each in calendars] + [("list", each) for each in lists]
        for what, each in used:
            still = gone.get((line.fleet, what, each))
            if still is not None:
                still.lines += 1
                if len(still.first) < _LINES_SHOWN:
                    still.first.append(number)
    return [still for still in gone.values() if still.lines]


def unknown_names(line: Line, documents: Documents) -> list[str]:
    """The calendars and lists that a line names and neither it nor its fleet has."""
    calendars, lists = names_used(line)
    if not calendars and not lists:
        return []
    fleet = documents.fleet(line.fleet)
    gone = [("calendar", each) for each in sorted(calendars - fleet.calendars.keys())]
    gone += [("list", each) for each in sorted(lists - fleet.lists.keys())]
    return [f"there is no {what} {name}, its forwards do not apply" for what, name in gone]
