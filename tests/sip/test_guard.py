"""Messages that PJSIP's parser takes and its printer or router asserts on."""

import pytest

from sip.guard import poison_of
from sip.message import Message
from sip.structure import is_plain

HEAD = b"INVITE sip:+33972101001@h SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"Record-Route: <sip:h;lr;hide>",
        b"Record-Route: <sip:h;%68ide>",
        b"Record-Route: <sip:h;lr>, <tel:+33612345678>",
        b"RECORD-ROUTE: tel:+33612345678",
        b"Route: <urn:x>",
    ],
)
def test_poison(line: bytes) -> None:
    raw = HEAD + line + b"\r\n\r\n"
    assert not is_plain(raw)
    fault = poison_of(Message(raw))
    assert fault is not None
    assert line.partition(b":")[0].lower() in fault.phrase.lower()


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
    assert poison_of(Message(HEAD + line + b"\r\n\r\n")) is None


def test_a_via_may_not_name_the_host_to_answer() -> None:
    raw = HEAD.replace(b";branch", b";maddr=slow.example;branch") + b"\r\n\r\n"
    assert not is_plain(raw)
    assert poison_of(Message(raw)) is not None
