"""How SIP writes things down (RFC 3261 25, 19.1, 20), by tables."""

import pytest

from sip.core import grammar


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"70", 70),
        (b"4294967295", 4294967295),
        (b"4294967296", -1),  # above 32 bits
        (b"00000000001", -1),  # more digits than any number here has
        (b"", -1),
        (b"-1", -1),
        (b"+1", -1),
        (b"1 ", -1),
        (b"1e3", -1),
        ("٣".encode(), -1),  # a digit elsewhere
    ],
)
def test_numbers_are_decimal_and_bounded(text: bytes, number: int) -> None:
    assert grammar.unsigned(text, 0, len(text)) == number


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a,b", [b"a", b"b"]),
        (b" a ,\tb ", [b"a", b"b"]),
        (b"a,,b,", [b"a", b"b"]),
        (b'"a,b" <sip:x>,<sip:y,z>', [b'"a,b" <sip:x>', b"<sip:y,z>"]),
        (b'"a\\",b" <sip:x>, c', [b'"a\\",b" <sip:x>', b"c"]),
        (b'"never closed, b', [b'"never closed, b']),
        (b"<never, closed", [b"<never, closed"]),
        (b'<sip:a"b>,c', [b'<sip:a"b>', b"c"]),  # a quote inside brackets quotes nothing
    ],
)
def test_lists_are_cut_at_commas_outside_quotes_and_brackets(
    value: bytes, entries: list[bytes]
) -> None:
    assert grammar.split(value) == entries


@pytest.mark.parametrize(
    ("value", "uri", "tag"),
    [
        (b"<sip:a@b>;tag=1", b"sip:a@b", b"1"),
        (b"sip:a@b;tag=1", b"sip:a@b", b"1"),  # without brackets the parameters are the header's
        (b'"A. G. Bell" <sip:agb@bell.example>;tag=a48s', b"sip:agb@bell.example", b"a48s"),
        (b"Anonymous <sip:c8oqz84@privacy.org>;tag=hyh8", b"sip:c8oqz84@privacy.org", b"hyh8"),
        (b'"<sip:fake@x>;tag=0" <sip:a@b>;TAG=2', b"sip:a@b", b"2"),
        (b'"\\"<sip:fake@x>" <sip:a@b> ; tag = 3', b"sip:a@b", b"3"),
        (b"<sip:a@b;tag=inside>;x;tag=4", b"sip:a@b;tag=inside", b"4"),
        (b"<sip:a@b>;x=\";tag=5\";tag=6", b"sip:a@b", b"6"),
        (b"<sip:a@b>", b"sip:a@b", None),
        (b"<sip:a@b>;tag", b"sip:a@b", b""),
        (b" sip:a@b ", b"sip:a@b", None),
        (b"<tel:+33972101001>;tag=7", b"tel:+33972101001", b"7"),
        (b"<sip:a@b", b"", None),
        (b"<>", b"", None),
        (b'"open <sip:a@b>', b"", None),
        (b'"name"', b"", None),
        (b"", b"", None),
        (b";tag=8", b"", b"8"),
    ],
)
def test_name_addr(value: bytes, uri: bytes, tag: bytes | None) -> None:
    assert grammar.uri_in(value) == uri
    assert grammar.tag_in(value) == tag


@pytest.mark.parametrize(
    ("value", "name", "found"),
    [
        (b";a=1;b=2", b"b", b"2"),
        (b";A=1", b"a", b"1"),
        (b"; a = 1 ; b", b"b", b""),
        (b";a=1", b"b", None),
        (b';a="x;b=1,c";b=2', b"b", b"2"),
        (b';a="x\\";b=1";b=2', b"a", b'"x\\";b=1"'),
        (b";a=1, ;b=2", b"b", None),  # of the first entry only
        (b";ab=1;a=2", b"a", b"2"),
        (b";a=", b"a", b""),
        (b";;a=1", b"a", b"1"),
        (b";", b"a", None),
    ],
)
def test_parameters(value: bytes, name: bytes, found: bytes | None) -> None:
    assert grammar.param(value, 0, name) == found


@pytest.mark.parametrize(
    ("value", "transport", "sent_by", "host", "port"),
    [
        (b"SIP/2.0/UDP 192.0.2.1:5060;branch=z", b"udp", b"192.0.2.1:5060", b"192.0.2.1", 5060),
        (b"SIP/2.0/UDP 192.0.2.1", b"udp", b"192.0.2.1", b"192.0.2.1", 0),
        (
            b"SIP / 2.0 / UDP first.example.com: 4000;ttl=16 ;maddr=224.2.0.1",
            b"udp", b"first.example.com: 4000", b"first.example.com", 4000,
        ),
        (b"sip/2.0/tls [2001:d::1]:5061;rport", b"tls", b"[2001:d::1]:5061", b"[2001:d::1]", 5061),
        (b"SIP/2.0/TCP [::1];branch=x", b"tcp", b"[::1]", b"[::1]", 0),
        (b"SIP/2.0/UDP a , SIP/2.0/UDP b", b"udp", b"a", b"a", 0),
    ],
)  # fmt: skip
def test_via(value: bytes, transport: bytes, sent_by: bytes, host: bytes, port: int) -> None:
    read = grammar.via(value)
    assert read is not None
    assert (read.transport, value[read.start : read.end], read.host, read.port) == (
        transport, sent_by, host, port,
    )  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        b"", b"SIP/2.0/UDP", b"SIP/2.0/UDP ", b"SIP/3.0/UDP a", b"SIPS/2.0/UDP a", b"SIP/2.0 a",
        b"SIP/2.0/UDP :5060", b"SIP/2.0/UDP a:0", b"SIP/2.0/UDP a:65536", b"SIP/2.0/UDP a:x",
        b"SIP/2.0/UDP [::1", b"SIP/2.0/UDP []", b"SIP/2.0/UDP [x]", b"SIP/2.0/UDP [::1]x",
        b"SIP/2.0/UDP a\x00", b"SIP/2.0/  ", b"SIP/2.0/UDP a?b",
    ],
)  # fmt: skip
def test_what_is_no_via(value: bytes) -> None:
    assert grammar.via(value) is None


@pytest.mark.parametrize(
    ("a", "b"),
    [  # RFC 3261 19.1.4
        (b"sip:%61lice@atlanta.com;transport=TCP", b"sip:alice@AtLanTa.CoM;Transport=tcp"),
        (b"sip:carol@chicago.com", b"sip:carol@chicago.com;newparam=5"),
        (b"sip:carol@chicago.com", b"sip:carol@chicago.com;security=on"),
        (
            b"sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            b"sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            b"sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            b"sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        (b"SIP:a@b", b"sip:a@B"),
        (b"sip:a@[2001:DB8::1]", b"sip:a@[2001:db8::1]"),
        (b"tel:+1", b"tel:+1"),
    ],
)
def test_equivalent_uris(a: bytes, b: bytes) -> None:
    assert grammar.same_uri(a, b)
    assert grammar.same_uri(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (b"SIP:ALICE@AtLanTa.CoM;Transport=udp", b"sip:alice@AtLanTa.CoM;Transport=UDP"),
        (b"sip:bob@biloxi.com", b"sip:bob@biloxi.com:5060"),
        (b"sip:bob@biloxi.com", b"sip:bob@biloxi.com:6000;transport=tcp"),
        (b"sip:carol@chicago.com", b"sip:carol@chicago.com?Subject=next%20meeting"),
        (b"sip:bob@phone21.boxesbybob.com", b"sip:bob@192.0.2.4"),
        (b"sip:a@b", b"sips:a@b"),
        (b"sip:a@b;user=phone", b"sip:a@b"),
        (b"sip:a@b;maddr=192.0.2.1", b"sip:a@b"),
        (b"sip:a@b;x=1", b"sip:a@b;x=2"),
        (b"sip:a%40x@b", b"sip:a@x@b"),
        (b"sip:a:secret@b", b"sip:a@b"),
        (b"sip:a@b", b"tel:+1"),
        (b"tel:+1", b"tel:+2"),
    ],
)
def test_uris_that_differ(a: bytes, b: bytes) -> None:
    assert not grammar.same_uri(a, b)
    assert not grammar.same_uri(b, a)


@pytest.mark.parametrize(
    "uri",
    [
        b"", b"sip:", b"sip", b"http://a", b"sip:@a", b"sip:a@", b"sip:a@b:0", b"sip:a@b:65536",
        b"sip:a@b:x", b"sip:a@[::1", b"sip:a@b c", b"sip:a@b;x=1;X=2", b"sip:a@b@c", b"sip:a@b;",
        b"tel:+1",
    ],
)  # fmt: skip
def test_what_is_no_sip_uri(uri: bytes) -> None:
    assert grammar.parse_uri(uri) is None


def test_the_parts_of_a_uri() -> None:
    uri = grammar.parse_uri(b"SIPS:+33%20x:pw@[::1]:5071;LR;maddr=H?a=1&b=2")
    assert uri == grammar.Uri(
        b"sips", b"+33%20x", b"pw", b"[::1]", 5071, {b"lr": b"", b"maddr": b"h"}, (b"a=1", b"b=2")
    )
