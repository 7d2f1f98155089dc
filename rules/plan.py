"""The data of the `phonenumbers` library on a country code: its regions, and patterns of its plans.

Pure: the library's metadata are part of it.
"""

import re
from functools import cache
from typing import NamedTuple

import phonenumbers
from phonenumbers import PhoneMetadata, PhoneNumberType

NO_COUNTRY = "001"
"""The library's region of numbers that belong to no country: satellite and global networks."""
# The library classifies numbers of these codes as mobiles or VoIP, which does not determine their
# cost. Tariffs put 882 and 883 (global networks, many of them by satellite) with the satellites.
_SATELLITE = frozenset({870, 881, 882, 883})
_PERSONAL = 878  # universal personal telecommunications


class Plan(NamedTuple):
    """The library's data on a country code: the regions that share it, the main one first, and
    patterns of their premium, shared-cost and short numbers."""

    regions: tuple[str, ...]
    premium: tuple[re.Pattern[str], ...]
    shared_cost: tuple[re.Pattern[str], ...]
    short: tuple[re.Pattern[str], ...]


@cache
def plan_of(code: int) -> Plan:
    """The plans of a country code that is in use."""
    regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE[code]
    plans = [PhoneMetadata.metadata_for_region_or_calling_code(code, region) for region in regions]
    shorts = [PhoneMetadata.short_metadata_for_region(region) for region in regions]

    def patterns(known: list[PhoneMetadata | None], kind: str) -> tuple[re.Pattern[str], ...]:
        found = [getattr(metadata, kind) for metadata in known if metadata is not None]
        texts = [one.national_number_pattern for one in found if one is not None]
        return tuple(re.compile(text) for text in dict.fromkeys(texts) if text)

    premium, shared = patterns(plans, "premium_rate"), patterns(plans, "shared_cost")
    return Plan(regions, premium, shared, patterns(shorts, "short_code"))


def begins(patterns: tuple[re.Pattern[str], ...], national: str) -> bool:
    """Whether a prefix of a national number is one of these numbers."""
    return any(each.match(national) for each in patterns)


def tariff_of_code(code: int, kind: int) -> str:
    """The tariff of a number of this country code and library type whatever its country, as in
    `rules.numbers.Recognised.tariff`; "" if the country decides."""
    if code in _SATELLITE:
        return "satellite"
    if code == _PERSONAL or kind == PhoneNumberType.PERSONAL_NUMBER:
        return "personal"
    return "international_network" if NO_COUNTRY in plan_of(code).regions else ""


@cache
def known_french_mobile() -> re.Pattern[str]:
    """The French mobiles that the library calls valid, in E.164 with +."""
    metadata = PhoneMetadata.metadata_for_region("FR")
    assert metadata is not None
    assert metadata.mobile is not None
    return re.compile(rf"\+33(?:{metadata.mobile.national_number_pattern})")


def is_country(code: str) -> bool:
    """Whether this is the ISO 3166 code of a country with numbers, or NO_COUNTRY."""
    return code == NO_COUNTRY or code in phonenumbers.SUPPORTED_REGIONS


def has_country_code(prefix: str) -> bool:
    """Whether digits in E.164 with + begin with a country code that is in use."""
    codes = phonenumbers.COUNTRY_CODE_TO_REGION_CODE
    return any(int(prefix[1:end]) in codes for end in range(2, min(5, len(prefix) + 1)))
