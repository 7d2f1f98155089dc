"""Formats numbers, dates and durations for customers."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import phonenumbers
from phonenumbers import PhoneNumberFormat

_MONTHS = {
    "fr": "janv.,févr.,mars,avr.,mai,juin,juil.,août,sept.,oct.,nov.,déc.",
    "en": "Jan,Feb,Mar,Apr,May,Jun,Jul,Aug,Sep,Oct,Nov,Dec",
}


class Shown:
    """The formats of one country. `zone`: the time zone of dates."""

    def __init__(self, country: str, zone: ZoneInfo) -> None:
        self._country = country
        self._zone = zone
        self._code = phonenumbers.country_code_for_region(country)
        self._home = f"+{self._code}"
        self._trunk = phonenumbers.ndd_prefix_for_region(country, True) or ""
        # Cached, because formatting takes some 30 us and a page shows the same numbers often.
        self.number = lru_cache(65_536)(self._number)

    def national(self, e164: str) -> str:
        """The digits as dialled nationally: "0972101001". Fast, because it is called for every
        line."""
        if not e164.startswith(self._home):
            return e164
        return self._trunk + e164.removeprefix(self._home)

    def date(self, unix: float, language: str) -> str:
        """Such as "25 nov. 2026 à 14:05", "25 Nov 2026, 14:05"; "?" for an invalid time."""
        try:
            moment = datetime.fromtimestamp(unix, self._zone)
        except (ValueError, OverflowError, OSError):
            return "?"
        month = _MONTHS[language].split(",")[moment.month - 1]
        at = " à\u00a0" if language == "fr" else ", "
        # It may be broken over two lines only between day and hour.
        return f"{moment.day}\u00a0{month}\u00a0{moment.year}{at}{moment:%H:%M}"

    def _number(self, e164: str) -> str:
        try:
            parsed = phonenumbers.parse(e164, None)
        except phonenumbers.NumberParseException:
            return e164  # a short number, or a peer's text
        home = parsed.country_code == self._code
        form = PhoneNumberFormat.NATIONAL if home else PhoneNumberFormat.INTERNATIONAL
        return phonenumbers.format_number(parsed, form)


def duration(seconds: float) -> str:
    """Such as "1 h 24", "7 min", "40 s"; the same in both languages."""
    whole = max(0, int(seconds))
    if whole >= 3600:
        return f"{whole // 3600}\u00a0h\u00a0{whole % 3600 // 60:02}"
    if whole >= 60:
        return f"{whole // 60}\u00a0min"
    return f"{whole}\u00a0s"
