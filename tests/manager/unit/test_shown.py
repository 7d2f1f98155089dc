"""The format of numbers, dates and durations."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from manager.formats import Shown, duration

FRANCE = Shown("FR", ZoneInfo("Europe/Paris"))


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("+33972101001", "09 72 10 10 01"),
        ("+33612345678", "06 12 34 56 78"),
        ("+442079460958", "+44 20 7946 0958"),
        ("112", "112"),
        ("", ""),
        ("anonymous", "anonymous"),
    ],
)
def test_numbers(number: str, shown: str) -> None:
    assert FRANCE.number(number) == shown


@pytest.mark.parametrize(
    ("country", "number", "digits"),
    [
        ("FR", "+33972101001", "0972101001"),
        ("FR", "+442079460958", "+442079460958"),
        ("GB", "+442079460958", "02079460958"),
        ("ES", "+34912345678", "912345678"),
    ],
)
def test_digits_as_dialled_at_home(country: str, number: str, digits: str) -> None:
    assert Shown(country, ZoneInfo("Europe/Paris")).national(number) == digits


def test_dates() -> None:
    assert FRANCE.date(1_764_072_300, "fr") == "25\u00a0nov.\u00a02025 à\u00a013:05"
    assert FRANCE.date(1_764_072_300, "en") == "25\u00a0Nov\u00a02025, 13:05"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (5040, "1 h 24"), (-1, "0 s")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == shown
