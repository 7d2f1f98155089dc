"""The line whose phone places a call: what proves it and what does not."""

from __future__ import annotations

import pytest

from engine.caller_identity import identify_caller, is_registered_phone, is_second_hand
from rules.contact import Contact
from rules.numbers import Numbering
from sip.flow import Flow
from sip.message import Message

FRANCE = Numbering("FR")
DESK = "sip:desk@192.0.2.7:5062"
PHONE, SERVER = Flow("udp", "192.0.2.7", 5062), Flow("udp", "192.0.2.1", 5060)


def invite(*fields: str, contact: str = f"<{DESK}>") -> Message:
    head = ("INVITE sip:*21%23@renvoi SIP/2.0", f"Contact: {contact}", *fields)
    return Message("\r\n".join(head).encode() + b"\r\n\r\n")


def contact(uri: str = DESK, path: str | None = None) -> Contact:
    return Contact(uri, path, 4e9)


@pytest.mark.parametrize(
    ("fields", "number", "asserted"),
    [
        (["From: <sip:0972101001@h>;tag=1"], "+33972101001", False),
        (["From: <sip:anonymous@h>;tag=1"], None, False),
        (["From: <sip:0972101001@h>", "P-Asserted-Identity: <tel:+33140000001>"],
         "+33140000001", True),
        (["P-Asserted-Identity: <sip:accueil@h>, <tel:+33140000001>"], "+33140000001", True),
        (["From: <sip:0972101001@h>", "P-Asserted-Identity: <sip:accueil@h>"], None, True),
        (["From: <sip:0972101001@h>", "P-Preferred-Identity: <tel:+33140000001>"],
         "+33972101001", False),
        (['From: "sip:+33972101001@h" <sip:anonymous@h>'], None, False),
    ],
)  # fmt: skip
def test_who_calls(fields: list[str], number: str | None, asserted: bool) -> None:
    assert identify_caller(invite(*fields), FRANCE) == (number, asserted)


@pytest.mark.parametrize(
    ("field", "second_hand"),
    [
        ("Referred-By: <sip:x@h>", True),
        ("b: <sip:x@h>", True),
        ("Replaces: a@h;to-tag=1;from-tag=2", True),
        ("Diversion: <sip:x@h>;reason=deflection", True),
        ("History-Info: <sip:x@h?Reason=SIP%3Bcause%3D302>;index=1", True),
        ("History-Info: <sip:*21%23@h>;index=1", False),
        ("Privacy: id", False),
    ],
)
def test_calls_that_another_user_made(field: str, second_hand: bool) -> None:
    assert is_second_hand(invite(field)) is second_hand


@pytest.mark.parametrize(
    ("flow", "known", "asserted", "is_phone"),
    [
        (PHONE, [contact()], False, True),  # the phone itself
        (PHONE, [contact("sip:a@192.0.2.9"), contact()], False, True),
        (Flow("udp", "192.0.2.7", 5063), [contact()], False, False),  # another one behind its NAT
        (Flow("udp", "192.0.2.7", 5063), [contact()], True, False),  # also if it asserts the number
        (Flow("tcp", "192.0.2.7", 5062), [contact()], False, False),
        (Flow("tcp", "192.0.2.7", 5062, 1), [contact(f"{DESK};transport=TCP")], False, True),
        (Flow("tls", "192.0.2.7", 5061, 1), [contact("sips:desk@192.0.2.7")], False, True),
        (Flow("udp", "192.0.2.7", 5060), [contact("sip:desk@192.0.2.7")], False, True),
        (SERVER, [contact()], False, False),  # a server without an assertion
        (SERVER, [contact()], True, True),  # its Contact is the line's
        (SERVER, [contact("sip:desk@192.0.2.7:5062;transport=tcp")], True, True),
        (SERVER, [contact("sip:desk@192.0.2.7")], True, False),
        (SERVER, [contact("sip:other@192.0.2.7:5062")], True, False),
        (SERVER, [contact("sip:desk@192.0.2.8:5062")], True, False),
        (SERVER, [contact(DESK, "<sip:192.0.2.1;lr>")], True, True),
        (SERVER, [contact(DESK, "<sip:192.0.2.1;lr>")], False, False),
        (SERVER, [contact("sip:x@10.0.0.1", "<sip:192.0.2.1;lr>")], True, False),
        # an edge on the same machine as its phones is recognised by their Path
        (Flow("udp", "192.0.2.7", 5060), [contact(DESK, "<sip:192.0.2.7;lr>")], True, True),
        (Flow("udp", "192.0.2.7", 5063), [contact(DESK, "<sip:192.0.2.7;lr>")], True, False),
        (Flow("udp", "2001:db8::7", 5062), [contact("sip:d@[2001:db8::7]:5062")], False, True),
        (Flow("udp", "2001:db8::7", 5062), [contact("sip:d@[2001:DB8:0::7]:5062")], False, True),
        (PHONE, [], True, False),
    ],
)
def test_what_makes_a_caller_the_lines_phone(
    flow: Flow, known: list[Contact], asserted: bool, is_phone: bool
) -> None:
    assert is_registered_phone(invite(), flow, known, asserted) is is_phone


@pytest.mark.parametrize("given", ["<>", "*", "<sip:>", f"<{DESK}>, <{DESK}>", '"x" <tel:+331>'])
def test_an_empty_contact_proves_nothing(given: str) -> None:
    message = invite(contact=given)
    assert not is_registered_phone(message, SERVER, [contact()], True)
