"""Profiles of a line: when each is used, what it replaces, and errors at writing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rules.applies import is_undisturbed, line_now, profile_now
from rules.decide import Circumstances, ForwardTo, Reject, Ring, decide, explain
from rules.model import Condition, DocumentError, Line
from rules.switches import switch_do_not_disturb, switch_profile
from rules.validate import canonical, changed_part, check_write, names_used
from tests.rules.test_dimensions import (
    CHRISTMAS,
    FIXED,
    FLEET,
    FOREIGN,
    FRANCE,
    LINE,
    LINES,
    LUNCH,
    MOBILE,
    NIGHT,
    PEER,
    SUNDAY,
    TO_FIXED,
    TO_MOBILE,
    TO_PEER,
    TUESDAY,
    number,
    off,
    on,
    situation,
)

MORNING, END = "2026-12-07T07:59", "2026-12-07T08:00:00+01:00"
MONDAY = "2026-12-07T08:00"
OFFICE: dict[str, Any] = {"forwards": {"no_answer": on(TO_PEER, after_s=20)}}
AWAY: dict[str, Any] = {"forwards": {"unconditional": on(TO_MOBILE)}}
QUIET: dict[str, Any] = {"do_not_disturb": True, "forwards": {"busy": on(TO_FIXED)}}
BESIDE: dict[str, Any] = {"also_ring": [TO_MOBILE]}
BY_RULE: dict[str, Any] = {
    "forwards": {"unconditional": [on(TO_PEER, when="office"), on(TO_MOBILE)]}
}
PROFILES: dict[str, Any] = {
    "bureau": OFFICE, "conges": AWAY, "calme": QUIET, "mobile": BESIDE, "heures": BY_RULE,
}  # fmt: skip


def document(profile: Any = None, **fields: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"unconditional": on(TO_FIXED), "busy": on(TO_FIXED)}
    base = {"number": LINE, "fleet": "acme", "forwards": own, "profiles": PROFILES}
    return base | ({} if profile is None else {"profile": profile}) | fields


def written(given: dict[str, Any]) -> Line:
    return check_write(given, LINES, FRANCE, LINE, FLEET)


def short(line: Line, at: str, **fields: Any) -> str:
    decision = decide(line, situation(at, **fields), LINES)
    if isinstance(decision, ForwardTo):
        return f"{decision.condition} {decision.number}"
    if isinstance(decision, Ring):
        also = "".join(f" +{target.number}" for target in decision.also)
        return f"ring {decision.after_s}{also}"
    assert isinstance(decision, Reject)
    return f"{decision.code} {decision.why}"


OWN = f"unconditional {FIXED}"
BY_HOURS = [{"when": "office", "use": "bureau"}, {"use": "conges"}]
HOLIDAYS = [{"until": END, "use": "conges"}, {"use": "bureau"}]


@pytest.mark.parametrize(
    ("profile", "at", "expected"),
    [
        (None, TUESDAY, OWN),
        ("bureau", TUESDAY, "ring 20"),
        ("bureau", NIGHT, "ring 20"),
        ("conges", TUESDAY, f"unconditional {MOBILE}"),
        ("calme", TUESDAY, f"busy {FIXED}"),
        ("mobile", TUESDAY, f"ring None +{MOBILE}"),
        ("heures", TUESDAY, f"unconditional {PEER}"),
        ("heures", NIGHT, f"unconditional {MOBILE}"),
        (BY_HOURS, TUESDAY, "ring 20"),
        (BY_HOURS, LUNCH, f"unconditional {MOBILE}"),
        (BY_HOURS, NIGHT, f"unconditional {MOBILE}"),
        (BY_HOURS, SUNDAY, f"unconditional {MOBILE}"),
        (BY_HOURS, CHRISTMAS, f"unconditional {MOBILE}"),
        (BY_HOURS[:1], NIGHT, OWN),
        ([{"when": "not office", "use": "conges"}], NIGHT, f"unconditional {MOBILE}"),
        ([{"when": "not office", "use": "conges"}], TUESDAY, OWN),
        (HOLIDAYS, MORNING, f"unconditional {MOBILE}"),
        (HOLIDAYS, MONDAY, "ring 20"),
        (HOLIDAYS[:1], MONDAY, OWN),
        ([{"when": "always", "until": END, "use": "calme"}], MORNING, f"busy {FIXED}"),
        ([{"when": "never", "until": END, "use": "calme"}], MORNING, OWN),
    ],
)
def test_the_first_that_applies_replaces_the_line_s_own(
    profile: Any, at: str, expected: str
) -> None:
    assert short(written(document(profile)), at) == expected


@pytest.mark.parametrize("trigger", [c for c in Condition if c is not Condition.UNCONDITIONAL])
def test_later_conditions_are_those_of_the_profile(trigger: Condition) -> None:
    line = written(document("bureau"))
    expected = {
        Condition.BUSY: "486 busy",
        Condition.NO_ANSWER: f"no_answer {PEER}",
        Condition.UNREACHABLE: "480 unreachable",
    }
    assert short(line, TUESDAY, trigger=trigger) == expected[trigger]


def test_what_the_line_is_stays() -> None:
    line = written(document("bureau", max_calls=1, suspended=True))
    assert short(line, TUESDAY) == "403 suspended"
    line = written(document("calme", max_calls=1))
    assert short(line, TUESDAY, trigger=Condition.BUSY) == f"busy {FIXED}"
    line = written(document("bureau", max_calls=1))
    assert short(line, TUESDAY, calls_in_progress=1) == "486 busy"


@pytest.mark.parametrize(
    ("own", "profile", "at", "expected"),
    [
        (False, "bureau", TUESDAY, False),
        (True, "bureau", TUESDAY, True),  # the line's own switch applies in each profile
        (False, "calme", TUESDAY, True),
        (True, None, TUESDAY, True),
        (False, [{"when": "not office", "use": "calme"}], TUESDAY, False),
        (False, [{"when": "not office", "use": "calme"}], NIGHT, True),
    ],
)
def test_do_not_disturb_is_that_of_the_line_or_of_the_profile(
    own: bool, profile: Any, at: str, expected: bool
) -> None:
    line = written(document(profile, do_not_disturb=own, forwards={}))
    now = situation(at)
    assert is_undisturbed(line, now.circumstances) is expected
    decision = decide(line, now, LINES)
    refused = isinstance(decision, Reject) and decision.why == "do_not_disturb"
    assert (refused or short(line, at) == f"busy {FIXED}") is expected


def test_a_deleted_calendar_applies_to_no_profile() -> None:
    line = written(document([{"when": "not office", "use": "calme"}, {"use": "bureau"}]))
    for found in (None, Circumstances(0.0), Circumstances(0.0, False, {}, {})):
        use = profile_now(line, found)
        assert use is not None
        assert use.name == "bureau"
        assert line_now(line, found) is line.profiles["bureau"]


def test_the_explanation_names_the_profile() -> None:
    line = written(document(BY_HOURS))
    steps = explain(line, situation(TUESDAY), LINES).steps
    assert steps[0] == "profile: bureau, when office"
    assert explain(line, situation(NIGHT), LINES).steps[0] == "profile: conges"
    none = written(document(BY_HOURS[:1]))
    assert explain(none, situation(NIGHT), LINES).steps[0] == "profile: none applies now"


def test_a_line_without_profiles_has_none_of_it() -> None:
    line = written({"number": LINE, "fleet": "acme"})
    assert (line.profiles, line.profile, line.asks_for_moment) == ({}, (), False)
    assert line_now(line, None) is line


def test_the_targets_of_a_profile_that_may_be_used_are_known() -> None:
    assert written(document()).target_numbers() == (FIXED,)
    assert written(document(BY_HOURS)).target_numbers() == (FIXED, PEER, MOBILE)
    asking = {"forwards": {"busy": on(TO_PEER, callers="fleet")}}
    profiles = {"profiles": {"a": asking}}
    assert written(document("a", **profiles)).asks_for_caller
    assert not written(document(None, **profiles)).asks_for_caller
    assert written(document("bureau", forwards={})).may_forward_ringing
    assert not written(document("conges", forwards={})).may_forward_ringing


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"profile": "ete"}, "profile", "is no profile of the line, which has bureau, calme"),
        ({"profile": [{"use": "ete"}]}, "profile[0].use", "is no profile"),
        ({"profile": []}, "profile", ""),
        ({"profile": 3}, "profile", ""),
        ({"profile": [{"when": "office"}]}, "profile[0].use", ""),
        ({"profile": [{"use": "bureau", "when": "weekend"}]}, "profile[0].when", "is no calendar"),
        ({"profile": [{"use": "bureau", "until": "2026-12-07"}]}, "profile[0].until", "offset"),
        ({"profile": "a", "profiles": {}}, "profile", "which has none"),
        ({"profiles": {" a": {}}}, "profiles. a", "expected a name"),
        ({"profiles": {"a": {"do_not_disturb": 1}}}, "profiles.a.do_not_disturb", ""),
        (
            {"profiles": {"a": {"forwards": {"busy": on(number(LINE))}}}},
            "profiles.a.forwards.busy.to.number",
            "is the line itself",
        ),
        (
            {"profiles": {"a": {"forwards": {"busy": [off(TO_PEER, when="weekend")]}}}},
            "profiles.a.forwards.busy[0].when",
            "is no calendar",
        ),
        (
            {"profiles": {"a": {"also_ring": [TO_MOBILE, number("+33899123456")]}}},
            "profiles.a.also_ring[1].number",
            "premium",
        ),
        (
            {
                "profiles": {
                    "a": {"forwards": {"busy": on({"kind": "voicemail", "number": FOREIGN})}}
                }
            },
            "profiles.a.forwards.busy.to.number",
            "is not a line of fleet acme",
        ),
        (
            {"profiles": {"a": {"also_ring": [{"kind": "fax", "number": PEER}]}}},
            "profiles.a.also_ring[0].kind",
            "expected number",
        ),
    ],
)
def test_what_is_refused_at_writing(fields: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(DocumentError) as caught:
        written(document(**fields))
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert "<" not in str(caught.value)  # the value as in the document, not as Python shows it


def test_the_document_is_kept_as_written_with_numbers_in_e164() -> None:
    local = {"forwards": {"busy": on(number("06 12 34 56 78"), x_note=1)}, "x_by": "crm"}
    given = document("a", profiles={"a": local, "b": {}})
    kept = canonical(given, written(given))
    busy = on(number(MOBILE), x_note=1)
    assert kept["profiles"] == {"a": {"forwards": {"busy": busy}, "x_by": "crm"}, "b": {}}


def test_a_change_is_not_prevented_by_what_stays() -> None:
    gone = {"forwards": {"busy": on({"kind": "voicemail", "number": FOREIGN})}}
    before = document("a", profiles={"a": gone, "b": AWAY})
    switched = json.loads(json.dumps(before))
    switch_profile(switched, "b", None, 0)
    part = changed_part(switched, before)
    assert part["profiles"]["a"] == {"forwards": {}}
    assert part["profile"] == "b"
    written(part)
    changed = json.loads(json.dumps(before))
    changed["profiles"]["a"]["forwards"]["busy"]["on"] = False
    written(changed_part(changed, before))
    changed["profiles"]["b"]["forwards"]["unconditional"]["to"]["number"] = LINE
    with pytest.raises(DocumentError, match=r"profiles\.b\.forwards"):
        written(changed_part(changed, before))


def test_names_of_the_fleet_that_profiles_use() -> None:
    line = written(document(BY_HOURS, profiles={"bureau": BY_RULE, "conges": {}}))
    assert names_used(line) == ({"office"}, set())


@pytest.mark.parametrize(
    ("before", "name", "until", "after"),
    [
        (None, "conges", None, "conges"),
        ("bureau", "conges", None, "conges"),
        ("bureau", None, None, None),
        (None, None, None, None),
        ("bureau", "conges", END, [{"use": "conges", "until": END}, {"use": "bureau"}]),
        (None, "conges", END, [{"use": "conges", "until": END}]),
        (BY_HOURS, "calme", END, [{"use": "calme", "until": END}, *BY_HOURS]),
        (HOLIDAYS, "calme", END, [{"use": "calme", "until": END}, {"use": "bureau"}]),
        (
            [{"use": "mobile", "when": "office", "until": "2026-11-01T00:00:00Z"}, *BY_HOURS],
            "calme",
            END,
            [{"use": "calme", "until": END}, *BY_HOURS],
        ),
    ],
)
def test_switching(before: Any, name: str | None, until: str | None, after: Any) -> None:
    given = document(before)
    now = situation(TUESDAY).circumstances
    assert now is not None
    switch_profile(given, name, until, now.at)
    assert given.get("profile") == after
    written(given)


@pytest.mark.parametrize(
    ("name", "until", "field"),
    [
        ("ete", None, "use"),
        ("bureau", "2026-11-30T00:00:00+01:00", "until"),
        ("bureau", "tomorrow", "until"),
        (None, END, "until"),
    ],
)
def test_switching_is_refused(name: str | None, until: str | None, field: str) -> None:
    given = document("bureau")
    now = situation(TUESDAY).circumstances
    assert now is not None
    with pytest.raises(DocumentError) as caught:
        switch_profile(given, name, until, now.at)
    assert caught.value.field == field
    assert given == document("bureau")


@pytest.mark.parametrize(
    ("before", "state", "after"),
    [({}, True, True), ({}, False, None), ({"do_not_disturb": True}, False, False)],
)
def test_do_not_disturb_is_switched(before: dict[str, Any], state: bool, after: object) -> None:
    switch_do_not_disturb(before, state)
    assert before.get("do_not_disturb") == after
