"""The month that tests of usage ask for."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tests.month import this_month


@pytest.mark.parametrize(
    ("zone", "now", "month"),
    [
        ("Europe/Paris", "2026-12-31T23:58", "2026-12"),
        ("Europe/Paris", "2026-12-31T23:59:58", "2027-01"),
        ("UTC", "2026-12-31T23:59:30", "2027-01"),
        ("UTC", "2027-01-01T00:00", "2027-01"),
    ],
)
def test_a_month_that_is_about_to_end_is_over_first(
    zone: str, now: str, month: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime.fromisoformat(now).replace(tzinfo=ZoneInfo(zone)).timestamp()

    def sleep(seconds: float) -> None:
        nonlocal at
        at += seconds

    monkeypatch.setattr("tests.month.time.time", lambda: at)
    monkeypatch.setattr("tests.month.time.sleep", sleep)
    assert this_month(zone) == month
