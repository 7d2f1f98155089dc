"""A line as it is now: in the profile that is used, and with its switch of do not disturb."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from manager.site import Site
from rules.applies import line_now, profile_now
from rules.decision import Circumstances
from rules.fleet import Fleet, fleet_of
from rules.model import Line
from store.keys import fleet_key


@dataclass(frozen=True, slots=True)
class Present:
    """A line now.

    Attributes:
        fleet: its fleet's calendars and lists.
        line: the line with the forwards that apply.
        profile: the name of the profile that is used; None = none.
    """

    fleet: Fleet
    line: Line
    profile: str | None


async def fleet_at(site: Site, name: str) -> Fleet:
    """A fleet with its calendars and lists; without any if its document is refused."""
    client: Any = site.redis
    return fleet_of(await client.get(fleet_key(name)), name, site.numbering)


async def present(site: Site, line: Line) -> Present:
    """Raises REDIS_ERRORS."""
    fleet = await fleet_at(site, line.fleet)
    found = circumstances(fleet, time.time())
    use = profile_now(line, found)
    return Present(fleet, line_now(line, found), None if use is None else use.name)


def circumstances(fleet: Fleet, at: float) -> Circumstances:
    """Of a call from outside that shows its number, at a moment in unix seconds."""
    return Circumstances(at, False, fleet.calendars, fleet.lists)
