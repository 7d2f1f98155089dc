"""Whole messages out of a stream of bytes."""

import itertools

import pytest

from sip.framing import MESSAGE_MAX, Frames, FramingError, too_large

HEAD = b"OPTIONS sip:x@y SIP/2.0\r\nVia: v\r\nFrom: f\r\nTo: t\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n"
PLAIN = HEAD + b"Content-Length: 4\r\n\r\nbody"
SHORT = HEAD + b"L :  0\r\n\r\n"
NONE = HEAD + b"\r\n"


def frames_of(*parts: bytes) -> list[bytes]:
    frames = Frames()
    return list(itertools.chain.from_iterable(frames.feed(part) for part in parts))


def test_messages_in_one_piece_and_byte_by_byte() -> None:
    whole = PLAIN + SHORT + NONE + PLAIN
    wanted = [PLAIN, SHORT, NONE, PLAIN]
    assert frames_of(whole) == wanted
    assert frames_of(*(whole[n : n + 1] for n in range(len(whole)))) == wanted
    assert frames_of(whole[:50], whole[50:260], whole[260:]) == wanted


def test_keep_alives_are_counted_and_stray_line_ends_passed_over() -> None:
    frames = Frames()
    assert frames.feed(b"\r\n\r\n" + PLAIN + b"\r\n" + PLAIN) == [PLAIN, PLAIN]
    assert frames.pings == 1
    assert frames.feed(b"\r\n\r") == []
    assert frames.feed(b"\n") == []
    assert frames.pings == 2
    assert frames.is_between


def test_a_message_too_large_is_read_past() -> None:
    frames = Frames()
    head = HEAD + b"Content-Length: 5000\r\n\r\n"
    assert frames.feed(head + b"x" * 4000) == []
    assert frames.oversize == [head]
    assert not frames.is_between
    assert frames.feed(b"x" * 1000 + PLAIN) == [PLAIN]


@pytest.mark.parametrize("size", [MESSAGE_MAX, MESSAGE_MAX + 1])
def test_the_largest_message(size: int) -> None:
    room = size - len(HEAD) - len(b"Content-Length: 3XXX\r\n\r\n")
    message = HEAD + b"Content-Length: %d\r\n\r\n" % room + b"x" * room
    assert len(message) == size
    assert frames_of(message) == ([message] if size <= MESSAGE_MAX else [])


@pytest.mark.parametrize(
    "data", [b"x" * 9000, HEAD + b"Content-Length: 99999999999999999999\r\n\r\n"]
)
def test_a_stream_without_end_is_given_up(data: bytes) -> None:
    with pytest.raises(FramingError):
        frames_of(data)


def test_a_request_too_large_gets_513_and_nothing_else_does() -> None:
    assert too_large(HEAD + b"X: y\r\n\r\n") == (
        b"SIP/2.0 513 Message Too Large\r\nVia: v\r\nFrom: f\r\nTo: t\r\nCall-ID: c\r\n"
        b"CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
    assert too_large(b"SIP/2.0 200 OK\r\nVia: v\r\n\r\n") == b""
    assert too_large(b"ACK sip:x@y SIP/2.0\r\nVia: v\r\n\r\n") == b""
