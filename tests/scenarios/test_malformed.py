"""Messages that are ambiguous or unreadable: refused with the field's name, without a crash.

RFC 3261 7.3.1, 18.3, 20; RFC 4475 3.1.2. The hostile ones hide header fields behind a line with an
unclosed quote or bracket.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import select
import socket

import pytest

from tests.patience import within
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.message import parse
from tests.scenarios.setup import OFFER_BYTES, Setup
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

UDP, TCP = free_port(), free_port(socket.SOCK_STREAM)
SETTINGS = {"sip": {"listen": [f"udp:127.0.0.1:{UDP}", f"tcp:127.0.0.1:{TCP}"]}}
WAIT_S = 5.0
HIDDEN = (
    "Record-Route: <sip:127.0.0.1;hide>",
    "Record-Route: <sip:[];lr>",
    "Route: <sip:127.0.0.1;%68ide>",
    "Contact: <sip:[]>",
    "Via: SIP/2.0/UDP []:9;branch=z9hG4bKx",
    "To: <sip:[]>;tag=1",
)
# How a line is opened, and what closes it after the empty line.
OPENED = {
    "To": ("<sip:x@[", "]>"),
    "From": ('"a', '" <sip:x@y>;tag=1'),
    "Contact": ("<sip:x@[", "]>"),
    "Via": ("SIP/2.0/{t} 127.0.0.1:9;rport;branch=z9hG4bK{b} (", ")"),
    "Call-ID": ("x[", "]"),
    "Retry-After": ("5 (", ")"),
    "Authorization": ('Digest username="', '"'),
    "Route": ("<sip:[", "]:9;lr>"),
    "Record-Route": ("<sip:127.0.0.1;lr;x=[", "]>"),
    "Refer-To": ("<sip:[", "]>"),
    "Subject": ("[", "]"),
    "P-Asserted-Identity": ("<sip:x@[", "]>"),
}
ENDS = ("\r\n\r\n", "\r\r", "\n\n", "\r", "\r\n \r\n", "\r\n\t\r\n\r\n", "\0\r\n\r\n")


class Line:
    """A socket that sends bytes to the engine and receives messages."""

    def __init__(self, transport: str, host: str = "127.0.0.1") -> None:
        self.transport = transport
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.bind((host, 0))
        self._socket.connect(("127.0.0.1", UDP if transport == "udp" else TCP))
        self._socket.settimeout(within(WAIT_S))
        self.own = self._socket.getsockname()
        self._heard = b""

    def close(self) -> None:
        self._socket.close()

    def request(self, method: str = "OPTIONS", number: str = "", /, **fields: str | None) -> str:
        """A request with changed fields: `Max_Forwards` is Max-Forwards."""
        tag = secrets.token_hex(6)
        usual: dict[str, str | None] = {
            "Via": f"SIP/2.0/{self.transport.upper()} 127.0.0.1:{self.own[1]};rport"
            f";branch=z9hG4bK{tag}",
            "Max-Forwards": "70",
            "From": f"<sip:+33140000001@x>;tag={tag}",
            "To": f"<sip:{number or 'x'}@x>",
            "Call-ID": f"{tag}@malformed",
            "CSeq": f"1 {method}",
            "Contact": f"<sip:x@127.0.0.1:{self.own[1]};transport={self.transport}>",
            "Content-Length": "0",
        }
        usual |= {name.replace("_", "-"): value for name, value in fields.items()}
        lines = [f"{name}: {value}" for name, value in usual.items() if value is not None]
        start = f"{method} sip:{number or 'x'}@127.0.0.1 SIP/2.0"
        return "\r\n".join([start, *lines, "", ""])

    def say(self, text: str | bytes) -> None:
        self._socket.sendall(text.encode("latin-1") if isinstance(text, str) else text)

    def receive(self) -> tuple[int, str]:
        """The next final response: code and reason phrase."""
        while True:
            if self.transport == "udp":
                raw = self._socket.recv(65536)
            else:
                while b"\r\n\r\n" not in self._heard:
                    piece = self._socket.recv(65536)
                    if not piece:
                        return 0, ""
                    self._heard += piece
                raw, _, self._heard = self._heard.partition(b"\r\n\r\n")
            message = parse(raw if raw.endswith(b"\r\n\r\n") else raw + b"\r\n\r\n")
            if message.code >= 200:
                return message.code, raw.split(b"\r\n")[0].decode().split(" ", 2)[2]

    def check_answers(self) -> None:
        """Send a plain request: it is answered, and no earlier message was."""
        request = self.request("OPTIONS")
        for _ in range(round(within(WAIT_S))):
            self.say(request)
            # Many datagrams before it may have filled the engine's socket: it is repeated.
            if self.transport == "tcp" or select.select([self._socket], [], [], 1)[0]:
                break
        assert self.receive()[0] in (200, 403)


def replacing(line: Line, method: str, hidden: str) -> str:
    """A Replaces without a parameter, and header fields in the body after the next semicolon."""
    body = f"a;b=c\r\n{hidden}\r\n\r\n"
    head = line.request(method, Content_Length=str(len(body)))[:-2]
    return head + "Replaces: x@y\r\n\r\n" + body


def lines_of(transport: str, host: str = "127.0.0.1") -> Line:
    return Line(transport, host)


def hostile(line: Line, method: str, name: str, end: str, hidden: str) -> str:
    opened, closed = OPENED[name]
    opened = opened.format(t=line.transport.upper(), b=secrets.token_hex(4))
    value = f"{opened}{end}{closed}\r\n{hidden}\r\nContent-Length: 0\r\n\r\n"
    fields: dict[str, str | None] = {name.replace("-", "_"): None, "Content_Length": None}
    plain = line.request(method, **fields)
    return plain[:-2] + f"{name}: {value}"


both = pytest.mark.parametrize("transport", ["udp", "tcp"])


@both
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9"])
@pytest.mark.parametrize("method", ["OPTIONS", "INVITE", "REGISTER", "BYE"])
def test_header_fields_hidden_behind_an_open_line_are_not_relayed(
    setup: Setup, transport: str, host: str, method: str
) -> None:
    """From any source, trusted or not."""
    before = setup.engine.metric("renvoi_rejected_total", reason="malformed")
    line = lines_of(transport, host)
    for name, end, hidden in itertools.product(OPENED, ENDS, HIDDEN):
        if transport == "tcp":
            line.close()
            line = lines_of(transport, host)
        line.say(hostile(line, method, name, end, hidden))
    for hidden in HIDDEN:
        line.say(replacing(line, method, hidden))
    line.close()
    line = lines_of("udp", host)
    line.check_answers()
    line.close()
    assert setup.engine.status() is None
    assert setup.engine.metric("renvoi_rejected_total", reason="malformed") > before
    assert not setup.engine.complaints()


# Faults in one field: its name, and a value that cannot be read.
WRONG = [
    ("Allow", "INVITE, ACK, BYE,"),
    ("Accept", "application/sdp,"),
    ("Supported", "timer,,100rel"),
    ("Require", "timer,,100rel"),
    ("Unsupported", "x,"),
    ("Expires", "soon"),
    ("Min-Expires", "-1"),
    ("Max-Forwards", "many"),
    ("Retry-After", "later"),
    ("Contact", "<sip:x@>"),
    ("Contact", "<sip:x@127.0.0.1:port>"),
    ("Contact", "<sip:x@127.0.0.1>;q=high"),
    ("Route", "sip"),
    ("Record-Route", "<sip:@x;lr>"),
    ("CSeq", "99999999999999 {method}"),
    ("CSeq", "one {method}"),
    ("Content-Type", "application"),
    ("Session-Expires", "x"),
    ("Min-SE", "x"),
    ("Event", ";;"),
    ("Authorization", "Digest"),
    ("Proxy-Authorization", "Basic"),
    ("WWW-Authenticate", "x"),
    ("From", "<sip:>;tag=1"),
    ("To", "x y z"),
    ("Subject", "a\0b"),
    ("X-Unknown", "(and no end"),
    ("Replaces", "x@y"),
    ("Replaces", ";to-tag=;from-tag="),
    ("k", "a,"),
    ("x", "y"),
    ("SUPPORTED", "a,"),
    ("Content-Length", "-1"),
    ("Content-Length", "many"),
    ("Content-Length", "999"),
    ("l", "-1"),
    ("Content-Length", "\r\n many"),
    ("Content-Length", "0\r\nl: 5"),
]
FULL = {"k": "Supported", "x": "Session-Expires", "l": "Content-Length"}


@both
@pytest.mark.parametrize("method", ["INVITE", "OPTIONS", "REGISTER", "CANCEL"])
def test_one_bad_field_gets_400_that_names_it(setup: Setup, transport: str, method: str) -> None:
    """Also when the request is repeated."""
    line = lines_of(transport)
    known = setup.line()
    for name, value in WRONG:
        fields: dict[str, str | None] = {name.replace("-", "_"): value.format(method=method)}
        if name in FULL:
            fields.setdefault(FULL[name].replace("-", "_"), None)
        bad = line.request(method, known, **fields)
        if transport == "tcp" and FULL.get(name, name) == "Content-Length" and "999" in value:
            continue  # the engine waits for that many bytes
        closes = transport == "tcp" and FULL.get(name, name) == "Content-Length"
        for _ in range(1 if closes else 2):
            line.say(bad)
            code, phrase = line.receive()
            assert code == 400, (name, value)
            assert FULL.get(name, name).lower() in phrase.lower(), (name, value, phrase)
        if closes:
            assert line.receive() == (0, "")
            line.close()
            line = lines_of(transport)
    line.check_answers()
    line.close()
    assert not setup.engine.complaints()


@pytest.mark.parametrize("name", ["To", "From", "Call-ID", "CSeq"])
@both
def test_what_is_missing_gets_400_that_names_it_and_is_counted(
    setup: Setup, transport: str, name: str
) -> None:
    """RFC 4475 3.3.1: Via alone gives the target of the answer."""
    before = setup.engine.metric("renvoi_rejected_total", reason="malformed")
    line = lines_of(transport)
    line.say(line.request("INVITE", **{name.replace("-", "_"): None}))
    code, phrase = line.receive()
    assert code == 400
    assert name in phrase
    line.check_answers()
    line.close()
    assert setup.engine.metric("renvoi_rejected_total", reason="malformed") == before + 1


@both
def test_an_ack_is_never_answered(setup: Setup, transport: str) -> None:
    line = lines_of(transport)
    for name, value in WRONG:
        if FULL.get(name, name) != "Content-Length" or transport == "udp":
            fields: dict[str, str | None] = {name.replace("-", "_"): value.format(method="ACK")}
            line.say(line.request("ACK", **fields))
    line.check_answers()
    line.close()


@both
@pytest.mark.parametrize("side", ["caller", "phone"])
async def test_a_bad_request_within_a_call_gets_400_and_the_call_goes_on(
    setup: Setup, transport: str, side: str
) -> None:
    ends: list[Endpoint] = []
    for _ in range(2):
        if transport == "udp":
            ends.append(await setup.endpoint())
        else:
            stream = await StreamEndpoint.listen()
            setup._stack.push_async_callback(stream.finish)
            ends.append(stream)
    line = setup.line(to=[ends[1].uri()])
    peer = ("127.0.0.1", UDP if transport == "udp" else TCP)
    call = ends[0].start(peer, line, body=OFFER_BYTES)
    ring = await ends[1].incoming()
    await connect(call, ring)
    asker, asked = (call, ring) if side == "caller" else (ring, call)
    for method in ("INVITE", "INFO", "UPDATE"):
        before = len(asked.requests(method))
        for name, value in (
            ("Allow", "INVITE,"), ("Accept", ","), ("Supported", "a,"), ("X-Odd", "<"),
            ("Route", "<tel:+33>"), ("Record-Route", "<sip:[];lr>"),
        ):  # fmt: skip
            asker.request(method, headers=[(name, value)])
            answer = await asker.receive(400, method)
            assert name.encode() in answer.raw.partition(b"\r\n")[0]
        assert len(asked.requests(method)) == before
    asker.request("INFO", body=b"x", content_type="text/plain")
    asked.respond(200, to=await asked.receive("INFO"))
    await asker.receive(200, "INFO")
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("code", [180, 200, 486])
async def test_a_response_that_cannot_be_read_is_dropped_and_the_next_one_taken(
    setup: Setup, code: int
) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    before = setup.engine.metric("renvoi_rejected_total", reason="malformed")
    bad = [
        ("Allow", "INVITE,"), ("X-Odd", "("), ("Record-Route", "<sip:h;hide>"),
        ("Record-Route", "<sip:[];lr>"), ("Require", "a,"), ("Contact", "<sip:x@[\r\n\r\n]>"),
        ("Max-Forwards", "70&Record-Route: <sip:h;hide>"), ("X-Odd", '"\r\r"'),
    ]  # fmt: skip
    for name, value in bad:
        ring.respond(code, headers=[(name, value)])
        ring.state = "early"
    deadline = asyncio.get_running_loop().time() + within(WAIT_S)
    while setup.engine.metric("renvoi_rejected_total", reason="malformed") < before + len(bad):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    assert call.codes() == []
    await connect(call, ring)
    await part(call, ring)
    assert not setup.engine.complaints()


@pytest.mark.parametrize(
    "field",
    ["Content-Length:\r\n 10", "l: 10", "L :10", "content-length\t:  10", "CONTENT-LENGTH: 010",
     "l\r\n : 10", "Content-Length: 10\r\nl: 10"],
)  # fmt: skip
def test_a_length_in_another_form_loses_no_request(setup: Setup, field: str) -> None:
    line = lines_of("tcp")
    first = line.request(Content_Length=None)[:-2] + f"{field}\r\n\r\n0123456789"
    for cut in (len(first), len(first) - 12, 40):
        whole = first + line.request()
        line.say(whole[:cut])
        line.say(whole[cut:])
        assert line.receive()[0] == 200
        assert line.receive()[0] == 200
    line.close()


@pytest.mark.parametrize(
    ("field", "phrase"),
    [
        ("Content-Length: 99999999", "Content-Length Too Large"),
        ("Content-Length: 9" + "9" * 40, "Content-Length Too Large"),
        ("X-Long: " + "x" * 66_000, "Head Too Long"),
    ],
)
def test_a_connection_whose_next_message_cannot_be_found_ends_after_a_400(
    setup: Setup, field: str, phrase: str
) -> None:
    line = lines_of("tcp")
    line.say(line.request() + line.request(Content_Length=None)[:-2] + f"{field}\r\n\r\n")
    assert line.receive()[0] == 200
    assert line.receive() == (400, phrase)
    assert line.receive() == (0, "")
    line.close()


def test_a_datagram_may_have_a_folded_length_and_more_than_it_says(setup: Setup) -> None:
    line = lines_of("udp")
    line.say(line.request(Content_Length="\r\n 3") + "abc")
    assert line.receive()[0] == 200
    line.say(line.request(Content_Length="3") + "abcdef")
    assert line.receive()[0] == 200
    line.say(line.request(Content_Length=None) + "abcdef")
    assert line.receive()[0] == 200
    line.close()


def test_odd_and_valid_messages_are_answered(setup: Setup) -> None:
    """RFC 4475 3.1.1: folding, compact forms, every token character, comments, quoted pairs."""
    line = lines_of("udp")
    odd: list[dict[str, str | None]] = [
        {"To": "\r\n <sip:x@x>\r\n\t;x=y"},
        {"From": '"J \\"R\\" \\\\" <sip:a@h>;tag=1'},
        {"Subject": ':-( and < and " and [ and &'},
        {"Call_ID": "word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"},
        {"User_Agent": "Phone (build 7"},
        {"To": "sip:a&b@h"},
        {"Accept": 'application/sdp;x="[(<"'},
        {"Contact": "<sip:(x)&y@127.0.0.1:9;x=[::1]>"},
        {"Content_Length": "0\r\nContent-Length: 0"},
        {"X_Url": "http://h/?a=b&c=d"},
        {"Supported": ""},
    ]
    for fields in odd:
        line.say(line.request(**fields))
        assert line.receive()[0] == 200, fields
    line.close()
