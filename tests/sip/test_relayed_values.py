"""Values of fields that only cross: which are refused by name, and which pass."""

from __future__ import annotations

import pytest

from sip.relayed_values import CHECKED, is_sound
from tests.sip.house import CALLER, PHONE, House, answer, house, request

WRONG = [
    (b"allow", b"INVITE, ACK, BYE,"), (b"allow", b","), (b"supported", b"timer,,100rel"),
    (b"require", b", timer"), (b"accept", b"*/*,,"), (b"unsupported", b"x, "),
    (b"expires", b"soon"), (b"expires", b""), (b"expires", b"-1"), (b"min-expires", b"1 2"),
    (b"retry-after", b"later"), (b"min-se", b"x"), (b"session-expires", b";refresher=uac"),
    (b"content-type", b"application"), (b"content-type", b"application/sdp;"),
    (b"event", b";;"), (b"event", b"a b"), (b"subscription-state", b""),
    (b"authorization", b"Digest"), (b"authorization", b'Digest a="x" b="y"'),
    (b"www-authenticate", b"x"), (b"replaces", b"x@y"), (b"replaces", b";;"),
    (b"contact", b""), (b"contact", b"<>"), (b"contact", b"<sip:x@>"), (b"contact", b"<sip:a@b>,"),
    (b"contact", b"<sip:x@h:port>"), (b"contact", b"<sip:x@h:99999>"), (b"contact", b"<sip:h>;q=9"),
    (b"route", b"sip"), (b"route", b"<tel:+33>"), (b"record-route", b"<sip:@x;lr>"),
    (b"record-route", b"<sip:[];lr>"), (b"record-route", b"<sip:h;hide>"),
    (b"record-route", b"<sip:a;lr>x"), (b"route", b"<sip:a;lr>, , <sip:b;lr>"),
]  # fmt: skip
RIGHT = [
    (b"allow", b""), (b"allow", b"INVITE,ACK , BYE"), (b"supported", b"timer, 100rel"),
    (b"accept", b'application/sdp;x="a,,b", */*;q=0.1'), (b"expires", b"3600"),
    (b"retry-after", b"120 (in a meeting);duration=3600"),
    (b"retry-after", b"120 (a (b) \\) (c)d) ;duration=3600"),
    (b"session-expires", b"90;refresher=uac"),
    (b"content-type", b'multipart/mixed; boundary="a;b"'), (b"content-type", b"application / sdp"),
    (b"event", b"dialog;id=4"), (b"subscription-state", b"active;expires=60"),
    (b"authorization", b'Digest username="a, b", realm="x",nc=00000001, qop=auth'),
    (b"authorization", b"Basic dXNlcg=="), (b"replaces", b"x@y;to-tag=1;from-tag=2"),
    (b"contact", b"*"), (b"contact", b'"a>, b" <sip:a@[::1]:5060;x=y>;q=0.5, sip:c@d'),
    (b"contact", b"<tel:+33140000001>"), (b"contact", b"<sip:h?Subject=x>;expires=soon"),
    (b"contact", b'<sip:p@h>;+sip.instance="<urn:uuid:0>";reg-id=1'),
    (b"route", b"<sip:a;lr>, <sips:b:5061;transport=tls;lr>;x=y"), (b"record-route", b"sip:a;lr"),
    (b"x-other", b",,"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_cannot_be_read(name: bytes, value: bytes) -> None:
    assert not is_sound(name, value)
    assert name in CHECKED


@pytest.mark.parametrize(("name", "value"), RIGHT)
def test_what_can_be_read(name: bytes, value: bytes) -> None:
    assert is_sound(name, value)


async def test_a_request_gets_400_by_the_fields_name_and_a_response_is_dropped() -> None:
    with house() as home:
        for field, name in (
            ("Allow: INVITE,", "Allow"), ("k: a,,b", "Supported"), ("MIN-SE: x", "Min-SE"),
            ("X-Odd: (", "X-Odd"), ('X-Odd: "a\r\r"', "X-Odd"),
        ):  # fmt: skip
            assert name in reason(home, field)
        home.feed(request("INVITE"), CALLER)
        phone = home.line(PHONE)
        home.feed(answer(phone.sent[0], 180, fields=("Allow: INVITE,",)), PHONE)
        home.feed(answer(phone.sent[0], 180, fields=("X-Odd: <",)), PHONE)
        assert "180" not in home.line(CALLER).heard()
        home.feed(answer(phone.sent[0], 180), PHONE)
        assert home.line(CALLER).heard()[-1] == "180"


def reason(home: House, field: str) -> str:
    """The reason phrase that an INVITE with this field gets."""
    home.feed(request("INVITE", fields=(field,)), CALLER)
    sent = home.line(CALLER).sent[-1]
    assert sent.status == 400
    return sent.phrase.decode()
