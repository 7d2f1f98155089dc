"""Complete messages from a stream of bytes."""

import itertools

import pytest

from sip.framing import Frames

MESSAGE_MAX, HEAD_MAX = 3999, 8192
HEAD = b"OPTIONS sip:x@y SIP/2.0\r\nVia: v\r\nFrom: f\r\nTo: t\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n"
PLAIN = HEAD + b"Content-Length: 4\r\n\r\nbody"
SHORT = HEAD + b"L :  0\r\n\r\n"
NONE = HEAD + b"\r\n"


def frames_of(*parts: bytes) -> list[bytes]:
    frames = Frames(MESSAGE_MAX, HEAD_MAX)
    return list(itertools.chain.from_iterable(frames.feed(part) for part in parts))


def test_messages_in_one_piece_and_byte_by_byte() -> None:
    whole = PLAIN + SHORT + NONE + PLAIN
    wanted = [PLAIN, SHORT, NONE, PLAIN]
    assert frames_of(whole) == wanted
    assert frames_of(*(whole[n : n + 1] for n in range(len(whole)))) == wanted
    assert frames_of(whole[:50], whole[50:260], whole[260:]) == wanted


def test_keep_alives_are_counted_and_stray_line_ends_passed_over() -> None:
    frames = Frames(MESSAGE_MAX, HEAD_MAX)
    assert frames.feed(b"\r\n\r\n" + PLAIN + b"\r\n" + PLAIN) == [PLAIN, PLAIN]
    assert frames.pings == 1
    assert frames.feed(b"\r\n\r") == []
    assert frames.feed(b"\n") == []
    assert frames.pings == 2
    assert frames.is_between


def test_a_message_too_large_is_read_past() -> None:
    frames = Frames(MESSAGE_MAX, HEAD_MAX)
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
    frames = Frames(MESSAGE_MAX, HEAD_MAX)
    assert frames.feed(data) == []
    assert frames.error is not None
    assert frames.feed(PLAIN) == []


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length:\r\n 4",
        b"content-length :\r\n\t 4 ",
        b"CONTENT-LENGTH\r\n : 4",
        b"l: 4",
        b"L\r\n  :\r\n  4",
        b"Content-Length: 4\r\nl: 4",
        b"Content-Length: 04",
        b"Content-Length: 0000000000000004",
        b"l:\r\n 0000000000000004",
    ],
)
def test_a_length_may_be_written_in_many_ways(field: bytes) -> None:
    first, second = frames_of(HEAD + field + b"\r\n\r\nbody" + PLAIN)
    assert first.partition(b"\r\n\r\n")[2] == b"body"
    assert second == PLAIN
    assert first.startswith(HEAD)


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length: -4",
        b"Content-Length: four",
        b"Content-Length:",
        b"Content-Length: 4, 4",
        b"Content-Length: 4;x",
        b"Content-Length: 4\r\nl: 5",
        b"Content-Length: 4\r\n 5",
        b"l:\r\n -1",
    ],
)
def test_an_invalid_length_ends_the_stream_after_the_messages_before_it(field: bytes) -> None:
    frames = Frames(MESSAGE_MAX, HEAD_MAX)
    head = HEAD + field + b"\r\n\r\n"
    assert frames.feed(PLAIN + head + b"body" + PLAIN) == [PLAIN]
    assert frames.error is not None
    assert frames.error.head == head
    assert frames.error.fault is not None
    assert b"Content-Length" in frames.error.fault.phrase


@pytest.mark.parametrize(
    "field",
    [
        b"X: y\nContent-Length: %d",
        b"X: y\rContent-Length: %d",
        b"X: y\nl : %d",
        b"X: y\r\r\nContent-Length: %d",
        b"Content-Length: 4\r\nX: y\nContent-Length: %d",
        b"Content-Length: %d\r\nX: y\n",
        b"Content-Length: %d\r\nX: y\n\nZ: z",
        b"Content-Length: %d\r\nX: y\r\n\nZ: z",
    ],
)
def test_no_other_message_is_found_in_what_a_peer_sent_as_a_body(field: bytes) -> None:
    """The peer ends lines at a bare CR or LF too, and passes on what a stranger wrote."""
    frames = Frames(MESSAGE_MAX, HEAD_MAX)
    head = HEAD + field % len(PLAIN) + b"\r\n\r\n"
    assert frames.feed(PLAIN + head + PLAIN) == [PLAIN]
    assert frames.error is not None
    assert frames.error.head == head
    assert frames.error.fault is not None


def test_a_bare_line_end_that_hides_nothing_ends_no_stream() -> None:
    odd = HEAD + b"X: y\nz\rz\r\n\r\n"
    assert frames_of(odd + PLAIN) == [odd, PLAIN]


def test_a_message_has_not_begun_with_a_line_end() -> None:
    """Some phones send one as a keep-alive, or behind each message."""
    frames = Frames(MESSAGE_MAX, HEAD_MAX)
    for data, wanted in ((PLAIN + b"\r\n", [PLAIN]), (b"\r\n", []), (b"\r", []), (b"\n", [])):
        assert frames.feed(data) == wanted
        assert frames.is_between
    assert frames.feed(PLAIN) == [PLAIN]
    assert frames.feed(PLAIN[:1]) == []
    assert not frames.is_between
