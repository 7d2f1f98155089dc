"""Members of `reg:`: which are valid contacts."""

from __future__ import annotations

import pytest

from rules.contact import MOST_RUNG, Contact, groups, read_contact, read_contacts
from rules.model import DocumentError

EDGE = "<sip:edge.example;lr>"


@pytest.mark.parametrize(
    ("member", "uri", "path", "q"),
    [
        ("sip:a@10.0.0.1", "sip:a@10.0.0.1", None, 1.0),
        ("sip:a@10.0.0.1:5062;transport=tcp", "sip:a@10.0.0.1:5062;transport=tcp", None, 1.0),
        ("sips:a@phone.example", "sips:a@phone.example", None, 1.0),
        ("SIP:10.0.0.1", "SIP:10.0.0.1", None, 1.0),
        ("sip:a@[2001:db8::1]:5060", "sip:a@[2001:db8::1]:5060", None, 1.0),
        ("<sip:a@10.0.0.1;ob>", "sip:a@10.0.0.1;ob", None, 1.0),
        (f'<sip:a@10.0.0.1>;path="{EDGE}";q=0.5', "sip:a@10.0.0.1", EDGE, 0.5),
        (f'<sip:a@10.0.0.1>;q=0.2;path="{EDGE},{EDGE}"', "sip:a@10.0.0.1", f"{EDGE},{EDGE}", 0.2),
        (
            '<sip:a@10.0.0.1>;expires=60;+sip.instance="<urn:uuid:1>";reg-id=1',
            "sip:a@10.0.0.1",
            None,
            1.0,
        ),
    ],
)
def test_a_contact(member: str, uri: str, path: str | None, q: float) -> None:
    assert read_contact(member.encode(), 99.0) == Contact(uri, path, 99.0, q)


@pytest.mark.parametrize(
    ("member", "field"),
    [
        ("", "contact"),
        ("hello", "contact"),
        ("tel:+33972101001", "contact"),
        ("http://10.0.0.1", "contact"),
        ("sip:", "contact"),
        ("sip:a@", "contact"),
        ("sip:a b@10.0.0.1", "contact"),
        ("sip:a@10.0.0.1:99999", "contact"),
        ("sip:a@10.0.0.1:0", "contact"),
        ("sip:a@10.0.0.1?Route=%3Csip:evil%3E", "contact"),
        ("sip:a@10.0.0.1\r\nX-Evil: 1", "contact"),
        ("sip:a@10.0.0.1\x00", "contact"),
        ("sip:é@10.0.0.1", "contact"),
        ("<sip:a@10.0.0.1", "contact"),
        ("<sip:a@10.0.0.1> , <sip:b@10.0.0.2>", "contact"),
        ('"A" <sip:a@10.0.0.1>', "contact"),
        ("sip:a@" + "x" * 1100, "contact"),
        ('<sip:a@10.0.0.1>;path="sip:edge"', "path"),
        ('<sip:a@10.0.0.1>;path="<tel:1>"', "path"),
        ('<sip:a@10.0.0.1>;path="<sip:edge?X=1>"', "path"),
        ("<sip:a@10.0.0.1>;q=2", "q"),
        ("<sip:a@10.0.0.1>;q=nan", "q"),
        ("<sip:a@10.0.0.1>;q=", "q"),
    ],
)
def test_what_is_no_contact_is_refused(member: str, field: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        read_contact(member.encode("latin-1"), 99.0)
    assert refusal.value.field == field


def test_one_bad_member_does_not_cost_the_others() -> None:
    members = [
        (b"sip:old@10.0.0.1", 10.0),
        (b"nonsense", 50.0),
        (b"<sip:last@10.0.0.2>;q=0.1", 90.0),
        (b"sip:new@10.0.0.3", 20.0),
    ]
    contacts, refused = read_contacts(members)
    assert [c.uri for c in contacts] == [
        "sip:new@10.0.0.3",
        "sip:old@10.0.0.1",
        "sip:last@10.0.0.2",
    ]
    assert [e.value for e in refused] == ["nonsense"]


def test_contacts_are_rung_in_groups_by_preference() -> None:
    members = [(b"<sip:c@h>;q=0.5", 9.0), (b"sip:a@h", 8.0), (b"<sip:d@h>;q=0.5", 10.0)]
    contacts, _ = read_contacts([*members, (b"sip:b@h", 7.0)])
    assert [[c.uri for c in group] for group in groups(contacts)] == [
        ["sip:a@h", "sip:b@h"],
        ["sip:d@h", "sip:c@h"],
    ]
    assert groups(()) == []
    assert groups(contacts[:1]) == [contacts[:1]]


def test_a_registration_with_hundreds_of_contacts_rings_the_newest() -> None:
    contacts, _ = read_contacts([(f"sip:p{n}@h".encode(), float(n)) for n in range(500)])
    (group,) = groups(contacts)
    assert len(group) == MOST_RUNG
    assert group[0].uri == "sip:p499@h"
