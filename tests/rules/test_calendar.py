"""Calendars: hours in local time, holidays, closed and opened days; their documents."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.calendar import Calendar
from rules.line_document import load_line
from rules.model import DocumentError
from rules.numbers import Numbering

FRANCE = Numbering("FR", timezone="Europe/Paris")
PARIS, NEW_YORK = "Europe/Paris", "America/New_York"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def calendar(**fields: Any) -> Calendar:
    document = {"number": "+33972101001", "fleet": "acme", "calendars": {"it": fields}}
    return load_line(json.dumps(document), None, FRANCE).calendars["it"]


def daily(*hours: str) -> dict[str, list[str]]:
    return {day: list(hours) for day in DAYS}


def open_at(it: Calendar, local: str) -> bool:
    """At a local time, or at a moment with an offset."""
    moment = datetime.fromisoformat(local)
    return it.is_open((moment if moment.tzinfo else moment.replace(tzinfo=it.zone)).timestamp())


OFFICE = {
    "zone": PARIS,
    "weekly": {"mon": ["09:00-12:30", "14:00-18:00"], "sat": ["09:00-12:00"]},
    "holidays": "FR",
    "closed": ["2026-12-24", "2026-12-28/2027-01-02"],
    "open": ["2026-12-26T10:00/2026-12-26T12:30", "2026-12-31T23:59:30/2027-01-01T00:00:30"],
}
AT = [
    # hours: the begin is included, the end is not
    ("2026-11-30T08:59:59", False), ("2026-11-30T09:00:00", True), ("2026-11-30T12:29:59", True),
    ("2026-11-30T12:30:00", False), ("2026-11-30T13:59:59", False), ("2026-11-30T14:00:00", True),
    ("2026-11-30T17:59:59", True), ("2026-11-30T18:00:00", False),
    # days without an entry
    ("2026-12-01T10:00:00", False), ("2026-12-06T10:00:00", False),
    ("2026-12-05T10:00:00", True), ("2026-12-05T12:00:00", False),
    # a holiday on a Monday (Easter, Whitsun), and the Monday after it, which is not a holiday
    ("2026-04-06T10:00:00", False), ("2026-05-25T10:00:00", False), ("2026-04-13T10:00:00", True),
    # All Saints of 2027 is a Monday
    ("2027-11-01T10:00:00", False),
    # closed from the begin of the first day to the end of the last
    ("2026-12-28T10:00:00", False), ("2026-12-21T10:00:00", True), ("2027-01-02T11:59:59", False),
    ("2027-01-04T10:00:00", True),
    # opened has precedence over weekday, holiday and closed days, to the second
    ("2026-12-26T12:29:59", True), ("2026-12-26T10:00:00", True), ("2026-12-26T11:59:59", True),
    ("2026-12-26T12:30:00", False), ("2026-12-31T23:59:29", False),
    ("2026-12-31T23:59:30", True), ("2027-01-01T00:00:00", True), ("2027-01-01T00:00:29", True),
    ("2027-01-01T00:00:30", False),
]  # fmt: skip


@pytest.mark.parametrize(("local", "is_open"), AT)
def test_an_office(local: str, is_open: bool) -> None:
    assert open_at(calendar(**OFFICE), local) is is_open


NIGHT: list[tuple[dict[str, Any], str, bool]] = [
    # 22:00-06:00 belongs to the day on which it begins
    ({"weekly": {"fri": ["22:00-06:00"]}}, "2026-12-04T21:59:59", False),
    ({"weekly": {"fri": ["22:00-06:00"]}}, "2026-12-04T22:00:00", True),
    ({"weekly": {"fri": ["22:00-06:00"]}}, "2026-12-05T00:00:00", True),
    ({"weekly": {"fri": ["22:00-06:00"]}}, "2026-12-05T05:59:59", True),
    ({"weekly": {"fri": ["22:00-06:00"]}}, "2026-12-05T06:00:00", False),
    ({"weekly": {"fri": ["22:00-06:00"]}}, "2026-12-04T05:00:00", False),
    ({"weekly": {"sun": ["22:00-06:00"]}}, "2026-12-07T05:59:59", True),  # Sunday into Monday
    ({"weekly": {"mon": ["00:00-24:00"]}}, "2026-12-07T23:59:59", True),
    ({"weekly": {"mon": ["00:00-24:00"]}}, "2026-12-08T00:00:00", False),
    ({"weekly": {"mon": ["22:00-24:00"]}}, "2026-12-07T23:59:59", True),
    ({"weekly": {"mon": ["22:00-24:00"]}}, "2026-12-08T00:00:00", False),
    ({"weekly": {"mon": ["22:00-00:00"]}}, "2026-12-08T00:00:00", False),
    ({"weekly": daily("00:00-24:00")}, "2026-12-31T23:59:59", True),
    ({"weekly": daily("00:00-24:00")}, "2027-01-01T00:00:00", True),
    # hours that begin on an open day go on into a holiday; no hours begin on a holiday
    ({"weekly": daily("22:00-06:00"), "holidays": "FR"}, "2026-12-24T23:00:00", True),
    ({"weekly": daily("22:00-06:00"), "holidays": "FR"}, "2026-12-25T05:59:59", True),
    ({"weekly": daily("22:00-06:00"), "holidays": "FR"}, "2026-12-25T22:00:00", False),
    ({"weekly": daily("22:00-06:00"), "holidays": "FR"}, "2026-12-26T05:00:00", False),
    ({"weekly": daily("22:00-06:00"), "holidays": "FR"}, "2026-12-26T22:00:00", True),
    # New Year: the year of the holiday is that of the day on which the hours begin
    ({"weekly": daily("22:00-06:00"), "holidays": "FR"}, "2027-01-01T03:00:00", True),
    ({"weekly": daily("22:00-06:00"), "holidays": "FR"}, "2027-01-02T03:00:00", False),
    # closed days are closed all day, and no hours begin on them
    ({"weekly": daily("22:00-06:00"), "closed": ["2026-12-24"]}, "2026-12-23T23:59:59", True),
    ({"weekly": daily("22:00-06:00"), "closed": ["2026-12-24"]}, "2026-12-24T00:00:00", False),
    ({"weekly": daily("22:00-06:00"), "closed": ["2026-12-24"]}, "2026-12-24T23:00:00", False),
    ({"weekly": daily("22:00-06:00"), "closed": ["2026-12-24"]}, "2026-12-25T03:00:00", False),
    ({"weekly": daily("22:00-06:00"), "closed": ["2026-12-24"]}, "2026-12-25T22:00:00", True),
    # closed for some hours only
    ({"weekly": daily("22:00-06:00"), "closed": ["2026-12-24T20:00/2026-12-24T23:00"]},
     "2026-12-24T22:30:00", False),
    ({"weekly": daily("22:00-06:00"), "closed": ["2026-12-24T20:00/2026-12-24T23:00"]},
     "2026-12-24T23:00:00", True),
    ({"weekly": daily("08:00-20:00"), "closed": ["2026-12-24T16:00/2026-12-24T24:00"]},
     "2026-12-24T15:59:59", True),
    # precedence: opened, closed, holidays and hours
    ({"open": ["2026-12-24"], "closed": ["2026-12-24"]}, "2026-12-24T00:00:00", True),
    ({"open": ["2026-12-24"], "closed": ["2026-12-24"]}, "2026-12-24T23:59:59", True),
    ({"open": ["2026-12-24"], "closed": ["2026-12-24"]}, "2026-12-25T00:00:00", False),
    ({"open": ["2026-12-25"], "holidays": "FR"}, "2026-12-25T12:00:00", True),
    ({"weekly": daily("00:00-24:00"), "closed": ["2026-12-24/2026-12-26", "2026-12-25/2026-12-29"]},
     "2026-12-29T23:59:59", False),
    ({}, "2026-12-24T12:00:00", False),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "local", "is_open"), NIGHT)
def test_nights_and_exceptions(fields: dict[str, Any], local: str, is_open: bool) -> None:
    assert open_at(calendar(**{"zone": PARIS, **fields}), local) is is_open


HOLIDAYS = [
    # Saint Stephen and Good Friday are holidays in Moselle, not in the rest of France
    ("FR", "2026-12-26", True), ("FR-57", "2026-12-26", False), ("FR-6AE", "2026-12-26", False),
    ("FR", "2026-04-03", True), ("FR-57", "2026-04-03", False),
    ("FR", "2026-07-14", False), ("FR-57", "2026-07-14", False), ("FR", "2030-05-01", False),
    ("DE", "2026-10-03", False), ("DE-BY", "2026-01-06", False), ("DE", "2026-01-06", True),
    ("US", "2026-11-26", False), ("US", "2027-11-25", False), ("GB", "2026-12-28", False),
    ("BE", "2026-07-21", False), ("CH-GE", "2026-12-31", False), ("CH", "2026-12-31", True),
]  # fmt: skip


@pytest.mark.parametrize(("where", "day", "is_open"), HOLIDAYS)
def test_holidays_are_those_of_the_package(where: str, day: str, is_open: bool) -> None:
    it = calendar(zone=PARIS, weekly=daily("00:00-24:00"), holidays=where)
    assert open_at(it, f"{day}T00:00:00") is is_open
    assert open_at(it, f"{day}T23:59:59") is is_open


CLOCKS = [
    # Summer time begins: at 02:00 the clock shows 03:00
    (PARIS, "09:00-17:00", "2026-03-29T08:59:59+02:00", False),
    (PARIS, "09:00-17:00", "2026-03-29T09:00:00+02:00", True),
    (PARIS, "22:00-06:00", "2026-03-29T05:59:59+02:00", True),
    (PARIS, "22:00-06:00", "2026-03-29T06:00:00+02:00", False),
    (PARIS, "02:00-03:00", "2026-03-29T00:59:59+00:00", False),  # this hour does not occur
    (PARIS, "02:00-03:00", "2026-03-29T01:00:00+00:00", False),
    (PARIS, "02:30-04:00", "2026-03-29T01:00:00+00:00", True),
    (PARIS, "00:00-02:30", "2026-03-29T00:59:59+00:00", True),
    (PARIS, "00:00-02:30", "2026-03-29T01:00:00+00:00", False),
    # and ends: 02:00 to 03:00 occurs twice
    (PARIS, "09:00-17:00", "2026-10-25T08:59:59+01:00", False),
    (PARIS, "09:00-17:00", "2026-10-25T09:00:00+01:00", True),
    (PARIS, "22:00-06:00", "2026-10-25T05:59:59+01:00", True),
    (PARIS, "22:00-06:00", "2026-10-25T06:00:00+01:00", False),
    (PARIS, "02:00-03:00", "2026-10-25T02:30:00+02:00", True),
    (PARIS, "02:00-03:00", "2026-10-25T02:30:00+01:00", True),
    (PARIS, "02:00-03:00", "2026-10-25T03:00:00+01:00", False),
    (PARIS, "22:00-02:30", "2026-10-25T02:29:59+02:00", True),
    (PARIS, "22:00-02:30", "2026-10-25T02:30:00+02:00", False),
    (PARIS, "22:00-02:30", "2026-10-25T02:00:00+01:00", True),
    (PARIS, "22:00-02:30", "2026-10-25T02:30:00+01:00", False),
    (NEW_YORK, "09:00-17:00", "2026-03-08T08:59:59-04:00", False),
    (NEW_YORK, "09:00-17:00", "2026-03-08T09:00:00-04:00", True),
    (NEW_YORK, "22:00-06:00", "2026-03-08T05:59:59-04:00", True),
    (NEW_YORK, "22:00-06:00", "2026-03-08T06:00:00-04:00", False),
    (NEW_YORK, "02:00-03:00", "2026-03-08T07:00:00+00:00", False),
    (NEW_YORK, "09:00-17:00", "2026-11-01T16:59:59-05:00", True),
    (NEW_YORK, "09:00-17:00", "2026-11-01T17:00:00-05:00", False),
    (NEW_YORK, "01:00-02:00", "2026-11-01T01:30:00-04:00", True),
    (NEW_YORK, "01:00-02:00", "2026-11-01T01:30:00-05:00", True),
    (NEW_YORK, "01:00-02:00", "2026-11-01T02:00:00-05:00", False),
    # the date depends on the zone
    (NEW_YORK, "20:00-24:00", "2026-12-02T04:59:59+00:00", True),
    (NEW_YORK, "20:00-24:00", "2026-12-02T05:00:00+00:00", False),
]


@pytest.mark.parametrize(("zone", "hours", "moment", "is_open"), CLOCKS)
def test_summer_time(zone: str, hours: str, moment: str, is_open: bool) -> None:
    assert open_at(calendar(zone=zone, weekly=daily(hours)), moment) is is_open


def test_a_calendar_without_a_zone_is_in_that_of_the_numbering() -> None:
    assert calendar(weekly=daily("09:00-10:00")).zone == ZoneInfo(PARIS)


moments = st.integers(
    int(datetime(2025, 12, 20, tzinfo=UTC).timestamp()),
    int(datetime(2027, 1, 10, tzinfo=UTC).timestamp()),
)
times = st.integers(0, 24 * 60 - 1)


@settings(max_examples=300, deadline=None)
@given(
    zone=st.sampled_from([PARIS, NEW_YORK, "UTC", "Asia/Kathmandu", "Australia/Lord_Howe"]),
    day=st.integers(0, 6),
    begin=times,
    end=st.integers(0, 24 * 60),
    unix=moments,
)
def test_hours_are_those_of_the_clock(zone: str, day: int, begin: int, end: int, unix: int) -> None:
    """Compared with the local clock, minute by minute."""
    if begin == end or (end == 24 * 60 and begin == 0):
        return
    text = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    it = calendar(zone=zone, weekly={DAYS[day]: [text]})
    local = datetime.fromtimestamp(unix, ZoneInfo(zone))
    minute = local.hour * 60 + local.minute
    if begin < end:
        expected = local.weekday() == day and begin <= minute < end
    else:
        yesterday = (local.date() - timedelta(days=1)).weekday()
        expected = (local.weekday() == day and minute >= begin) or (
            yesterday == day and minute < end
        )
    assert it.is_open(unix) is expected


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"zone": "Europe/Lutetia"}, "zone"), ({"zone": ""}, "zone"), ({"zone": "../etc"}, "zone"),
    ({"zone": 1}, "zone"), ({"holidays": "XX"}, "holidays"), ({"holidays": "fr"}, "holidays"),
    ({"holidays": "FR-99"}, "holidays"), ({"holidays": "FR-"}, "holidays"),
    ({"holidays": ["FR"]}, "holidays"), ({"weekly": []}, "weekly"),
    ({"weekly": {"mon": "09:00-12:00"}}, "weekly.mon"),
    ({"weekly": {"mon": ["09:00-12:00", "9-12"]}}, "weekly.mon[1]"),
    ({"weekly": {"sun": ["24:00-25:00"]}}, "weekly.sun[0]"),
    ({"weekly": {"sun": ["09:00-24:01"]}}, "weekly.sun[0]"),
    ({"weekly": {"sun": ["09:00-09:00"]}}, "weekly.sun[0]"),
    ({"weekly": {"sun": ["09:00:30-10:00"]}}, "weekly.sun[0]"),
    ({"weekly": {"sun": ["09:00-10:00", None]}}, "weekly.sun[1]"),
    ({"closed": "2026-12-24"}, "closed"), ({"closed": ["2026-02-29"]}, "closed[0]"),
    ({"closed": ["2026-12-24", "24/12/2026"]}, "closed[1]"),
    ({"closed": ["2026-12-24/2026-12-23"]}, "closed[0]"),
    ({"closed": ["2026-12-24T10:00"]}, "closed[0]"),
    ({"closed": ["2026-12-24T10:00/2026-12-25"]}, "closed[0]"),
    ({"closed": ["2026-12-24/2026-12-25T10:00"]}, "closed[0]"),
    ({"open": ["2026-12-24T10:00/2026-12-24T10:00"]}, "open[0]"),
    ({"open": ["2026-12-24T10:00+01:00/2026-12-24T12:00+01:00"]}, "open[0]"),
    ({"open": ["9999-12-31"]}, "open[0]"), ({"open": ["2026-12-24T10:00/"]}, "open[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "field"), WRONG)
def test_a_wrong_calendar_names_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(DocumentError) as caught:
        calendar(**fields)
    assert caught.value.field == f"calendars.it.{field}"
    assert str(caught.value).count("got ") == 1


@pytest.mark.parametrize("name", ["", " office", "not office", "x" * 65, "a\nb"])
def test_a_wrong_name_is_refused(name: str) -> None:
    document = {"number": "+33972101001", "fleet": "acme", "calendars": {name: {}}}
    with pytest.raises(DocumentError) as caught:
        load_line(json.dumps(document), None, FRANCE)
    assert caught.value.field == f"calendars.{name}"


def test_what_it_needs_near_a_moment_is_prepared() -> None:
    from rules.calendar import _holidays_of

    it = calendar(zone=PARIS, weekly=daily("00:00-24:00"), holidays="FR")
    _holidays_of.cache_clear()
    it.prepare(datetime(2026, 12, 1, tzinfo=UTC).timestamp())
    computed = _holidays_of.cache_info().misses
    for day in ("2025-12-31", "2026-01-01", "2027-01-01", "2028-12-31"):
        open_at(it, f"{day}T12:00:00")
    assert _holidays_of.cache_info().misses == computed == 4
