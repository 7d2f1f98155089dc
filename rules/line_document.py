"""The only decoder of a line's document.

README, "The rules", has the document. All readers use `load_line`, which checks the document by
itself. `rules.validate` adds the checks that need other lines.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rules.document import decode_document
from rules.forward_document import ForwardsDocument, Targets, read_also_ring, read_forwards
from rules.model import (
    Credentials,
    DocumentError,
    Line,
    Offer,
    ProfileUse,
)
from rules.notify import Notify, what_is_wrong
from rules.numbers import NumberError, Numbering
from rules.shared_document import (
    CalendarDocument,
    calendars_of,
    check_name,
    lists_of,
    read_until,
    read_when,
)
from rules.switches import no_profile

_Text = Annotated[str, Meta(min_length=1)]


class _Profile(msgspec.Struct):
    """What a profile replaces as a whole while it is used."""

    forwards: ForwardsDocument | None = None
    also_ring: Targets | None = None
    do_not_disturb: bool = False


class _ProfileUse(msgspec.Struct):
    use: str
    when: str | None = None
    until: str | None = None


_ProfileUses = Annotated[list[_ProfileUse], Meta(min_length=1)]


class _Offer(msgspec.Struct):
    fax: bool = False
    mobile: Literal["none", "unlimited", "hours"] = "none"
    mobile_hours: Annotated[float, Meta(ge=0, le=744)] | None = None


class _Credentials(msgspec.Struct):
    user: _Text
    ha1: _Text
    ha1_sha256: str | None = None


class LineDocument(msgspec.Struct):
    """The fields of a line document that are read."""

    number: str
    fleet: _Text
    label: str | None = None
    max_calls: Annotated[int, Meta(ge=1)] | None = None
    suspended: bool = False
    offer: _Offer | None = None
    credentials: _Credentials | None = None
    forwards: ForwardsDocument | None = None
    notify: Notify | None = None
    also_ring: Targets | None = None
    do_not_disturb: bool = False
    calendars: dict[str, CalendarDocument] | None = None
    lists: dict[str, list[str]] | None = None
    profiles: dict[str, _Profile] | None = None
    profile: str | _ProfileUses | None = None


_decoder = msgspec.json.Decoder(LineDocument)


def load_line(raw: bytes | str, number: str | None, numbering: Numbering) -> Line:
    """Decode a line document and convert every number in it to E.164.

    Unknown fields are ignored. A target that is refused (premium, short, not valid, in a country
    that is not allowed) does not make the document invalid: its forward counts as off at call time.

    Args:
        raw: the JSON text, at most 64 KiB.
        number: the number of the key it was stored under; None takes the document's own.

    Raises:
        DocumentError: naming the field and its value.
    """
    document = decode_document(_decoder, raw)
    if document.notify is not None and (wrong := what_is_wrong(document.notify, of_fleet=False)):
        raise DocumentError(*wrong)
    own = _read("number", document.number, numbering)
    if number is not None and own != number:
        raise DocumentError("number", document.number, f"differs from the key's {number}")
    offer = document.offer or _Offer()
    given = document.credentials
    more = _switched(document, "", own, numbering)
    if document.calendars:
        more["calendars"] = calendars_of(document.calendars, numbering)
    if document.lists:
        more["lists"] = lists_of(document.lists, numbering)
    line = Line(
        number=own,
        fleet=document.fleet,
        label=document.label or "",
        max_calls=document.max_calls,
        suspended=document.suspended,
        offer=_offer(offer.fax, offer.mobile, offer.mobile_hours or 0),
        credentials=Credentials(given.user, given.ha1, given.ha1_sha256 or "") if given else None,
        **more,
    )
    if not document.profiles and document.profile is None:
        return line
    return _with_profiles(line, document, numbering)


def _switched(
    given: LineDocument | _Profile, path: str, own: str, numbering: Numbering
) -> dict[str, Any]:
    """The attributes of a line that a profile replaces; those that are empty are left out."""
    forwards, rules = read_forwards(path, given.forwards or ForwardsDocument(), own, numbering)
    found: dict[str, Any] = {"forwards": forwards, "do_not_disturb": given.do_not_disturb}
    if rules:
        found["rules"] = rules
    if given.also_ring:
        found["also_ring"] = read_also_ring(f"{path}also_ring", given.also_ring, own, numbering)
    return found


def _with_profiles(line: Line, document: LineDocument, numbering: Numbering) -> Line:
    """The line with its profiles."""
    profiles = {}
    for name, given in (document.profiles or {}).items():
        check_name(f"profiles.{name}", name)
        parts = _switched(given, f"profiles.{name}.", line.number, numbering)
        profiles[name] = replace(line, **{"rules": {}, "also_ring": (), **parts})
    return replace(line, profiles=profiles, profile=_uses(document.profile, profiles))


def _uses(
    given: str | list[_ProfileUse] | None, profiles: Mapping[str, Line]
) -> tuple[ProfileUse, ...]:
    """Which profiles are used. Raises DocumentError for one that the line does not have."""
    if given is None:
        return ()
    if isinstance(given, str):
        return (ProfileUse(_known("profile", given, profiles)),)
    return tuple(
        ProfileUse(
            _known(f"profile[{place}].use", each.use, profiles),
            None if each.when is None else read_when(f"profile[{place}].when", each.when),
            None if each.until is None else read_until(f"profile[{place}].until", each.until),
        )
        for place, each in enumerate(given)
    )


def _known(path: str, name: str, profiles: Mapping[str, Line]) -> str:
    if name not in profiles:
        raise DocumentError(path, name, no_profile(profiles))
    return name


def _read(path: str, text: str, numbering: Numbering) -> str:
    try:
        return numbering.normalise(text)
    except NumberError as error:
        raise DocumentError(path, text, error.problem) from None


@lru_cache(256)
def _offer(fax: bool, mobile: Literal["none", "unlimited", "hours"], hours: float) -> Offer:
    # Lines share a few offers: one object per offer, not per line.
    return Offer(fax, mobile, hours)
