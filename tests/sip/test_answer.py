"""Answers written from the bytes of a request (RFC 3261 8.2.6, 18.2; RFC 3581)."""

from __future__ import annotations

import pytest

from sip.answer import answer
from sip.message import Message

FULL = b"503 Service Unavailable"
SOURCE = ("10.0.0.1", 5999)
TAG = b";tag=ours"
INVITE = (
    b"INVITE sip:+33972101001@10.0.0.9:5080 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 10.0.0.1:5062;rport;branch=z9hG4bK1\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "A" <sip:+33140000001@x>;tag=a\r\n'
    b"To: <sip:+33972101001@x>\r\n"
    b"Call-ID: one@x\r\n"
    b"CSeq: 7 INVITE\r\n"
    b"Contact: <sip:a@10.0.0.1:5062>\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def written(invite: bytes, retry_after_s: int = 7) -> tuple[bytes, tuple[object, ...]]:
    made = answer(Message(invite), FULL, SOURCE, TAG, retry_after_s=retry_after_s)
    assert made is not None
    return made


def test_the_whole_response() -> None:
    assert written(INVITE) == (
        b"SIP/2.0 503 Service Unavailable\r\n"
        b"Via: SIP/2.0/UDP 10.0.0.1:5062;rport=5999;branch=z9hG4bK1;received=10.0.0.1\r\n"
        b'From: "A" <sip:+33140000001@x>;tag=a\r\n'
        b"To: <sip:+33972101001@x>;tag=ours\r\n"
        b"Call-ID: one@x\r\n"
        b"CSeq: 7 INVITE\r\n"
        b"Retry-After: 7\r\n"
        b"Content-Length: 0\r\n\r\n",
        SOURCE,
    )


def test_without_retry_after_when_there_is_none() -> None:
    assert b"Retry-After" not in written(INVITE, 0)[0]


@pytest.mark.parametrize(
    ("via", "port"),
    [
        (b"SIP/2.0/UDP 10.0.0.1:5062;branch=z9hG4bK1", 5062),
        (b"SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1", 5060),
        (b"SIP / 2.0 / UDP proxy.example : 5070 ;branch=z9hG4bK1", 5070),
        (b"SIP/2.0/UDP [2001:db8::1]:5071;branch=z9hG4bK1", 5071),
        (b"SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1;rport", 5999),
        (b"SIP/2.0/UDP 10.0.0.1;rport ;branch=z9hG4bK1", 5999),
        (b"SIP/2.0/UDP 10.0.0.1:5062;branch=z9hG4bK1, SIP/2.0/UDP up;rport", 5062),
    ],
)
def test_where_it_goes(via: bytes, port: int) -> None:
    invite = INVITE.replace(b"SIP/2.0/UDP 10.0.0.1:5062;rport;branch=z9hG4bK1", via)
    text, to = written(invite)
    assert to == ("10.0.0.1", port)
    top, comma, below = text.split(b"\r\n")[1].partition(b", ")
    assert top.endswith(b";received=10.0.0.1")
    assert not comma or below == b"SIP/2.0/UDP up;rport"


def test_compact_and_folded_fields() -> None:
    invite = (
        INVITE.replace(b"Via:", b"v:").replace(b"Call-ID:", b"i :").replace(b"To:", b"t:")
    ).replace(b"<sip:+33140000001@x>;tag=a", b"\r\n  <sip:+33140000001@x>;tag=a")
    text = written(invite)[0]
    assert b"\r\ni :" in text
    assert b'\r\nFrom: "A"  <sip:+33140000001@x>;tag=a\r\n' in text
    assert text.count(b";tag=ours") == 1


@pytest.mark.parametrize("name", [b"Via", b"From", b"To", b"Call-ID", b"CSeq"])
def test_what_is_not_whole_gets_none(name: bytes) -> None:
    lines = [line for line in INVITE.split(b"\r\n") if not line.startswith(name + b":")]
    assert answer(Message(b"\r\n".join(lines)), FULL, SOURCE, TAG) is None


@pytest.mark.parametrize("via", [b"SIP/2.0/UDP 10.0.0.1:99999;branch=x", b"nonsense", b""])
def test_a_via_that_leads_nowhere_gets_none(via: bytes) -> None:
    invite = INVITE.replace(b"SIP/2.0/UDP 10.0.0.1:5062;rport;branch=z9hG4bK1", via)
    assert answer(Message(invite), FULL, SOURCE, TAG) is None


def test_a_message_cannot_add_lines_of_its_own() -> None:
    invite = INVITE.replace(b"To: <sip:+33972101001@x>", b"To: <sip:+33972101001@x>\nX-Evil: 1")
    assert b"X-Evil" not in written(invite)[0]


def test_a_request_within_a_dialog_keeps_its_tag() -> None:
    text, _ = written(INVITE.replace(b"To: <sip:+33972101001@x>", b"To: <sip:a@x>;tag=theirs"))
    assert b"\r\nTo: <sip:a@x>;tag=theirs\r\n" in text


@pytest.mark.parametrize("start", [b"ACK sip:x SIP/2.0", b"SIP/2.0 200 OK", b"sip/2.0 200 OK"])
def test_an_ack_and_a_response_get_none(start: bytes) -> None:
    assert answer(Message(start + INVITE[INVITE.index(b"\r\n") :]), FULL, SOURCE) is None


@pytest.mark.parametrize("name", [b"To", b"From", b"Call-ID", b"CSeq", b"Via"])
def test_only_the_first_of_each_is_copied_and_no_control_character(name: bytes) -> None:
    line = next(line for line in INVITE.split(b"\r\n") if line.startswith(name + b":"))
    if name != b"Via":
        twice = INVITE.replace(line, line + b"\r\n" + name + b": second")
        assert b"second" not in written(twice)[0]
    assert answer(Message(INVITE.replace(line, line + b"\0")), FULL, SOURCE) is None


@pytest.mark.parametrize("transport", [b"TCP", b"TLS", b"WS"])
def test_over_a_connection(transport: bytes) -> None:
    assert b"SIP/2.0/" + transport in written(INVITE.replace(b"/UDP", b"/" + transport))[0]
