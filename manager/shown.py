"""Numbers, dates and durations as customers write them."""

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
    """How one country writes. `zone`: the time zone that dates are told in."""

    def __init__(self, country: str, zone: ZoneInfo) -> None:
        self._country = country
        self._zone = zone
        self._code = phonenumbers.country_code_for_region(country)
        self._home = f"+{self._code}"
        self._trunk = phonenumbers.ndd_prefix_for_region(country, True) or ""
        # Formatting costs some 30 us: a page shows the same numbers again and again.
        self.number = lru_cache(65_536)(self._number)

    def national(self, e164: str) -> str:
        """The digits as they are dialled at home: "0972101001". Cheap: asked of every line."""
        if not e164.startswith(self._home):
            return e164
        return self._trunk + e164.removeprefix(self._home)

    def date(self, unix: float, language: str) -> str:
        """Such as "25 nov. 2026 à 14:05", "25 Nov 2026, 14:05"; "?" for what is no time."""
        try:
            moment = datetime.fromtimestamp(unix, self._zone)
        except (ValueError, OverflowError, OSError):
            return "?"
        month = _MONTHS[language].split(",")[moment.month - 1]
        at = " à\u00a0" if language == "fr" else ", "
        # Only between day and hour may it be broken over two lines.
        return f"{moment.day}\u00a0{month}\u00a0{moment.year}{at}{moment:%H:%M}"

    def _number(self, e164: str) -> str:
        try:
            parsed = phonenumbers.parse(e164, None)
        except phonenumbers.NumberParseException:
            return e164  # a short number, or what a peer sent for one
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
