"""The check before a write: the whole document, together with the other lines."""

from __future__ import annotations

from typing import Any

import pytest

from rules.model import Condition, DocumentError, Line, Offer
from rules.numbers import Numbering
from rules.validate import check_write, numbers_named

FRANCE = Numbering("FR")
LINE, PEER, FAX, FOREIGN = (f"+3397210100{n}" for n in (1, 2, 3, 9))
MOBILE, NOBODY = "+33612345678", "+33123456789"
OTHERS = {
    PEER: Line(PEER, "acme"),
    FAX: Line(FAX, "acme", offer=Offer(fax=True)),
    FOREIGN: Line(FOREIGN, "globex", offer=Offer(fax=True)),
    MOBILE: None,
}


def document(kind: str, number: str | None, on: bool = True, /, **fields: Any) -> dict[str, Any]:
    to = {"kind": kind} | ({} if number is None else {"number": number})
    return {"number": LINE, "fleet": "acme", "forwards": {"busy": {"on": on, "to": to}}} | fields


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("voicemail", LINE),
        ("voicemail", None),
        ("voicemail", PEER),
        ("fax", FAX),
        ("number", PEER),
        ("number", FOREIGN),  # a line of another fleet counts as an outside number
        ("number", MOBILE),
        ("number", "06 12 34 56 78"),
        ("number", NOBODY),
    ],
)
def test_allowed(kind: str, number: str | None) -> None:
    assert check_write(document(kind, number), OTHERS, FRANCE).number == LINE


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize(
    ("kind", "number", "problem"),
    [
        ("voicemail", NOBODY, "is no line of ours"),
        ("voicemail", MOBILE, "is no line of ours"),
        ("voicemail", FOREIGN, "is not a line of fleet acme"),
        ("fax", NOBODY, "is no line of ours"),
        ("fax", FOREIGN, "is not a line of fleet acme"),
        ("fax", PEER, "is a line without the fax offer"),
        ("fax", LINE, "is the line itself"),
        ("number", LINE, "is the line itself"),
        ("number", "09 72 10 10 01", "is the line itself"),
        ("number", "+33899123456", "premium"),
        ("number", "112", "emergency"),
        ("number", "3900", "short"),
        ("voicemail", "3900", "short"),
    ],
)
def test_refused_with_field_and_value(kind: str, number: str, problem: str, on: bool) -> None:
    with pytest.raises(DocumentError) as refusal:
        check_write(document(kind, number, on), OTHERS, FRANCE)
    assert refusal.value.field == "forwards.busy.to.number"
    assert problem in refusal.value.problem
    assert isinstance(refusal.value.value, str)
    assert FRANCE.recognise(number).number == refusal.value.value


@pytest.mark.parametrize(
    ("fields", "field", "value"),
    [
        ({"max_calls": 0}, "max_calls", 0),
        ({"offer": {"mobile": "hours"}}, "offer.mobile_hours", None),
        ({"offer": {"mobile": "hours", "mobile_hours": 0}}, "offer.mobile_hours", 0),
        ({"number": PEER}, "number", PEER),
        ({"fleet": None}, "fleet", None),
        ({"label": {"a": object}}, "document", None),
    ],
)
def test_faults_of_the_line_itself(fields: dict[str, Any], field: str, value: object) -> None:
    with pytest.raises(DocumentError) as refusal:
        check_write(document("voicemail", LINE, **fields), OTHERS, FRANCE, LINE)
    assert (refusal.value.field, refusal.value.value) == (field, value)


def test_unconditional_on_top_of_others_is_allowed() -> None:
    forwards = {c: {"on": True, "to": {"kind": "voicemail"}} for c in Condition}
    line = check_write({"number": LINE, "fleet": "acme", "forwards": forwards}, {}, FRANCE)
    assert len(line.forwards) == 4


def test_which_lines_a_check_needs() -> None:
    forwards = {
        "unconditional": {"on": False, "to": {"kind": "voicemail"}},
        "busy": {"on": False, "to": {"kind": "number", "number": "06 12 34 56 78"}},
        "no_answer": {"on": True, "to": {"kind": "fax", "number": FAX}},
        "unreachable": {"on": True, "to": {"kind": "number", "number": "112"}},
    }
    named = numbers_named({"number": LINE, "fleet": "acme", "forwards": forwards}, FRANCE)
    assert named == (MOBILE, FAX)
