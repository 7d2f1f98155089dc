"""The month in which usage counts now, by the time zone of tests' engines."""

from __future__ import annotations

import time
from zoneinfo import ZoneInfo

from rules.billing import month_of
from tests.patience import within

_TEST_S = within(10)  # longer than a test that asks


def this_month(zone: str = "Europe/Paris") -> str:
    """Such as 2026-11. In UTC, and at the start of a run, it may be another one.

    A month that is about to end is over before this returns, so that a test that asks first does
    all of its work in one month.
    """
    month, until = month_of(time.time(), ZoneInfo(zone))
    if until - time.time() < _TEST_S:
        while time.time() < until:  # the clock may be set meanwhile
            time.sleep(0.1)
        month, _ = month_of(time.time(), ZoneInfo(zone))
    return month
