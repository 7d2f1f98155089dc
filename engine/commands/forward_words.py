"""Forwards of a line in words, for commands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType

from rules.model import Condition, Destination, Forward, Kind, Line, Ringing

Refused = Mapping[tuple[str, str], str]
"""Why forwards count as off, by condition and number (`Documents.refused`)."""

_NONE: Refused = MappingProxyType({})


def forwards_in_words(
    line: Line, refused: Refused = _NONE, zone: tzinfo = UTC
) -> list[tuple[str, str]]:
    """Condition and a description of its forward, for all four in order of precedence; of a list
    those that are on, by their places."""
    result = []
    for condition in Condition:
        rules = rules_in_words(line, condition, refused, zone)
        text = rules[0] if rules else "off"
        if len(rules) > 1:
            on = [f"[{place}] {each}" for place, each in enumerate(rules) if each != "off"]
            text = "; ".join(on) or "off"
        result.append((condition.value, text))
    return result


def rules_in_words(
    line: Line, condition: Condition, refused: Refused = _NONE, zone: tzinfo = UTC
) -> list[str]:
    """A description of each forward of a condition."""
    return [_in_words(line, condition, each, refused, zone) for each in line.all_of(condition)]


def destinations_in_words(line: Line, several: tuple[Destination, ...]) -> str:
    """Targets, each with its number and its time to ring."""
    return ", ".join(
        _to(line, to) + (f" for {to.ring_s} s" if to.ring_s is not None else "") for to in several
    )


def _in_words(
    line: Line, condition: Condition, forward: Forward, refused: Refused, zone: tzinfo
) -> str:
    if not forward.on or (forward.to is None and not forward.rejects):
        return "off"
    if forward.rejects:
        text = "refuse with 603"
    elif forward.targets:
        text = destinations_in_words(line, forward.targets)
        if len(forward.targets) > 1:
            order = "in turn" if forward.ring is Ringing.IN_TURN else "together"
            text = f"{order} {text}"
    else:
        assert forward.to is not None
        text = _to(line, forward.to)
    if forward.after_s is not None and condition is Condition.NO_ANSWER:
        after = f"after {forward.after_s} s"
        text = f"{after} {text}" if len(forward.targets) > 1 else f"{text} {after}"
    if forward.when is not None:
        text += f", when {forward.when}"
    if forward.callers is not None:
        text += f", callers {forward.callers}"
    if forward.until is not None:
        text += f", until {datetime.fromtimestamp(forward.until, zone).isoformat()}"
    for to in forward.destinations:
        why = refused.get((condition.value, to.number))
        if why is not None:
            which = f"{to.number} " if forward.targets else ""
            text += f" ({which}counts as off: {why})"
    return text


def _to(line: Line, to: Destination) -> str:
    own = to.kind is Kind.VOICEMAIL and to.number == line.number
    return "voicemail" if own else f"{to.kind} {to.number}"
