"""The steps of plans and caps that calls bring their lines and fleets to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from engine.records.record import CallRecord, ForwardRecord
from notify.deliveries import FleetFacts, LineFacts, wanted
from notify.documents import Documents, Found
from notify.occurrences import used
from rules.billing import month_of
from rules.model import CAPPED, Billing
from rules.notify import Event
from store.fleets import capped_s
from store.keys import fleet_usage_key, usage_key

_MOST_S = 1e12
_COUNTED = frozenset({Billing.DEDUCTED.value, *(each.value for each in CAPPED)})


def is_counted(forward: ForwardRecord) -> bool:
    """Whether the forward has used a plan or a cap."""
    return forward.seconds > 0 and forward.billing in _COUNTED


class Usage:
    """`zone` decides which month it is. Methods raise REDIS_ERRORS."""

    def __init__(self, documents: Documents, zone: ZoneInfo) -> None:
        self._documents = documents
        self._zone = zone

    async def of_calls(
        self,
        records: Sequence[tuple[str, CallRecord]],
        lines: Mapping[str, LineFacts | None],
        fleets: Mapping[str, FleetFacts],
    ) -> Found:
        """The plans and caps that these calls may have brought to a step."""
        plans: dict[tuple[str, str], tuple[LineFacts, float]] = {}
        caps: dict[tuple[str, str], float] = {}
        for _, record in records:
            month, _ = month_of(record.ended, self._zone)
            for forward in filter(is_counted, record.forwards):
                line = lines.get(forward.line)
                if line is None:
                    continue
                fleet = fleets[line.fleet]
                if line.plan_s and wanted(Event.PLAN_USED, line, fleet):
                    plans[line.number, month] = line, record.ended
                if fleet.cap_s and wanted(Event.CAP_USED, None, fleet):
                    caps[fleet.name, month] = record.ended
        commands: list[tuple[Any, ...]] = [
            ("HMGET", usage_key(number, month), Billing.DEDUCTED.value) for number, month in plans
        ]
        commands += [("HMGET", fleet_usage_key(name, month), *CAPPED) for name, month in caps]
        replies = iter(await self._documents.ask(commands))
        found: Found = []
        for (number, month), (line, at) in plans.items():
            used_s, plan_s = _whole(next(replies)), line.plan_s or 0
            what = used(Event.PLAN_USED, line.fleet, number, month, used_s, plan_s, at)
            if what is not None:
                found.append((what, line, fleets[line.fleet]))
        for (name, month), at in caps.items():
            found += _cap(fleets[name], month, next(replies), at)
        return found

    async def of_cap(self, fleet: FleetFacts, at: float) -> Found:
        """The step of a fleet whose cap was changed at a moment."""
        month, _ = month_of(at, self._zone)
        (values,) = await self._documents.ask(
            [("HMGET", fleet_usage_key(fleet.name, month), *CAPPED)]
        )
        return _cap(fleet, month, values, at)


def _whole(values: Any) -> int:
    """Whole seconds in a usage key, in which another program may have written anything."""
    return int(min(capped_s(values), _MOST_S))


def _cap(fleet: FleetFacts, month: str, values: Any, at: float) -> Found:
    if not fleet.cap_s:
        return []
    used_s = _whole(values)
    what = used(Event.CAP_USED, fleet.name, "", month, used_s, fleet.cap_s, at)
    return [] if what is None else [(what, None, fleet)]
