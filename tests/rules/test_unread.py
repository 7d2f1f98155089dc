"""Unknown fields of a document are found, with a suggestion of the intended field."""

from __future__ import annotations

from typing import Any

import pytest

from rules.fleet import FleetDocument
from rules.line_document import LineDocument
from rules.unread import UnreadFields, unread_fields

FULL: dict[str, Any] = {
    "number": "+33972101001", "fleet": "acme", "label": "", "max_calls": 1, "suspended": False,
    "offer": {"fax": True, "mobile": "hours", "mobile_hours": 2},
    "credentials": {"user": "a", "ha1": "b", "ha1_sha256": "c"},
    "forwards": {
        condition: {"on": True, "to": {"kind": "voicemail", "number": "+33"}}
        for condition in ("unconditional", "busy", "unreachable")
    } | {"no_answer": {"on": True, "after_s": 5, "to": {"kind": "voicemail"}}},
}  # fmt: skip


def test_all_that_is_read_is_known_and_names_of_others_are_let_through() -> None:
    assert not list(unread_fields(FULL | {"x_crm": {"id": 7}, "x-ref": 1}, LineDocument))
    fleet = {"name": "a", "label": "", "cap_seconds": 1, "suspended": True, "forward_countries": []}
    assert not list(unread_fields(fleet, FleetDocument))
    assert not list(unread_fields({"offer": None, "forwards": {"busy": None}}, LineDocument))


@pytest.mark.parametrize(
    ("document", "path", "meant"),
    [
        ({"max_cals": 2}, "max_cals", "max_calls"),
        ({"maxCalls": 2}, "maxCalls", "max_calls"),
        ({"forward": {}}, "forward", "forwards"),
        ({"fax": True}, "fax", "offer.fax"),
        ({"offer": {"mobil": "none"}}, "offer.mobil", "offer.mobile"),
        ({"forwards": {"no-answer": {}}}, "forwards.no-answer", "forwards.no_answer"),
        (
            {"forwards": {"no_answer": {"after": 20}}},
            "forwards.no_answer.after",
            "forwards.no_answer.after_s",
        ),
        (
            {"forwards": {"busy": {"to": {"type": "fax"}}}},
            "forwards.busy.to.type",
            None,
        ),
        (
            {"calendars": {"office": {"weekly": {"monday": ["09:00-12:00"]}}}},
            "calendars.office.weekly.monday",
            "calendars.office.weekly.mon",
        ),
        ({"crm": {"max_cals": 1}}, "crm", None),
        (  # only no_answer waits
            {"forwards": {"busy": {"on": True, "after_s": 20}, "no_answer": {"after_s": 20}}},
            "forwards.busy.after_s",
            "forwards.no_answer.after_s",
        ),
        (
            {"forwards": {"unreachable": [{"on": True}, {"on": True, "after_s": 20}]}},
            "forwards.unreachable[1].after_s",
            "forwards.no_answer.after_s",
        ),
        ({"busy": {"on": True}}, "busy", "forwards.busy"),
    ],
)
def test_a_field_that_nothing_reads_is_named(
    document: dict[str, Any], path: str, meant: str | None
) -> None:
    (one,) = unread_fields(document, LineDocument)
    assert (one.path, one.meant) == (path, meant)


def test_a_null_is_not_reported() -> None:
    """Such as the after_s that the API shows for each condition."""
    assert not unread_fields(
        {"max_cals": None, "forwards": {"busy": {"after_s": None}}}, LineDocument
    )


def test_of_many_documents_each_path_is_reported_once() -> None:
    unread = UnreadFields(FleetDocument)
    assert not unread
    for place in range(3):
        unread.note(f"fleet {place}", {"name": "a", "cap_second": 1})
    assert unread.in_words() == [
        "fleet 0: cap_second: no such field: it is kept and has no effect, "
        "did you mean cap_seconds? (2 more)"
    ]
    assert unread.plain() == [
        {"field": "cap_second", "meant": "cap_seconds", "documents": 3, "first": "fleet 0"}
    ]


def test_a_file_of_garbage_costs_a_bounded_memory() -> None:
    unread = UnreadFields(LineDocument)
    for place in range(3000):
        unread.note("", {f"field{place}": 1})
    assert len(unread.plain()) == 1000
