"""The month in which usage counts now, by the time zone of tests' engines."""

from __future__ import annotations

import time
from zoneinfo import ZoneInfo

from rules.billing import month_of


def this_month() -> str:
    """Such as 2026-11. In UTC, and at the start of a run, it may be another one."""
    return month_of(time.time(), ZoneInfo("Europe/Paris"))[0]
