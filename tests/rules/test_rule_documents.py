"""Documents of lines and fleets with hours, callers, lists of forwards and of targets: errors and
the field that they name, what is kept, warnings about misspelt fields."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rules.callers import CallerList
from rules.fleet import FleetDocument, check_fleet
from rules.line_document import LineDocument, load_line
from rules.model import Condition, DocumentError, Line, Offer
from rules.numbers import Numbering
from rules.unread import unread_fields
from rules.validate import (
    canonical,
    changed_part,
    check_write,
    lines_needed,
    names_used,
    numbers_named,
)

FRANCE = Numbering("FR", timezone="Europe/Paris")
LINE, PEER, FAX, FOREIGN = (f"+3397210100{n}" for n in (1, 2, 3, 9))
OTHERS: dict[str, Line | None] = {
    PEER: Line(PEER, "acme"),
    FAX: Line(FAX, "acme", offer=Offer(fax=True)),
    FOREIGN: Line(FOREIGN, "globex"),
}
BASE: dict[str, Any] = {"number": LINE, "fleet": "acme"}
FLEET = check_fleet(
    {"name": "acme", "calendars": {"office": {}}, "lists": {"vip": ["+33140000001"]}}, FRANCE
)
MOBILE: dict[str, Any] = {"kind": "number", "number": "+33612345678"}
VOICEMAIL = {"kind": "voicemail"}
REJECT = {"kind": "reject"}


def on(to: Any = VOICEMAIL, **fields: Any) -> dict[str, Any]:
    return {"on": True, "to": to, **fields}


def several(*forwards: Any) -> dict[str, Any]:
    return {"forwards": {"unconditional": list(forwards)}}


FORM = [
    ({"forwards": {"unconditional": []}}, "forwards.unconditional", "a list that is not empty"),
    ({"forwards": {"unconditional": "on"}}, "forwards.unconditional", "a JSON object or a list"),
    (several(on(), 3), "forwards.unconditional[1]", "expected a JSON object"),
    (several(on(), {"to": VOICEMAIL}), "forwards.unconditional[1].on", "is required"),
    (several(on(), {"on": 1}), "forwards.unconditional[1].on", "expected true or false"),
    (several(on(), {"on": True}), "forwards.unconditional[1].to", "is needed when it is on"),
    (several(on([])), "forwards.unconditional[0].to", "a list of 1 to 10"),
    (several(on([MOBILE] * 11)), "forwards.unconditional[0].to", "a list of 1 to 10"),
    ({"forwards": {"busy": on([])}}, "forwards.busy.to", "a list of 1 to 10"),
    (several(on([MOBILE, {}])), "forwards.unconditional[0].to[1].kind", "is required"),
    (several(on([MOBILE, {"kind": "pigeon"}])), "forwards.unconditional[0].to[1].kind",
     "expected one of voicemail, fax, number, reject"),
    (several(on([MOBILE, {"kind": "fax"}])), "forwards.unconditional[0].to[1].number",
     "is needed for kind fax"),
    (several(on([MOBILE | {"ring_s": 4}])), "forwards.unconditional[0].to[0].ring_s", "5 to 60"),
    (several(on([MOBILE | {"ring_s": 61}])), "forwards.unconditional[0].to[0].ring_s", "5 to 60"),
    (several(on(MOBILE | {"ring_s": "x"})), "forwards.unconditional[0].to.ring_s", "5 to 60"),
    (several(on([MOBILE, {"kind": "number", "number": "06"}])),
     "forwards.unconditional[0].to[1].number", "short"),
    (several(on([MOBILE, REJECT])), "forwards.unconditional[0].to[1].kind", "no target of a list"),
    (several(on([REJECT])), "forwards.unconditional[0].to[0].kind", "no target of a list"),
    (several(on(REJECT | {"number": PEER})), "forwards.unconditional[0].to.number", "no number"),
    (several(on(ring="both")), "forwards.unconditional[0].ring", "one of in_turn, together"),
    (several(on(when="")), "forwards.unconditional[0].when", "the name of a calendar"),
    (several(on(when="not ")), "forwards.unconditional[0].when", "the name of a calendar"),
    (several(on(when="not not office")), "forwards.unconditional[0].when", "name of a calendar"),
    (several(on(when=["office"])), "forwards.unconditional[0].when", "expected text"),
    (several(on(when="beach")), "forwards.unconditional[0].when", "is no calendar of the line"),
    (several(on(), on(when="not beach")), "forwards.unconditional[1].when", "is no calendar"),
    ({"forwards": {"busy": on(when="beach")}}, "forwards.busy.when", "or of fleet acme"),
    ({"forwards": {"busy": {"on": False, "when": "beach"}}}, "forwards.busy.when", "of fleet acme"),
    (several(on(callers="friends")), "forwards.unconditional[0].callers", "expected fleet, "),
    (several(on(callers="not fleet")), "forwards.unconditional[0].callers", "expected fleet"),
    (several(on(callers="list:")), "forwards.unconditional[0].callers", "expected fleet"),
    (several(on(callers="List:vip")), "forwards.unconditional[0].callers", "expected fleet"),
    (several(on(callers="list:gone")), "forwards.unconditional[0].callers", "is no list of the"),
    (several(on(callers="not list:gone")), "forwards.unconditional[0].callers", "is no list of"),
    (several(on(until="2026-12-07T08:00:00")), "forwards.unconditional[0].until", "its offset"),
    (several(on(until="2026-12-07")), "forwards.unconditional[0].until", "its offset"),
    (several(on(until="2026-13-07T08:00:00Z")), "forwards.unconditional[0].until", "its offset"),
    (several(on(until="Monday")), "forwards.unconditional[0].until", "its offset"),
    (several(on(until=1796626800)), "forwards.unconditional[0].until", "expected text"),
    (several(on(until="0001-01-01T00:00:00+14:00")), "forwards.unconditional[0].until", "offset"),
    ({"also_ring": []}, "also_ring", "a list of 1 to 10"),
    ({"also_ring": [MOBILE] * 11}, "also_ring", "a list of 1 to 10"),
    ({"also_ring": MOBILE}, "also_ring", "a list of 1 to 10"),
    ({"also_ring": [MOBILE, REJECT]}, "also_ring[1].kind", "expected number"),
    ({"also_ring": [VOICEMAIL]}, "also_ring[0].kind", "expected number"),
    ({"also_ring": [{"kind": "number", "number": "hello"}]}, "also_ring[0].number", "no telephone"),
    ({"do_not_disturb": "yes"}, "do_not_disturb", "expected true or false"),
    ({"do_not_disturb": None}, "do_not_disturb", "expected true or false"),
    ({"lists": []}, "lists", "expected a JSON object"),
    ({"lists": {"vip": []}}, "lists.vip", "at least one number"),
    ({"lists": {"vip": "+33140000001"}}, "lists.vip", "expected a list"),
    ({"lists": {"vip": ["+33140000001", 5]}}, "lists.vip[1]", "expected text"),
    ({"lists": {"vip": ["+33140000001"], "b": ["+33140000001", "me"]}}, "lists.b[1]", "no telepho"),
    ({"lists": {"vip": ["*"]}}, "lists.vip[0]", "such as +331411*"),
    ({"lists": {"vip": ["0141*"]}}, "lists.vip[0]", "such as +331411*"),
    ({"lists": {"vip": ["+33*1"]}}, "lists.vip[0]", "no telephone number"),
    ({"lists": {"": ["+33140000001"]}}, "lists.", "1 to 64 printable"),
    ({"calendars": {"office": 3}}, "calendars.office", "expected a JSON object"),
    ({"calendars": {"a": {}, "b": {"zone": "X"}}}, "calendars.b.zone", "a time zone such as"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "field", "problem"), FORM)
def test_what_is_refused_names_its_field(fields: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(DocumentError) as caught:
        check_write(BASE | fields, OTHERS, FRANCE, LINE, FLEET)
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert "<" not in str(caught.value)  # the value as the document has it, not as Python shows it


TARGETS = [
    (several(on(), on([MOBILE, {"kind": "number", "number": LINE}])),
     "forwards.unconditional[1].to[1].number", "is the line itself"),
    (several(on([{"kind": "number", "number": LINE}])),
     "forwards.unconditional[0].to[0].number", "is the line itself"),
    (several(on({"kind": "fax", "number": PEER})), "forwards.unconditional[0].to.number",
     "without the fax offer"),
    ({"forwards": {"busy": on([VOICEMAIL, {"kind": "voicemail", "number": FOREIGN}])}},
     "forwards.busy.to[1].number", "is not a line of fleet acme"),
    ({"forwards": {"busy": [{"on": False, "to": {"kind": "number", "number": "0899123456"}}]}},
     "forwards.busy[0].to.number", "premium"),
    ({"also_ring": [MOBILE, {"kind": "number", "number": LINE}]}, "also_ring[1].number",
     "is the line itself"),
    ({"also_ring": [{"kind": "number", "number": "0899123456"}]}, "also_ring[0].number",
     "premium"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "field", "problem"), TARGETS)
def test_each_target_is_checked(fields: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(DocumentError) as caught:
        check_write(BASE | fields, OTHERS, FRANCE, LINE, FLEET)
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert "<" not in str(caught.value)  # the value as the document has it, not as Python shows it


CONTRACT: dict[str, Any] = {
    "number": LINE,
    "fleet": "acme",
    "forwards": {
        "unconditional": [
            {"on": True, "when": "not office", "to": {"kind": "voicemail", "number": LINE}},
            {"on": True, "callers": "withheld", "to": {"kind": "voicemail", "number": LINE}},
            {"on": True, "until": "2026-12-07T08:00:00+01:00", "to": MOBILE},
            {"on": True, "callers": "not list:vip", "to": REJECT},
        ],
        "no_answer": {
            "on": True,
            "after_s": 20,
            "ring": "in_turn",
            "to": [
                MOBILE | {"ring_s": 15},
                {"kind": "number", "number": PEER, "ring_s": 15},
                {"kind": "voicemail", "number": LINE},
            ],
        },
    },
    "also_ring": [MOBILE],
    "do_not_disturb": False,
    "lists": {"vip": ["+33140000001", "+331411*"]},
}


def test_the_document_is_kept_as_written() -> None:
    line = check_write(CONTRACT, OTHERS, FRANCE, LINE, FLEET)
    assert canonical(CONTRACT, line) == CONTRACT
    assert list(line.rules) == [Condition.UNCONDITIONAL, Condition.NO_ANSWER]
    assert [to.ring_s for to in line.rules[Condition.NO_ANSWER][0].targets] == [15, 15, 20]
    assert line.lists == {"vip": CallerList(["+33140000001"], ["+331411"])}
    assert line.asks_for_caller
    assert numbers_named(CONTRACT, FRANCE) == ("+33612345678", PEER)
    assert lines_needed(line) == ()
    assert names_used(line) == ({"office"}, set())
    assert line.target_numbers() == ("+33612345678", PEER)
    assert unread_fields(CONTRACT, LineDocument) == []


def test_only_numbers_of_targets_become_e164() -> None:
    document = {
        **BASE,
        "forwards": {
            "busy": [on({"kind": "number", "number": "06 12 34 56 78", "x_note": 1})],
            "unreachable": on([{"kind": "number", "number": "0612345678"}, VOICEMAIL]),
            "no_answer": on(REJECT),
        },
        "also_ring": [{"kind": "number", "number": "0612345678"}],
        "lists": {"vip": ["01 40 00 00 01"]},
    }
    line = load_line(json.dumps(document), LINE, FRANCE)
    assert canonical(document, line) == {
        **document,
        "forwards": {
            "busy": [on({"kind": "number", "number": "+33612345678", "x_note": 1})],
            "unreachable": on([MOBILE, VOICEMAIL]),
            "no_answer": on(REJECT),
        },
        "also_ring": [MOBILE],
    }
    assert "+33140000001" in line.lists["vip"]


@pytest.mark.parametrize(
    ("forward", "is_plain"),
    [
        (on(MOBILE), True),
        (on(MOBILE, x_note=1), True),
        (on(MOBILE, ring="together"), True),
        (on([MOBILE]), False),
        (on(MOBILE | {"ring_s": 30}), False),
        (on(REJECT), False),
        (on(when="office"), False),
        (on(callers="fleet"), False),
        (on(until="2026-12-07T08:00:00Z"), False),
    ],
)
def test_a_line_without_new_fields_has_no_rules(forward: dict[str, Any], is_plain: bool) -> None:
    line = load_line(json.dumps({**BASE, "forwards": {"busy": forward}}), LINE, FRANCE)
    assert (not line.rules) is is_plain


def test_misspelt_fields_inside_lists_are_named() -> None:
    document = {
        **several(on([MOBILE | {"rings": 5}], wen="office")),
        "also_ring": [MOBILE | {"ring": 5}],
        "calendars": {"office": {"zones": "UTC", "weekly": {"monday": []}, "x_note": 1}},
        "do_not_distrub": True,
    }
    hints = [str(one).replace(": no such field: it is kept and has no effect", "") for one in
             unread_fields(BASE | document, LineDocument)]  # fmt: skip
    assert sorted(hints) == sorted([
        "do_not_distrub, did you mean do_not_disturb?",
        "forwards.unconditional[0].wen, did you mean forwards.unconditional[0].when?",
        "forwards.unconditional[0].to[0].rings, did you mean "
        "forwards.unconditional[0].to[0].ring_s?",
        "also_ring[0].ring, did you mean also_ring[0].ring_s?",
        "calendars.office.zones, did you mean calendars.office.zone?",
        "calendars.office.weekly.monday, did you mean calendars.office.weekly.mon?",
    ])  # fmt: skip
    (of_fleet,) = unread_fields({"calendars": {"a": {"z": 1}}}, FleetDocument)
    assert of_fleet.path == "calendars.a.z"


def test_a_fleets_lists_and_calendars_are_checked() -> None:
    fleet = check_fleet(
        {"name": "acme", "calendars": {"a": {"weekly": {"mon": ["09:00-10:00"]}}},
         "lists": {"vip": ["0140000001", "00 33 141 1*"]}},
        FRANCE,
    )  # fmt: skip
    assert fleet.lists == {"vip": CallerList(["+33140000001"], ["+331411"])}
    assert fleet.calendars["a"].zone.key == "Europe/Paris"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"lists": {"vip": ["x"]}}, "lists.vip[0]"),
        ({"calendars": {"a": {"holidays": "XX"}}}, "calendars.a.holidays"),
    ]
    for fields, field in wrong:
        with pytest.raises(DocumentError) as caught:
            check_fleet({"name": "acme", **fields}, FRANCE)
        assert caught.value.field == field


def test_prefixes_of_several_lengths() -> None:
    found = CallerList(["+33140000001"], ["+331411", "+49", "+3314"])
    numbers = ["+33140000001", "+33141155555", "+4930901820", "+33149999999", "+33150000000", "+4"]
    assert [number in found for number in numbers] == [True, True, True, True, False, False]


BAD: dict[str, Any] = {"on": True, "to": {"kind": "fax", "number": PEER}}
CHANGES = [
    # before, after, and which part is checked
    ([on(), BAD], [on(), BAD], None),
    ([on(), BAD], [on(), BAD | {"on": False}], None),
    ([on()], [on(), BAD], [{"on": False}, BAD]),
    ([BAD, on()], [on(), BAD], None),
    (BAD, [BAD, on()], [{"on": False}, on()]),
    (None, [on()], [on()]),
    ([BAD], BAD, BAD),
    (on(), on() | {"on": False}, None),
]


@pytest.mark.parametrize(("before", "after", "checked"), CHANGES)
def test_what_does_not_change_prevents_no_change(before: Any, after: Any, checked: Any) -> None:
    old: dict[str, Any] = {**BASE, "forwards": {"busy": before}, "also_ring": [MOBILE]}
    part = changed_part({**old, "forwards": {"busy": after}}, old)
    forwards = {} if checked is None else {"busy": checked}
    assert part == BASE | {"forwards": forwards}


def test_a_kind_is_shown_as_it_was_written() -> None:
    with pytest.raises(DocumentError, match=r"\(got 'voicemail'\)"):
        load_line(json.dumps({**BASE, "also_ring": [VOICEMAIL]}), None, FRANCE)
