"""Whether a target may be dialled now, and what a leg there costs (forwarding-rules.md 2 and 4).
Pure. That a number is premium, short or abroad is recognised in `numbers.py`, when its document is
read."""

from collections.abc import Mapping

from rules.billing import billing_class
from rules.decision import No, Situation
from rules.loops import comes_back, to_itself
from rules.model import CAPPED, FLEET_COUNTRIES, Billing, Destination, Kind, Line

Targets = Mapping[str, Line | None]


def why_not(to: Destination | None, line: Line, now: Situation, targets: Targets) -> No | None:
    """Why a forward to a target counts as off; None when it may happen (forwarding-rules.md 2)."""
    if to is None:
        return No("no_target", "off, it has no target")
    if to.refused is not None or now.fleet_countries is not None:
        refused = to.why_refused(kind_of(to, line, targets) != "number", now.fleet_countries)
        if refused is not None:
            return No(refused, _refused_in_words(refused, to, line))
    if to.kind is Kind.VOICEMAIL and to.number == line.number:
        # Its own voicemail is always allowed, also when the line itself calls.
        return _over_limit(now)
    return (
        to_itself(to, line)
        or _wrong_target(to, line, targets)
        or comes_back(to, line, now)
        or _over_limit(now)
        or _over_cap(to, line, now, targets)
    )


def _refused_in_words(refused: str, to: Destination, line: Line) -> str:
    country = f"not allowed, {to.number} is in country {to.country}, which "
    if refused == FLEET_COUNTRIES:
        return f"{country}forward_countries of fleet {line.fleet} does not have"
    if refused == "country":
        return f"{country}numbering.forward_countries does not have"
    if refused == "invalid":
        return f"not allowed, {to.number} is no valid number (numbering.also_valid may admit it)"
    return f"not allowed, {to.number} is a number of kind {refused}"


def _wrong_target(to: Destination, line: Line, targets: Targets) -> No | None:
    if to.kind is Kind.NUMBER:
        return None
    target = targets.get(to.number)
    if target is None:
        return No("not_ours", f"not allowed, {to.number} is no line of ours")
    if target.fleet != line.fleet:
        return No("other_fleet", f"not allowed, {to.number} is a line of another fleet")
    if to.kind is Kind.FAX and not target.offer.fax:
        return No("no_fax", f"not allowed, {to.number} has no fax offer")
    return None


def _over_limit(now: Situation) -> No | None:
    """The limits against loops through the outside and toll fraud."""
    if 0 < now.forwards_per_line <= now.forwards_in_progress:
        text = f"counts as off, {now.forwards_in_progress} forwards of the line stand already"
        return No("forwards_per_line", text)
    if 0 < now.forwards_per_line_per_hour <= now.forwards_last_hour:
        text = f"counts as off, the line had {now.forwards_last_hour} forwards in the last hour"
        return No("forwards_per_line_per_hour", text)
    return None


def _over_cap(to: Destination, line: Line, now: Situation, targets: Targets) -> No | None:
    """Whether the fleet's monthly cap out of plan and abroad is used up (forwarding-rules.md 4)."""
    if now.cap_left_s is None or now.cap_left_s > 0:
        return None
    if billing_of(to, line, now, targets) not in CAPPED:
        return None
    return No("fleet_cap", f"not allowed, the cap of fleet {line.fleet} is used up")


def kind_of(to: Destination, line: Line, targets: Targets) -> str:
    """The kind of the target. Another fleet's line is an outside number."""
    if to.kind is not Kind.NUMBER:
        return to.kind.value
    target = targets.get(to.number)
    return "line" if target is not None and target.fleet == line.fleet else "number"


def billing_of(to: Destination, line: Line, now: Situation, targets: Targets) -> Billing:
    kind = kind_of(to, line, targets)
    return billing_class(
        line, kind, to.number, to.mobile, kind != "number", now.plan_left_s, to.tariff
    )
