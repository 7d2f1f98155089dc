"""Forwards of a line in words, for commands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType

from rules.model import Condition, Destination, Forward, Kind, Line, Ringing

Refused = Mapping[tuple[str, str], str]
"""Why forwards count as off, by condition and number (`Documents.refused`)."""

_NONE: Refused = MappingProxyType({})


def forwards_told(
    line: Line, refused: Refused = _NONE, zone: tzinfo = UTC
) -> list[tuple[str, str]]:
    """Condition and a description of its forward, for all four in order of precedence; of a list
    those that are on, by their places."""
    result = []
    for condition in Condition:
        rules = rules_told(line, condition, refused, zone)
        told = rules[0] if rules else "off"
        if len(rules) > 1:
            on = [f"[{place}] {each}" for place, each in enumerate(rules) if each != "off"]
            told = "; ".join(on) or "off"
        result.append((condition.value, told))
    return result


def rules_told(
    line: Line, condition: Condition, refused: Refused = _NONE, zone: tzinfo = UTC
) -> list[str]:
    """A description of each forward of a condition."""
    return [_told(line, condition, each, refused, zone) for each in line.all_of(condition)]


def destinations_told(line: Line, several: tuple[Destination, ...]) -> str:
    """Targets, each with its number and its time to ring."""
    return ", ".join(
        _to(line, to) + (f" for {to.ring_s} s" if to.ring_s is not None else "") for to in several
    )


def _told(
    line: Line, condition: Condition, forward: Forward, refused: Refused, zone: tzinfo
) -> str:
    if not forward.on or (forward.to is None and not forward.rejects):
        return "off"
    if forward.rejects:
        told = "refuse with 603"
    elif forward.targets:
        told = destinations_told(line, forward.targets)
        if len(forward.targets) > 1:
            order = "in turn" if forward.ring is Ringing.IN_TURN else "together"
            told = f"{order} {told}"
    else:
        assert forward.to is not None
        told = _to(line, forward.to)
    if forward.after_s is not None and condition is Condition.NO_ANSWER:
        after = f"after {forward.after_s} s"
        told = f"{after} {told}" if len(forward.targets) > 1 else f"{told} {after}"
    if forward.when is not None:
        told += f", when {forward.when}"
    if forward.callers is not None:
        told += f", callers {forward.callers}"
    if forward.until is not None:
        told += f", until {datetime.fromtimestamp(forward.until, zone).isoformat()}"
    for to in forward.destinations:
        why = refused.get((condition.value, to.number))
        if why is not None:
            which = f"{to.number} " if forward.targets else ""
            told += f" ({which}counts as off: {why})"
    return told


def _to(line: Line, to: Destination) -> str:
    own = to.kind is Kind.VOICEMAIL and to.number == line.number
    return "voicemail" if own else f"{to.kind} {to.number}"
