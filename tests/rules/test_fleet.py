"""A fleet's document, and the effect of its cap and suspension on its lines."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from rules.decide import ForwardTo, Reject, Ring, Situation, decide, explain, prevented
from rules.fleet import Fleet, check_fleet, is_name, load_fleet
from rules.line_document import load_line
from rules.model import Billing, Condition, Destination, DocumentError, Forward, Kind, Line, Offer
from rules.numbers import Numbering
from rules.validate import check_write
from store.fleets import FleetState

NUMBER, MOBILE, FIXED = "+33972101001", "+33612345678", "+33123456789"
ABROAD = "+447400123456"


@pytest.mark.parametrize(
    ("document", "fleet"),
    [
        ({"name": "acme"}, Fleet("acme")),
        ({"name": "acme", "cap_seconds": 0}, Fleet("acme", cap_seconds=0)),
        (
            {"name": "acme", "forward_countries": ["FR", "001"]},
            Fleet("acme", forward_countries=frozenset({"FR", "001"})),
        ),
        (
            {"name": "acme", "label": "Acme SA", "cap_seconds": 3600, "suspended": True, "more": 1},
            Fleet("acme", "Acme SA", 3600, True),
        ),
    ],
)
def test_documents(document: dict[str, object], fleet: Fleet) -> None:
    assert (
        load_fleet(json.dumps(document), "acme") == check_fleet(document, Numbering("FR")) == fleet
    )


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
        ('{"name": "acme", "forward_countries": "FR"}', "forward_countries"),
        ('{"name": "acme", "forward_countries": ["FR", "XX"]}', "forward_countries[1]"),
        ('{"name": "acme", "forward_countries": ["fr"]}', "forward_countries[0]"),
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


def line(number: str, is_mobile: bool, tariff: Billing | None = None, **offer: object) -> Line:
    to = Destination(Kind.NUMBER, number, mobile=is_mobile, tariff=tariff)
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
        # abroad, even with seconds left in the plan
        (line(ABROAD, True, Billing.INTERNATIONAL), None, 0.5, True),
        (line(ABROAD, True, Billing.INTERNATIONAL), None, 0.0, False),
        (line(ABROAD, True, Billing.INTERNATIONAL, mobile="hours"), 9.0, 0.0, False),
        *(
            (line(ABROAD, False, tariff), None, 0.0, False)
            for tariff in (Billing.SATELLITE, Billing.INTERNATIONAL_NETWORK, Billing.PERSONAL)
        ),
        # nothing else is out of plan
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


@pytest.mark.parametrize(
    ("number", "countries", "inside", "refused"),
    [
        ("+447400123456", None, False, None),
        ("+447400123456", {"GB"}, False, None),
        ("+447400123456", {"FR"}, False, "fleet_countries"),
        ("+447400123456", set(), False, "fleet_countries"),
        ("+447400123456", {"FR"}, True, None),  # a line of the fleet
        ("+3227901234", {"FR", "BE"}, False, "country"),  # the engine's list has precedence
        ("+3227901234", {"FR", "BE"}, True, None),
        ("+33700000001", None, False, "invalid"),
        ("+33700000001", None, True, None),
        ("+33899123456", {"FR"}, True, "premium"),
    ],
)
def test_a_fleets_list_narrows_the_engines(
    number: str, countries: set[str] | None, inside: bool, refused: str | None
) -> None:
    numbering = Numbering("FR", forward_countries=["FR", "GB"])
    forwards = {"unconditional": {"on": True, "to": {"kind": "number", "number": number}}}
    document = {"number": NUMBER, "fleet": "acme", "forwards": forwards}
    called = load_line(json.dumps(document), NUMBER, numbering)
    targets = {number: Line(number, "acme" if inside else "other")}
    own = None if countries is None else frozenset(countries)
    now = Situation(visited=(NUMBER,), fleet_countries=own)
    decision = decide(called, now, targets)
    assert decision.prevented == ((refused,) if refused else ())
    assert isinstance(decision, ForwardTo) is (refused is None)
    if refused is None:
        check_write(document, targets, numbering, None, Fleet("acme", forward_countries=own))
        return
    assert number in explain(called, now, targets).steps[0]
    with pytest.raises(DocumentError) as error:
        check_write(document, targets, numbering, None, Fleet("acme", forward_countries=own))
    assert error.value.field == "forwards.unconditional.to.number"
    words = {"country": "numbering.forward_countries", "fleet_countries": "of fleet acme"}
    assert words.get(refused, refused.replace("invalid", "no valid")) in error.value.problem


def test_a_suspended_fleet_suspends_its_lines() -> None:
    now = Situation(visited=(NUMBER,), fleet_suspended=True)
    assert decide(line(FIXED, False), now, {}) == Reject(403, None, "fleet_suspended")


def test_each_reason_for_a_prevented_forward_is_given_once() -> None:
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
    assert prevented(called, now, {}) == [("unconditional", "premium"), ("busy", "self")]
    assert prevented(called, replace(now, trigger=Condition.BUSY), {}) == [("busy", "self")]
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
