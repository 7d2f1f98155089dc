"""The moments at which a line changes by itself: compared with a check of every minute."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from rules.ahead import changes_by_itself, moments
from rules.applies import profile_now
from rules.decide import Circumstances
from rules.fleet import Fleet, load_fleet
from tests.rules.test_dimensions import FLEET, FRANCE, TO_MOBILE, line, on

DAY_S = 86_400


def calendar_of(**fields: Any) -> Fleet:
    import json

    return load_fleet(json.dumps({"name": "acme", "calendars": {"c": fields}}), "acme", FRANCE)


WEEKLY = {day: ["09:00-12:30", "14:00-18:00"] for day in ("mon", "tue", "wed", "thu", "fri")}
NIGHT = {day: ["22:00-02:30"] for day in ("fri", "sat")}


@pytest.mark.parametrize(
    ("fields", "begin"),
    [
        ({"weekly": WEEKLY, "holidays": "FR"}, "2026-12-21T10:00"),
        ({"weekly": NIGHT}, "2026-03-27T10:00"),  # summer time begins on the 29th
        ({"weekly": NIGHT}, "2026-10-23T10:00"),  # and ends on the 25th
        ({"weekly": {"sun": ["02:00-02:30"]}}, "2026-10-23T10:00"),
        ({"weekly": NIGHT, "zone": "America/New_York"}, "2026-10-30T10:00"),
        ({"weekly": NIGHT, "zone": "Australia/Lord_Howe"}, "2026-10-02T10:00"),
        (
            {"weekly": WEEKLY, "closed": ["2026-12-24", "2026-12-28/2027-01-02"],
             "open": ["2026-12-26T10:00/2026-12-26T12:00"]},
            "2026-12-22T10:00",
        ),
        ({}, "2026-12-22T10:00"),
    ],
)  # fmt: skip
def test_no_opening_and_no_closing_is_missed(fields: dict[str, Any], begin: str) -> None:
    calendar = calendar_of(**fields).calendars["c"]
    start = datetime.fromisoformat(begin).replace(tzinfo=ZoneInfo("Europe/Paris")).timestamp()
    end = start + 7 * DAY_S
    edges = set(calendar.edges(start, end))
    was = calendar.is_open(start)
    minutes = int((end - start) // 60)
    for minute in range(1, minutes + 1):
        now = calendar.is_open(start + 60 * minute)
        if now is not was:
            assert start + 60 * minute in edges, datetime.fromtimestamp(start + 60 * minute)
        was = now


UNTIL = "2026-12-07T08:00:00+01:00"
PROFILES = {"a": {"forwards": {"busy": on(TO_MOBILE, until=UNTIL)}}, "b": {}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"busy": on()}, False),
        ({"busy": on(callers="fleet")}, False),
        ({"busy": on(when="office")}, True),
        ({"busy": [on(), on(until=UNTIL)]}, True),
        ({"busy": {"on": False, "when": "office"}}, False),
        ({"profiles": PROFILES}, False),
        ({"profiles": PROFILES, "profile": "b"}, False),
        ({"profiles": PROFILES, "profile": "a"}, True),
        ({"profiles": PROFILES, "profile": [{"use": "b", "when": "office"}]}, True),
        ({"profiles": PROFILES, "profile": [{"use": "b", "until": UNTIL}]}, True),
    ],
)
def test_whether_a_line_changes_by_itself(fields: dict[str, Any], expected: bool) -> None:
    assert changes_by_itself(line(**fields)) is expected


def test_the_moments_of_a_line() -> None:
    end = datetime.fromisoformat(UNTIL).timestamp()
    one = line(profiles=PROFILES, profile=[{"use": "b", "until": UNTIL}, {"use": "a"}])
    assert moments(one, {}, end - 10, end) == [end]
    assert moments(one, {}, end, end + DAY_S) == []
    by_hours = line(profiles=PROFILES, profile=[{"use": "b", "when": "office"}])
    found = moments(by_hours, FLEET.calendars, end - DAY_S, end + DAY_S)
    used = [
        profile_now(by_hours, Circumstances(at, False, FLEET.calendars, {})) is not None
        for at in found
    ]
    changed = [at for at, now, was in zip(found, used, [False, *used], strict=False) if now != was]
    local = [datetime.fromtimestamp(at, ZoneInfo("Europe/Paris")).isoformat() for at in changed]
    assert [text[:16] for text in local] == [
        "2026-12-07T09:00", "2026-12-07T12:30", "2026-12-07T14:00", "2026-12-07T18:00",
    ]  # fmt: skip
