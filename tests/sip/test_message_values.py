"""Reading a received message from its bytes."""

from sip.message import Message
from sip.relayed_fields import HOP

INVITE = (
    b"INVITE sip:+33972101001@192.0.2.1 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1\r\n"
    b"f: <sip:+33612345678@192.0.2.7>;tag=a\r\n"
    b"To: <sip:+33972101001@192.0.2.1>\r\n"
    b"i: abc@192.0.2.7\r\nCSeq: 7 INVITE\r\nm: <sip:a@192.0.2.7>\r\n"
    b"Subject: first line,\r\n  second line\r\n"
    b"X-Unknown: \xff\x00 kept\r\n"
    b"c: application/sdp\r\nl: 4\r\n\r\nv=0\ntrailing"
)


def test_compact_and_full_names_are_the_same_header() -> None:
    message = Message(INVITE)
    assert message.first(b"from") == b"<sip:+33612345678@192.0.2.7>;tag=a"
    assert message.call_id == "abc@192.0.2.7"
    assert message.content_type == b"application/sdp"


def test_the_start_line_and_the_cseq_number() -> None:
    message = Message(INVITE)
    assert (message.method, message.target) == (b"INVITE", b"sip:+33972101001@192.0.2.1")
    assert message.cseq == 7
    assert Message(b"SIP/2.0 486 Busy Here\r\nCSeq: x\r\n\r\n").phrase == b"Busy Here"


def test_a_folded_value_is_one_value() -> None:
    assert Message(INVITE).first(b"subject") == b"first line, second line"


def test_the_body_ends_where_content_length_says() -> None:
    assert Message(INVITE).body == b"v=0\n"
    assert not Message(INVITE).truncated
    assert Message(INVITE.replace(b"l: 4", b"l: 400")).truncated


def test_only_what_is_not_the_hops_passes_unchanged() -> None:
    assert Message(INVITE).passing(HOP) == (
        b"Subject: first line, second line\r\nX-Unknown: \xff\x00 kept"
    )


def test_a_bare_line_feed_hides_no_second_header() -> None:
    text = b"INVITE sip:a@b SIP/2.0\r\nX-A: 1\nVia: evil\rRoute: <sip:evil>\r\nX-B: 2\r\n\r\n"
    message = Message(text)
    assert message.passing(HOP) == b"X-A: 1\r\nX-B: 2"
    assert message.first(b"route") == b"<sip:evil>"


def test_bare_line_feeds_throughout() -> None:
    message = Message(INVITE.replace(b"\r\n", b"\n"))
    assert message.first(b"to") == b"<sip:+33972101001@192.0.2.1>"
    assert message.body == b"v=0\n"
