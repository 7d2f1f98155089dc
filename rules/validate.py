"""Checks a whole line document before it is written, together with the other lines.

It must be at most 64 KiB of JSON whose fields have the types and ranges of `line_document.py` and
`forward_document.py`, and its forwards may only lead where this line may forward: to a valid number
of a country and kind that is allowed, a voicemail or fax of its own fleet, never to itself.

The engine is more lenient when it reads documents (`line_document.load_line`), and repeats these
checks at call time, because another line may have changed since (README, "The rules").
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rules.document import encode_document
from rules.fleet import Fleet
from rules.line_document import load_line
from rules.model import FLEET_COUNTRIES, Condition, Destination, DocumentError, Forward, Kind, Line
from rules.numbers import Numbering

Others = Mapping[str, Line | None]

# The message for a number that may not be a target (`Destination.why_refused`).
_REFUSED = {
    "premium": "premium numbers cannot be targets",
    "shared_cost": "shared-cost numbers cannot be targets",
    "emergency": "emergency numbers cannot be targets",
    "short": "short numbers cannot be targets",
    "invalid": "is no valid number of its country, see numbering.also_valid",
    "country": "{country} is not in numbering.forward_countries",
    FLEET_COUNTRIES: "{country} is not in forward_countries of fleet {fleet}",
}


def check_write(
    document: Mapping[str, Any],
    others: Others,
    numbering: Numbering,
    number: str | None = None,
    fleet: Fleet | None = None,
) -> Line:
    """Check a document before it is written and return the line that it describes.

    Forwards that are off are checked too, so that turning one on cannot make an invalid forward
    active.

    Args:
        document: the decoded JSON.
        others: the line of each number that the document's forwards name (`numbers_named`); None or
            absent if it is not one of our lines.
        number: the number of the key to write, in E.164; None = the document's own.
        fleet: the line's fleet; None = it has no document.

    Raises:
        DocumentError: naming the field and its value.
    """
    line = load_line(encode_document(document), number, numbering)
    check_line(line, document, others, fleet)
    return line


def check_line(
    line: Line,
    document: Mapping[str, Any],
    others: Others,
    fleet: Fleet | None = None,
) -> None:
    """The same for a decoded document; `line` is what it describes."""
    check_names(line, document, fleet)
    check_targets(line, document, others, fleet)


def check_targets(
    line: Line, document: Mapping[str, Any], others: Others, fleet: Fleet | None = None
) -> None:
    """All of that except names of calendars and lists."""
    _check_targets(line, document, others, fleet)
    _each_profile(line, document, lambda part, of: _check_targets(part, of, others, fleet))


def _each_profile(
    line: Line, document: Mapping[str, Any], check: Callable[[Line, Mapping[str, Any]], None]
) -> None:
    """Check each profile of a line, with its part of the document."""
    for name, profile in line.profiles.items():
        try:
            check(profile, document["profiles"][name])
        except DocumentError as error:
            path = f"profiles.{name}.{error.field}"
            raise DocumentError(path, error.value, error.problem) from None


def _check_targets(
    line: Line, document: Mapping[str, Any], others: Others, fleet: Fleet | None
) -> None:
    if line.offer.mobile == "hours" and line.offer.mobile_hours <= 0:
        offer = document.get("offer")
        given = offer.get("mobile_hours") if isinstance(offer, Mapping) else None
        raise DocumentError("offer.mobile_hours", given, "must be above 0 for mobile hours")
    countries = None if fleet is None else fleet.forward_countries
    for condition, place, forward in _forwards(line):
        for number, to in enumerate(forward.destinations):
            problem = _wrong_target(line, to, others, countries)
            if problem is not None:
                path = _path_of_target(document, condition, place, number)
                raise DocumentError(path, to.number, problem)
    for place, to in enumerate(line.also_ring):
        problem = _wrong_target(line, to, others, countries)
        if problem is not None:
            raise DocumentError(f"also_ring[{place}].number", to.number, problem)


def check_names(line: Line, document: Mapping[str, Any], fleet: Fleet | None) -> None:
    """Check that the line or its fleet has every calendar and list that a forward, or the choice
    of a profile, names. Raises DocumentError."""
    if not line.asks_for_moment and not line.profiles:
        return
    calendars = {*line.calendars, *(fleet.calendars if fleet is not None else ())}
    for place, use in enumerate(line.profile):
        if use.when is not None and use.when.calendar not in calendars:
            problem = f"is no calendar of the line or of fleet {line.fleet}"
            raise DocumentError(f"profile[{place}].when", str(use.when), problem)
    lists = {*line.lists, *(fleet.lists if fleet is not None else ())}
    _check_names(line, document, calendars, lists)
    _each_profile(line, document, lambda part, of: _check_names(part, of, calendars, lists))


def _check_names(
    line: Line, document: Mapping[str, Any], calendars: set[str], lists: set[str]
) -> None:
    for condition, place, forward in _forwards(line):
        when, callers = forward.when, forward.callers
        if when is not None and when.calendar not in calendars:
            problem = f"is no calendar of the line or of fleet {line.fleet}"
            raise DocumentError(f"{_path(document, condition, place)}.when", str(when), problem)
        if callers is not None and callers.name and callers.name not in lists:
            path = f"{_path(document, condition, place)}.callers"
            problem = f"is no list of the line or of fleet {line.fleet}"
            raise DocumentError(path, str(callers), problem)


def lines_needed(line: Line, countries: frozenset[str] | None = None) -> tuple[str, ...]:
    """The other numbers whose lines decide whether a document may be written: mailboxes, faxes, and
    numbers that may be called only as lines of the fleet."""
    return tuple(
        to.number
        for to in _targets(line)
        if not to.never
        and to.number != line.number
        and (to.kind is not Kind.NUMBER or to.why_refused(inside=False, countries=countries))
    )


def numbers_named(document: Mapping[str, Any], numbering: Numbering) -> tuple[str, ...]:
    """The other numbers that the forwards of a document name. `check_write` needs their lines.

    Raises:
        DocumentError: the document is invalid.
    """
    line = load_line(encode_document(document), None, numbering)
    named = (to.number for to in _targets(line) if not to.never)
    return tuple(dict.fromkeys(n for n in named if n != line.number))


def names_used(line: Line) -> tuple[set[str], set[str]]:
    """The calendars and the lists of its fleet that forwards of a line and of its profiles name,
    and the choice of a profile."""
    calendars = {use.when.calendar for use in line.profile if use.when is not None}
    calendars -= line.calendars.keys()
    lists = set()
    for each in (line, *line.profiles.values()):
        for _, forward in each.all_forwards():
            if forward.when is not None and forward.when.calendar not in line.calendars:
                calendars.add(forward.when.calendar)
            if forward.callers is not None and forward.callers.name not in line.lists:
                lists.add(forward.callers.name)
    return calendars, lists - {""}


def canonical(document: Mapping[str, Any], line: Line) -> dict[str, Any]:
    """The document with the numbers of the line and of targets in E.164, and everything else
    unchanged."""
    result = {**_canonical_part(document, line), "number": line.number}
    if line.profiles:
        result["profiles"] = {
            name: _canonical_part(document["profiles"][name], profile)
            for name, profile in line.profiles.items()
        }
    return result


def _canonical_part(document: Mapping[str, Any], line: Line) -> dict[str, Any]:
    """What a profile may have too."""
    result = dict(document)
    if line.forwards:
        forwards = dict(result["forwards"])
        for condition in line.forwards:
            stated, read = forwards[condition.value], line.all_of(condition)
            if isinstance(stated, list):
                pairs = zip(stated, read, strict=True)
                forwards[condition.value] = [_canonical(one, forward) for one, forward in pairs]
            else:
                forwards[condition.value] = _canonical(stated, read[0])
        result["forwards"] = forwards
    if line.also_ring:
        result["also_ring"] = _with_numbers(result["also_ring"], line.also_ring)
    return result


def changed_part(document: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The document with only those forwards that are on and are not so in `before`; the others of a
    list are off, so that places stay. Without what rings beside the line, and its offer, if those
    do not change. Problems of what does not change prevent no change."""
    old, changed = before.get("forwards") or {}, {}
    for condition, stated in (document.get("forwards") or {}).items():
        was = old.get(condition)
        if isinstance(stated, list):
            known = was if isinstance(was, list) else [was]
            fresh = [_is_on(each) and each not in known for each in stated]
            if any(fresh):
                changed[condition] = [
                    each if is_new else {"on": False}
                    for each, is_new in zip(stated, fresh, strict=True)
                ]
        elif _is_on(stated) and stated != was:
            changed[condition] = stated
    part = {**document, "forwards": changed}
    for name in ("also_ring", "offer"):
        if part.get(name) == before.get(name):
            part.pop(name, None)
    return with_changed_profiles(part, before)


def with_changed_profiles(document: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The document with only the changed part of each profile, and `profile` only if it is not
    so in `before`."""
    part = dict(document)
    if part.get("profile") == before.get("profile"):
        part.pop("profile", None)
    if part.get("profiles"):
        old = before.get("profiles") or {}
        part["profiles"] = {
            name: changed_part(profile, old.get(name) or {})
            for name, profile in part["profiles"].items()
        }
    return part


def _is_on(forward: Any) -> bool:
    return isinstance(forward, Mapping) and bool(forward.get("on"))


def _targets(line: Line) -> Iterator[Destination]:
    for each in (line, *line.profiles.values()):
        for _, forward in each.all_forwards():
            yield from forward.destinations
        yield from each.also_ring


def _forwards(line: Line) -> Iterator[tuple[Condition, int, Forward]]:
    """The forwards of a line, each with its place in the list of its condition."""
    for condition in line.forwards:
        for place, forward in enumerate(line.all_of(condition)):
            yield condition, place, forward


def _path(document: Mapping[str, Any], condition: Condition, place: int) -> str:
    """The path of a forward in the document, for errors."""
    is_list = isinstance(document["forwards"][condition.value], list)
    return f"forwards.{condition}[{place}]" if is_list else f"forwards.{condition}"


def _path_of_target(
    document: Mapping[str, Any], condition: Condition, place: int, number: int
) -> str:
    stated = document["forwards"][condition.value]
    to = (stated[place] if isinstance(stated, list) else stated)["to"]
    which = f"[{number}]" if isinstance(to, list) else ""
    return f"{_path(document, condition, place)}.to{which}.number"


def _canonical(stated: Mapping[str, Any], forward: Forward) -> Mapping[str, Any]:
    to = stated.get("to")
    if isinstance(to, list):
        return {**stated, "to": _with_numbers(to, forward.targets)}
    if to and forward.to and to.get("number") is not None:
        return {**stated, "to": {**to, "number": forward.to.number}}
    return stated


def _with_numbers(
    stated: Sequence[Mapping[str, Any]], read: Sequence[Destination]
) -> list[Mapping[str, Any]]:
    return [
        {**one, "number": to.number} if one.get("number") is not None else one
        for one, to in zip(stated, read, strict=True)
    ]


def _wrong_target(
    line: Line, to: Destination, others: Others, countries: frozenset[str] | None
) -> str | None:
    target = others.get(to.number) if not to.never else None
    inside = to.number == line.number or (target is not None and target.fleet == line.fleet)
    refused = to.why_refused(inside, countries)
    if refused is not None:
        return _REFUSED[refused].format(country=to.country or "no country", fleet=line.fleet)
    if to.number == line.number:
        return None if to.kind is Kind.VOICEMAIL else "is the line itself"
    if to.kind is Kind.NUMBER:
        # A line of the fleet, or any outside number; another fleet's line is outside too.
        return None
    if target is None:
        return f"is no line of ours, so it has no {to.kind}"
    if target.fleet != line.fleet:
        return f"is not a line of fleet {line.fleet}"
    if to.kind is Kind.FAX and not target.offer.fax:
        return "is a line without the fax offer"
    return None
