"""Quotes and brackets are closed on their line, and single fields come once: requests and
responses."""

import pytest

from sip.ambiguity import content_length, fault_of, with_length
from sip.grammar import is_closed
from sip.message import Message

BODY = b"v=0\r\n"
FIELDS = {
    b"Via": b"SIP/2.0/UDP 192.0.2.7:5070;rport;branch=z9hG4bK1",
    b"Max-Forwards": b"70",
    b"From": b'"A" <sip:+33612345678@192.0.2.7>;tag=a',
    b"To": b"<sip:+33972101001@192.0.2.1>",
    b"Call-ID": b"1@192.0.2.7",
    b"CSeq": b"1 INVITE",
    b"Contact": b"<sip:x@192.0.2.7:5070>",
    b"Subject": b"plain",
    b"Content-Type": b"application/sdp",
    b"Content-Length": b"5",
}
START = b"INVITE sip:+33972101001@192.0.2.1 SIP/2.0"


def message(start: bytes = START, body: bytes = BODY, **fields: bytes | None) -> bytes:
    """The message with other fields: `Max_Forwards` is Max-Forwards, None leaves it out."""
    changed = {name.replace("_", "-").encode(): value for name, value in fields.items()}
    lines = [start]
    for name, value in {**FIELDS, **changed}.items():
        if value is not None:
            lines.append(name + b": " + value)
    return b"\r\n".join([*lines, b"", b""]) + body


def refused(raw: bytes) -> bytes:
    """The fault that the layer finds; empty for an accepted message."""
    read = Message(raw)
    if read.bad or is_closed(raw):
        return read.fault.encode()
    fault = fault_of(raw)
    return b"" if fault is None else fault.phrase


@pytest.mark.parametrize(
    "raw",
    [
        message(),
        message(b"SIP/2.0 200 OK"),
        message(b"SIP/2.0 200"),
        message(Contact=b'"A \'(b" <sip:(a)&b@h:5070;x=[::1]?c=d&e>;q=0.5'),
        message(To=b"<sip:x@[2001:db8::1]:5080>"),
        message(Via=b"SIP/2.0/UDP [::1]:5;received=[::2] (what it is)"),
        message(body=BODY + b"what is too much is not ours"),
        message(Content_Length=None),
    ],
)
def test_a_usual_message_takes_the_fast_path(raw: bytes) -> None:
    assert is_closed(raw)
    assert fault_of(raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        message(To=b"\r\n <sip:x@192.0.2.1>\r\n\t;x=y"),
        message(Via=b"SIP / 2.0\r\n / UDP 192.0.2.7;branch=z9hG4bK1 (a comment)"),
        message(From=b'"J \\"R\\" \\\\" <sip:a@h>;tag=1'),
        message(Contact=b"sip:a&b@h;x=y"),
        message(Record_Route=b"<sip:h;lr>,\r\n <sip:[::1];lr>"),
        message(Subject=b':-( [ < " &'),
        message(Call_ID=b"word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"),
        message(b"SIP/2.0 486 Busy (or so"),
        message(b"OPTIONS sip:a(b@h SIP/2.0"),
        message(X_Url=b"http://h/?a=b&c"),
        message(Content_Length=b"5\r\nl: 05"),
        message(Warning=b'399 h "[<("'),
        message(Replaces=b"1@192.0.2.7;to-tag=1;from-tag=2"),
    ],
)
def test_an_unusual_message_is_checked_in_full_and_accepted(raw: bytes) -> None:
    assert fault_of(raw) is None


@pytest.mark.parametrize("name", [*FIELDS, b"X-Unknown", b"Route", b"P-Asserted-Identity"])
@pytest.mark.parametrize("start", [START, b"SIP/2.0 200 OK"])
@pytest.mark.parametrize(
    "opened", [b"[", b"<sip:x@[", b'"', b"<sip:x", b'"\r\r', b"<sip:x@[::1\r\n ]>", b'"a\r\n b"']
)
def test_what_is_not_closed_on_its_line_is_a_fault(
    name: bytes, start: bytes, opened: bytes
) -> None:
    value = FIELDS.get(name, b"x") + b";x=" + opened
    rest = b"\r\n\r\n" + (b']>"\r\nRecord-Route: <sip:h;hide>\r\n\r\n')
    others = message(start, b"", **{name.decode().replace("-", "_"): None})
    raw = others[:-2] + name + b": " + value + rest + BODY
    assert not is_closed(raw)
    assert refused(raw)
    if b"\r" not in opened:
        assert name in refused(raw)


def test_text_for_people_may_be_open_only_when_the_length_of_the_body_is_known() -> None:
    assert fault_of(message(Subject=b"a [")) is None
    assert fault_of(message(Subject=b"a [", Content_Length=None)) is not None
    assert fault_of(message(Subject=b"a [", body=BODY + b"]")) is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Via", b"SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1 (a"),
        (b"Max-Forwards", b"70&Record-Route: <sip:h;hide>"),
        (b"CSeq", b"1 INVITE&"),
        (b"Contact", b"*&Route: <sip:[];lr>"),
        (b"Replaces", b"1@192.0.2.7"),
        (b"Contact", b"<sip:[]>"),
        (b"Contact", b"<sip:x@[ ]>"),
        (b"Contact", b"<sip:x@[host]>"),
        (b"From", b"<sip:x@[::1>;tag=]"),
        (b"To", b"<sip:x@h\0>"),
        (b"Subject", b"a\x7fb"),
        (b"Subject", b"a\x0bb"),
        (b"Subject", b"a\rX-Odd: b"),
        (b"Subject", b"a\nX-Odd: b"),
        (b"Content-Length", b"6"),
        (b"Content-Length", b"-1"),
        (b"Content-Length", b"many"),
        (b"Content-Length", b""),
        (b"Content-Length", b"99999999999999999999"),
        (b"Content-Length", b"\r\n 6"),
        (b"Content-Length", b"5\r\nl: 4"),
    ],
)
def test_faults_name_the_field(name: bytes, value: bytes) -> None:
    raw = message(**{name.decode().replace("-", "_"): value})
    assert name in refused(raw)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (b"From", b"f: <sip:b@h>;tag=b"),
        (b"To", b"TO : <sip:b@h>"),
        (b"Call-ID", b"i: 2"),
        (b"CSeq", b"cseq: 2 INVITE"),
        (b"Max-Forwards", b"max-forwards: 0"),
        (b"Content-Type", b"c: text/plain"),
    ],
)
def test_what_may_come_once_only(name: bytes, line: bytes) -> None:
    raw = message().replace(b"\r\n", b"\r\n" + line + b"\r\n", 1)
    assert refused(raw) == name


@pytest.mark.parametrize(
    "start",
    [
        b"INVITE  sip:x@h SIP/2.0",
        b"INVITE sip:x@h SIP/2.0 ",
        b"INVITE <sip:x@h> SIP/2.0",
        b"INVITE sip:x@[ SIP/2.0",
        b'INVITE sip:x@h;a="b c" SIP/2.0',
        b"INVITE\r\n sip:x@h SIP/2.0",
        b"INVITE sip:x@h SIP/3.0",
        b"INVITE sip:x@h",
        b"hello",
        b"",
    ],
)
def test_the_start_line_is_one_line(start: bytes) -> None:
    assert refused(message(start))


def test_other_characters_do_not_end_a_line() -> None:
    for raw in (message().replace(b"\r\n", b"\n"), message(body=b"").replace(b"\r\n", b"\r")):
        assert not is_closed(raw)
        assert fault_of(raw) is not None


def test_a_length_of_one_number() -> None:
    head = message(body=b"", Content_Length=b"7\r\nl : 7")
    assert content_length(head) == 7
    written = with_length(head, 7)
    assert written.lower().count(b"content-length") == 1
    assert b"\r\nl" not in written
    assert content_length(message(body=b"", Content_Length=None)) == 0
