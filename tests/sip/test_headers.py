"""Header fields that cross the B2BUA, and how a diversion is signalled."""

import pytest

from sip import headers, privacy, relayed_fields
from sip.message import Message
from sip.relayed_fields import Diverted


def invite(*lines: bytes) -> Message:
    return Message(b"INVITE sip:+33972101001@h SIP/2.0\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")


def block(
    message: Message, *diverted: Diverted, trusted: bool = True, target: str = "sip:t@v"
) -> list[bytes]:
    text = relayed_fields.invite_block(
        message, trusted=trusted, diverted=list(diverted), target=target, host="engine"
    )
    return text.split(b"\r\n") if text else []


BUSY = Diverted("+33972101001", "user-busy", 486)
ALWAYS = Diverted("+33972101002", "unconditional", 302)


@pytest.mark.parametrize(
    ("value", "user"),
    [
        (b"<sip:+33612345678@h>", "+33612345678"),
        (b'"A, \\"B\\"" <sip:0612345678;phone-context=+33@h;user=phone>;tag=1', "0612345678"),
        (b"tel:+33612345678;ext=2", "+33612345678"),
        (b"sips:100@h", "100"),
        (b"Anonymous <urn:x>", ""),
    ],
)
def test_the_user_part(value: bytes, user: str) -> None:
    assert headers.user_of(value) == user


@pytest.mark.parametrize(
    ("value", "bare"),
    [
        (b"<sip:a@h>;tag=1", b"<sip:a@h>"),
        (b'"n" <sip:a@h;x=y>;tag=1;z=2', b'"n" <sip:a@h;x=y>'),
        (b"sip:a@h;tag=abc", b"sip:a@h"),
        (b"sip:a@h", b"sip:a@h"),
    ],
)
def test_an_address_without_its_tag(value: bytes, bare: bytes) -> None:
    assert headers.without_tag(value) == bare


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        (b'Q.850;cause=17;text="User busy"', 17),
        (b"q.850 ; text=x ; cause = 31", 31),
        (b"SIP;cause=200, Q.850;cause=18", 18),
        (b"SIP;cause=486", None),
    ],
)
def test_the_cause_of_a_gateway(reason: bytes, cause: int | None) -> None:
    message = Message(b"SIP/2.0 480 X\r\nReason: " + reason + b"\r\n\r\n")
    assert headers.q850_cause(message) == cause


def test_diversions_are_the_larger_of_both_headers() -> None:
    by_diversion = (b"Diversion: <sip:a@h>;counter=2, <sip:b@h>", b"Diversion: <sip:c@h>")
    by_history = (
        b"History-Info: <sip:a@h>;index=1, <sip:b@h;cause=302>;index=1.1",
        b"History-Info: <sip:c@h?Reason=SIP%3Bcause%3D486>;index=1.1.1",
    )
    assert headers.diversions(invite(*by_diversion)) == 4
    assert headers.diversions(invite(*by_history)) == 2
    assert headers.diversions(invite(*by_diversion, *by_history)) == 4
    assert headers.diversions(invite()) == 0


def test_a_plain_leg_gets_the_headers_as_they_came() -> None:
    message = invite(b"Via: x", b"X-A: 1", b"Diversion: <sip:a@h>", b"Supported: timer")
    assert block(message) == [b"Diversion: <sip:a@h>", b"X-A: 1", b"Supported: timer"]


def test_the_newest_diversion_is_on_top() -> None:
    got = block(invite(b"Diversion: <sip:old@h>;reason=unknown"), BUSY, ALWAYS)
    assert got[0] == (
        b"Diversion: <sip:+33972101002@engine>;reason=unconditional;counter=1;privacy=off"
    )
    assert got[1].startswith(b"Diversion: <sip:+33972101001@engine>;reason=user-busy;")
    assert got[2] == b"Diversion: <sip:old@h>;reason=unknown"


def test_history_info_of_a_first_forward() -> None:
    assert block(invite(), BUSY, target="sip:+33612345678@gw")[1:] == [
        b"History-Info: <sip:+33972101001@engine>;index=1",
        b"History-Info: <sip:+33612345678@gw;cause=486>;index=1.1",
    ]


def test_history_info_of_a_chain() -> None:
    assert block(invite(), BUSY, ALWAYS, target="sip:t@gw")[2:] == [
        b"History-Info: <sip:+33972101001@engine>;index=1",
        b"History-Info: <sip:+33972101002@engine;cause=486>;index=1.1",
        b"History-Info: <sip:t@gw;cause=302>;index=1.1.1",
    ]


def test_history_info_goes_on_where_it_came_from() -> None:
    got = block(invite(b"History-Info: <sip:x@h>;index=1, <sip:me@h;cause=302>;index=1.1"), BUSY)
    assert got[1:] == [
        b"History-Info: <sip:x@h>;index=1",
        b"History-Info: <sip:me@h;cause=302>;index=1.1",
        b"History-Info: <sip:t@v;cause=486>;index=1.1.1",
    ]


def test_a_withheld_identity_stays_inside_the_trust_domain() -> None:
    message = invite(b"Privacy: id", b"P-Asserted-Identity: <sip:+33612345678@h>")
    assert b"P-Asserted-Identity: <sip:+33612345678@h>" in block(message)
    assert block(message, trusted=False) == [b"Privacy: id"]
    hidden = invite(b"Privacy: id", b"From: <sip:+33612345678@h>;tag=1")
    assert privacy.caller_shown(hidden, trusted=True) == b"<sip:+33612345678@h>"
    assert privacy.caller_shown(hidden, trusted=False) == privacy.ANONYMOUS


def test_an_identity_from_outside_the_trust_domain_is_ignored() -> None:
    message = invite(b"P-Asserted-Identity: <sip:+33612345678@h>", b"X-A: 1")
    message.untrusted = True
    assert relayed_fields.relayed(message) == b"X-A: 1"


def test_reliable_provisional_responses_are_not_offered_onward() -> None:
    message = invite(b"Supported: 100rel, timer", b"k: replaces")
    assert block(message) == [b"Supported: timer", b"k: replaces"]
    assert headers.requires_100rel(invite(b"Require: 100rel"))


def test_the_voicemail_gets_the_mailbox() -> None:
    assert headers.voicemail_parameters("sip:+33972101001@vm:5091", 486) == (
        ";target=sip%3A%2B33972101001%40vm%3A5091;cause=486"
    )
