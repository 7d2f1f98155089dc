"""Session timers (RFC 4028): fields that the engine adds, and when a session expires."""

import pytest

from sip.message import Message
from sip.session_expires import request_field, response_fields, seconds_of

TIMER = b"Supported: replaces, timer"


def message(*fields: bytes) -> Message:
    return Message(b"\r\n".join([b"INVITE sip:x@y SIP/2.0", *fields, b"", b""]))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1800", 1800),
        (b" 90 ;refresher=uas", 90),
        (b"", 0),
        (b"soon", 0),
        (b"-5", 0),
        (b"9" * 40, 0),
        (b"12x", 0),
    ],
)
def test_the_seconds_of_a_header(value: bytes, seconds: int) -> None:
    assert seconds_of(message(b"Session-Expires: " + value)) == seconds
    assert seconds_of(message(b"x: " + value)) == seconds


@pytest.mark.parametrize(
    ("fields", "ours_s", "added"),
    [
        ((), 1800, b"Session-Expires: 1800"),
        ((), 0, b""),
        ((b"Min-SE: 3600",), 1800, b"Session-Expires: 3600"),
        ((b"Session-Expires: 120",), 1800, b""),
    ],
)
def test_a_session_is_timed_unless_the_caller_asks_itself(
    fields: tuple[bytes, ...], ours_s: int, added: bytes
) -> None:
    assert request_field(message(*fields), ours_s) == added


ADDED_120 = b"Session-Expires: 120;refresher=uac\r\nRequire: timer"


@pytest.mark.parametrize(
    ("asked", "answered", "expected"),
    [
        ((TIMER, b"Session-Expires: 120"), (b"Session-Expires: 90;refresher=uas",), (b"", 90)),
        ((TIMER, b"Session-Expires: 120"), (), (ADDED_120, 120)),
        ((TIMER,), (), (ADDED_120.replace(b"120", b"1800"), 1800)),
        ((b"Session-Expires: 120",), (), (b"", 0)),
        ((), (b"Session-Expires: 90;refresher=uas",), (b"", 90)),
        ((), (), (b"", 0)),
    ],
)
def test_who_refreshes_after_the_answer(
    asked: tuple[bytes, ...], answered: tuple[bytes, ...], expected: tuple[bytes, int]
) -> None:
    assert response_fields(message(*asked), message(*answered), 1800) == expected
