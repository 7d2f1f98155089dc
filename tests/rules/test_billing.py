"""Who pays (forwarding-rules.md 4)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo

import pytest

from rules.billing import billing_class, month_of
from rules.line_document import load_line
from rules.model import Condition, Line, Offer
from rules.numbers import Numbering

LINE = "+33972101001"
MOBILE, FIXED, FLEET = "+33612345678", "+33123456789", "+33972101002"


@pytest.mark.parametrize(
    ("plan", "kind", "number", "left_s", "expected"),
    [
        # plan, kind, target, seconds left of the plan, class
        ("unlimited", "number", MOBILE, None, "out_of_plan"),
        ("none", "number", MOBILE, None, "out_of_plan"),
        ("hours", "number", MOBILE, 7200.0, "deducted"),
        ("hours", "number", MOBILE, 0.5, "deducted"),
        ("hours", "number", MOBILE, 0.0, "out_of_plan"),
        ("hours", "number", MOBILE, -9.0, "out_of_plan"),
        ("hours", "number", MOBILE, None, "deducted"),
        ("unlimited", "number", FIXED, None, "standard"),
        ("hours", "number", FIXED, 0.0, "standard"),
        ("none", "number", FIXED, None, "standard"),
        ("none", "line", FLEET, None, "free"),
        ("none", "voicemail", LINE, None, "free"),
        ("none", "voicemail", FLEET, None, "free"),
        ("none", "fax", FLEET, None, "free"),
    ],
)
def test_class(
    plan: Literal["none", "unlimited", "hours"],
    kind: str,
    number: str,
    left_s: float | None,
    expected: str,
) -> None:
    line = Line(LINE, "acme", offer=Offer(mobile=plan, mobile_hours=2))
    same_fleet = number in (LINE, FLEET)
    assert billing_class(line, kind, number, number == MOBILE, same_fleet, left_s) == expected


@pytest.mark.parametrize("offer", ["none", "unlimited", "hours"])
@pytest.mark.parametrize(
    ("own", "number", "expected"),
    [
        (LINE, "+447400123456", "international"),  # a mobile abroad is in no plan
        (LINE, "+442079460000", "international"),
        (LINE, "+262692123456", "international"),
        (LINE, "+18005551234", "international"),
        (LINE, "+8816123456789", "satellite"),
        (LINE, "+870773111632", "satellite"),
        (LINE, "+8821612345678", "satellite"),
        (LINE, "+883510000000001", "satellite"),
        (LINE, "+447012345678", "personal"),
        (LINE, "+80012345678", "international_network"),
        (LINE, FIXED, "standard"),
        (LINE, "+33800123456", "standard"),
        ("+3227901234", "+32460123456", None),  # by the plan of a Belgian line
        ("+3227901234", MOBILE, "international"),
        ("+8816123456789", FIXED, "standard"),  # a line of no country counts to the engine's
    ],
)
def test_class_of_what_is_abroad(
    own: str, number: str, expected: str | None, offer: Literal["none", "unlimited", "hours"]
) -> None:
    to = {"kind": "number", "number": number}
    document = {
        "number": own,
        "fleet": "acme",
        "offer": {"mobile": offer, "mobile_hours": 2},
        "forwards": {"busy": {"on": True, "to": to}},
    }
    line = load_line(json.dumps(document), own, Numbering("FR"))
    target = line.forwards[Condition.BUSY].to
    assert target is not None
    found = billing_class(line, "number", number, target.mobile, False, None, target.tariff)
    assert found == (expected or ("deducted" if offer == "hours" else "out_of_plan"))
    inside = billing_class(line, "line", number, target.mobile, True, None, target.tariff)
    assert inside == "free"


def test_a_mobile_that_is_a_line_of_the_fleet_is_free() -> None:
    assert billing_class(Line(LINE, "acme"), "line", MOBILE, True, True, None) == "free"


@pytest.mark.parametrize(
    ("moment", "month", "end"),
    [
        ("2026-11-15T12:00", "2026-11", "2026-11-30T23:00"),
        ("2026-11-30T22:59", "2026-11", "2026-11-30T23:00"),
        ("2026-11-30T23:00", "2026-12", "2026-12-31T23:00"),
        ("2026-06-30T22:00", "2026-07", "2026-07-31T22:00"),  # summer time
    ],
)
def test_the_time_zone_decides_which_month_it_is(moment: str, month: str, end: str) -> None:
    def unix(text: str) -> float:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()

    assert month_of(unix(moment), ZoneInfo("Europe/Paris")) == (month, unix(end))
