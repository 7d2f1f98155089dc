"""E.164: normalise numbers, recognise mobiles, refuse numbers that may never be targets.

The `phonenumbers` library is used when a rule is written or loaded (forwarding-rules.md 4). The
call path only uses `Numbering.quick`, a bounded cache in front of it.

A network that routes digit by digit stops at the first complete number, so a premium number with
extra digits is a premium number. Therefore a target is refused if any prefix of it is premium or
shared cost in any plan of its country code, or if the whole number is not valid.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

import phonenumbers
from phonenumbers import (
    PhoneMetadata,
    PhoneNumberFormat,
    PhoneNumberType,
    ValidationResult,
    shortnumberinfo,
)

from rules.plan import NO_COUNTRY, begins, known_french_mobile, plan_of, tariff_of_code

_SCHEME = re.compile(r"(?i)(tel|sips?):")
_SEPARATORS = re.compile("[ \u00a0\u2009\u202f.()/-]")
_DIGITS = re.compile(r"\+?[0-9]{1,20}")
# The French numbering plan: 06 and 07 are mobiles, whatever ranges the library has today, and also
# with extra digits, which a network that reads digit by digit never reads.
_FRENCH_MOBILE = re.compile(r"\+33[67]")

_EXTENSION = re.compile(r"(?i);(?:ext|isub)=")
# The library's pattern of French landlines is coarse. No town has numbers in 01 1 (its geographic
# data say so), and they begin like 112, 115, 118 xxx and 119.
_FRENCH_LIKE_SHORT = re.compile(r"\+3311")
_LONGEST_TEXT = 128
_LONGEST_SHORT_NUMBER = 6
_LONGEST_E164 = 15  # digits (ITU-T E.164 6.2.1)
_CACHED_NUMBERS = 65_536

REFUSALS = ("premium", "shared_cost", "emergency", "short", "invalid", "country")
"""Why a number may not be a target: its kind, or it is not valid for the library (`invalid`), or
its country is not in `numbering.forward_countries` (`country`)."""
OUTSIDE_ONLY = frozenset({"invalid", "country"})
"""Those that do not apply to a line of the fleet, because a call to it stays inside the engine."""

_PROBLEMS = {
    ValidationResult.INVALID_COUNTRY_CODE: "has no known country code",
    ValidationResult.TOO_SHORT: "is too short to be a number",
    ValidationResult.TOO_LONG: "is too long to be a number",
    ValidationResult.INVALID_LENGTH: "does not have the length of a number",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "is a local number without its area code",
}


class NumberError(ValueError):
    """A text is not a telephone number.

    Attributes:
        value: the given text.
        problem: what is wrong with it, as a clause that follows the name of a field.
    """

    def __init__(self, value: str, problem: str) -> None:
        super().__init__(f"{problem} (got {value!r})")
        self.value = value
        self.problem = problem


class Recognised(NamedTuple):
    """What is known about a target.

    Attributes:
        number: E.164 with +, or the bare digits of a short number.
        mobile: calls to it are calls to a mobile (forwarding-rules.md 4).
        refused: why it may not be a target, one of REFUSALS; None if it may.
        country: ISO 3166 code of its country, NO_COUNTRY when it has none; "" for a short number.
        tariff: "satellite", "international_network" or "personal", whatever its country; else "".
    """

    number: str
    mobile: bool
    refused: str | None
    country: str = ""
    tariff: str = ""


class Numbering:
    """The numbering plan of one country.

    Args:
        country: ISO 3166 code such as "FR"; national numbers are read in its plan.
        also_valid: prefixes in E.164 with +, such as "+33700": numbers with such a prefix are valid
            although the library does not have their range yet. They do not admit a premium range.
        forward_countries: the countries of allowed targets, NO_COUNTRY for numbers of none; None =
            all.
        timezone: IANA name: the time zone of calendars that name none.

    Raises:
        ValueError: the country is not known.
    """

    def __init__(
        self,
        country: str,
        also_valid: Collection[str] = (),
        forward_countries: Collection[str] | None = None,
        timezone: str = "UTC",
    ) -> None:
        code = phonenumbers.country_code_for_region(country)
        if not code:
            raise ValueError(f"is no known country (got {country!r})")
        self.country = country
        self.timezone = timezone
        self.forward_countries = None if forward_countries is None else frozenset(forward_countries)
        self._also_valid = tuple(also_valid)
        self._code = code
        self._own = _plain_form(country, code)
        self._is_alone = len(plan_of(code).regions) == 1
        self._quick = lru_cache(_CACHED_NUMBERS)(self._number_or_none)
        self._classify = lru_cache(_CACHED_NUMBERS)(self._ask_library)

    def normalise(self, text: str) -> str:
        """The E.164 form, with +, of a number as people and programs write it.

        Accepts "+33...", "0033...", national "0972...", visual separators, and tel:, sip: and
        sips: URIs (the user part counts, parameters are dropped).

        Raises:
            NumberError: the text is not a number, or is a short or emergency number, which has no
                E.164 form.
        """
        number, code = self._read(text)
        if not number.startswith("+"):
            raise NumberError(text, f"is {_article(self._short_kind(number, code))} number")
        return number

    def recognise(self, text: str) -> Recognised:
        """Everything a rule needs to know about a target.

        Short and emergency numbers are recognised and marked as refused, so that one such target
        does not make the whole line document invalid.

        Raises:
            NumberError: the text is no number at all.
        """
        if ";" in text and _EXTENSION.search(text):
            raise NumberError(text[:_LONGEST_TEXT], "has an extension, which cannot be dialled")
        number, code = self._read(text)
        if not number.startswith("+"):
            return Recognised(number, False, self._short_kind(number, code))
        found = self._classify(number)
        allowed = self.forward_countries
        if found.refused is None and allowed is not None and found.country not in allowed:
            return found._replace(refused="country")
        return found

    def country_of(self, e164: str) -> str:
        """The ISO 3166 code of a line's own number; that of this plan when it has none."""
        if self._is_alone and self._own is not None and self._own.fullmatch(e164):
            return self.country  # nearly every line; the library takes 20 us
        found = self._classify(e164).country
        return self.country if found == NO_COUNTRY else found

    def is_mobile(self, e164: str) -> bool:
        """Whether calls to this number are calls to a mobile. French mobiles are 06/07."""
        return self.recognise(e164).mobile

    def example(self) -> str:
        """E.164 of an unassigned number, for trying things out."""
        region = self.country
        made = phonenumbers.example_number_for_type(region, PhoneNumberType.FIXED_LINE)
        made = made or phonenumbers.example_number(region)
        assert made is not None
        return phonenumbers.format_number(made, PhoneNumberFormat.E164)

    def refusal(self, e164: str) -> str | None:
        """Why this number may not be a target, one of REFUSALS; None if it may."""
        return self.recognise(e164).refused

    def begins_whole(self, text: str) -> bool:
        """Whether a text begins like a complete number of this plan, by its trunk prefix. If it is
        too short, it lacks digits; without the prefix it would be a short number."""
        trunk = phonenumbers.ndd_prefix_for_region(self.country, True)
        return trunk is not None and _SEPARATORS.sub("", text).startswith(trunk)

    def quick(self, user: str) -> str | None:
        """E.164 of a user part from a SIP peer; None if it is not a number.

        For the call path: a bounded cache, so that a peer can neither fill the memory nor make
        the library parse the same text twice.
        """
        if len(user) > _LONGEST_TEXT:
            return None
        return self._quick(user)

    def _read(self, text: str) -> tuple[str, int]:
        """E.164 with +, or the bare digits of a short number; and its country code.

        Raises:
            NumberError: the text is no number at all.
        """
        digits = _digits(text)
        if self._own is not None and self._own.fullmatch(digits):
            return digits, self._code
        if not digits.startswith("+") and len(digits) <= _LONGEST_SHORT_NUMBER:
            return digits, self._code
        try:
            parsed = phonenumbers.parse(digits, self.country)
        except phonenumbers.NumberParseException as error:
            raise NumberError(text, "is no telephone number") from error
        national = phonenumbers.national_significant_number(parsed)
        code = parsed.country_code or 0
        e164 = f"+{code}{national}"
        verdict = phonenumbers.is_possible_number_with_reason(parsed)
        if len(national) > _LONGEST_SHORT_NUMBER and self._is_admitted(e164):
            return e164, code
        if verdict != ValidationResult.IS_POSSIBLE:
            if verdict == ValidationResult.TOO_SHORT and len(national) <= _LONGEST_SHORT_NUMBER:
                return national, code
            raise NumberError(text, _PROBLEMS.get(verdict, "is no telephone number"))
        own = self._own if code == self._code else None
        if own is not None and not own.fullmatch(e164):
            # The library takes a trunk prefix for a digit if one digit is missing after it.
            raise NumberError(text, _PROBLEMS[ValidationResult.TOO_SHORT])
        return e164, code

    def _is_admitted(self, e164: str) -> bool:
        return e164.startswith(self._also_valid) and len(e164) <= 1 + _LONGEST_E164

    def _number_or_none(self, user: str) -> str | None:
        try:
            return self.normalise(user)
        except NumberError:
            return None

    def _ask_library(self, e164: str) -> Recognised:
        if known_french_mobile().fullmatch(e164):
            # Most targets; asking the library would take longer than all the rest.
            return Recognised(e164, True, None, "FR")
        parsed = phonenumbers.parse(e164, None)
        national = phonenumbers.national_significant_number(parsed)
        code = parsed.country_code or 0
        plan = plan_of(code)
        kind = phonenumbers.number_type(parsed)
        if _FRENCH_LIKE_SHORT.match(e164):
            kind = PhoneNumberType.UNKNOWN
        country = plan.regions[0]
        if len(plan.regions) > 1:
            country = phonenumbers.region_code_for_number(parsed) or country
        return Recognised(
            f"+{code}{national}",  # a trunk prefix that was hidden behind another is gone
            kind == PhoneNumberType.MOBILE or _FRENCH_MOBILE.match(e164) is not None,
            self._why_refused(e164, code, national, kind),
            country,
            tariff_of_code(code, kind),
        )

    def _why_refused(self, e164: str, code: int, national: str, kind: int) -> str | None:
        plan = plan_of(code)
        # Zeros before a number that is not valid may be a trunk prefix too many.
        dialled = national.lstrip("0") if kind == PhoneNumberType.UNKNOWN else national
        if kind == PhoneNumberType.PREMIUM_RATE or begins(plan.premium, dialled):
            return "premium"
        if kind == PhoneNumberType.SHARED_COST or begins(plan.shared_cost, dialled):
            return "shared_cost"
        if kind != PhoneNumberType.UNKNOWN:
            return None
        # A complete number may begin like a short one; its trunk prefix distinguishes them.
        if len(national) <= _LONGEST_SHORT_NUMBER and begins(plan.short, national):
            return self._short_kind(national, code)
        return None if self._is_admitted(e164) else "invalid"

    def _short_kind(self, digits: str, code: int) -> str:
        for region in (self.country, *plan_of(code).regions):
            if shortnumberinfo.is_emergency_number(digits, region):
                return "emergency"
        return "short"


def _digits(text: str) -> str:
    """The digits of a number in a text or a URI, with a leading + if it has one."""
    if len(text) > _LONGEST_TEXT:
        raise NumberError(text[:_LONGEST_TEXT], "is too long to be a number")
    bare = text
    scheme = _SCHEME.match(text)
    if scheme:
        bare = unquote(text[scheme.end() :].partition("@")[0])
    bare = _SEPARATORS.sub("", bare.partition(";")[0])
    if not _DIGITS.fullmatch(bare):
        raise NumberError(text, "is no telephone number")
    return bare


def _plain_form(country: str, code: int) -> re.Pattern[str] | None:
    """A pattern for numbers of this country that are E.164 already and need no parsing.

    None for countries whose national prefix is more than a fixed text: there only the library can
    determine whether a prefix is still inside.
    """
    metadata = PhoneMetadata.metadata_for_region(country)
    if metadata is None or metadata.general_desc is None:
        return None
    prefix = metadata.national_prefix_for_parsing
    if prefix is not None and not prefix.isdigit():
        return None
    lengths = "|".join(f"[0-9]{{{n}}}" for n in metadata.general_desc.possible_length)
    guard = f"(?!{prefix})" if prefix else ""
    return re.compile(rf"\+{code}{guard}(?:{lengths})")


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
