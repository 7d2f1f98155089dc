"""A fleet's document, and what its cap and suspension do to its lines."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rules.decide import ForwardTo, Reject, Ring, Situation, decide, explain
from rules.fleet import Fleet, check_fleet, is_name, load_fleet
from rules.fleets import FleetState
from rules.model import Condition, Destination, DocumentError, Forward, Kind, Line, Offer

NUMBER, MOBILE, FIXED = "+33972101001", "+33612345678", "+33123456789"


@pytest.mark.parametrize(
    ("document", "fleet"),
    [
        ({"name": "acme"}, Fleet("acme")),
        ({"name": "acme", "cap_seconds": 0}, Fleet("acme", cap_seconds=0)),
        (
            {"name": "acme", "label": "Acme SA", "cap_seconds": 3600, "suspended": True, "more": 1},
            Fleet("acme", "Acme SA", 3600, True),
        ),
    ],
)
def test_documents(document: dict[str, object], fleet: Fleet) -> None:
    assert load_fleet(json.dumps(document), "acme") == check_fleet(document) == fleet


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ("[", "document"),
        ("{}", "name"),
        ('{"name": "other"}', "name"),
        ('{"name": "a{b}c"}', "name"),
        ('{"name": " acme"}', "name"),
        ('{"name": ""}', "name"),
        ('{"name": "acme", "cap_seconds": -1}', "cap_seconds"),
        ('{"name": "acme", "cap_seconds": 1.5}', "cap_seconds"),
        ('{"name": "acme", "suspended": "no"}', "suspended"),
    ],
)
def test_a_bad_document_names_its_field(raw: str, field: str) -> None:
    with pytest.raises(DocumentError) as caught:
        load_fleet(raw, "acme")
    assert caught.value.field == field


def test_names() -> None:
    assert is_name("acme")
    assert is_name("Été & fils: 12")
    assert not any(map(is_name, ["", "x" * 65, "a\n", "{a}"]))


def test_the_cap_left_in_this_month_and_the_next() -> None:
    state = FleetState(Fleet("acme", cap_seconds=100), used_s=130.0, until=1000.0)
    assert state.cap_left_s(999.0) == -30.0
    assert state.cap_left_s(1000.0) == 100.0
    assert FleetState(Fleet("acme"), 50.0, 1000.0).cap_left_s(1.0) is None
    assert FleetState().cap_left_s(1.0) is None
    assert not FleetState().suspended


def line(number: str, is_mobile: bool, **offer: object) -> Line:
    to = Destination(Kind.NUMBER, number, mobile=is_mobile)
    forwards = {Condition.UNCONDITIONAL: Forward(True, to)}
    return Line(NUMBER, "acme", offer=Offer(**offer), forwards=forwards)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("called", "plan_left_s", "cap_left_s", "forwarded"),
    [
        # a mobile out of plan: as long as the cap has something left
        (line(MOBILE, True), None, None, True),
        (line(MOBILE, True), None, 0.5, True),
        (line(MOBILE, True), None, 0.0, False),
        (line(MOBILE, True, mobile="unlimited"), None, -9.0, False),
        # deducted from hours: only once they are used up
        (line(MOBILE, True, mobile="hours", mobile_hours=1), 10.0, 0.0, True),
        (line(MOBILE, True, mobile="hours", mobile_hours=1), 0.0, 0.0, False),
        (line(MOBILE, True, mobile="hours", mobile_hours=1), 0.0, 1.0, True),
        # everything else costs nothing out of plan
        (line(FIXED, False), None, 0.0, True),
    ],
)
def test_a_forward_out_of_plan_needs_some_of_the_cap(
    called: Line, plan_left_s: float | None, cap_left_s: float | None, forwarded: bool
) -> None:
    now = Situation(visited=(NUMBER,), plan_left_s=plan_left_s, cap_left_s=cap_left_s)
    decision = decide(called, now, {})
    assert isinstance(decision, ForwardTo) is forwarded
    assert decision.prevented == (() if forwarded else ("fleet_cap",))
    if not forwarded:  # the unconditional forward counts as off: the line rings
        assert isinstance(decision, Ring)
        assert "the cap of fleet acme is used up" in " ".join(explain(called, now, {}).steps)


def test_a_suspended_fleet_suspends_its_lines() -> None:
    now = Situation(visited=(NUMBER,), fleet_suspended=True)
    assert decide(line(FIXED, False), now, {}) == Reject(403, None, "fleet_suspended")


def test_why_forwards_are_prevented_is_told_once_each() -> None:
    """Unconditional to a premium number, and busy to the line itself."""
    forwards = {
        Condition.UNCONDITIONAL: Forward(
            True, Destination(Kind.NUMBER, "+33899123456", refused="premium")
        ),
        Condition.BUSY: Forward(True, Destination(Kind.NUMBER, NUMBER)),
        Condition.NO_ANSWER: Forward(False, None),
    }
    called = Line(NUMBER, "acme", max_calls=1, forwards=forwards)
    now = Situation(visited=(NUMBER,), calls_in_progress=1)
    assert decide(called, now, {}).prevented == ("premium", "self")
    assert decide(called, replace(now, calls_in_progress=0), {}).prevented == ("premium",)
    assert decide(called, replace(now, trigger=Condition.NO_ANSWER), {}).prevented == ()


@pytest.mark.parametrize(
    ("had", "most", "forwarded"), [(9, 10, True), (10, 10, False), (10, 0, True)]
)
def test_forwards_in_an_hour(had: int, most: int, forwarded: bool) -> None:
    now = Situation(visited=(NUMBER,), forwards_last_hour=had, forwards_per_line_per_hour=most)
    decision = decide(line(FIXED, False), now, {})
    assert isinstance(decision, ForwardTo) is forwarded
    assert decision.prevented == (() if forwarded else ("forwards_per_line_per_hour",))
