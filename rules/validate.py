"""Checks a whole line document before it is written, together with the other lines.

The engine is more lenient when it reads documents (`line_document.load_line`), and repeats these
checks at call time, because another line may have changed since (README, "The rules").
"""

from collections.abc import Mapping
from typing import Any

from rules.document import encode_document
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
    countries: frozenset[str] | None = None,
) -> Line:
    """Check a document before it is written and return the line that it describes.

    Forwards that are off are checked too, so that turning one on cannot make an invalid forward
    active.

    Args:
        document: the decoded JSON.
        others: the line of each number that the document's forwards name (`numbers_named`); None or
            absent if it is not one of our lines.
        number: the number of the key to write, in E.164; None = the document's own.
        countries: `forward_countries` of the line's fleet; None = it has none.

    Raises:
        DocumentError: naming the field and its value.
    """
    line = load_line(encode_document(document), number, numbering)
    check_line(line, document, others, countries)
    return line


def check_line(
    line: Line,
    document: Mapping[str, Any],
    others: Others,
    countries: frozenset[str] | None = None,
) -> None:
    """The same for a decoded document; `line` is what it describes."""
    if line.offer.mobile == "hours" and line.offer.mobile_hours <= 0:
        offer = document.get("offer")
        given = offer.get("mobile_hours") if isinstance(offer, Mapping) else None
        raise DocumentError("offer.mobile_hours", given, "must be above 0 for mobile hours")
    for condition, forward in line.forwards.items():
        _check_forward(line, condition, forward, others, countries)


def lines_needed(line: Line, countries: frozenset[str] | None = None) -> tuple[str, ...]:
    """The other numbers whose lines decide whether a document may be written: mailboxes, faxes, and
    numbers that may be called only as lines of the fleet."""
    return tuple(
        to.number
        for forward in line.forwards.values()
        if (to := forward.to) is not None
        and not to.never
        and to.number != line.number
        and (to.kind is not Kind.NUMBER or to.why_refused(inside=False, countries=countries))
    )


def numbers_named(document: Mapping[str, Any], numbering: Numbering) -> tuple[str, ...]:
    """The other numbers that the forwards of a document name. `check_write` needs their lines.

    Raises:
        DocumentError: the document is invalid.
    """
    line = load_line(encode_document(document), None, numbering)
    named = (f.to.number for f in line.forwards.values() if f.to and not f.to.never)
    return tuple(dict.fromkeys(n for n in named if n != line.number))


def canonical(document: Mapping[str, Any], line: Line) -> dict[str, Any]:
    """The document with its numbers in E.164 and everything else unchanged."""
    result = {**document, "number": line.number}
    if line.forwards:
        forwards = dict(result["forwards"])
        for condition, forward in line.forwards.items():
            to = forwards[condition.value].get("to")
            if to and forward.to and to.get("number") is not None:
                to = {**to, "number": forward.to.number}
                forwards[condition.value] = {**forwards[condition.value], "to": to}
        result["forwards"] = forwards
    return result


def _check_forward(
    line: Line,
    condition: Condition,
    forward: Forward,
    others: Others,
    countries: frozenset[str] | None,
) -> None:
    if forward.to is None:
        return
    field = f"forwards.{condition}.to.number"
    problem = _wrong_target(line, forward.to, others, countries)
    if problem is not None:
        raise DocumentError(field, forward.to.number, problem)


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
