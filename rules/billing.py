"""Who pays for a forwarded leg, and from which plan (forwarding-rules.md 4). Pure.

The forwarding line pays; the caller does not matter. The class is fixed before dialling.
"""

from datetime import datetime
from zoneinfo import ZoneInfo

from rules.model import Billing, Line
from rules.numbers import Recognised


def tariff_of(target: Recognised, country: str) -> Billing | None:
    """The class of a call from a line of a country to a number that no plan includes: satellites,
    global networks, personal numbers and numbers abroad. None if the line's plan decides."""
    if target.tariff:
        return Billing(target.tariff)
    if target.country and target.country != country:
        return Billing.INTERNATIONAL
    return None


def billing_class(
    line: Line,
    kind: str,
    number: str,
    mobile: bool,
    same_fleet: bool,
    plan_left_s: float | None,
    tariff: Billing | None = None,
) -> Billing:
    """The class of a leg that `line` forwards to `number`.

    Args:
        line: the forwarding line, which pays.
        kind: "line", "voicemail", "fax" or "number".
        number: the target in E.164; free when it is the line's own.
        mobile: the target is a mobile.
        same_fleet: the target is a line of the forwarding line's fleet.
        plan_left_s: seconds left of the month's hours to mobiles; None if unknown, which counts as
            "some left", because the customer paid for the plan.
        tariff: the class of the target whatever the plan (`Destination.tariff`): no plan includes a
            number abroad, mobile or not.
    """
    if kind in ("voicemail", "fax", "line") or same_fleet or number == line.number:
        return Billing.FREE
    if tariff is not None:
        return tariff
    if not mobile:
        return Billing.STANDARD
    if line.offer.mobile == "hours" and (plan_left_s is None or plan_left_s > 0):
        return Billing.DEDUCTED
    return Billing.OUT_OF_PLAN


def month_begin(unix_now: float, zone: ZoneInfo) -> float:
    """When the month of a moment began in a time zone, in unix seconds."""
    moment = datetime.fromtimestamp(unix_now, zone)
    return datetime(moment.year, moment.month, 1, tzinfo=zone).timestamp()


def month_of(unix_now: float, zone: ZoneInfo) -> tuple[str, float]:
    """The month a moment belongs to in a time zone, as "2026-11", and its end in unix seconds."""
    moment = datetime.fromtimestamp(unix_now, zone)
    year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
    return f"{moment:%Y-%m}", datetime(year, month, 1, tzinfo=zone).timestamp()
