"""Reads the documents of lines and fleets: always as they are now, so nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from notify.deliveries import FleetFacts, LineFacts, fleet_facts, line_facts
from notify.occurrences import Happened
from store.client import exchange
from store.keys import fleet_key, line_key
from store.redis_errors import is_wrong_type

Found = list[tuple[Happened, LineFacts | None, FleetFacts]]
"""What happened, with the line that it concerns, and its fleet."""


class Documents:
    """The documents in one Redis. Methods raise REDIS_ERRORS."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def facts(
        self, numbers: Iterable[str], names: Iterable[str] = ()
    ) -> tuple[dict[str, LineFacts | None], dict[str, FleetFacts]]:
        """The lines of these numbers, and their fleets and those named."""
        wanted_lines = list(numbers)
        raws = await self.ask([("GET", line_key(number)) for number in wanted_lines])
        now = time.time()
        lines = {n: line_facts(n, raw, now) for n, raw in zip(wanted_lines, raws, strict=True)}
        of_lines = (line.fleet for line in lines.values() if line is not None)
        wanted_fleets = list(dict.fromkeys([*names, *of_lines]))
        raws = await self.ask([("GET", fleet_key(name)) for name in wanted_fleets])
        fleets = zip(wanted_fleets, raws, strict=True)
        return lines, {name: fleet_facts(name, raw) for name, raw in fleets}

    async def ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Replies in order; None for a key of another type."""
        if not commands:
            return []
        replies = await exchange(self._client, commands)
        for reply in replies:
            if isinstance(reply, Exception) and not is_wrong_type(reply):
                raise reply
        return [None if isinstance(reply, Exception) else reply for reply in replies]
