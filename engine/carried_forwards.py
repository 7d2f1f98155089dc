"""Whether a line continues to pay for a leg that a transfer moves from one call to another.

It is checked like any forward of that line (forwarding-rules.md 2 and 4): the line must exist, it
and its fleet not be suspended, its forward still be on, its limits not be reached, its fleet's cap
not be used up. The class is determined again, because a plan may be used up meanwhile.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.call_outcome import Outcome, Over
from engine.call_services import CallServices
from engine.records.record import ForwardRecord
from rules.billing import billing_class, tariff_of
from rules.model import CAPPED, Line
from store.lines import Unavailable

if TYPE_CHECKING:
    from engine.call_path import CallPath


async def admit(services: CallServices, path: CallPath, forward: ForwardRecord) -> ForwardRecord:
    """Count a forward of `forward.line` that continues in this call, and return what the line pays
    now.

    Raises Over: 403 if the line may not pay, 480 if a limit is reached, 503 without rules.
    """
    try:
        entry = await services.store.look_up(forward.line)
    except Unavailable:
        raise Over(Outcome.FAILED, 503, "rules_unavailable") from None
    line = entry.line
    if line is None:
        raise Over(Outcome.REJECTED, 403, "payer_unknown")
    fleet = services.fleets.find(line.fleet) or await services.fleets.load(line.fleet)
    if line.suspended:
        raise Over(Outcome.REJECTED, 403, "suspended")
    if fleet.suspended:
        raise Over(Outcome.REJECTED, 403, "fleet_suspended")
    now, billing = time.time(), forward.billing
    if forward.kind != "line" and not _is_on(line, forward, fleet.countries, now):
        raise Over(Outcome.REJECTED, 403, "forward_off")
    if forward.kind == "number":
        left_s = services.spending_caps.less_standing(line.number, fleet, entry.plan_left_s(), now)
        to = services.numbering.recognise(forward.number)
        tariff = tariff_of(to, services.numbering.country_of(line.number))
        billing = billing_class(line, "number", to.number, to.mobile, False, left_s, tariff)
    cap_s = fleet.cap_left_s(now)
    if billing in CAPPED and cap_s is not None and cap_s <= 0:
        raise _prevented(services, "fleet_cap")
    full = await path.count_forward(line.number)
    if full is not None:
        raise _prevented(services, full)
    return replace(forward, billing=billing, fleet=line.fleet, plan_s=line.offer.plan_s)


def _is_on(
    line: Line, forward: ForwardRecord, countries: frozenset[str] | None, now: float
) -> bool:
    """Whether the line still forwards there and may, by its fleet's countries; a call that it
    transferred to a line needs no forward. `now` in unix seconds."""
    return any(
        each.number == forward.number
        and each.why_refused(inside=False, countries=countries) is None
        for each in line.all_targets(now)
    )


def _prevented(services: CallServices, why: str) -> Over:
    services.metrics.forward_prevented(why)
    return Over(Outcome.REJECTED, 480, why)
