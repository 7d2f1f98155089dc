"""RFC 4475: each message is answered as the RFC requires. If it leaves a choice, or if the engine
deviates, the test says why. The registrar (`engine`) decides on registrations; these tests check
what it would read."""

from __future__ import annotations

import pytest

from rules.contact import read_contact
from rules.model import DocumentError
from sip import grammar, headers
from sip.message import Message
from tests.sip.house import CALLER, PHONE, House, answer, house
from tests.sip.rfc4475 import MESSAGES


def answers(home: House, name: str) -> list[str]:
    """The answers to its sender."""
    home.feed(MESSAGES[name], CALLER)
    return home.line(CALLER).heard()


def refusal(home: House) -> bytes:
    [sent] = home.line(CALLER).sent
    return sent.phrase


async def refused_with_400(name: str, fault: bytes) -> None:
    """The answer names the fault, and no other peer receives anything."""
    with house() as home:
        assert answers(home, name) == ["400"]
        assert refusal(home) == b"Bad Request (%s)" % fault
        assert home.lines.keys() == {(b"127.0.0.1", CALLER)}


async def called(name: str) -> Message:
    """The INVITE is valid: returns the one that the phone gets."""
    body = MESSAGES[name].partition(b"\r\n\r\n")[2]
    with house() as home:
        assert answers(home, name) == []
        [invite] = home.line(PHONE).sent
        assert (invite.method, invite.body) == (b"INVITE", body)
        home.feed(answer(invite, 486), PHONE)
        assert home.line(CALLER).heard() == ["486"]
        return invite


def registration(name: str) -> Message:
    """A REGISTER that reaches the registrar."""
    message = Message(MESSAGES[name])
    assert (message.bad, message.method) == (0, b"REGISTER")
    return message


def uris(message: Message) -> list[bytes]:
    """The URIs of its Contacts as the registrar reads them."""
    entries = headers.entries(message, b"contact")
    return [grammar.name_addr(entry).uri for entry in entries]


def test_there_are_forty_nine() -> None:
    assert len(MESSAGES) == 49


# -- 3.1.1 valid messages


async def test_wsinv() -> None:
    """A short tortuous INVITE. It is within a dialog that does not exist here."""
    message = Message(MESSAGES["wsinv"])
    assert message.bad == 0
    assert (message.method, message.target) == (
        b"INVITE", b"sip:vivekg@chair-dnrc.example.com;unknownparam",
    )  # fmt: skip
    assert (message.to_tag, message.from_tag) == (b"1918181833n", b"98asjd8")
    assert (message.max_forwards, message.cseq, message.vias) == (68, 9, 2)
    assert message.first(b"subject") == b""
    assert message.first(b"newfangledheader") == b"newfangled value continued newfangled value"
    assert message.first(b"unknownheaderwithunusualvalue") == b";;,,;;,;"
    assert message.contact == b"sip:jdrosen@example.com"
    assert len(headers.entries(message, b"via")) == 3
    assert len(message.body) == 150
    with house() as home:
        assert answers(home, "wsinv") == ["481"]


async def test_intmeth() -> None:
    """Wide range of valid characters. A NUL in quotes is valid, but refused: other programs would
    end the text there and see another To. Without it: an unknown method."""
    with house() as home:
        assert answers(home, "intmeth") == ["400"]
        assert refusal(home) == b"Bad Request (a NUL in To)"
    with house() as home:
        home.feed(MESSAGES["intmeth"].replace(b"\0", b"0"), CALLER)
        [sent] = home.line(CALLER).sent
        assert sent.status == 501
        assert sent.from_tag == b"_token~1'+`*%!-."
        assert sent.call_id == """intmeth.word%ZK-!.*_+'@word`~)(><:\\/"][?}{"""


async def test_esc01() -> None:
    """Valid use of the % escaping mechanism: fields that are only relayed are not unescaped."""
    await called("esc01")
    message = Message(MESSAGES["esc01"])
    assert grammar.user_of(message.target) == "sips:user@example.com"
    assert message.contact == b"sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31"


def test_escnull() -> None:
    """Escaped nulls in URIs: two bindings."""
    message = registration("escnull")
    assert uris(message) == [b"sip:%00@host5.example.com", b"sip:%00%00@host5.example.com"]
    assert headers.user_of(message.to) == "null-\0-null"


async def test_esc02() -> None:
    """Use of % when it is not an escape: the method is not REGISTER, and C%6Fntact is not
    Contact."""
    with house() as home:
        assert answers(home, "esc02") == ["501"]
    assert len(uris(Message(MESSAGES["esc02"]))) == 2


async def test_lwsdisp() -> None:
    """No LWS between display name and <."""
    with house() as home:
        assert answers(home, "lwsdisp") == ["200"]
        assert home.line(CALLER).sent[0].from_tag == b"323"


async def test_longreq() -> None:
    """Long values in header fields."""
    await called("longreq")
    assert Message(MESSAGES["longreq"]).vias == 34


async def test_dblreq() -> None:
    """Extra trailing octets in a UDP datagram are discarded: a REGISTER, not an INVITE."""
    message = registration("dblreq")
    assert message.body == b""
    with house() as home:
        assert answers(home, "dblreq") == ["405"]  # no registrar here
        assert home.callers == []


async def test_semiuri() -> None:
    """Semicolon-separated parameters in the user part."""
    with house() as home:
        assert answers(home, "semiuri") == ["200"]
    assert Message(MESSAGES["semiuri"]).target == b"sip:user;par=u%40example.net@example.com"


async def test_transports() -> None:
    """Varied and unknown transport types: all of them are returned."""
    with house() as home:
        assert answers(home, "transports") == ["200"]
        assert home.line(CALLER).sent[0].vias == 5


async def test_mpart01() -> None:
    """A multipart MESSAGE: its body is read completely, with its NULs; a MESSAGE outside a call is
    refused."""
    message = Message(MESSAGES["mpart01"])
    assert message.bad == 0
    assert message.body == MESSAGES["mpart01"].partition(b"\r\n\r\n")[2]
    with house() as home:
        assert answers(home, "mpart01") == ["405"]


def test_unreason() -> None:
    """Unusual reason phrase: relayed unchanged."""
    message = Message(MESSAGES["unreason"])
    assert (message.bad, message.status) == (0, 200)
    assert message.phrase.decode() == "= 2**3 * 5**2 но сто девяносто девять - простое"


def test_noreason() -> None:
    """Empty reason phrase."""
    message = Message(MESSAGES["noreason"])
    assert (message.bad, message.status, message.phrase) == (0, 100, b"")


# -- 3.1.2 invalid messages


async def test_badinv01() -> None:
    """Extraneous header field separators."""
    await refused_with_400("badinv01", b"Via")


async def test_clerr() -> None:
    """Content-Length larger than the message. On a stream the engine would wait for the rest."""
    await refused_with_400("clerr", b"Content-Length")


async def test_ncl() -> None:
    """Negative Content-Length."""
    await refused_with_400("ncl", b"Content-Length")


async def test_scalar02() -> None:
    """Request scalar fields with overlarge values: Max-Forwards is checked first, CSeq is invalid
    too."""
    await refused_with_400("scalar02", b"Max-Forwards")
    rest = Message(MESSAGES["scalar02"].replace(b"Max-Forwards: 300", b"Max-Forwards: 70"))
    assert (rest.bad, rest.fault) == (400, "CSeq")


async def test_scalarlg() -> None:
    """Response scalar fields with overlarge values: discarded."""
    with house() as home:
        assert answers(home, "scalarlg") == []
        assert home.rejected[0].startswith("malformed: CSeq")


async def test_quotbal() -> None:
    """Unterminated quoted string in a display name."""
    await refused_with_400("quotbal", b"To")


async def test_ltgtruri() -> None:
    """<> enclosing the Request-URI."""
    await refused_with_400("ltgtruri", b"Request-URI")


async def test_lwsruri() -> None:
    """Malformed SIP Request-URI: embedded LWS."""
    await refused_with_400("lwsruri", b"Request-URI")


async def test_lwsstart() -> None:
    """Multiple SP between the elements of the start line."""
    await refused_with_400("lwsstart", b"Request-URI")


async def test_trws() -> None:
    """SP at the end of the Request-Line."""
    await refused_with_400("trws", b"a blank behind the start line")


async def test_escruri() -> None:
    """Escaped header fields in the Request-URI: the engine dials its own URI, without them."""
    invite = await called("escruri")
    assert b"?" not in invite.target
    assert invite.first(b"route") is None


async def test_baddate() -> None:
    """A Date not in GMT does not affect routing: it passes."""
    invite = await called("baddate")
    assert invite.first(b"date") == b"Fri, 01 Jan 2010 16:00:00 EST"


def test_regbadct() -> None:
    """A Contact URI with header fields, without <>: the registrar refuses it (400)."""
    [uri] = uris(registration("regbadct"))
    with pytest.raises(DocumentError):
        read_contact(uri.decode(), 0.0)


async def test_badaspec() -> None:
    """Spaces within an addr-spec: it does not affect routing here, and may be accepted
    (3.1.2.14)."""
    with house() as home:
        assert answers(home, "badaspec") == ["200"]


async def test_baddn() -> None:
    """Non-token characters in a display name: after the comma would be another From."""
    await refused_with_400("baddn", b"From")


async def test_badvers() -> None:
    """Unknown protocol version."""
    with house() as home:
        assert answers(home, "badvers") == ["505"]


async def test_mismatch01() -> None:
    """Start line and CSeq method mismatch."""
    await refused_with_400("mismatch01", b"CSeq")


async def test_mismatch02() -> None:
    """The same with an unknown method. 501 would be valid too; the fault is reported first."""
    await refused_with_400("mismatch02", b"CSeq")


async def test_bigcode() -> None:
    """Overlarge response code: discarded."""
    with house() as home:
        assert answers(home, "bigcode") == []
        assert home.rejected[0].startswith("malformed: no SIP")


# -- 3.2 transaction layer


async def test_badbranch() -> None:
    """Missing transaction identifier: as in RFC 2543, identified by the other fields."""
    message = Message(MESSAGES["badbranch"])
    other = Message(MESSAGES["badbranch"].replace(b"badbranch.", b"other."))
    assert message.key(b"OPTIONS") != other.key(b"OPTIONS")
    with house() as home:
        assert answers(home, "badbranch") == ["200"]


# -- 3.3 application layer


async def test_insuf() -> None:
    """Missing required header fields: 400 with the fields that exist."""
    with house() as home:
        assert answers(home, "insuf") == ["400"]
        [sent] = home.line(CALLER).sent
        assert sent.first(b"via") is not None
        assert sent.first(b"cseq") == b"193942 INVITE"
        assert [sent.first(name) for name in (b"from", b"to", b"call-id")] == [None] * 3


@pytest.mark.parametrize("name", ["unkscm", "novelsc"])
async def test_unkscm_and_novelsc(name: str) -> None:
    """Request-URI with an unknown, and with a known but atypical scheme."""
    with house() as home:
        assert answers(home, name) == ["416"]


def test_unksm2() -> None:
    """Unknown URI schemes in header fields: well-formed. The To is not of a line: the registrar
    answers 404; the Contact would be 400."""
    message = registration("unksm2")
    assert headers.user_of(message.to) == ""
    with pytest.raises(DocumentError):
        read_contact(uris(message)[0].decode(), 0.0)


async def test_bext01() -> None:
    """Proxy-Require and Require."""
    with house() as home:
        assert answers(home, "bext01") == ["420"]
        assert home.line(CALLER).sent[0].first(b"unsupported") == (
            b"nothingSupportsThis, nothingSupportsThisEither"
        )


async def test_invut() -> None:
    """Unknown Content-Type: bodies are opaque to the engine; the phone may answer 415."""
    invite = await called("invut")
    assert invite.content_type == b"application/unknownformat"


def test_regaut01() -> None:
    """Unknown authorization scheme: treated as missing; the registrar challenges (401)."""
    from engine.registration.digest import read_answer

    [value] = registration("regaut01").values(b"authorization")
    assert read_answer(value.decode()) is None


async def test_multi01() -> None:
    """Multiple values in single value required fields."""
    await refused_with_400("multi01", b"CSeq")


async def test_mcl01() -> None:
    """Multiple Content-Length values."""
    await refused_with_400("mcl01", b"Content-Length")


async def test_bcast() -> None:
    """200 OK response with a broadcast Via below: not ours, discarded."""
    with house() as home:
        assert answers(home, "bcast") == []
        assert home.rejected[0].startswith("malformed: Via")


async def test_zeromf() -> None:
    """Max-Forwards of zero: the OPTIONS has reached its target, an INVITE would have to be
    relayed."""
    with house() as home:
        assert answers(home, "zeromf") == ["200"]


def test_cparam01_and_cparam02() -> None:
    """REGISTER with a contact header parameter, and with a URI parameter."""
    assert uris(registration("cparam01")) == [b"sip:+19725552222@gw1.example.net"]
    assert uris(registration("cparam02")) == [b"sip:+19725552222@gw1.example.net;unknownparam"]


def test_regescrt() -> None:
    """REGISTER with a URL escaped header. It is valid, but refused (400): the engine would have to
    put that Route into each INVITE to the phone, so a phone could redirect its calls.
    """
    [uri] = uris(registration("regescrt"))
    assert uri == b"sip:user@example.com?Route=%3Csip:sip.example.com%3E"
    with pytest.raises(DocumentError):
        read_contact(uri.decode(), 0.0)


async def test_sdp01() -> None:
    """Unacceptable Accept offering: a matter of caller and phone, the engine relays it."""
    invite = await called("sdp01")
    assert invite.first(b"accept") == b"text/nobodyKnowsThis"


# -- 3.4 backward compatibility


async def test_inv2543() -> None:
    """An INVITE of RFC 2543, valid there. It has no Contact: its caller could not be reached after
    the answer, so it is refused (RFC 3261 8.1.1.8). With one it is accepted, without branch and
    tag."""
    with house() as home:
        assert answers(home, "inv2543") == ["400"]
        assert home.rejected[0].startswith("no_contact")
    with house() as home:
        contact = b"CSeq: 56 INVITE\r\nContact: <sip:x@192.0.2.5>"
        home.feed(MESSAGES["inv2543"].replace(b"CSeq: 56 INVITE", contact), CALLER)
        assert home.line(PHONE).heard() == ["INVITE"]
        [leg] = home.callers
        assert leg.dialog.routes == (b"<sip:UserB@example.com;maddr=ss1.example.com>",)
