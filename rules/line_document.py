"""The only decoder of a line's document.

README, "The rules", has the document. All readers use `load_line`, which checks the document by
itself. `rules.validate` adds the checks that need other lines.
"""

from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from rules.document import decode_document
from rules.model import (
    Billing,
    Condition,
    Credentials,
    Destination,
    DocumentError,
    Forward,
    Kind,
    Line,
    Offer,
)
from rules.notify import Notify, what_is_wrong
from rules.numbers import NumberError, Numbering, Recognised

_Text = Annotated[str, Meta(min_length=1)]


class _To(msgspec.Struct):
    kind: Kind
    number: str | None = None


class _Forward(msgspec.Struct):
    on: bool
    to: _To | None = None
    after_s: Annotated[int, Meta(ge=5, le=60)] | None = None


class _Forwards(msgspec.Struct):
    unconditional: _Forward | None = None
    busy: _Forward | None = None
    no_answer: _Forward | None = None
    unreachable: _Forward | None = None


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
    return Line(
        number=own,
        fleet=document.fleet,
        label=document.label or "",
        max_calls=document.max_calls,
        suspended=document.suspended,
        offer=_offer(offer.fax, offer.mobile, offer.mobile_hours or 0),
        credentials=Credentials(given.user, given.ha1, given.ha1_sha256 or "") if given else None,
        forwards=_forwards(document.forwards or _Forwards(), own, numbering),
    )


def _forwards(given: _Forwards, own: str, numbering: Numbering) -> dict[Condition, Forward]:
    forwards = {}
    for condition in Condition:
        forward: _Forward | None = getattr(given, condition.value)
        if forward is None:
            continue
        to = None
        if forward.to is not None:
            to = _destination(f"forwards.{condition}.to.number", forward.to, own, numbering)
        if forward.on and to is None:
            raise DocumentError(f"forwards.{condition}.to", None, "is needed when it is on")
        forwards[condition] = Forward(forward.on, to, forward.after_s)
    return forwards


def _destination(path: str, to: _To, own: str, numbering: Numbering) -> Destination:
    if to.number is None:
        # "voicemail" alone is the line's own; a fax or a number must be given.
        if to.kind is not Kind.VOICEMAIL:
            raise DocumentError(path, None, f"is needed for kind {to.kind}")
        return Destination(to.kind, own)
    if to.kind is Kind.VOICEMAIL and to.number == own:
        return Destination(to.kind, own)
    try:
        found = numbering.recognise(to.number)
    except NumberError as error:
        raise DocumentError(path, to.number, error.problem) from None
    tariff = tariff_of(found, numbering.country_of(own))
    return Destination(to.kind, found.number, found.mobile, found.refused, found.country, tariff)


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
