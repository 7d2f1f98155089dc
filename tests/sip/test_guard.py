"""Messages that PJSIP's parser takes and its printer or router asserts on."""

import pytest

from sip.guard import is_poison, is_suspect
from sip.message import Message

HEAD = b"INVITE sip:+33972101001@h SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"Record-Route: <sip:h;lr;hide>",
        b"Record-Route: <sip:h;%68ide>",
        b"Record-Route: <sip:h;lr>, <tel:+33612345678>",
        b"RECORD-ROUTE: tel:+33612345678",
        b"Route: <urn:x>",
        b"From: <sip:a@[]>;tag=1",
        b"Contact: <sip:[ ]:5060>",
    ],
)
def test_poison(line: bytes) -> None:
    assert is_poison(Message(HEAD + line + b"\r\n\r\n"))


@pytest.mark.parametrize(
    "line",
    [
        b"Record-Route: <sip:h;lr>, <sips:[2001:db8::1]:5061;lr>",
        b'Route: "An edge" <sip:h;lr>',
        b"From: <sip:a@[::1]>;tag=1",
        b"Subject: maddr",
    ],
)
def test_what_a_peer_may_send(line: bytes) -> None:
    assert not is_poison(Message(HEAD + line + b"\r\n\r\n"))


def test_a_via_may_not_name_the_host_to_answer() -> None:
    assert is_poison(Message(HEAD.replace(b";branch", b";maddr=slow.example;branch") + b"\r\n\r\n"))


@pytest.mark.parametrize("line", [b"Record-Route: <tel:+33612345678>", b"From: <sip:a@[]>;tag=1"])
def test_what_is_poison_is_suspect(line: bytes) -> None:
    assert is_suspect(HEAD + line + b"\r\n\r\n")
    assert not is_suspect(HEAD + b"From: <sip:a@[::1]>;tag=1\r\n\r\n")
