"""The only decoder of a line's document.

README, "The rules", has the document. All readers use `load_line`, which checks the document by
itself. `rules.validate` adds the checks that need other lines.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rules.callers import Callers
from rules.document import decode_document
from rules.model import (
    RING_S,
    Billing,
    Condition,
    Credentials,
    Destination,
    DocumentError,
    Forward,
    Kind,
    Line,
    Offer,
    ProfileUse,
    Ringing,
)
from rules.notify import Notify, what_is_wrong
from rules.numbers import NumberError, Numbering, Recognised
from rules.shared_document import (
    CalendarDocument,
    calendars_of,
    check_name,
    lists_of,
    read_until,
    read_when,
)

_Text = Annotated[str, Meta(min_length=1)]


class _Kind(StrEnum):
    VOICEMAIL = "voicemail"
    FAX = "fax"
    NUMBER = "number"
    REJECT = "reject"


_KINDS = {
    _Kind.VOICEMAIL: Kind.VOICEMAIL,
    _Kind.FAX: Kind.FAX,
    _Kind.NUMBER: Kind.NUMBER,
}


class _To(msgspec.Struct):
    kind: _Kind
    number: str | None = None
    ring_s: Annotated[int, Meta(ge=5, le=60)] | None = None


_Targets = Annotated[list[_To], Meta(min_length=1, max_length=10)]


class _Forward(msgspec.Struct):
    on: bool
    to: _To | _Targets | None = None
    after_s: Annotated[int, Meta(ge=5, le=60)] | None = None
    ring: Ringing | None = None
    when: str | None = None
    until: str | None = None
    callers: str | None = None


_Rules = Annotated[list[_Forward], Meta(min_length=1)]


class _Forwards(msgspec.Struct):
    unconditional: _Forward | _Rules | None = None
    busy: _Forward | _Rules | None = None
    no_answer: _Forward | _Rules | None = None
    unreachable: _Forward | _Rules | None = None


class _Profile(msgspec.Struct):
    """What a profile replaces as a whole while it is used."""

    forwards: _Forwards | None = None
    also_ring: _Targets | None = None
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
    forwards: _Forwards | None = None
    notify: Notify | None = None
    also_ring: _Targets | None = None
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
    forwards, rules = _forwards(path, given.forwards or _Forwards(), own, numbering)
    found: dict[str, Any] = {"forwards": forwards, "do_not_disturb": given.do_not_disturb}
    if rules:
        found["rules"] = rules
    if given.also_ring:
        found["also_ring"] = _also_ring(f"{path}also_ring", given.also_ring, own, numbering)
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
        known = ", ".join(sorted(profiles)) or "it has none"
        raise DocumentError(path, name, f"is no profile of the line: {known}")
    return name


def _forwards(
    prefix: str, given: _Forwards, own: str, numbering: Numbering
) -> tuple[dict[Condition, Forward], dict[Condition, tuple[Forward, ...]]]:
    """The first forward of each condition, and all of those that are no plain single forward."""
    forwards, rules = {}, {}
    for condition in Condition:
        stated: _Forward | list[_Forward] | None = getattr(given, condition.value)
        if stated is None:
            continue
        path = f"{prefix}forwards.{condition.value}"
        if isinstance(stated, list):
            several = tuple(
                _forward(f"{path}[{place}]", each, own, numbering)
                for place, each in enumerate(stated)
            )
            forwards[condition], rules[condition] = several[0], several
            continue
        forward = forwards[condition] = _forward(path, stated, own, numbering)
        if not forward.is_plain:
            rules[condition] = (forward,)
    return forwards, rules


def _forward(path: str, given: _Forward, own: str, numbering: Numbering) -> Forward:
    to: Destination | None = None
    targets: tuple[Destination, ...] = ()
    rejects = False
    if isinstance(given.to, list):
        targets = tuple(
            _one_of_several(f"{path}.to[{place}]", each, own, numbering)
            for place, each in enumerate(given.to)
        )
        to = targets[0]
    elif given.to is not None and given.to.kind is _Kind.REJECT:
        if given.to.number is not None:
            raise DocumentError(f"{path}.to.number", given.to.number, "a rejection has no number")
        rejects = True
    elif given.to is not None and given.to.ring_s is not None:
        to = _one_of_several(f"{path}.to", given.to, own, numbering)
        targets = (to,)
    elif given.to is not None:
        to = _destination(f"{path}.to.number", given.to, own, numbering)
    if given.on and to is None and not rejects:
        raise DocumentError(f"{path}.to", None, "is needed when it is on")
    always = given.when is None and given.until is None and given.callers is None
    if always and not targets and not rejects:
        return Forward(given.on, to, given.after_s)
    return Forward(
        given.on,
        to,
        given.after_s,
        targets,
        given.ring or Ringing.IN_TURN,
        None if given.when is None else read_when(f"{path}.when", given.when),
        None if given.until is None else read_until(f"{path}.until", given.until),
        None if given.callers is None else _callers(f"{path}.callers", given.callers),
        rejects,
    )


def _callers(path: str, text: str) -> Callers:
    try:
        return Callers.read(text)
    except ValueError as error:
        raise DocumentError(path, text, str(error)) from None


def _one_of_several(path: str, given: _To, own: str, numbering: Numbering) -> Destination:
    """One of the targets of a list, with its time to ring."""
    if given.kind is _Kind.REJECT:
        raise DocumentError(f"{path}.kind", given.kind, "a rejection is no target of a list")
    to = _destination(f"{path}.number", given, own, numbering)
    return replace(to, ring_s=given.ring_s or RING_S)


def _also_ring(
    path: str, given: list[_To], own: str, numbering: Numbering
) -> tuple[Destination, ...]:
    for place, each in enumerate(given):
        if each.kind is not _Kind.NUMBER:
            problem = "expected number: only a phone can ring beside those of the line"
            raise DocumentError(f"{path}[{place}].kind", each.kind, problem)
    return tuple(
        _one_of_several(f"{path}[{place}]", each, own, numbering)
        for place, each in enumerate(given)
    )


def _destination(path: str, to: _To, own: str, numbering: Numbering) -> Destination:
    kind = _KINDS[to.kind]
    if to.number is None:
        # "voicemail" alone is the line's own; a fax or a number must be given.
        if kind is not Kind.VOICEMAIL:
            raise DocumentError(path, None, f"is needed for kind {kind}")
        return Destination(kind, own)
    if kind is Kind.VOICEMAIL and to.number == own:
        return Destination(kind, own)
    try:
        found = numbering.recognise(to.number)
    except NumberError as error:
        raise DocumentError(path, to.number, error.problem) from None
    tariff = tariff_of(found, numbering.country_of(own))
    return Destination(kind, found.number, found.mobile, found.refused, found.country, tariff)


def tariff_of(target: Recognised, country: str) -> Billing | None:
    """The class of a call from a line of a country to a number that no plan includes: satellites,
    global networks, personal numbers and numbers abroad. None if the line's plan decides."""
    if target.tariff:
        return Billing(target.tariff)
    if target.country and target.country != country:
        return Billing.INTERNATIONAL
    return None


def _read(path: str, text: str, numbering: Numbering) -> str:
    try:
        return numbering.normalise(text)
    except NumberError as error:
        raise DocumentError(path, text, error.problem) from None


@lru_cache(256)
def _offer(fax: bool, mobile: Literal["none", "unlimited", "hours"], hours: float) -> Offer:
    # Lines share a few offers: one object per offer, not per line.
    return Offer(fax, mobile, hours)
