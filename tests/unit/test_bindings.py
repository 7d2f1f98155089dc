"""Which bindings a REGISTER removes and adds, and which contacts are one phone."""

from __future__ import annotations

import pytest

from engine.registration.bindings import TooMany, decide, same_binding, same_phone
from rules.contact import Contact, member_of, read_contact, read_contacts

NOW = 1000.0
ONE, OTHER = "<urn:uuid:AAAA>", "<urn:uuid:BBBB>"


def contact(
    uri: str = "sip:a@192.0.2.1",
    instance: str = "",
    reg_id: str = "",
    path: str | None = None,
    expires: float = NOW + 60,
) -> Contact:
    return Contact(uri, path, expires, 1.0, instance, reg_id)


@pytest.mark.parametrize(
    ("one", "other", "binding", "phone"),
    [
        (contact(), contact("SIP:%61@192.0.2.1;x=1"), True, True),
        (contact(), contact("sip:b@192.0.2.1"), False, False),
        (contact(), contact(path="<sip:edge;lr>"), True, False),
        (contact(), contact(instance=ONE, reg_id="1"), True, True),
        (contact("sip:a@h", ONE, "1"), contact("sip:a@i", ONE.lower(), "1"), True, True),
        (contact("sip:a@h", ONE, "1"), contact("sip:a@i", ONE, "2"), False, True),
        (contact("sip:a@h", ONE), contact("sip:a@i", ONE), False, True),
        (contact("sip:a@h", ONE, "1"), contact("sip:a@i", OTHER, "1"), False, False),
        (contact("sip:a@h", ONE, "1"), contact("sip:a@h", OTHER, "1"), True, True),
        (contact("sip:a@h", ONE, "1", "<sip:e;ob>"), contact("sip:a@h", OTHER, "1", "<sip:f;ob>"),
         False, False),
    ],
)  # fmt: skip
def test_which_contacts_are_the_same(
    one: Contact, other: Contact, binding: bool, phone: bool
) -> None:
    assert (same_binding(one, other), same_binding(other, one)) == (binding, binding)
    assert (same_phone(one, other), same_phone(other, one)) == (phone, phone)


def test_what_is_written_reads_back() -> None:
    made = Contact("sip:a@h", '<sip:e;lr>;x="y",<sip:f;lr>', NOW, 0.5, '<urn:x:"\\>', "2")
    read = read_contact(member_of(made), NOW)
    assert read == made
    assert (read.instance, read.reg_id) == (made.instance, made.reg_id)
    assert member_of(contact("sip:a@h")) == "sip:a@h"


def test_a_binding_is_replaced_and_a_full_set_makes_room() -> None:
    stored = [
        (b"sip:gone@h", NOW - 1),
        (b"sip:%61@192.0.2.1", NOW + 50),
        (b"not a contact", NOW + 5),
        (b"sip:old@h", NOW + 10),
        (b"sip:new@h", NOW + 20),
    ]
    gone, added = decide(stored, [contact()], now=NOW, most=10)
    assert (gone, added) == ([b"sip:gone@h", b"sip:%61@192.0.2.1"], [contact()])
    gone, _ = decide(stored, [contact()], now=NOW, most=2)
    assert gone == [b"sip:gone@h", b"sip:%61@192.0.2.1", b"not a contact", b"sip:old@h"]
    gone, added = decide(stored, [contact(expires=0)], now=NOW, most=2)
    assert (gone, added) == ([b"sip:gone@h", b"sip:%61@192.0.2.1"], [])
    gone, _ = decide(stored, [], now=NOW, most=2, only=True)
    assert len(gone) == 5


def test_of_one_binding_given_twice_the_last_counts() -> None:
    given = [contact(), contact("sip:b@h"), contact("sip:%61@192.0.2.1")]
    assert decide([], given, now=NOW, most=2)[1] == given[1:]
    assert decide([], [contact(), contact(expires=0)], now=NOW, most=2) == ([], [])
    with pytest.raises(TooMany):
        decide([], [*given, contact("sip:c@h")], now=NOW, most=2)


def test_a_phone_that_is_listed_twice_is_rung_once_at_its_latest_contact() -> None:
    members = [
        (b"sip:%75a@192.0.2.1;transport=UDP", 10.0),
        (b"<sip:ua@192.0.2.1;transport=udp>;q=0.5", 20.0),
        (b"sip:other@192.0.2.1", 5.0),
        (b"junk", 1.0),
    ]
    contacts, refused = read_contacts(members, None, same_phone)
    assert [(c.uri, c.q) for c in contacts] == [
        ("sip:other@192.0.2.1", 1.0), ("sip:ua@192.0.2.1;transport=udp", 0.5),
    ]  # fmt: skip
    assert len(refused) == 1
