"""A fleet: the settings that one customer's lines share, and the decoder of its document.

`fleet:<name>` is JSON: `{"name": "acme", "cap_seconds": 36000, "suspended": false}`. A fleet
without a document has no cap, is not suspended, and forwards wherever the engine does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rules.calendar import Calendar
from rules.callers import CallerList
from rules.document import decode_document, encode_document
from rules.model import DocumentError
from rules.notify import Notify, what_is_wrong
from rules.numbers import Numbering
from rules.plan import is_country
from rules.shared_document import CalendarDocument, calendars_of, lists_of

_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet's document.

    Attributes:
        cap_seconds: seconds out of plan and abroad (`rules.model.CAPPED`) that all its lines
            together may use in a month; None = any.
        suspended: all its lines are suspended.
        forward_countries: ISO 3166 codes of the countries of allowed targets, "001" for numbers of
            no country; None = all in `numbering.forward_countries`. Countries missing in that list
            stay refused.
        calendars: for the forwards of its lines.
        lists: lists of callers, for the same.
    """

    name: str
    label: str = ""
    cap_seconds: int | None = None
    suspended: bool = False
    forward_countries: frozenset[str] | None = None
    calendars: Mapping[str, Calendar] = field(default_factory=dict)
    lists: Mapping[str, CallerList] = field(default_factory=dict)


class FleetDocument(msgspec.Struct):
    """The fields of a fleet's document that are read."""

    name: str
    label: str | None = None
    cap_seconds: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    suspended: bool = False
    forward_countries: list[str] | None = None
    notify: Notify | None = None
    calendars: dict[str, CalendarDocument] | None = None
    lists: dict[str, list[str]] | None = None


_decoder = msgspec.json.Decoder(FleetDocument)


def is_name(text: str) -> bool:
    """Whether a fleet of this name can have a document, and usage of its own. Braces are not
    allowed, because they determine the node of a key in a Redis Cluster."""
    return bool(text) and len(text) <= _LONGEST_NAME and text.isprintable() and _is_plain(text)


def _is_plain(text: str) -> bool:
    return text == text.strip() and "{" not in text and "}" not in text


def load_fleet(raw: bytes | str, name: str | None, numbering: Numbering | None = None) -> Fleet:
    """Decode a fleet document. Unknown fields are ignored.

    Args:
        raw: the JSON text, at most 64 KiB.
        name: the name of the key it was stored under; None takes the document's own.
        numbering: reads the numbers of its lists, and has the time zone of calendars without one;
            None leaves both out, for readers that have no use for them.

    Raises:
        DocumentError: naming the field and its value.
    """
    document = decode_document(_decoder, raw)
    if not is_name(document.name):
        problem = f"expected 1 to {_LONGEST_NAME} printable characters without braces"
        raise DocumentError("name", document.name, problem)
    if name is not None and document.name != name:
        raise DocumentError("name", document.name, f"differs from the key's {name}")
    if document.notify is not None and (wrong := what_is_wrong(document.notify, of_fleet=True)):
        raise DocumentError(*wrong)
    countries = document.forward_countries
    for place, code in enumerate(countries or ()):
        if not is_country(code):
            path = f"forward_countries[{place}]"
            problem = "expected a country's two letters, such as FR, or 001 for no country"
            raise DocumentError(path, code, problem)
    return Fleet(
        document.name,
        document.label or "",
        document.cap_seconds,
        document.suspended,
        None if countries is None else frozenset(countries),
        {} if numbering is None else calendars_of(document.calendars, numbering),
        {} if numbering is None else lists_of(document.lists, numbering),
    )


def fleet_of(raw: bytes | str | None, name: str, numbering: Numbering) -> Fleet:
    """A stored fleet, for a check before a write; one without any settings if it has no document,
    or an invalid one. The engine checks again at each call."""
    try:
        return load_fleet(raw, name, numbering) if raw else Fleet(name)
    except DocumentError:
        return Fleet(name)


def check_fleet(
    document: Mapping[str, Any], numbering: Numbering, name: str | None = None
) -> Fleet:
    """Check a document before it is written and return the fleet that it describes. Raises
    DocumentError."""
    return load_fleet(encode_document(document), name, numbering)
