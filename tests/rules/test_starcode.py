"""The table of star codes: the meaning of each, and its change of a document."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.line_document import load_line
from rules.model import Condition, DocumentError
from rules.numbers import Numbering
from rules.starcode import Action, StarCode, StarCodeError, apply, is_on, looks_like_code, read_code

FRANCE = Numbering("FR")
OWN, MOBILE = "+33972101001", "+33612345678"
MAILBOX = ("123", "888")
NOW = 1796040000.0  # 2026-11-30
PAST, COMING = "2026-11-01T08:00:00+01:00", "2026-12-07T08:00:00+01:00"
UNCONDITIONAL, BUSY, NO_ANSWER, UNREACHABLE = Condition
EVERY = tuple(Condition)
VOICEMAIL = {"kind": "voicemail", "number": OWN}
TO_MOBILE = {"kind": "number", "number": MOBILE}


@pytest.mark.parametrize(
    ("text", "action", "conditions", "number", "after_s"),
    [
        ("**21*0612345678#", Action.REGISTER, (UNCONDITIONAL,), "0612345678", None),
        ("*21*0612345678#", Action.REGISTER, (UNCONDITIONAL,), "0612345678", None),
        ("*21*0612345678", Action.REGISTER, (UNCONDITIONAL,), "0612345678", None),
        ("+*21*0612345678#", Action.REGISTER, (UNCONDITIONAL,), "0612345678", None),
        ("*21*+33612345678#", Action.REGISTER, (UNCONDITIONAL,), "+33612345678", None),
        ("*21*06 12 34 56 78#", Action.REGISTER, (UNCONDITIONAL,), "06 12 34 56 78", None),
        ("*21*0612345678*11#", Action.REGISTER, (UNCONDITIONAL,), "0612345678", None),
        ("*21#", Action.ACTIVATE, (UNCONDITIONAL,), None, None),
        ("*21", Action.ACTIVATE, (UNCONDITIONAL,), None, None),
        ("#21#", Action.DEACTIVATE, (UNCONDITIONAL,), None, None),
        ("#21", Action.DEACTIVATE, (UNCONDITIONAL,), None, None),
        ("##21#", Action.ERASE, (UNCONDITIONAL,), None, None),
        ("*#21#", Action.STATUS, (UNCONDITIONAL,), None, None),
        ("*#21*0612345678#", Action.STATUS, (UNCONDITIONAL,), "0612345678", None),
        ("*61*0612345678#", Action.REGISTER, (NO_ANSWER,), "0612345678", None),
        ("*61*0612345678*25#", Action.REGISTER, (NO_ANSWER,), "0612345678", 25),
        ("*61*0612345678**25#", Action.REGISTER, (NO_ANSWER,), "0612345678", 25),
        ("**61*0612345678*11*25#", Action.REGISTER, (NO_ANSWER,), "0612345678", 25),
        ("*61**25#", Action.ACTIVATE, (NO_ANSWER,), None, 25),
        ("*67*888#", Action.REGISTER, (BUSY,), "888", None),
        ("*69*888#", Action.REGISTER, (BUSY,), "888", None),
        ("#69#", Action.DEACTIVATE, (BUSY,), None, None),
        ("*#69#", Action.STATUS, (BUSY,), None, None),
        ("*62*888#", Action.REGISTER, (UNREACHABLE,), "888", None),
        ("#002#", Action.DEACTIVATE, EVERY, None, None),
        ("##002#", Action.ERASE, EVERY, None, None),
        ("*#002#", Action.STATUS, EVERY, None, None),
        ("*002#", Action.ACTIVATE, EVERY, None, None),
        ("*004*0612345678*20#", Action.REGISTER, EVERY[1:], "0612345678", 20),
        ("##004#", Action.ERASE, EVERY[1:], None, None),
        ("*26#", Action.ACTIVATE, (), None, None),
        ("*26", Action.ACTIVATE, (), None, None),
        ("**26#", Action.TOGGLE, (), None, None),
        ("#26#", Action.DEACTIVATE, (), None, None),
        ("##26#", Action.DEACTIVATE, (), None, None),
        ("*#26#", Action.STATUS, (), None, None),
    ],
)
def test_a_code_is_understood(
    text: str,
    action: Action,
    conditions: tuple[Condition, ...],
    number: str | None,
    after_s: int | None,
) -> None:
    assert looks_like_code(text)
    assert read_code(text) == StarCode(text, action, conditions, number, after_s)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("*", 404),
        ("#", 404),
        ("*99#", 404),
        ("*26*0612345678#", 404),
        ("*#26*0612345678#", 404),
        ("*31*0612345678#", 404),
        ("*210612345678#", 404),
        ("*21*0612345678##", 404),
        ("*21*06x#", 404),
        ("***21#", 404),
        ("#*21#", 404),
        ("#21*0612345678#", 404),
        ("##61*0612345678#", 404),
        ("*21*0612345678*25#", 404),
        ("*21*0612345678*13#", 404),
        ("*61*0612345678*11*1000#", 404),
        ("*61*0612345678*x#", 404),
        ("*61*0612345678*11*20*1#", 404),
        ("*21*" + "0" * 80 + "#", 404),
        ("**21#", 484),
        ("**21*#", 484),
        ("*21*#", 484),
        ("*61*", 484),
    ],
)
def test_what_is_no_code_is_refused(text: str, code: int) -> None:
    with pytest.raises(StarCodeError) as caught:
        read_code(text)
    assert caught.value.code == code


@pytest.mark.parametrize("user", ["", "0612345678", "+33612345678", "accueil", "112", "+", "0*21#"])
def test_other_users_are_not_taken_for_codes(user: str) -> None:
    assert not looks_like_code(user)


def forwards(text: str, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """The forwards of a document after a code."""
    document: dict[str, Any] = {"number": OWN, "fleet": "acme", "crm": 7}
    if before is not None:
        document["forwards"] = before
    kept = orjson.dumps(before)
    apply(read_code(text), document, OWN, FRANCE, MAILBOX, NOW)
    assert orjson.dumps(before) == kept, "the code changed the document that was read"
    assert document["crm"] == 7
    load_line(orjson.dumps(document), OWN, FRANCE)  # the result can always be read
    changed: dict[str, Any] = document["forwards"]
    return changed


ON = {"on": True, "to": TO_MOBILE}
OFF = {"on": False, "to": TO_MOBILE}


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("*21*0612345678#", None, {"unconditional": ON}),
        ("*21*0612345678#", {"busy": OFF}, {"busy": OFF, "unconditional": ON}),
        ("*21*0972101001#", None, {"unconditional": {"on": True, "to": VOICEMAIL}}),
        ("*21*888#", {"unconditional": ON}, {"unconditional": {"on": True, "to": VOICEMAIL}}),
        ("*69*123#", None, {"busy": {"on": True, "to": VOICEMAIL}}),
        ("*21#", {"unconditional": OFF}, {"unconditional": ON}),
        ("*21#", {"unconditional": ON}, {"unconditional": ON}),
        ("#21#", {"unconditional": ON}, {"unconditional": OFF}),
        ("#21#", {"busy": ON}, {"busy": ON}),
        ("#21#", None, {}),
        ("##21#", {"unconditional": ON, "busy": ON}, {"busy": ON}),
        ("##21#", None, {}),
        ("*61*0612345678#", None, {"no_answer": ON | {"after_s": 20}}),
        (
            "*61*0612345678#",
            {"no_answer": OFF | {"after_s": 35, "note": "x"}},
            {"no_answer": ON | {"after_s": 35, "note": "x"}},
        ),
        ("*61*0612345678*30#", None, {"no_answer": ON | {"after_s": 30}}),
        ("*61**30#", {"no_answer": OFF | {"after_s": 20}}, {"no_answer": ON | {"after_s": 30}}),
        ("#002#", {"busy": ON, "unconditional": ON}, {"busy": OFF, "unconditional": OFF}),
        ("##002#", {"busy": ON, "unconditional": OFF}, {}),
        ("##004#", {"busy": ON, "unconditional": ON}, {"unconditional": ON}),
        ("*002#", {"busy": OFF}, {"busy": ON}),
        (
            "*004*888#",
            {"unconditional": OFF},
            {
                "unconditional": OFF,
                "busy": {"on": True, "to": VOICEMAIL},
                "no_answer": {"on": True, "to": VOICEMAIL, "after_s": 20},
                "unreachable": {"on": True, "to": VOICEMAIL},
            },
        ),
    ],
)
def test_what_a_code_makes_of_the_forwards(
    text: str, before: dict[str, Any] | None, after: dict[str, Any]
) -> None:
    assert forwards(text, before) == after


@pytest.mark.parametrize(
    ("text", "before", "code"),
    [
        ("*21#", None, 404),
        ("*21#", {"unconditional": {"on": False}}, 404),
        ("*002#", {}, 404),
        ("*21*061234567#", None, 484),
        ("*21*06123456789012345678#", None, 404),
        ("*21*000#", None, None),  # a short number: the check of the document refuses it
    ],
)
def test_what_cannot_be_carried_out(
    text: str, before: dict[str, Any] | None, code: int | None
) -> None:
    if code is None:
        assert forwards(text, before)["unconditional"]["to"]["number"] == "000"
        return
    with pytest.raises(StarCodeError) as caught:
        forwards(text, before)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "before", "on"),
    [
        ("*#21#", {"unconditional": ON}, True),
        ("*#21#", {"unconditional": OFF}, False),
        ("*#21#", {"busy": ON}, False),
        ("*#21#", {}, False),
        ("*#69#", {"busy": ON}, True),
        ("*#67#", {"busy": ON}, True),
        ("*#002#", {"busy": ON}, True),
        ("*#002#", {"busy": OFF}, False),
        ("*#004#", {"unconditional": ON}, False),
        ("*#21*0612345678#", {"unconditional": ON}, True),
        ("*#21*0612345679#", {"unconditional": ON}, False),
        ("*#21*888#", {"unconditional": {"on": True, "to": VOICEMAIL}}, True),
    ],
)
def test_a_status_code_shows_whether_it_is_on(text: str, before: dict[str, Any], on: bool) -> None:
    document = {"number": OWN, "fleet": "acme", "forwards": before}
    line = load_line(orjson.dumps(document), OWN, FRANCE)
    assert is_on(read_code(text), line, FRANCE, MAILBOX, NOW) is on


keys = st.text("0123456789*#+ ", max_size=40)


@given(st.one_of(keys, st.text(max_size=80), st.builds("*{}*{}#".format, keys, keys)))
def test_any_dialled_code_is_understood_or_refused(text: str) -> None:
    """An accepted code results in a readable document, or the document refuses it."""
    document: dict[str, Any] = {"number": OWN, "fleet": "acme", "forwards": {"busy": ON}}
    refused: list[object] = []
    try:
        apply(read_code(text), document, OWN, FRANCE, MAILBOX, NOW)
        load_line(orjson.dumps(document), OWN, FRANCE)
    except StarCodeError as error:
        refused = [error.code, bool(error.problem)]
    except DocumentError as error:
        refused = [error.field]
    # The document checks the ring time, 5 to 60 s.
    assert refused in ([], [404, True], [484, True], ["forwards.no_answer.after_s"])


LISTED: list[dict[str, Any]] = [
    {"on": True, "when": "office", "to": VOICEMAIL},
    {"on": False, "to": [TO_MOBILE, VOICEMAIL]},
]


@pytest.mark.parametrize("dialled", ["#21#", "##21#"])
def test_several_forwards_are_turned_off_together_and_stay(dialled: str) -> None:
    document = {"forwards": {"unconditional": LISTED}}
    apply(read_code(dialled), document, OWN, FRANCE, MAILBOX, NOW)
    assert document["forwards"] == {"unconditional": [each | {"on": False} for each in LISTED]}


@pytest.mark.parametrize("dialled", ["*21#", "**21*0612345678#", "**002*0612345678#"])
def test_several_forwards_are_not_replaced_by_a_code(dialled: str) -> None:
    document = {"forwards": {"unconditional": LISTED}}
    with pytest.raises(StarCodeError) as caught:
        apply(read_code(dialled), document, OWN, FRANCE, MAILBOX, NOW)
    assert (caught.value.code, caught.value.why) == (403, "several_forwards")


def test_what_a_code_registers_applies_always_and_to_everybody() -> None:
    document: dict[str, Any] = {
        "forwards": {
            "busy": {"on": False, "when": "office", "callers": "fleet", "to": [VOICEMAIL],
                     "until": "2026-12-07T08:00:00Z"},
        }
    }  # fmt: skip
    apply(read_code("**67*0612345678#"), document, OWN, FRANCE, MAILBOX, NOW)
    assert document["forwards"]["busy"] == {"on": True, "to": TO_MOBILE}


@pytest.mark.parametrize(("until", "kept"), [(PAST, {}), (COMING, {"until": COMING})])
def test_an_end_that_has_passed_is_forgotten_when_a_forward_is_turned_on(
    until: str, kept: dict[str, Any]
) -> None:
    """Else the phone would hear that it is on, and no call would be forwarded."""
    document: dict[str, Any] = {"forwards": {"busy": ON | {"until": until}}}
    apply(read_code("*67#"), document, OWN, FRANCE, MAILBOX, NOW)
    assert document["forwards"]["busy"] == ON | kept


@pytest.mark.parametrize(("until", "on"), [(PAST, False), (COMING, True)])
def test_a_forward_that_has_ended_is_off(until: str, on: bool) -> None:
    ends = {"on": True, "to": TO_MOBILE, "until": until}
    document = {"number": OWN, "fleet": "acme", "forwards": {"busy": ends, "unreachable": [ends]}}
    line = load_line(orjson.dumps(document), OWN, FRANCE)
    for dialled in ("*#67#", "*#62#", "*#002#", "*#67*0612345678#"):
        assert is_on(read_code(dialled), line, FRANCE, MAILBOX, NOW) is on


@pytest.mark.parametrize(
    ("dialled", "expected"),
    [("*#21#", True), ("*#21*0612345678#", False), ("*#67*0612345678#", True), ("*#62#", True)],
)
def test_the_status_looks_at_each_of_several(dialled: str, expected: bool) -> None:
    forwards = {
        "unconditional": LISTED,
        "busy": [{"on": False, "to": VOICEMAIL}, {"on": True, "to": [VOICEMAIL, TO_MOBILE]}],
        "unreachable": {"on": True, "to": {"kind": "reject"}},
    }
    document = {"number": OWN, "fleet": "acme", "forwards": forwards}
    line = load_line(orjson.dumps(document), OWN, FRANCE)
    assert is_on(read_code(dialled), line, FRANCE, MAILBOX, NOW) is expected


@pytest.mark.parametrize(
    ("dialled", "before", "after"),
    [
        ("*26#", {}, {"do_not_disturb": True}),
        ("*26#", {"do_not_disturb": False}, {"do_not_disturb": True}),
        ("#26#", {"do_not_disturb": True}, {"do_not_disturb": False}),
        ("#26#", {}, {}),
        ("##26#", {"do_not_disturb": True}, {"do_not_disturb": False}),
        ("**26#", {"do_not_disturb": True}, {"do_not_disturb": False}),
        ("**26#", {}, {"do_not_disturb": True}),
    ],
)
def test_do_not_disturb_is_switched_and_nothing_else(
    dialled: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    rest = {"number": OWN, "fleet": "acme", "forwards": {"busy": {"on": False}}}
    document = rest | before
    apply(read_code(dialled), document, OWN, FRANCE, MAILBOX, NOW)
    assert document == rest | after
    line = load_line(orjson.dumps(document), OWN, FRANCE)
    on = bool(after.get("do_not_disturb"))
    assert is_on(read_code("*#26#"), line, FRANCE, MAILBOX, NOW) is on
