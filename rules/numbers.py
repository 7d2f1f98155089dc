"""E.164 in and out: normalising numbers, telling mobiles, refusing what may never be a target.

The `phonenumbers` library is asked when a rule is written or loaded (domain.md 4). The call path
only uses `Numbering.quick`, which is a bounded cache in front of it.
"""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

import phonenumbers
from phonenumbers import PhoneMetadata, PhoneNumberType, ValidationResult, shortnumberinfo

_SCHEME = re.compile(r"(?i)(tel|sips?):")
_SEPARATORS = re.compile("[ \u00a0\u2009\u202f.()/-]")
_DIGITS = re.compile(r"\+?[0-9]{1,20}")
# The French numbering plan: 06 and 07 are mobiles, whatever ranges the library knows today.
_FRENCH_MOBILE = re.compile(r"\+33[67][0-9]{8}")

_LONGEST_TEXT = 128
_LONGEST_SHORT_NUMBER = 6
_CACHED_NUMBERS = 65_536

_PROBLEMS = {
    ValidationResult.INVALID_COUNTRY_CODE: "has no known country code",
    ValidationResult.TOO_SHORT: "is too short to be a number",
    ValidationResult.TOO_LONG: "is too long to be a number",
    ValidationResult.INVALID_LENGTH: "does not have the length of a number",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "is a local number without its area code",
}


class NumberError(ValueError):
    """A text that is no telephone number.

    Attributes:
        value: the text as it was given.
        problem: what is wrong with it, as a clause that follows the name of a field.
    """

    def __init__(self, value: str, problem: str) -> None:
        super().__init__(f"{problem} (got {value!r})")
        self.value = value
        self.problem = problem


class Recognised(NamedTuple):
    """What is known about a target once it has been read.

    Attributes:
        number: E.164 with +, or the bare digits of a short number.
        mobile: calls to it are calls to a mobile (domain.md 4).
        refused: why it can never be a target: "premium", "emergency" or "short"; None if it can.
    """

    number: str
    mobile: bool
    refused: str | None


class Numbering:
    """The numbering plan of one country.

    Args:
        country: ISO 3166 code such as "FR"; national numbers are read in its plan.

    Raises:
        ValueError: the country is not known.
    """

    def __init__(self, country: str) -> None:
        code = phonenumbers.country_code_for_region(country)
        if not code:
            raise ValueError(f"is no known country (got {country!r})")
        self.country = country
        self._code = code
        self._own = _plain_form(country, code)
        self._quick = lru_cache(_CACHED_NUMBERS)(self._number_or_none)
        self._classify = lru_cache(_CACHED_NUMBERS)(self._ask_library)

    def normalise(self, text: str) -> str:
        """The E.164 form, with +, of a number as people and programs write it.

        Accepts "+33...", "0033...", national "0972...", visual separators, and tel:, sip: and
        sips: URIs (the user part counts, parameters are dropped).

        Raises:
            NumberError: the text is no number, or a short or emergency number, which has no
                E.164 form.
        """
        number = self._read(text)
        if not number.startswith("+"):
            raise NumberError(text, f"is {_article(self._short_kind(number))} number")
        return number

    def recognise(self, text: str) -> Recognised:
        """Everything a rule needs to know about a target.

        Short and emergency numbers are recognised, and marked as refused, so that one such
        target does not make a whole line document unreadable.

        Raises:
            NumberError: the text is no number at all.
        """
        number = self._read(text)
        if number.startswith("+"):
            return Recognised(number, *self._classify(number))
        return Recognised(number, False, self._short_kind(number))

    def is_mobile(self, e164: str) -> bool:
        """Whether calls to this number are calls to a mobile. French mobiles are 06/07."""
        return self.recognise(e164).mobile

    def refusal(self, e164: str) -> str | None:
        """Why this number can never be a target: "premium", "emergency", "short", or None."""
        return self.recognise(e164).refused

    def quick(self, user: str) -> str | None:
        """E.164 of what a SIP peer sends as a user part; None when it is not a number.

        For the call path: a bounded cache, so that a peer can neither fill the memory nor make
        the library parse the same text twice.
        """
        if len(user) > _LONGEST_TEXT:
            return None
        return self._quick(user)

    def _read(self, text: str) -> str:
        """E.164 with +, or the bare digits of a short number.

        Raises:
            NumberError: the text is no number at all.
        """
        digits = _digits(text)
        if self._own is not None and self._own.fullmatch(digits):
            return digits
        if not digits.startswith("+") and len(digits) <= _LONGEST_SHORT_NUMBER:
            return digits
        try:
            parsed = phonenumbers.parse(digits, self.country)
        except phonenumbers.NumberParseException as error:
            raise NumberError(text, "is no telephone number") from error
        verdict = phonenumbers.is_possible_number_with_reason(parsed)
        if verdict != ValidationResult.IS_POSSIBLE:
            national = str(parsed.national_number)
            if verdict == ValidationResult.TOO_SHORT and len(national) <= _LONGEST_SHORT_NUMBER:
                return national
            raise NumberError(text, _PROBLEMS.get(verdict, "is no telephone number"))
        e164 = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
        own = self._own if parsed.country_code == self._code else None
        if own is not None and not own.fullmatch(e164):
            # The library takes a trunk prefix for a digit when one digit is missing behind it.
            raise NumberError(text, _PROBLEMS[ValidationResult.TOO_SHORT])
        return e164

    def _number_or_none(self, user: str) -> str | None:
        try:
            return self.normalise(user)
        except NumberError:
            return None

    def _ask_library(self, e164: str) -> tuple[bool, str | None]:
        if _FRENCH_MOBILE.fullmatch(e164):  # most targets: asking takes longer than all the rest
            return True, None
        kind = phonenumbers.number_type(phonenumbers.parse(e164, None))
        premium = kind == PhoneNumberType.PREMIUM_RATE
        return kind == PhoneNumberType.MOBILE, "premium" if premium else None

    def _short_kind(self, digits: str) -> str:
        if shortnumberinfo.is_emergency_number(digits, self.country):
            return "emergency"
        return "short"


def _digits(text: str) -> str:
    """The digits of a number, with a leading + if it has one, out of a text or a URI."""
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

    None for countries whose national prefix is more than a fixed text: there only the library
    can tell whether a prefix is still inside.
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
