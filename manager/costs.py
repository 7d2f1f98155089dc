"""The cost of forwards, to the last line of a chain, and their obstacles, as text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from manager.formats import duration
from manager.forms import ORDER
from manager.records import Month
from manager.target_words import TargetWords
from manager.targets_and_usage import Around
from rules.billing import billing_class
from rules.model import CAPPED, Billing, Condition, Destination, Kind, Line

_MOST_STEPS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """What one forward costs.

    Attributes:
        level: the most expensive billing class that is certain, for its colour and sign.
        text: what this line pays.
        paid: whether this line pays, not only a line further on.
        warnings: further facts: who forwards on and pays, that nobody is reached.
    """

    condition: Condition
    where: str
    level: Billing
    text: str
    paid: bool
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Costs:
    """Describes the cost of a line's forwards in one language."""

    places: TargetWords

    def of(self, line: Line, known: Around) -> list[Cost]:
        """The cost of each target of the forwards that are on, in the guide's order."""
        return [
            self._cost(line, condition, to, known)
            for condition in ORDER
            for to in _all_targets(line, condition, known)
        ]

    def refused(self, line: Line, known: Around) -> list[str]:
        """The forwards that are on but have no effect because of their target."""
        say = self.places.say
        inside = {number for number, target in known.targets.items() if target is not None}
        return [
            say(
                "refused",
                what=say("quoted", text=say(condition)),
                number=self.places.shown.number(to.number),
                why=say(word_for(why)),
            )
            for condition, to, why in line.refused_targets(inside, known.purse.countries)
        ]

    def conflicts(self, line: Line, known: Around, costs: Sequence[Cost]) -> list[str]:
        """Forwards that will not do what one may expect."""
        say, now = self.places.say, time.time()
        on = [c for c in ORDER if any(f.is_on_at(now) for f in line.all_of(c))]
        result = []
        others = [say("quoted", text=say(c)) for c in on if c is not Condition.UNCONDITIONAL]
        if Condition.UNCONDITIONAL in on and others:
            key = "conflict_all" if len(others) > 1 else "conflict_all_one"
            result.append(say(key, others=", ".join(others)))
        if Condition.BUSY in on and Condition.UNCONDITIONAL not in on and line.max_calls is None:
            result.append(say("conflict_busy"))
        for condition in on:
            target = _line_at(line.forwards[condition].to, known)
            back = target.forwards.values() if target else ()
            if target and any(
                f.on and f.to and f.to.kind is Kind.NUMBER and f.to.number == line.number
                for f in back
            ):
                other = self.places.line(line.fleet, target.number)
                result.append(say("conflict_same", other=other))
        if known.purse.empty and any(cost.level in CAPPED for cost in costs):
            result.append(say("cap_empty"))
        return list(dict.fromkeys(result))

    # -- inside -----------------------------------------------------------------------------------

    def _cost(self, line: Line, condition: Condition, to: Destination, known: Around) -> Cost:
        own, text = self._own_leg(line, to, known)
        level = own
        where = self.places.destination(line, to, _is_inside(to, known))
        warnings: list[str] = []
        target = _line_at(to, known)
        if target is not None:
            level = self._onward(target, known, (line.number,), line.number, warnings) or level
        return Cost(condition, where, level, text, own is not Billing.FREE, warnings)

    def _onward(
        self,
        line: Line,
        known: Around,
        visited: tuple[str, ...],
        described: str,
        warnings: list[str],
    ) -> Billing | None:
        """Where a call continues from a line, and who pays; the class of a certain leg, None
        without one."""
        say, name = self.places.say, self.places.line(line.fleet, line.number)
        if line.suspended:
            warnings.append(say("warn_suspended", line=name))
            return None
        visited = (*visited, line.number)
        all_calls = _leads_to(line, Condition.UNCONDITIONAL, known, visited)
        if all_calls is not None:
            return self._leg(line, "onward_all", all_calls, known, visited, described, warnings)
        if line.number not in known.connected:
            unreachable = _leads_to(line, Condition.UNREACHABLE, known, visited)
            if unreachable is None:
                warnings.append(say("warn_unreachable", line=name))
        for condition in (Condition.NO_ANSWER, Condition.BUSY, Condition.UNREACHABLE):
            to = _leads_to(line, condition, known, visited)
            if to is not None:
                key = f"onward_{condition}"
                self._leg(line, key, to, known, visited, described, warnings)
        return None

    def _leg(
        self,
        line: Line,
        key: str,
        to: Destination,
        known: Around,
        visited: tuple[str, ...],
        described: str,
        warnings: list[str],
    ) -> Billing | None:
        places, say = self.places, self.places.say
        name = places.line(line.fleet, line.number)
        where = places.destination(line, to, _is_inside(to, known), described)
        level, cost = self._own_leg(line, to, known)
        if level is not Billing.FREE:
            cost += " " + say("onward_pays", line=name)
        warnings.append(say(key, line=name, where=where, cost=cost))
        target = _line_at(to, known)
        if target is None or len(visited) > _MOST_STEPS:
            return level
        return self._onward(target, known, visited, described, warnings) or level

    def _own_leg(self, line: Line, to: Destination, known: Around) -> tuple[Billing, str]:
        """The class of the leg that the line itself pays for, and its cost as text."""
        inside = _is_inside(to, known)
        kind = "line" if inside and to.kind is Kind.NUMBER else to.kind.value
        month = known.months.get(line.number)
        left_s = month.plan_left_s if month else None
        level = billing_class(line, kind, to.number, to.mobile, inside, left_s, to.tariff)
        return level, self._own_in_words(line, kind, level, month)

    def _own_in_words(self, line: Line, kind: str, level: Billing, month: Month | None) -> str:
        say, hours = self.places.say, f"{line.offer.mobile_hours:g}"
        if level is Billing.FREE:
            return say(f"cost_free_{kind}")
        if level is Billing.STANDARD:
            return say("cost_standard")
        if level is Billing.DEDUCTED:
            left_s = month.plan_left_s if month else None
            left = line.offer.mobile_hours * 3600 if left_s is None else left_s
            return say("cost_deducted", hours=hours, left=duration(left))
        if level is not Billing.OUT_OF_PLAN:
            return say(f"cost_{level}")
        if line.offer.mobile == "hours":
            return say("cost_spent", hours=hours)
        return say("cost_unlimited" if line.offer.mobile == "unlimited" else "cost_none")


def word_for(why: str) -> str:
    """The text for why a number is refused; `error_country` is for an unknown country code."""
    return "error_country_refused" if why == "country" else f"error_{why}"


def _leads_to(
    line: Line, condition: Condition, known: Around, visited: tuple[str, ...] = ()
) -> Destination | None:
    """Where a forward that is on leads, unless it has no effect."""
    forward = line.forwards.get(condition)
    if forward is None or not forward.on or forward.to is None:
        return None
    to = forward.to
    refused = to.why_refused(_is_inside(to, known), known.purse.countries if visited else None)
    if refused is not None or (to.kind is Kind.NUMBER and to.number in visited):
        return None
    return to


def _all_targets(line: Line, condition: Condition, known: Around) -> list[Destination]:
    """Where the forwards of a condition that are on lead, each target once, unless a forward there
    has no effect."""
    if condition not in line.rules:
        to = _leads_to(line, condition, known)
        return [] if to is None else [to]
    found = {
        (to.kind, to.number): to
        for forward in line.rules[condition]
        for to in forward.destinations
        if forward.on and to.why_refused(_is_inside(to, known), None) is None
    }
    return list(found.values())


def _is_inside(to: Destination, known: Around) -> bool:
    return to.kind is not Kind.NUMBER or known.targets.get(to.number) is not None


def _line_at(to: Destination | None, known: Around) -> Line | None:
    """The line of the fleet to which a forward leads, whose own forwards then apply."""
    return known.targets.get(to.number) if to and to.kind is Kind.NUMBER else None
