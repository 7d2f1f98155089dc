"""A line and its forwards: frozen data, and the only decoder of its document.

README, "The rules", has the document. All readers use `load_line`, which checks the document by
itself. `rules.validate` adds the checks that need other lines.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from rules.expected import expected
from rules.notify import Notify, what_is_wrong
from rules.numbers import OUTSIDE_ONLY, NumberError, Numbering, Recognised

_T = TypeVar("_T", bound=msgspec.Struct)

_LARGEST_DOCUMENT = 65_536
_LONGEST_VALUE_SHOWN = 80
_PLACE = re.compile(r"^(?P<problem>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")


class Condition(StrEnum):
    """When a forward applies, in order of precedence (forwarding-rules.md 1)."""

    UNCONDITIONAL = "unconditional"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    UNREACHABLE = "unreachable"


class Kind(StrEnum):
    """What a forward leads to, as the customer chose it."""

    VOICEMAIL = "voicemail"
    FAX = "fax"
    NUMBER = "number"


class Billing(StrEnum):
    """Who pays for a forwarded leg, and from what (forwarding-rules.md 4)."""

    FREE = "free"
    STANDARD = "standard"
    DEDUCTED = "deducted"
    OUT_OF_PLAN = "out_of_plan"
    INTERNATIONAL = "international"
    SATELLITE = "satellite"
    INTERNATIONAL_NETWORK = "international_network"
    PERSONAL = "personal"


CAPPED = (
    Billing.OUT_OF_PLAN,
    Billing.INTERNATIONAL,
    Billing.SATELLITE,
    Billing.INTERNATIONAL_NETWORK,
    Billing.PERSONAL,
)
"""The classes whose seconds count against a fleet's cap."""

FLEET_COUNTRIES = "fleet_countries"
"""The reason for a target whose country is not in the fleet's own list, in addition to
`rules.numbers.REFUSALS`."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a forward leads.

    Attributes:
        number: E.164 with +; the bare digits when the number is a short one (and refused).
        mobile: recognised when the rule is loaded, never on the call path.
        refused: why this number may not be a target, one of `rules.numbers.REFUSALS`.
        country: ISO 3166 code of its country, as in `rules.numbers.Recognised`.
        tariff: the class of a call there, whatever the line's plan; None: the plan decides.
    """

    kind: Kind
    number: str
    mobile: bool = False
    refused: str | None = None
    # These follow from the number, so they are not compared.
    country: str = field(default="", compare=False)
    tariff: Billing | None = field(default=None, compare=False)

    @property
    def never(self) -> bool:
        """The number may not be a target even if it is a line."""
        return self.refused is not None and self.refused not in OUTSIDE_ONLY

    def why_refused(self, inside: bool, countries: frozenset[str] | None) -> str | None:
        """Why it may not be a target: `refused`, or FLEET_COUNTRIES; None if it may.

        Args:
            inside: the number is a line of the fleet, so the call stays inside the engine.
            countries: the fleet's own list; None = it has none.
        """
        if self.never:
            return self.refused
        if inside or self.kind is not Kind.NUMBER:
            return None
        if self.refused is None and countries is not None and self.country not in countries:
            return FLEET_COUNTRIES
        return self.refused


@dataclass(frozen=True, slots=True)
class Forward:
    """One of the four forwards. `after_s`: seconds of ringing before no_answer, 5 to 60."""

    on: bool
    to: Destination | None
    after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What the line's subscription includes. `mobile_hours` a month, for `mobile` "hours"."""

    fax: bool = False
    mobile: Literal["none", "unlimited", "hours"] = "none"
    mobile_hours: float = 0

    @property
    def plan_s(self) -> int | None:
        """The plan to mobiles in whole seconds per month; None without such a plan."""
        return int(self.mobile_hours * 3600) if self.mobile == "hours" else None


@dataclass(frozen=True, slots=True)
class Credentials:
    """The hashes with which the registrar checks a REGISTER of this line: H(user:realm:password),
    by MD5 and optionally by SHA-256 (RFC 7616)."""

    user: str
    ha1: str = field(repr=False)
    ha1_sha256: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of ours. `forwards` holds only those the document has."""

    number: str
    fleet: str
    label: str = ""
    max_calls: int | None = None
    suspended: bool = False
    offer: Offer = Offer()
    credentials: Credentials | None = None
    forwards: Mapping[Condition, Forward] = field(default_factory=dict)

    @property
    def may_forward_ringing(self) -> bool:
        """Whether a call that rings this line may still be forwarded."""
        busy = self.forwards.get(Condition.BUSY)
        no_answer = self.forwards.get(Condition.NO_ANSWER)
        return bool((busy and busy.on) or (no_answer and no_answer.on))

    def refused_targets(
        self, inside: Container[str] = (), countries: frozenset[str] | None = None
    ) -> tuple[tuple[Condition, Destination, str], ...]:
        """The forwards that are on but count as off because of their number, with the reason.

        Args:
            inside: the numbers that are lines of the fleet. Without them a line of the fleet with
                an invalid number is included too.
            countries: the fleet's own list; None = it has none.
        """
        return tuple(
            (condition, to, refused)
            for condition, forward in self.forwards.items()
            if forward.on
            and (to := forward.to) is not None
            and (refused := to.why_refused(to.number in inside, countries)) is not None
        )

    def target_numbers(self) -> tuple[str, ...]:
        """The other numbers that are targets of forwards that are on, each once, by precedence."""
        named = (f.to.number for f in self.forwards.values() if f.on and f.to and not f.to.never)
        return tuple(dict.fromkeys(n for n in named if n != self.number))


class DocumentError(ValueError):
    """A document is refused.

    Attributes:
        field: the path of the field, such as "forwards.no_answer.after_s"; "document" for all.
        value: the value in the document; None if it is missing.
        problem: what is wrong with it.
    """

    def __init__(self, field: str, value: object, problem: str) -> None:
        self.field = field
        self.value = value
        self.problem = problem
        super().__init__(f"{field}: {problem} (got {_shown(value)})")


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


def decode_document(decoder: msgspec.json.Decoder[_T], raw: bytes | str) -> _T:
    """Decode a JSON document of at most 64 KiB. Raises DocumentError, naming the field."""
    if len(raw) > _LARGEST_DOCUMENT:
        raise DocumentError("document", f"{len(raw)} bytes", f"is over {_LARGEST_DOCUMENT} bytes")
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _named(str(error), raw, decoder.type) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        problem = "is nested too deeply" if isinstance(error, RecursionError) else "is not JSON"
        raise DocumentError("document", raw[:_LONGEST_VALUE_SHOWN], problem) from error


def encode_document(document: object) -> bytes:
    """Encode the document as JSON, so that there is one decoder and one wording of errors.

    Raises:
        DocumentError: it is not a JSON object, or cannot be encoded as one.
    """
    if not isinstance(document, Mapping):
        raise DocumentError("document", document, "is no JSON object")
    try:
        return msgspec.json.encode(document)
    except (TypeError, ValueError, UnicodeError, RecursionError) as error:
        raise DocumentError("document", None, f"cannot be JSON: {error}") from error


def _named(message: str, raw: bytes | str, kind: type[msgspec.Struct]) -> DocumentError:
    """Our error from msgspec's message, which ends in " - at `$.forwards.busy`"."""
    place = _PLACE.match(message)
    problem, path = (place["problem"], place["path"] or "") if place else (message, "")
    missing = _MISSING.match(problem)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
        return DocumentError(path, None, "is required")
    return DocumentError(path or "document", _value_at(path, raw), expected(kind, path))


def _value_at(path: str, raw: bytes | str) -> object:
    try:
        value: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return raw[:_LONGEST_VALUE_SHOWN]
    for name in path.split(".") if path else ():
        if not isinstance(value, dict):
            return value
        value = value.get(name)
    return value


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE_SHOWN else text[: _LONGEST_VALUE_SHOWN - 3] + "..."
