"""One received message: well formed, refused or dropped (RFC 3261 7, 8.2, 18, RFC 4475)."""

import pytest

from sip.message import FIELDS, Message
from sip.relayed_fields import HOP, relayed

VIA = b"Via: SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKx"
FROM = b"From: <sip:a@example.com>;tag=1"
TO = b"To: <sip:b@example.com>"
ID = b"Call-ID: x@192.0.2.1"
CSEQ = b"CSeq: 1 INVITE"
FIVE = (VIA, FROM, TO, ID, CSEQ)
LINE = b"INVITE sip:b@example.com SIP/2.0"


def text(*lines: bytes, start: bytes = LINE, body: bytes = b"") -> bytes:
    return b"\r\n".join((start, *(lines or FIVE), b"", body))


def without(line: bytes) -> tuple[bytes, ...]:
    return tuple(one for one in FIVE if one is not line)


def test_routing_fields_are_parsed_at_once() -> None:
    message = Message(
        text(
            b"v: SIP/2.0/UDP 192.0.2.1:5070;rport;branch=z9hG4bKx, SIP/2.0/UDP b",
            b'f: "A" <sip:a@example.com>;tag=1',
            b"T: <sip:b@example.com>;tag=2",
            b"i:x@192.0.2.1",
            b"cseq :  7   INVITE ",
            b"MAX-FORWARDS: 69",
            b"m: <sip:a@192.0.2.1:5070>;expires=5, <sip:c@d>",
            b"Record-Route: <sip:p1;lr>, <sip:p2;lr>",
            b"record-route: <sip:p3;lr>",
            b"c: application/sdp",
            b"l: 3",
            body=b"abcd",
        )
    )
    assert (message.bad, message.fault, message.status) == (0, "", 0)
    assert (message.method, message.target) == (b"INVITE", b"sip:b@example.com")
    assert (message.branch, message.rport, message.host, message.port) == (
        b"z9hG4bKx", True, b"192.0.2.1", 5070,
    )  # fmt: skip
    assert (message.from_tag, message.to_tag, message.call_id) == (b"1", b"2", "x@192.0.2.1")
    assert (message.cseq, message.cseq_method, message.max_forwards) == (7, b"INVITE", 69)
    assert message.contact == b"sip:a@192.0.2.1:5070"
    assert message.record_routes == [b"<sip:p1;lr>", b"<sip:p2;lr>", b"<sip:p3;lr>"]
    assert (message.content_type, message.body) == (b"application/sdp", b"abc")
    assert message.vias == 1


def test_a_response_is_read() -> None:
    message = Message(text(start=b"SIP/2.0 180 Ringing all bells"))
    assert (message.bad, message.status, message.method) == (0, 180, b"")
    assert message.phrase == b"Ringing all bells"
    assert message.start_line == b"SIP/2.0 180 Ringing all bells"


@pytest.mark.parametrize(
    ("raw", "code", "fault"),
    [
        (text(start=b"INVITE sip:b@example.com SIP/3.0"), 505, "SIP-Version"),
        (text(start=b"INVITE  sip:b@example.com SIP/2.0"), 400, "Request-URI"),
        (text(start=b"INVITE <sip:b@example.com> SIP/2.0"), 400, "Request-URI"),
        (text(start=b"INVITE sip:b@example.com; lr SIP/2.0"), 400, "Request-URI"),
        (text()[:-2], 400, "no end of the header fields"),
        (text(start=LINE + b" \t"), 400, "a blank behind the start line"),
        (text(*without(FROM)), 400, "From"),
        (text(*without(TO)), 400, "To"),
        (text(*without(ID)), 400, "Call-ID"),
        (text(*without(CSEQ)), 400, "CSeq"),
        (text(*without(FROM), b"From: Bell, A. <sip:a@example.com>;tag=1"), 400, "From"),
        (text(VIA + b";;x", *without(VIA)), 400, "Via"),
        (text(VIA + b" ; , SIP/2.0/UDP b", *without(VIA)), 400, "Via"),
        (text(VIA + b",", *without(VIA)), 400, "Via"),
        (text(*FIVE, FROM), 400, "From"),
        (text(*FIVE, TO), 400, "To"),
        (text(*FIVE, ID), 400, "Call-ID"),
        (text(*FIVE, CSEQ), 400, "CSeq"),
        (text(*without(FROM), b"From: <sip:a@example.com"), 400, "From"),
        (text(*without(TO), b'To: "open <sip:b@example.com>'), 400, "To"),
        (text(*without(ID), b"Call-ID:  "), 400, "Call-ID"),
        (text(*without(CSEQ), b"CSeq: 1"), 400, "CSeq"),
        (text(*without(CSEQ), b"CSeq: 1 BYE"), 400, "CSeq"),
        (text(*without(CSEQ), b"CSeq: x INVITE"), 400, "CSeq"),
        (text(*without(CSEQ), b"CSeq: 2147483648 INVITE"), 400, "CSeq"),
        (text(*without(CSEQ), b"CSeq: 36893488147419103232 INVITE"), 400, "CSeq"),
        (text(*FIVE, b"Max-Forwards: 256"), 400, "Max-Forwards"),
        (text(*FIVE, b"Max-Forwards: 2147483648"), 400, "Max-Forwards"),
        (text(*FIVE, b"Max-Forwards: 4294967295"), 400, "Max-Forwards"),
        (text(*FIVE, b"Max-Forwards: 99999999999999999999"), 400, "Max-Forwards"),
        (text(*FIVE, b"Max-Forwards: -1"), 400, "Max-Forwards"),
        (text(*FIVE, b"Content-Length: 4294967295"), 400, "Content-Length"),
        (text(*FIVE, b"Max-Forwards: 70", b"Max-Forwards: 70"), 400, "Max-Forwards"),
        (text(*FIVE, b"Content-Length: -999"), 400, "Content-Length"),
        (text(*FIVE, b"Content-Length: 5", body=b"four"), 400, "Content-Length"),
        (text(*FIVE, b"l: 0", b"Content-Length: 00 0"), 400, "Content-Length"),
        (text(*FIVE, b"l: 0", b"Content-Length: 1", body=b"x"), 400, "Content-Length"),
        (text(*FIVE, b"X A: y"), 400, "the name of a header field"),
        (text(*FIVE, b": y"), 400, "the name of a header field"),
        (text(*FIVE, b"no colon here"), 400, "a line without a colon"),
        (text(*FIVE, b"Subject: a\0b"), 400, "a NUL in Subject"),
        (text(*([b"X: 1"] * 2000), *FIVE), 513, "too many header fields"),
    ],
)
def test_a_malformed_request_is_refused_by_what_is_wrong(raw: bytes, code: int, fault: str) -> None:
    message = Message(raw)
    assert (message.bad, message.fault) == (code, fault)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"\0\0\0\0",
        b"hello",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        LINE,
        LINE + b"\r\n",
        LINE + b"\r\n\r\n",
        text(*without(VIA)),
        text(*without(FROM), start=b"SIP/2.0 180 Ringing"),
        text(start=b"SIP/2.0 180 Ringing")[:-2],  # no end of the header fields
        text(*without(VIA), b"Via: SIP/2.0/UDP :5060"),
        text(start=b"SIP/2.0 1800 Ringing"),
        text(start=b"SIP/2.0 099 What"),
        text(start=b"SIP/2.0 700 What"),
        text(start=b"SIP/2.0 180Ringing"),
        text(*without(CSEQ), b"CSeq: x INVITE", start=b"SIP/2.0 180 Ringing"),
        text(*FIVE, b"Content-Length: 9", start=b"SIP/2.0 200 OK"),
    ],
)
def test_what_cannot_be_answered_is_dropped(raw: bytes) -> None:
    assert Message(raw).bad == -1


def test_the_maximum_number_of_fields_is_taken() -> None:
    message = Message(text(*FIVE, *([b"X: 1"] * (FIELDS - 5))))
    assert message.bad == 0
    assert len(message.fields) == FIELDS


@pytest.mark.parametrize("end", [b"\r", b"\n"])
def test_no_field_hides_behind_a_bare_line_end(end: bytes) -> None:
    """Another parser might treat a bare CR or LF as the end of a line: so does this one."""
    message = Message(text(*FIVE, b"Subject: hi" + end + b"Route: <sip:evil>"))
    assert message.bad == 0
    assert message.first(b"subject") == b"hi"
    assert message.first(b"route") == b"<sip:evil>"
    assert end not in message.passing(HOP).replace(b"\r\n", b"")


def test_line_feeds_alone_are_accepted() -> None:
    message = Message(text(body=b"a\r\nb").replace(b"\r\n", b"\n"))
    assert message.bad == 0
    assert message.body == b"a\nb"


@pytest.mark.parametrize("fold", [b"\r\n ", b" \r\n\t", b"\n \t "])
def test_a_folded_value_is_one_line(fold: bytes) -> None:
    message = Message(text(*FIVE, b"Subject: one" + fold + b"two"))
    assert message.first(b"subject") == b"one two"
    assert b"Subject: one two" in message.head


def test_a_fold_hides_no_routing_field() -> None:
    message = Message(text(b"Subject: x\r\n Via: SIP/2.0/UDP evil", *FIVE))
    assert message.vias == 1
    assert message.host == b"192.0.2.1"


def test_what_passes_is_byte_for_byte_what_came() -> None:
    latin = "Organization: Ünïted \xff".encode("latin-1")
    odd = (b'X-Odd  :  a;;=,"', b"s:  hi ", b"Unknown:", latin)
    message = Message(text(*FIVE, *odd, b"Content-Length: 0"))
    assert message.passing(HOP) == b"\r\n".join(odd)
    assert relayed(message) == b"\r\n".join(odd)
    assert message.values(b"x-odd") == [b'a;;=,"']
    assert message.first(b"subject") == b"hi"
    assert [name for name, _, _ in message.fields][5:9] == [
        b"x-odd", b"subject", b"unknown", b"organization",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (b"Privacy: id", b"privacy"),
        (b"PRIVACY : id", b"privacy"),
        (b"X-Odd: 1", b"x-odd"),
        (b"x-ODD:1", b"x-odd"),
        (b"k: timer", b"supported"),
        (b"Supported: timer", b"supported"),
    ],
)
def test_a_field_is_known_by_any_of_its_names(field: bytes, name: bytes) -> None:
    message = Message(text(*FIVE, field))
    assert message.has_any(frozenset((b"identity", name)))
    assert not message.has_any(frozenset((b"identity", b"x-other", b"k")))
    assert not Message(text()).has_any(frozenset((b"identity", name)))


def test_runs_of_passing_fields_keep_their_order() -> None:
    message = Message(text(b"Aa: 1", VIA, b"Bb: 2", b"Cc: 3", FROM, TO, ID, CSEQ, b"Dd: 4"))
    assert message.passing(HOP) == b"Aa: 1\r\nBb: 2\r\nCc: 3\r\nDd: 4"
    assert message.passing(HOP | {b"bb"}) == b"Aa: 1\r\nCc: 3\r\nDd: 4"
    assert message.passing(frozenset(name for name, _, _ in message.fields)) == b""


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        (
            b"SIP/2.0/UDP 192.0.2.1:5070;branch=b",
            b"SIP/2.0/UDP 192.0.2.1:5070;received=192.0.2.1;branch=b",
        ),
        (
            b"SIP/2.0/UDP 10.0.0.1:5070;branch=b",
            b"SIP/2.0/UDP 10.0.0.1:5070;received=192.0.2.1;branch=b",
        ),
        (
            b"SIP/2.0/UDP 192.0.2.1;RPORT;branch=b",
            b"SIP/2.0/UDP 192.0.2.1;received=192.0.2.1;rport=4000;branch=b",
        ),
        (
            b"SIP/2.0/UDP a.b ; rport",
            b"SIP/2.0/UDP a.b;received=192.0.2.1 ;rport=4000",
        ),
        (
            b"SIP/2.0/UDP a.b;branch=b , SIP/2.0/UDP c;rport",
            b"SIP/2.0/UDP a.b;received=192.0.2.1;branch=b , SIP/2.0/UDP c;rport",
        ),
    ],
)
def test_a_response_goes_back_the_way_the_request_came(via: bytes, expected: bytes) -> None:
    """RFC 3261 18.2.1, RFC 3581 4."""
    message = Message(text(b"Via: " + via, *without(VIA), b"Via: SIP/2.0/UDP edge"))
    lines = message.response_head(b"192.0.2.1", 4000).split(b"\r\n")
    assert lines == [b"Via: " + expected, b"Via: SIP/2.0/UDP edge", FROM, ID, CSEQ, TO]


def test_the_requests_of_one_transaction_have_one_key() -> None:
    """RFC 3261 17.2.3, including the rules for RFC 2543."""
    one = Message(text())
    ack = Message(text(*without(CSEQ), b"CSeq: 1 ACK", start=LINE.replace(b"INVITE", b"ACK")))
    assert one.key(b"INVITE") == ack.key(b"INVITE")
    elsewhere = Message(text(b"Via: SIP/2.0/UDP 192.0.2.2:5070;branch=z9hG4bKx", *without(VIA)))
    assert one.key(b"INVITE") != elsewhere.key(b"INVITE")
    old = [
        Message(text(b"Via: SIP/2.0/UDP a;branch=1", FROM, TO, ID, b"CSeq: %d INVITE" % cseq))
        for cseq in (1, 1, 2)
    ]
    assert old[0].key(b"INVITE") == old[1].key(b"INVITE") != old[2].key(b"INVITE")


def test_a_copy_without_its_body_keeps_its_fields() -> None:
    message = Message(text(*FIVE, b"Subject: hi", b"Content-Length: 2", body=b"ab"))
    message.untrusted = True
    copy = message.without_body()
    assert (copy.body, copy.first(b"subject"), copy.untrusted) == (b"", b"hi", True)


def test_the_longest_message_is_read() -> None:
    body = b"a" * 60_000
    message = Message(text(*FIVE, b"Content-Length: 60000", body=body))
    assert (message.bad, message.body) == (0, body)
