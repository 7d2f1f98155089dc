"""The grammar of SIP (RFC 3261 25, 19.1, 20), in tables."""

import itertools
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sip import grammar


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"70", 70),
        (b"4294967295", 4294967295),
        (b"4294967296", -1),  # above 32 bits
        (b"00000000001", -1),  # more digits than any valid number
        (b"", -1),
        (b"-1", -1),
        (b"+1", -1),
        (b"1 ", -1),
        (b"1e3", -1),
        ("٣".encode(), -1),  # an Arabic digit
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
        (b'<sip:a"b>,c', [b'<sip:a"b>', b"c"]),  # a quote inside brackets has no effect
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
        (b'<sip:a@b>;x=";tag=5";tag=6', b"sip:a@b", b"6"),
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
def test_addresses_and_tags(value: bytes, uri: bytes, tag: bytes | None) -> None:
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
def test_a_parameter(value: bytes, name: bytes, found: bytes | None) -> None:
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
    assert (read[0], value[read[1] : read[2]], *read[3:]) == (transport, sent_by, host, port)


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
    "uri",
    [
        b"", b"sip:", b"sip", b"http://a", b"sip:@a", b"sip:a@", b"sip:a@b:0", b"sip:a@b:65536",
        b"sip:a@b:x", b"sip:a@[::1", b"sip:a@b c", b"sip:a@b;x=1;X=2", b"sip:a@b@c", b"sip:a@b;",
        b"tel:+1",
    ],
)  # fmt: skip
def test_what_is_no_sip_uri(uri: bytes) -> None:
    assert not grammar.is_sip_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        b"SIPS:+33%20x:pw@[::1]:5071;LR;maddr=H?a=1&b=2", b"sip:h", b"sip:a;b?c@h_1.example.:65535",
        b"sip:a@h?x=y@z",
    ],
)  # fmt: skip
def test_what_is_one(uri: bytes) -> None:
    assert grammar.is_sip_uri(uri)


@pytest.mark.parametrize(
    ("value", "uri", "parameters"),
    [
        (b"<sip:a@h>", b"sip:a@h", b""),
        (b"<sip:a@h;x=y>;tag=1", b"sip:a@h;x=y", b";tag=1"),
        (b"Alice B. <sip:a@h> ; tag = 1", b"sip:a@h", b" ; tag = 1"),
        (b'"A, \\"B\\" <sip:x@y>;tag=0" <sip:a@h>;tag=1', b"sip:a@h", b";tag=1"),
        (b'"A\\\\" <sip:a@h>', b"sip:a@h", b""),
        (b'"one" two "three" <sip:a@h>', b"sip:a@h", b""),
        (b'<sip:a@h>;expires=0;+sip.instance="<urn:uuid:1>"', b"sip:a@h",
         b';expires=0;+sip.instance="<urn:uuid:1>"'),
        (b'<sip:a@h>;x="<y>";tag=1', b"sip:a@h", b';x="<y>";tag=1'),
        (b'<sip:a,b;c@h>;x="a>b,\\"c"', b"sip:a,b;c@h", b';x="a>b,\\"c"'),
        # Without brackets the parameters are the header's (RFC 3261 20.10).
        (b"sip:a@h;tag=1", b"sip:a@h", b";tag=1"),
        (b'sip:a@h;x="<y>";tag=1', b"sip:a@h", b';x="<y>";tag=1'),
        (b"sip:0612345678;phone-context=+33@h;user=phone", b"sip:0612345678;phone-context=+33@h",
         b";user=phone"),
        (b"SIP:a@[2001:db8::1]:5062 ;expires=5", b"SIP:a@[2001:db8::1]:5062", b" ;expires=5"),
        (b"tel:+33612345678;ext=2;tag=1", b"tel:+33612345678", b";ext=2;tag=1"),
        (b"", b"", b""),
        (b"*", b"", b""),
        (b"<sip:a@h", b"", b""),
        (b'"never closed <sip:a@h>', b"", b""),
        (b"<<sip:a@h>>", b"", b""),
        (b"sip:a@h, sip:b@h", b"sip:a@h", b", sip:b@h"),
        (b"sip:mine <sip:a@h>;tag=1", b"sip:a@h", b";tag=1"),  # brackets mark the URI
        (b"a", b"", b""),
        (b"9a:b", b"", b""),
    ],
)  # fmt: skip
def test_a_name_addr(value: bytes, uri: bytes, parameters: bytes) -> None:
    found = grammar.name_addr(value)
    assert (found.uri, found.parameters) == (uri, parameters)
    assert found == grammar.NameAddr(b"", b"", b"") or found.shown + parameters == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b";tag=1", {b"tag": b"1"}),
        (b" ; TAG = a ;lr; q=0.5", {b"tag": b"a", b"lr": b"", b"q": b"0.5"}),
        (b';x="a;b=1,\\"c\\"<d>";y=2', {b"x": b'a;b=1,"c"<d>', b"y": b"2"}),
        (b';x="a\\\\";y=2', {b"x": b"a\\", b"y": b"2"}),
        (b";;a=1; ;b", {b"a": b"1", b"b": b""}),
        (b";a=1;A=2", {b"a": b"1"}),
        (b";a=;b", {b"a": b"", b"b": b""}),
        (b";a=1 junk;b=2,;c=3", {b"a": b"1", b"b": b"2"}),
        (b';a="never closed;b=2', {b"a": b""}),
        (b"", {}),
    ],
)
def test_parameters(text: bytes, found: dict[bytes, bytes]) -> None:
    assert grammar.parameters(text) == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"a, b ,c", [b"a", b"b", b"c"]),
        (b'"x, y" <sip:a@h>, <sip:b,c@h;d=e>;f="g,h"', [b'"x, y" <sip:a@h>',
                                                      b'<sip:b,c@h;d=e>;f="g,h"']),
        (b'"\\",<" <sip:a@h>,sip:b@h', [b'"\\",<" <sip:a@h>', b"sip:b@h"]),
        (b" , a,, ", [b"a"]),
        (b'a, "never, closed', [b"a", b'"never, closed']),
        (b"", []),
    ],
)  # fmt: skip
def test_lists(value: bytes, found: list[bytes]) -> None:
    assert grammar.split(value) == found


@pytest.mark.parametrize(
    ("uri", "user"),
    [
        (b"sip:+33972101001@h", "+33972101001"),
        (b"sip:+33972101001:secret@h", "+33972101001"),
        (b"sip:+33972101001;npdi;rn=+331:a;b@h:5060;user=phone", "+33972101001"),
        (b"SIPS:%2B33972101001@h", "+33972101001"),
        (b"sip:0612345678;phone-context=+33@h", "0612345678"),
        (b"sip:*21*0612345678%23@h", "*21*0612345678#"),
        (b"sip:+33%3B1@h", "+33;1"),
        (b"tel:+33-1-40;phone-context=x", "+33-1-40"),
        (b"TEL:%2B33140", "+33140"),
        (b"sip:192.0.2.1", ""),
        (b"sip:+33972101001", ""),
        (b"sip:@h", ""),
        (b"urn:service:sos", ""),
        (b"", ""),
    ],
)
def test_the_user_of_a_uri(uri: bytes, user: str) -> None:
    assert grammar.user_of(uri) == user


def test_the_parameters_of_a_uri_are_not_those_of_its_user() -> None:
    found = grammar.uri_parameters(b"sip:a;ob@h;lr;received=x?y=z")
    assert found == {b"lr": b"", b"received": b"x"}
    assert grammar.uri_parameters(b"tel:+331;ob") == {}


@pytest.mark.parametrize(
    ("uri", "headers"),
    [
        (b"sip:a@h?Replaces=1&x=y", b"Replaces=1&x=y"),
        (b"sip:a?b=c@h;x=y?Replaces=1", b"Replaces=1"),
        (b"sip:a?Replaces=1@h", b""),
        (b"tel:+331?Replaces=1", b"Replaces=1"),
        (b"sip:a@h", b""),
    ],
)
def test_the_header_fields_of_a_uri(uri: bytes, headers: bytes) -> None:
    assert grammar.uri_headers(uri) == headers


# RFC 3261 19.1.4: its own examples first.
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"sip:%61lice@atlanta.com;transport=TCP", b"sip:alice@AtlanTa.CoM;Transport=tcp", True),
        (b"sip:carol@chicago.com", b"sip:carol@chicago.com;newparam=5", True),
        (b"sip:carol@chicago.com;newparam=5", b"sip:carol@chicago.com;security=on", True),
        (b"sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
         b"sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com", True),
        (b"sip:alice@atlanta.com?subject=project%20x&priority=urgent",
         b"sip:alice@atlanta.com?priority=urgent&subject=project%20x", True),
        (b"SIP:ALICE@AtLanTa.CoM;Transport=udp", b"sip:alice@AtLanTa.CoM;Transport=UDP", False),
        (b"sip:bob@biloxi.com", b"sip:bob@biloxi.com:5060", False),
        (b"sip:bob@biloxi.com", b"sip:bob@biloxi.com;transport=udp", False),
        (b"sip:bob@biloxi.com", b"sip:bob@biloxi.com:6000;transport=tcp", False),
        (b"sip:carol@chicago.com", b"sip:carol@chicago.com?Subject=next%20meeting", False),
        (b"sip:bob@phone21.boxesbybob.com", b"sip:bob@192.0.2.4", False),
        (b"sip:carol@chicago.com;security=on", b"sip:carol@chicago.com;security=off", False),
        # and cases that follow from its rules
        (b"SIP:a@h;ob;x=1", b"sip:a@H;X=1;OB", True),
        (b"sip:%75a@h", b"sip:ua@h", True),
        (b"sip:a%3bb@h", b"sip:a%3Bb@h", True),
        (b"sip:a%3Bb@h", b"sip:a;b@h", False),
        (b"sip:A@h", b"sip:a@h", False),
        (b"sip:h", b"sip:@h", False),
        (b"sip:a@h", b"sip:a:@h", False),
        (b"sip:a:P@h", b"sip:a:p@h", False),
        (b"sip:a%40x@h", b"sip:a@x@h", False),
        (b"sip:a@h;x=1", b"sip:a@h;x=2", False),
        (b"sip:a@h", b"tel:+331", False),
        (b"sip:a@h", b"sips:a@h", False),
        (b"sip:a@h;maddr=192.0.2.1", b"sip:a@h", False),
        (b"sip:a@h;user=phone", b"sip:a@h", False),
        (b"sip:a@h;user=phone", b"sip:a@h;user=PHONE", True),
        (b"sip:a@h;ttl=1", b"sip:a@h", False),
        (b"sip:a@h.example.", b"sip:a@h.example", True),
        (b"sip:a@[2001:DB8::1]", b"sip:a@[2001:db8:0::1]", True),
        (b"sip:a@h:5060", b"sip:a@h:05060", True),
        (b"tel:+331", b"tel:+331", True),
        (b"tel:+331", b"TEL:+331", False),
    ],
)  # fmt: skip
def test_equivalent_uris(one: bytes, other: bytes, same: bool) -> None:
    assert grammar.same_uri(one, other) is same
    assert grammar.same_uri(other, one) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>",
         b"<URN:UUID:00000000-0000-1000-8000-aabbccddeeff>", True),
        (b"<urn:gsma:imei:1>", b"urn:GSMA:imei:1", True),
        (b"<urn:x:A>", b"<urn:x:a>", False),
        (b"<urn:uuid:1>", b"<urn:uuid:2>", False),
    ],
)  # fmt: skip
def test_equivalent_instances(one: bytes, other: bytes, same: bool) -> None:
    assert grammar.same_urn(one, other) is same


@pytest.mark.parametrize(
    "value",
    [b'"' * 60_000, b"<" * 60_000, b'"a"' * 20_000, b";a" * 30_000, b'\\"' * 30_000, b";" * 60_000,
     b"a " * 30_000, b'sip:a@h;x="' + b"<" * 60_000, b"," * 60_000, b"sip:" + b"@" * 60_000],
)  # fmt: skip
def test_no_value_takes_long(value: bytes) -> None:
    start = time.process_time()
    grammar.name_addr(value)
    grammar.parameters(value)
    grammar.split(value)
    grammar.user_of(value)
    assert time.process_time() - start < 1


PLAIN = bytes(c for c in (9, *range(32, 127), *range(128, 256)) if c not in b'"<>[]()\\')
CLOSED = re.compile(rb'(?:(?:"[<>\[\]()]*"|<(?:[()]|\[\])*>|\[\]|\(\))*\r\n)*')
MARKS = (b'"', b"<", b">", b"[", b"]", b"(", b")", b"\\", b"&", b"\r\n", b"\r", b"\n", b"a",
         b"\xff", b"\t", b"\0", b'"a"', b"<a>", b"<[1]>", b"(a)", b"[1]")  # fmt: skip


@given(st.lists(st.sampled_from(MARKS), max_size=12).map(b"".join))
@example(b'To: "a" <sip:a@[::1]&x(y)>;x=[::2] (z)')
@example(b'"')
def test_a_line_is_closed_when_what_it_opens_ends_on_it(lines: bytes) -> None:
    """Compared with a grammar of the characters that remain without plain ones."""
    raw = lines + b"\r\n\r\nbody ["
    head = raw[: raw.find(b"\r\n\r\n") + 2]
    assert grammar.is_closed(raw) == (CLOSED.fullmatch(head.translate(None, PLAIN)) is not None)
    assert not grammar.is_closed(head)  # it never ends


def test_the_fast_path_reads_a_uri_as_the_full_parser_does() -> None:
    # An empty list of header fields after "?" changes nothing, a password does not change the user;
    # both exclude the fast path.
    users = (b"", b"@", b"a@", b"+3397210@", b"a.b-c_d@", b"a b@", b"a%40@", b"a;x=1@", b"a:p@")
    hosts = (b"", b"a", b"a.b-c", b"a_b", b"192.0.2.1", b"[::1]", b"a/b", b"a@b")
    ports = (b"", b":", b":0", b":5060", b":65535", b":65536", b":1234567890123", b":x")
    parameters = (b"", b";", b";lr", b";transport=udp", b";a=", b";=a", b";a;a", b";a;b", b";%61")
    schemes = (b"sip:", b"SIPS:", b"tel:", b"sip", b"sipx:")
    for parts in itertools.product(schemes, users, hosts, ports, parameters):
        uri = b"".join(parts)
        assert grammar.is_sip_uri(uri) == grammar.is_sip_uri(uri + b"?"), uri
        if parts[0] in (b"sip:", b"SIPS:") and parts[1] not in (b"", b"a:p@"):
            slow = b"".join((parts[0], parts[1][:-1], b":p@", *parts[2:]))
            assert grammar.user_of(uri) == grammar.user_of(slow), uri
