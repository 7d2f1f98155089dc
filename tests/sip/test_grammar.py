"""How values are read: what stands in quotes is text, whatever it looks like."""

from __future__ import annotations

import time

import pytest

from sip import grammar
from sip.grammar import NameAddr


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
    ],
)  # fmt: skip
def test_a_name_addr(value: bytes, uri: bytes, parameters: bytes) -> None:
    found = grammar.name_addr(value)
    assert (found.uri, found.parameters) == (uri, parameters)
    assert found == NameAddr(b"", b"", b"") or found.shown + parameters == value


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
        (b";a=1 junk;b=2", {b"a": b"1"}),
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
    assert grammar.split_list(value) == found


def test_the_first_of_a_list_and_the_rest() -> None:
    assert grammar.first_entry(b'a;x="1,2", b') == (b'a;x="1,2"', b", b")
    assert grammar.first_entry(b"a") == (b"a", b"")


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
        # and what follows from its rules
        (b"SIP:a@h;ob;x=1", b"sip:a@H;X=1;OB", True),
        (b"sip:%75a@h", b"sip:ua@h", True),
        (b"sip:a%3bb@h", b"sip:a%3Bb@h", True),
        (b"sip:a%3Bb@h", b"sip:a;b@h", False),
        (b"sip:A@h", b"sip:a@h", False),
        (b"sip:h", b"sip:@h", False),
        (b"sip:a@h", b"sip:a:@h", False),
        (b"sip:a:P@h", b"sip:a:p@h", False),
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
    grammar.split_list(value)
    grammar.user_of(value)
    assert time.process_time() - start < 1
