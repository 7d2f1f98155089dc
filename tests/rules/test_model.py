"""The line document: its meaning, and the error for each fault."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rules.line_document import load_line
from rules.model import (
    Condition,
    Credentials,
    Destination,
    DocumentError,
    Forward,
    Kind,
    Line,
    Offer,
)
from rules.numbers import Numbering

FRANCE = Numbering("FR")
LINE = "+33972101001"
CONTRACT = {
    "number": LINE,
    "fleet": "acme",
    "label": "Accueil",
    "max_calls": 2,
    "suspended": False,
    "offer": {"fax": False, "mobile": "hours", "mobile_hours": 2},
    "credentials": {"user": "accueil", "ha1": "0123..."},
    "forwards": {
        "unconditional": {"on": False, "to": {"kind": "voicemail", "number": LINE}},
        "busy": {"on": True, "to": {"kind": "number", "number": "06 12 34 56 78"}},
        "no_answer": {"on": True, "after_s": 20, "to": {"kind": "voicemail", "number": LINE}},
        "unreachable": {"on": True, "to": {"kind": "fax", "number": "0033972101002"}},
    },
}


def load(document: object, number: str | None = LINE) -> Line:
    return load_line(json.dumps(document), number, FRANCE)


def minimal(**fields: Any) -> dict[str, Any]:
    return {"number": LINE, "fleet": "acme"} | fields


def test_the_document_of_the_contract() -> None:
    assert load(CONTRACT) == Line(
        number=LINE,
        fleet="acme",
        label="Accueil",
        max_calls=2,
        suspended=False,
        offer=Offer(fax=False, mobile="hours", mobile_hours=2),
        credentials=Credentials("accueil", "0123..."),
        forwards={
            Condition.UNCONDITIONAL: Forward(False, Destination(Kind.VOICEMAIL, LINE)),
            Condition.BUSY: Forward(True, Destination(Kind.NUMBER, "+33612345678", mobile=True)),
            Condition.NO_ANSWER: Forward(True, Destination(Kind.VOICEMAIL, LINE), 20),
            Condition.UNREACHABLE: Forward(True, Destination(Kind.FAX, "+33972101002")),
        },
    )


def test_number_and_fleet_are_enough() -> None:
    assert load(minimal()) == Line(LINE, "acme")
    nothing = {"max_calls": None, "label": None, "offer": None, "forwards": None}
    assert load(minimal(**nothing)) == Line(LINE, "acme")


def test_the_key_may_be_any_spelling_of_the_number() -> None:
    assert load(minimal() | {"number": "09 72 10 10 01"}).number == LINE
    assert load(minimal(), None).number == LINE


def test_unknown_fields_are_ignored() -> None:
    assert load(minimal(colour="red", forwards={"on_sundays": 7})) == Line(LINE, "acme")


def test_voicemail_alone_is_the_lines_own() -> None:
    line = load(minimal(forwards={"busy": {"on": True, "to": {"kind": "voicemail"}}}))
    assert line.forwards[Condition.BUSY].to == Destination(Kind.VOICEMAIL, LINE)


def test_a_target_that_can_never_be_one_does_not_spoil_the_line() -> None:
    line = load(minimal(forwards={"busy": {"on": True, "to": {"kind": "number", "number": "112"}}}))
    to = line.forwards[Condition.BUSY].to
    assert to is not None
    assert (to.number, to.refused) == ("112", "emergency")


def busy(**to: Any) -> dict[str, Any]:
    return minimal(forwards={"busy": {"on": True, "to": to}})


FAULTS: list[tuple[Any, str, Any]] = [
    # the document, the field and the value in the error
    ([], "document", []),
    ({"number": LINE}, "fleet", None),
    ({"fleet": "acme"}, "number", None),
    (minimal(number=972101001), "number", 972101001),
    (minimal(number="somebody"), "number", "somebody"),
    (minimal(number="+33972101009"), "number", "+33972101009"),
    (minimal(fleet=""), "fleet", ""),
    (minimal(label=7), "label", 7),
    (minimal(max_calls=0), "max_calls", 0),
    (minimal(max_calls=-3), "max_calls", -3),
    (minimal(max_calls="2"), "max_calls", "2"),
    (minimal(max_calls=2.0), "max_calls", 2.0),
    (minimal(max_calls=True), "max_calls", True),
    (minimal(suspended="no"), "suspended", "no"),
    (minimal(offer={"fax": 1}), "offer.fax", 1),
    (minimal(offer={"mobile": "some"}), "offer.mobile", "some"),
    (minimal(offer={"mobile_hours": -1}), "offer.mobile_hours", -1),
    (minimal(credentials={"user": "a"}), "credentials.ha1", None),
    (minimal(forwards=[]), "forwards", []),
    (minimal(forwards={"busy": True}), "forwards.busy", True),
    (minimal(forwards={"busy": {}}), "forwards.busy.on", None),
    (minimal(forwards={"busy": {"on": 1}}), "forwards.busy.on", 1),
    (minimal(forwards={"busy": {"on": True}}), "forwards.busy.to", None),
    (minimal(forwards={"no_answer": {"on": False, "after_s": 4}}), "forwards.no_answer.after_s", 4),
    (
        minimal(forwards={"no_answer": {"on": False, "after_s": 61}}),
        "forwards.no_answer.after_s",
        61,
    ),
    (
        minimal(forwards={"no_answer": {"on": False, "after_s": "20"}}),
        "forwards.no_answer.after_s",
        "20",
    ),
    (busy(number=LINE), "forwards.busy.to.kind", None),
    (busy(kind="pigeon", number=LINE), "forwards.busy.to.kind", "pigeon"),
    (busy(kind="number"), "forwards.busy.to.number", None),
    (busy(kind="fax"), "forwards.busy.to.number", None),
    (busy(kind="number", number="boss"), "forwards.busy.to.number", "boss"),
    (busy(kind="number", number=15), "forwards.busy.to.number", 15),
]


@pytest.mark.parametrize(("document", "field", "value"), FAULTS)
def test_each_fault_is_named_with_its_field_and_value(
    document: object, field: str, value: object
) -> None:
    with pytest.raises(DocumentError) as refusal:
        load(document)
    error = refusal.value
    assert (error.field, error.value) == (field, value)
    shown = "nothing" if value is None else repr(value)
    assert str(error) == f"{field}: {error.problem} (got {shown})"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"number":"\xff","fleet":"a"}', "is not JSON"),
        (b'{"x":' + b"[" * 60_000, "is nested too deeply"),
        (b" " * 70_000, "is over 65536 bytes"),
    ],
)
def test_what_is_no_document(raw: bytes, problem: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        load_line(raw, LINE, FRANCE)
    assert refusal.value.field == "document"
    assert refusal.value.problem.startswith(problem.partition(" too")[0].split(" nested")[0])
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("wrong", "last", "field"),
    [
        ('"forwards": {"busy": [{"on": 1}]}', '"forwards": {}', "forwards.busy[0].on"),
        ('"forwards": {"busy": [{"on": 1}]}', '"forwards": {"busy": []}', "forwards.busy[0].on"),
        ('"calendars": {"a": {"zone": 1}}', '"calendars": null', "calendars[...].zone"),
        ('"calendars": {"a": {"closed": [1]}, "a": {}}', '"x": 1', "calendars[...].closed[0]"),
        ('"profiles": {"a": {"also_ring": [{"kind": 1}]}}', '"profiles": 2',
         "profiles[...].also_ring[0].kind"),
    ],
)  # fmt: skip
def test_a_fault_in_a_key_that_occurs_twice(wrong: str, last: str, field: str) -> None:
    """The last of them counts where values are looked up, the first is refused."""
    raw = f'{{"number": "{LINE}", "fleet": "acme", {wrong}, {last}}}'
    with pytest.raises(DocumentError) as refusal:
        load_line(raw, LINE, FRANCE)
    assert (refusal.value.field, refusal.value.value) == (field, None)


def test_secrets_are_not_shown() -> None:
    assert "0123..." not in repr(load(CONTRACT))


QUICK = settings(
    max_examples=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*CONTRACT, *Condition, "on", "to", "kind", "after_s", "mobile", "user", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@QUICK
@given(st.dictionaries(st.sampled_from([*CONTRACT]), anything, max_size=6))
def test_any_document_is_read_or_refused(fields: dict[str, Any]) -> None:
    with suppress(DocumentError):
        load_line(msgspec.json.encode(minimal() | fields), LINE, FRANCE)


@QUICK
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with pytest.raises(DocumentError):
        load_line(raw, LINE, FRANCE)
