"""Faults of the core with hostile messages, each found by a campaign and now fixed."""

from __future__ import annotations

import pytest

from engine.registration.digest import read_answer
from engine.telemetry.masking import LONGEST, cleaner
from sip import message, replaces, streams
from sip.message import Message
from sip.names import Names, address_of, place_of
from sip.privacy import wish_of
from sip.text_cache import remembered
from sip.udp import source_of
from tests.sip.house import CALLER, PHONE, SDP, answer, house, request
from tests.sip.test_endpoint import talk


@pytest.mark.parametrize("number", ["256", "2147483648", "4294967295", "4294967296", "9" * 60])
async def test_a_max_forwards_that_fits_no_integer_is_a_400(number: str) -> None:
    """An attribute of the compiled core holds 31 bits: larger values raised an exception."""
    with house() as home:
        invite = request("INVITE").replace(b"Forwards: 70", b"Forwards: " + number.encode())
        home.feed(invite, CALLER)
        assert home.line(CALLER).heard() == ["400"]


@pytest.mark.parametrize("code", [100, 180])
async def test_a_relayed_invite_that_outlives_its_call_ends(code: int) -> None:
    """The call ends while a re-INVITE waits; a provisional response then removed its time limit."""
    with house() as home:
        tag = talk(home)
        reinvite = request(
            "INVITE", tag=tag, cseq=2, body=SDP, fields=("Content-Type: application/sdp",)
        )
        home.feed(reinvite, CALLER)
        relayed = home.line(PHONE).sent[-1]
        assert relayed.method == b"INVITE"
        home.feed(request("BYE", tag=tag, cseq=3), CALLER)
        home.feed(answer(relayed, code), PHONE)
        home.pass_time(70_000)
        assert home.endpoint.layer.clients == {}


async def test_a_refusal_does_not_need_the_missing_fields() -> None:
    """To, From, Call-ID or CSeq missing: 400 with the fields that exist, and its To, if any, with a
    tag."""
    for missing in (b"From", b"To", b"Call-ID", b"CSeq"):
        with house() as home:
            lines = request("INVITE").split(b"\r\n")
            home.feed(b"\r\n".join(line for line in lines if not line.startswith(missing)), CALLER)
            [sent] = home.line(CALLER).sent
            assert (sent.status, sent.phrase) == (400, b"Bad Request (%s)" % missing)
            names = [name for name, _, _ in sent.fields]
            assert missing.lower() not in names
            assert (sent.to_tag is None) == (missing == b"To")


@pytest.mark.parametrize("port", ["9" * 5000, "\u00b2", "1\u00b9", "65536", "-1", ""])
def test_a_port_is_decimal_digits(port: str) -> None:
    """`str.isdigit` takes "\u00b2", and `int` at most 4,300 digits: both raised."""
    place = place_of(f"sip:x@127.0.0.1:{port}")
    assert place.port in (0, 65536)
    address_of(place)


@pytest.mark.parametrize("zone", ["4294967296", "9" * 40, "\u00b2", "nowhere", "a" * 5000])
def test_a_zone_is_a_number_of_32_bits_or_an_interface(zone: str) -> None:
    with pytest.raises((OSError, ValueError)):
        source_of(f"fe80::1%{zone}", 5060, True)


@pytest.mark.parametrize("sender", [b"anonymous:", b"<anonymous.invalid:>", b"a:.invalid;tag=1"])
async def test_an_anonymous_from_that_is_no_address(sender: bytes) -> None:
    """The leg of a call that could not be read was never removed."""
    with house() as home:
        invite = request("INVITE").replace(b"<sip:a@example.com>", sender)
        home.feed(invite, CALLER)
        wish_of(Message(invite))


async def test_a_prack_of_an_early_dialog_after_one_without_a_tag() -> None:
    """The tag to be replaced was empty."""
    with house() as home:
        home.feed(request("INVITE", body=SDP, fields=("Supported: 100rel",)), CALLER)
        invite = home.line(PHONE).sent[0]
        reliable = ("Require: 100rel", "RSeq: 7")
        home.feed(answer(invite, 183, tag="one", fields=reliable), PHONE)
        home.feed(answer(invite, 180, tag=""), PHONE)
        early = next(one for one in home.line(CALLER).sent if one.first(b"rseq") is not None)
        rseq = (early.first(b"rseq") or b"").decode()
        tag = early.to_tag.decode()
        home.feed(request("PRACK", cseq=2, tag=tag, fields=(f"RAck: {rseq} 1 INVITE",)), CALLER)
        relayed = home.line(PHONE).sent[-1]
        assert (relayed.method, relayed.to_tag) == (b"PRACK", b"one")


async def test_a_call_whose_connection_is_lost_is_answered_or_ends() -> None:
    """A peer whose connection is lost is reached in another way."""
    for attribute in ("most", "reliable", "is_gone"):
        assert hasattr(streams.Reopened, attribute)
        assert hasattr(streams.Nowhere, attribute)


@pytest.mark.parametrize("name", [b"From\xe2\x82\0", b"\0", b"X\0\xff", b"Sub\0ject"])
async def test_a_nul_in_the_name_of_a_field_is_named(name: bytes) -> None:
    """Non-ASCII characters raised; the reason phrase must not contain them."""
    with house() as home:
        field = name + b": x\r\nMax-Forwards"
        home.feed(request("INVITE").replace(b"Max-Forwards", field), CALLER)
        [sent] = home.line(CALLER).sent
        assert sent.status == 400
        assert all(32 <= c < 127 for c in sent.phrase)


SIZE = 262_144


@pytest.mark.parametrize("text", ["a" * SIZE, "a =" * (SIZE // 3), 'a="' * (SIZE // 3),
                                  'a="' + '\\"' * (SIZE // 2)])  # fmt: skip
def test_an_authorization_of_any_length_is_read_at_once(text: str) -> None:
    """64 KB of letters from any source that may register took half a minute."""
    assert read_answer("Digest " + text) is None


@pytest.mark.parametrize("value", [
    b"sip:a?b=c;" + b"a" * SIZE, b"<sip:a?b=c>;d=\"" + b'\\"' * (SIZE // 2), b"?" * SIZE,
    b"<sip:a?" * (SIZE // 7), b'"' + b'\\"' * (SIZE // 2) + b"<sip:a?b=c>",
])  # fmt: skip
def test_a_uri_that_may_name_a_dialog_is_read_at_once(value: bytes) -> None:
    class Nobody:
        def leg_named(self, call_id: bytes, local: bytes, remote: bytes) -> None:
            return None

    block = b"Refer-To: " + value
    assert replaces.Dialogs(Nobody()).pass_on(block, replaces.End(uri="sip:x")) == block


def test_blanks_that_fold_nothing_are_read_at_once() -> None:
    head = request("INVITE").replace(b"Subject", b"S")[:-2]
    raw = head + b"Subject: a" + b" " * SIZE + b"b\nOdd: y\r\n\r\n"
    assert Message(raw).bad == 0


@pytest.mark.parametrize("text", ["@" + "sip:a:" * SIZE, "0" * SIZE, "a " * SIZE])
def test_a_text_of_any_length_is_cut_before_it_is_logged(text: str) -> None:
    shown = cleaner("masked")({"detail": text})["detail"]
    assert len(shown) < 2 * LONGEST
    assert shown.endswith(" ...")


def test_of_long_texts_from_the_network_nothing_is_kept() -> None:
    """Their senders could fill the memory: caches count texts, not bytes."""
    kept: list[int] = []

    @remembered
    def size(text: str) -> int:
        kept.append(len(text))
        return len(text)

    for text in ("a" * 512, "a" * 513):
        assert size(text) == size(text) == len(text)
    assert kept == [512, 513, 513]


async def test_no_long_name_of_a_field_is_kept() -> None:
    with house() as home:
        before = sum(map(len, message._names))
        for n in range(100):
            fields = (f"X-{n:0>60000}: x",)
            home.feed(request("INVITE", call_id=f"c{n}", fields=fields), CALLER)
        assert home.line(PHONE).heard() == ["INVITE"] * 100
        assert sum(map(len, message._names)) < before + 10_000


async def test_a_host_that_no_server_can_have_is_not_asked_for() -> None:
    names = Names({("udp", False)}, [("127.0.0.1", 9)])
    for place in (place_of(f"sip:{'a.' * 150}a"), place_of(f"sip:a.b;transport={'x' * 60000}")):
        assert names.known(place) == []
        assert await names.ask(place) == []
        assert address_of(place) is None
    assert names.known(place_of("sip:a.b")) is None


def test_a_refused_invite_is_remembered_in_few_bytes() -> None:
    one, other = (Message(request("INVITE", call_id=c * 60000, branch="b")) for c in "ab")
    assert len(one.identity) == 16
    assert one.identity != other.identity
    assert one.identity == Message(one.data).identity
