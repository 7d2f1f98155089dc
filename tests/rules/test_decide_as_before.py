"""A document without hours, callers, lists and several targets keeps its earlier meaning: the
decisions are those of the earlier table (`decide_before`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rules import decide
from rules.line_document import load_line
from rules.model import Condition, Line, Offer
from rules.numbers import Numbering
from rules.validate import canonical
from tests.rules import decide_before

FRANCE = Numbering("FR", forward_countries=("FR", "DE", "001"))
LINE, PEER, FAX, FOREIGN = (f"+3397210100{n}" for n in (1, 2, 3, 9))
MOBILE, ABROAD, PREMIUM, SPAIN = "+33612345678", "+4930901820", "+33899123456", "+34911234567"
NUMBERS = [LINE, PEER, FAX, FOREIGN, MOBILE, ABROAD, PREMIUM, SPAIN, "+33123456789", "3117"]
LINES: dict[str, Line | None] = {
    PEER: Line(PEER, "acme"),
    FAX: Line(FAX, "acme", offer=Offer(fax=True)),
    FOREIGN: Line(FOREIGN, "globex", offer=Offer(fax=True)),
    MOBILE: None,
}
numbers = st.sampled_from(NUMBERS)
to = st.fixed_dictionaries(
    {"kind": st.sampled_from(["voicemail", "fax", "number"]), "number": numbers}
)
forward = st.fixed_dictionaries(
    {"on": st.booleans(), "to": to},
    optional={"after_s": st.integers(5, 60), "x_note": st.text(max_size=3)},
)
documents = st.fixed_dictionaries(
    {
        "number": st.just(LINE),
        "fleet": st.just("acme"),
        "forwards": st.fixed_dictionaries({}, optional={c.value: forward for c in Condition}),
    },
    optional={
        "max_calls": st.integers(1, 3),
        "suspended": st.booleans(),
        "offer": st.fixed_dictionaries(
            {"mobile": st.sampled_from(["none", "unlimited"]), "fax": st.booleans()}
        )
        | st.just({"mobile": "hours", "mobile_hours": 2}),
    },
)
paths = st.lists(st.sampled_from([PEER, FAX, MOBILE, LINE]), max_size=2).map(tuple)
situations = st.fixed_dictionaries(
    {
        "trigger": st.none() | st.sampled_from(list(Condition)),
        "calls_in_progress": st.integers(0, 3),
        "registered": st.booleans(),
        "caller": st.none() | numbers,
        "visited": paths,
        "forwarded": paths,
        "diversions": st.integers(0, 6),
        "max_diversions": st.sampled_from([0, 5]),
        "forwards_in_progress": st.integers(0, 2),
        "forwards_per_line": st.sampled_from([0, 2]),
        "forwards_last_hour": st.integers(0, 2),
        "forwards_per_line_per_hour": st.sampled_from([0, 2]),
        "plan_left_s": st.none() | st.sampled_from([0.0, 60.0]),
        "cap_left_s": st.none() | st.sampled_from([-1.0, 0.0, 60.0]),
        "fleet_suspended": st.booleans(),
        "fleet_countries": st.none() | st.just(frozenset({"FR"})),
    }
)


@settings(max_examples=600, deadline=None)
@given(documents, situations)
def test_a_document_of_before_decides_as_before(
    document: dict[str, Any], given_situation: dict[str, Any]
) -> None:
    line = load_line(json.dumps(document), LINE, FRANCE)
    assert not line.rules
    assert canonical(document, line) == document
    was = decide_before.explain(line, decide_before.Situation(**given_situation), LINES)
    now = decide.explain(line, decide.Situation(**given_situation), LINES)
    assert now.steps == was.steps
    assert type(now.decision).__name__ == type(was.decision).__name__
    more = {"also": (), "targets": (), "ring": "in_turn", "rule": 0}
    found = asdict(now.decision)
    assert {name: found.pop(name) for name in more if name in found} == {
        name: value for name, value in more.items() if hasattr(now.decision, name)
    }
    assert found == asdict(was.decision)
    assert decide.decide(line, decide.Situation(**given_situation), LINES) == now.decision


@settings(max_examples=100, deadline=None)
@given(documents, situations)
def test_a_list_of_one_forward_decides_as_that_forward(
    document: dict[str, Any], given_situation: dict[str, Any]
) -> None:
    listed = {
        **document,
        "forwards": {name: [each] for name, each in document["forwards"].items()},
    }
    line, other = (load_line(json.dumps(each), LINE, FRANCE) for each in (document, listed))
    now = decide.Situation(**given_situation)
    one, of_list = (decide.decide(each, now, LINES) for each in (line, other))
    assert of_list == one
    assert of_list.prevented == one.prevented
