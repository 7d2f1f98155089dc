"""Reads the data around a line: the targets of its forwards, and their use this month."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from manager import records, state
from manager.line_now import circumstances, fleet_at
from manager.records import Month, Purse
from manager.site import Site
from rules.applies import line_now
from rules.model import Kind, Line

_MOST_STEPS = 5
_MOST_LINES = 40

Targets = Mapping[str, Line | None]


@dataclass(frozen=True, slots=True)
class Around:
    """The data besides a line's own document.

    Attributes:
        targets: the lines to which its forwards lead, and those to which these lead in turn; None =
            not a line of the fleet.
        months: the use of it and of them this month, by number.
        connected: those of them that have a live registration.
        purse: the fleet's cap.
    """

    targets: Targets
    months: Mapping[str, Month]
    connected: frozenset[str]
    purse: Purse


async def around(site: Site, own: Line) -> Around:
    """Read it. Raises REDIS_ERRORS."""
    targets = await _targets(site, own)
    others = [line for line in targets.values() if line is not None]
    payers = [own, *(line for line in others if any(f.on for f in line.forwards.values()))]
    connected, purse, months = await asyncio.gather(
        state.registered(site.redis, [line.number for line in others]),
        records.purse(site.redis, own.fleet, site.zone),
        asyncio.gather(*(records.usage(site.redis, line, site.zone) for line in payers)),
    )
    by_number = {line.number: month for line, month in zip(payers, months, strict=True)}
    return Around(targets, by_number, frozenset(connected), purse)


async def _targets(site: Site, own: Line) -> Targets:
    """The lines that forwards name; for this line also those of forwards that are off."""
    found: dict[str, Line | None] = {}
    wanted = {to.number for _, f in own.all_forwards() for to in f.destinations} - {own.number}
    for _ in range(_MOST_STEPS):
        new = sorted(wanted - found.keys() - {own.number})[: _MOST_LINES - len(found)]
        if not new:
            break
        reached = await _as_now(site, await site.lines.fleet_lines(own.fleet, new))
        found |= reached
        wanted = {
            f.to.number
            for line in reached.values()
            if line is not None
            for f in line.forwards.values()
            if f.on and f.to and f.to.kind is Kind.NUMBER
        }
    return found


async def _as_now(site: Site, lines: Targets) -> Targets:
    """Lines of one fleet in the profiles that they use now."""
    using = [line for line in lines.values() if line is not None and line.profile]
    if not using:
        return lines
    found = circumstances(await fleet_at(site, using[0].fleet), time.time())
    return {n: None if line is None else line_now(line, found) for n, line in lines.items()}
