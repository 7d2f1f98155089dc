"""Fields that identify a user, and which peers receive them."""

from collections.abc import Callable

import pytest

from sip import headers, privacy, relayed_fields
from sip.bodies import passing_body
from sip.message import Message
from sip.privacy import INSIDE, NAMING, NO_WISH, TRUSTED_ONLY, WRITTEN, kept, wish_of

SECRET = b"+33612345678"
PLAIN = b"From: <sip:+33140000000@h>;tag=1"


def request(*lines: bytes, method: bytes = b"INVITE", body: bytes = b"") -> Message:
    start = method + b" sip:+33972101001@h SIP/2.0\r\n"
    return Message(start + b"\r\n".join((PLAIN, *lines)) + b"\r\n\r\n" + body)


def response(*lines: bytes) -> Message:
    return Message(b"SIP/2.0 180 Ringing\r\n" + b"\r\n".join((PLAIN, *lines)) + b"\r\n\r\n")


def passed(message: Message, *, trusted: bool = False) -> list[bytes]:
    """The fields that cross, except Privacy."""
    lines = relayed_fields.relayed(message, to_trusted=trusted).split(b"\r\n")
    return [line for line in lines if line and not line.lower().startswith(b"privacy")]


@pytest.mark.parametrize(
    ("line", "number", "user", "history"),
    [
        (b"Privacy: id", True, False, False),
        (b"PRIVACY: ID", True, False, False),
        (b"Privacy: none", False, False, False),
        (b"Privacy:", False, False, False),
        (b"Privacy: history", False, False, True),
        (b"Privacy: user;critical", True, True, False),
        (b"Privacy: header , session", True, False, False),
        (b'Privacy: "id"', True, False, False),
        (b"Privacy: x-unheard-of", True, False, False),
        (b"Privacy: none\r\nPrivacy: id;history", True, False, True),
        (b"Remote-Party-ID: <sip:a@h>;party=calling;privacy=full", True, False, False),
        (b'Remote-Party-ID: "A" <sip:a@h>;screen=yes;PRIVACY="Full"', True, False, False),
        (b"Remote-Party-ID: <sip:a@h>;privacy=uri", True, False, False),
        (b"Remote-Party-ID: <sip:a@h> ; privacy = name-network", True, False, False),
        (b"Remote-Party-ID: sip:a@h;privacy=full", True, False, False),
        (b"Remote-Party-ID: <sip:a@h>;privacy=off, <sip:a@h>;privacy=full", True, False, False),
        (b"Remote-Party-ID: <sip:a@h;privacy=full>;privacy=off", False, False, False),
        (b'Remote-Party-ID: ";privacy=full" <sip:a@h>', False, False, False),
        (b"Remote-Party-ID: <sip:a@h>;party=called;privacy=full", False, False, False),
        (b"Diversion: <sip:a@h>;privacy=full", False, False, False),
        (b"History-Info: <sip:a@h?Privacy=history>;index=1", False, False, False),
        (b"X-Privacy: id", False, False, False),
    ],
)
def test_what_a_message_asks_for(line: bytes, number: bool, user: bool, history: bool) -> None:
    wish = wish_of(request(line))
    assert (wish.number, wish.user, wish.history) == (number, user, history)


@pytest.mark.parametrize(
    ("value", "anonymous"),
    [
        (b'"Anonymous" <sip:anonymous@anonymous.invalid>', True),
        (b"<sip:anonymous@anonymous.invalid;user=phone>", True),
        (b"sip:Anonymous@gw.example", True),
        (b"<SIP:x@ANONYMOUS.INVALID:5060>", True),
        (b"<sip:unavailable@unknown.invalid.>", True),
        (b"Anonymous <sip:c8oqz84zk7z@privacy.example>", True),
        (b'"A" <sip:+33612345678@anonymous.example>', False),
        (b'"anonymous <sip:a@b>" <sip:+33612345678@h>', False),
        (b"<sip:+33612345678@h>;note=anonymous", False),
        (b"tel:+33612345678", False),
        (b"", False),
    ],
)
def test_an_anonymous_from_is_a_wish_by_itself(value: bytes, anonymous: bool) -> None:
    message = Message(b"INVITE sip:x@h SIP/2.0\r\nFrom: " + value + b";tag=1\r\n\r\n")
    assert wish_of(message).number == anonymous
    shown = privacy.caller_shown(message, trusted=False)
    assert (shown == privacy.ANONYMOUS) == anonymous
    answer = Message(b"SIP/2.0 200 OK\r\nFrom: " + value + b";tag=1\r\n\r\n")
    assert wish_of(answer) is NO_WISH  # in an answer it applies to the other side


@pytest.mark.parametrize("name", sorted(NAMING | INSIDE))
@pytest.mark.parametrize("make", [request, response])
def test_no_field_that_names_the_sender_reaches_a_phone(
    name: bytes, make: Callable[..., Message]
) -> None:
    line = name.upper() + b": <sip:a@h>"
    assert passed(make(line, b"X-A: 1", b"Privacy: id")) == [b"X-A: 1"]
    assert passed(make(line, b"X-A: 1", b"Privacy: id"), trusted=True) == [line, b"X-A: 1"]
    shown = [b"X-A: 1"] if name in INSIDE else [line, b"X-A: 1"]
    assert passed(make(line, b"X-A: 1", b"Privacy: none")) == shown


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_what_the_user_agent_writes_is_hidden_with_its_user(name: bytes) -> None:
    line = name + b": x"
    assert passed(request(line, b"Privacy: user")) == []
    assert passed(request(line, b"Privacy: user"), trusted=True) == [line]
    assert passed(request(line)) == [line]


@pytest.mark.parametrize("name", sorted(TRUSTED_ONLY))
@pytest.mark.parametrize("make", [request, response])
def test_fields_that_only_the_network_may_set_are_ignored_from_a_phone(
    name: bytes, make: Callable[..., Message]
) -> None:
    message = make(name + b": <sip:a@h>", b"X-A: 1")
    message.untrusted = True
    assert passed(message, trusted=True) == [b"X-A: 1"]
    assert passed(message) == [b"X-A: 1"]


def test_compact_forms_and_unknown_fields_are_no_way_around() -> None:
    message = request(
        b"Privacy: id",
        b"P-Asserted-Identity: <sip:+33612345678@h>, <tel:+33612345678>",
        b"y: eyJhbGciOi",
        b"b: <sip:+33612345678@h>",
        b"X-Caller: 0612345678",
        b"X-Spelt: 06 12 34 56-78",
        b"X-Other: 0712345679",
        b"Refer-To: <sip:+33612345678@h>",
    )
    assert passed(message) == [b"X-Other: 0712345679", b"Refer-To: <sip:+33612345678@h>"]


def test_a_diverting_user_may_want_privacy() -> None:
    message = request(
        b'Diversion: <sip:a@h>;privacy=full, <sip:b@h>;privacy=off, "x>;privacy=full" <sip:c@h>',
        b'Diversion: "D" <sip:d@h>;reason=user-busy;Privacy="URI", <sip:e@h>;counter=1',
    )
    shown = [b"<sip:b@h>;privacy=off", b'"x>;privacy=full" <sip:c@h>', b"<sip:e@h>;counter=1"]
    block = relayed_fields.invite_block(
        message, trusted=False, diverted=[], target="sip:t@p", host="e"
    )
    assert block.split(b"\r\n") == [b"Diversion: " + entry for entry in shown]
    assert passed(message) == [b"Diversion: " + entry for entry in shown]
    assert len(headers.entries(message, b"diversion")) == 5
    assert b"".join(passed(message, trusted=True)).count(b"sip:") == 5


@pytest.mark.parametrize(
    "uri",
    [
        b"sip:a@h?Privacy=history",
        b"sip:a@h;cause=302?Reason=SIP%3Bcause%3D302&privacy=HISTORY%3Bid",
        b"sip:a@h?%50rivacy=history",
        b"sip:a@h?Privacy=x&Privacy=none",
    ],
)
def test_an_entry_of_the_history_may_be_private_by_itself(uri: bytes) -> None:
    lines = (
        b"History-Info: <" + uri + b">;index=1;mp=1, <sip:b@h?Privacy=none>;index=1.1",
        b"History-Info: <sip:c@h>;index=1.1.1;rc=1.1",
    )
    assert passed(request(*lines)) == [
        b"History-Info: <sip:anonymous@anonymous.invalid>;index=1",
        b"History-Info: <sip:b@h?Privacy=none>;index=1.1",
        b"History-Info: <sip:c@h>;index=1.1.1;rc=1.1",
    ]
    assert passed(request(*lines), trusted=True) == list(lines)


def test_a_caller_who_wants_no_history_is_shown_without_it() -> None:
    before = (b"History-Info: <sip:a@h>;index=1", b"Diversion: <sip:a@h>")
    done = relayed_fields.Diverted("+33972101001", "user-busy", 486)
    message = request(*before, b"Privacy: history", b"P-Asserted-Identity: <sip:+331@h>")
    block = relayed_fields.invite_block(
        message, trusted=False, diverted=[done], target="sip:t@p", host="e"
    )
    assert block.split(b"\r\n") == [
        b"Diversion: <sip:+33972101001@e>;reason=user-busy;counter=1;privacy=off",
        b"Privacy: history",
        b"P-Asserted-Identity: <sip:+331@h>",
    ]


def test_a_wish_holds_for_the_dialog_until_it_is_taken_back() -> None:
    asked = kept(NO_WISH, response(b"Privacy: id", b"P-Asserted-Identity: <sip:+33612345678@h>"))
    later = response(b"P-Asserted-Identity: <sip:+33612345678@h>")
    later.wish = kept(asked, later)
    assert later.wish.number
    assert passed(later) == []
    also = kept(later.wish, request(b"Privacy: user", method=b"UPDATE"))
    assert (also.number, also.user) == (True, True)
    assert also.digits >= asked.digits
    assert kept(also, request(b"Privacy: none", method=b"UPDATE")) is NO_WISH
    mixed = request(b"Privacy: none", b"Remote-Party-ID: <sip:a@h>;privacy=full")
    assert kept(also, mixed).number


def test_the_numbers_that_are_searched_for_are_bounded() -> None:
    """Each is searched for in every field of each message: thousands of them took seconds."""
    wish = NO_WISH
    for n in range(1, 21):
        numbers = b", ".join(b"<sip:+33%d%07d@h>" % (n, k) for k in range(1000))
        message = request(b"Privacy: id", b"P-Asserted-Identity: " + numbers)
        wish = kept(wish, message)
        assert len(wish.digits) <= 16
    assert {b"40000000", b"10000000"} <= wish.digits  # those of the first message: From, then PAI


@pytest.mark.parametrize(
    ("value", "undone"),
    [(b"id;critical", False), (b"session", False), (b"session;critical", True),
     (b"critical;x", True), (b"user;header;history;id;critical", False)],
)  # fmt: skip
def test_critical_privacy_that_cannot_be_provided(value: bytes, undone: bool) -> None:
    assert wish_of(request(b"Privacy: " + value)).undone == undone


SDP = b"--b1\r\nContent-Type: application/sdp\r\n\r\nv=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n"
NAMED = b"--b1\r\ncontent-type : %b;base=x\r\n\r\n--b1x+33612345678\r\n"


@pytest.mark.parametrize(
    "kind", [b"application/ISUP", b"application/pidf+xml", b"text/vcard", b"message/sipfrag"]
)
def test_a_part_of_a_body_that_names_the_sender_reaches_no_phone(kind: bytes) -> None:
    whole = SDP + NAMED % kind + b"--b1--\r\n"
    media = b'multipart/mixed;boundary="b1"'

    def of(body: bytes) -> Message:
        return request(b"Privacy: id", b"Content-Type: " + media, body=body)

    assert passing_body(of(whole), to_trusted=False) == (SDP + b"--b1--\r\n", media)
    assert passing_body(of(whole), to_trusted=True) == (whole, media)
    crossed = passing_body(of(SDP + b"--b1--\r\n"), to_trusted=False)
    assert crossed[0] == SDP + b"--b1--\r\n"
    assert passing_body(of(NAMED % kind + b"--b1--"), to_trusted=False) == (b"", b"")
    shown = request(b"Content-Type: multipart/mixed;boundary=b1", body=whole)
    assert passing_body(shown, to_trusted=False)[0] == whole


@pytest.mark.parametrize(
    ("kind", "passes"),
    [(b"application/sdp", True), (b"message/sipfrag;version=2.0", True), (b"text/plain", True),
     (b"Application/PIDF+xml", False), (b"multipart/mixed", False)],
)  # fmt: skip
def test_a_body_that_is_one_part(kind: bytes, passes: bool) -> None:
    message = request(b"Privacy: id", b"c: " + kind, body=b"x")
    assert passing_body(message, to_trusted=False) == ((b"x", kind) if passes else (b"", b""))
