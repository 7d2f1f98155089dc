"""Lists of forwards, compared with an independent model that reads the document itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rules.decide import Circumstances, ForwardTo, Reject, Situation, decide
from rules.fleet import load_fleet
from rules.line_document import load_line
from rules.model import Condition, Line
from rules.numbers import Numbering

FRANCE = Numbering("FR", timezone="UTC")
LINE, PEER, FOREIGN = (f"+3397210100{n}" for n in (1, 2, 9))
MOBILE, VIP, OUTSIDE = "+33612345678", "+33140000001", "+33198765432"
LINES: dict[str, Line | None] = {PEER: Line(PEER, "acme"), FOREIGN: Line(FOREIGN, "globex")}
HOURS = (9, 18)
FLEET = load_fleet(
    json.dumps(
        {
            "name": "acme",
            "calendars": {
                "day": {
                    "zone": "UTC",
                    "weekly": {
                        day: [f"{HOURS[0]:02}:00-{HOURS[1]:02}:00"]
                        for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
                    },
                }
            },
            "lists": {"vip": [VIP]},
        }
    ),
    "acme",
    FRANCE,
)
numbers = st.sampled_from([LINE, PEER, FOREIGN, MOBILE, OUTSIDE])
targets = st.fixed_dictionaries({"kind": st.just("number"), "number": numbers})
hours = st.integers(0, 23).map(lambda hour: f"2026-12-01T{hour:02}:00:00+00:00")
rules = st.fixed_dictionaries(
    {
        "on": st.booleans(),
        "to": targets
        | st.lists(targets, min_size=1, max_size=3)
        | st.just({"kind": "voicemail"})
        | st.just({"kind": "reject"}),
    },
    optional={
        "when": st.sampled_from(["day", "not day", "gone", "not gone"]),
        "until": hours,
        "callers": st.sampled_from(
            ["fleet", "outside", "withheld", "list:vip", "not list:vip", "list:gone"]
        ),
    },
)
conditions = st.sampled_from(list(Condition))


def applies(rule: dict[str, Any], hour: int, caller: str | None, withheld: bool) -> bool:
    is_day = HOURS[0] <= hour < HOURS[1]
    if not rule["on"] or rule.get("when") in ("gone", "not gone"):
        return False
    if rule.get("when", "day" if is_day else "not day") != ("day" if is_day else "not day"):
        return False
    if "until" in rule and hour >= datetime.fromisoformat(rule["until"]).hour:
        return False
    inside = caller in (LINE, PEER)
    in_list = not withheld and caller == VIP
    classes = {
        "fleet": inside and not withheld,
        "outside": not inside and not withheld,
        "withheld": withheld,
        "list:vip": in_list,
        "not list:vip": not in_list,
        "list:gone": False,
        None: True,
    }
    return classes[rule.get("callers")]


def allowed(rule: dict[str, Any], caller: str | None, visited: tuple[str, ...]) -> list[str]:
    """The numbers that may be dialled; "" is the voicemail."""
    to = rule["to"] if isinstance(rule["to"], list) else [rule["to"]]
    return [
        each.get("number", "")
        for each in to
        if each["kind"] == "voicemail" or each["number"] not in (LINE, caller, *visited)
    ]


@settings(max_examples=300, deadline=None)
@given(
    condition=conditions,
    several=st.lists(rules, min_size=1, max_size=4),
    hour=st.integers(0, 23),
    caller=st.none() | st.sampled_from([LINE, PEER, FOREIGN, VIP, OUTSIDE, MOBILE]),
    withheld=st.booleans(),
    visited=st.sampled_from([(), (PEER,)]),
)
def test_the_first_that_applies_and_may_happen(
    condition: Condition,
    several: list[dict[str, Any]],
    hour: int,
    caller: str | None,
    withheld: bool,
    visited: tuple[str, ...],
) -> None:
    document = {"number": LINE, "fleet": "acme", "forwards": {condition.value: several}}
    line = load_line(json.dumps(document), LINE, FRANCE)
    at = datetime(2026, 12, 1, hour, tzinfo=UTC).timestamp()
    now = Situation(
        trigger=condition,
        caller=caller,
        visited=(*visited, LINE),
        circumstances=Circumstances(at, withheld, FLEET.calendars, FLEET.lists),
    )
    decision = decide(line, now, LINES)
    for place, rule in enumerate(several):
        if not applies(rule, hour, caller, withheld):
            continue
        if rule["to"] == {"kind": "reject"}:
            assert isinstance(decision, Reject)
            assert (decision.code, decision.why) == (603, "blocked")
            return
        dialled = allowed(rule, caller, visited)
        if not dialled:
            continue
        assert isinstance(decision, ForwardTo)
        assert decision.rule == place
        assert decision.number == (dialled[0] or LINE)
        numbers = [each.number for each in decision.targets if each.passed_over is None]
        assert numbers == (dialled if isinstance(rule["to"], list) else [])
        return
    assert isinstance(decision, Reject)
    assert decision.why == condition.value
