"""Describes one of several forwards of a condition: where it leads, when and for whom."""

from __future__ import annotations

from typing import Any

import orjson

from manager.target_words import TargetWords
from manager.web import Visit
from rules.callers import CallerKind
from rules.line_document import load_line
from rules.model import Condition, Destination, DocumentError, Forward, Line, Ringing


def rule_in_words(visit: Visit, own: Line, condition: Condition, forward: Forward) -> str:
    """A forward of the line as text, whether it is on or not."""
    say, parts = visit.say, [_where(visit, own, forward)]
    if condition is Condition.NO_ANSWER and forward.after_s is not None:
        parts.append(say("rule_after", seconds=forward.after_s))
    if forward.when is not None:
        key = "rule_closed" if forward.when.negated else "rule_open"
        parts.append(say(key, name=forward.when.calendar))
    if forward.callers is not None:
        key = f"callers_{forward.callers.kind.value}"
        if forward.callers.kind is CallerKind.LIST:
            key = "callers_not_list" if forward.callers.negated else "callers_list"
        parts.append(say(key, name=forward.callers.name))
    if forward.until is not None:
        parts.append(say("rule_until", date=visit.site.shown.date(forward.until, visit.language)))
    return ", ".join(parts)


def target_in_words(visit: Visit, own: Line, to: Destination) -> str:
    """The target of a forward of the line, as text."""
    places: TargetWords = visit.places
    return places.destination(own, to, visit.site.directory.has(own.fleet, to.number))


def forwards_of(visit: Visit, own: Line, condition: Condition, stated: Any) -> tuple[Forward, ...]:
    """The forwards that a document states for a condition; none if they are invalid."""
    document = {"number": own.number, "fleet": own.fleet, "forwards": {condition.value: stated}}
    try:
        raw = orjson.dumps(document)
        return load_line(raw, own.number, visit.site.numbering).all_of(condition)
    except (DocumentError, TypeError):  # TypeError: JSON cannot represent it
        return ()


def _where(visit: Visit, own: Line, forward: Forward) -> str:
    say = visit.say
    if forward.rejects:
        return say("by_api_blocked")
    if not forward.destinations:
        return say("rule_nowhere")
    several = [target_in_words(visit, own, to) for to in forward.destinations]
    if len(several) == 1:
        return several[0]
    key = "rule_together" if forward.ring is Ringing.TOGETHER else "rule_in_turn"
    return say(key, targets=", ".join(several))
