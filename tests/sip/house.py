"""An endpoint of the core without sockets: stores what it sends; the test feeds messages to it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sip.endpoint import Endpoint
from sip.events import Answered, Cancelled, Ended, Failed, Progress
from sip.flow import Flow
from sip.message import Message
from sip.screening import Rejection
from sip.settings import Settings

HOST = b"127.0.0.1"
CALLER, PHONE, OTHER = 5071, 5072, 5073
SDP = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\n"
_numbers = itertools.count(1)


class Line:
    """A way that stores what is sent on it."""

    reliable = False
    most = 65_507
    is_gone = False
    transport = "udp"
    via = b"SIP/2.0/UDP 127.0.0.1:5080"
    contact = b"sip:renvoi@127.0.0.1:5080"
    local = ("127.0.0.1", 5080)

    def __init__(self, host: bytes, port: int) -> None:
        self.host, self.port = host, port
        self.sent: list[Message] = []
        self.carried: dict[object, None] = {}
        self.works = True
        self.other: Line | None = None  # what leads back when it is lost

    @property
    def flow(self) -> Flow:
        return Flow("udp", self.host.decode(), self.port)

    def prove(self) -> None:
        pass

    def with_port(self, port: int) -> Line:
        return self

    def back_to(self, port: int) -> Line | None:
        return self.other

    def send(self, data: bytes) -> bool:
        self.sent.append(Message(data))
        return self.works

    def heard(self) -> list[str]:
        """All messages sent so far, by method or status."""
        return [message.method.decode() or str(message.status) for message in self.sent]


class AdmissionPolicy:
    """Admits every call, or none."""

    draining = False

    def __init__(self) -> None:
        self.rejection: Rejection | None = None

    def ask(self, source: bytes, target: bytes) -> Rejection | None:
        return self.rejection

    def waited(self, seconds: float) -> None:
        pass


class House:
    """An endpoint that connects every caller to one phone, and stores the results."""

    def __init__(self) -> None:
        self.policy = AdmissionPolicy()
        self.rejected: list[str] = []
        self.races: list[str] = []
        self.errors: list[BaseException] = []
        self.events: list[Any] = []
        self._passed = 0
        self.dials = True
        self.lines: dict[tuple[bytes, int], Line] = {}
        self.endpoint = Endpoint(
            Settings(
                listen=(),
                advertise=None,
                trusted_peers=("127.0.0.1/32",),
                registrar_peers=(),
                outbound_proxy=None,
                nameservers=(),
            ),
            on_invite=self._on_invite,
            policy=self.policy,
            on_rejected=lambda reason, text, source: self.rejected.append(f"{reason}: {text()}"),
            on_register=None,
            on_race=self.races.append,
            on_connection=lambda reason, text: None,
            on_error=lambda error, call_id: self.errors.append(error),
        )
        transports: Any = self.endpoint.transports
        transports.way_for = lambda server, name: self.line(server.port, server.host.encode())
        transports.way_to = self._way_to
        transports.way_back = lambda _, host, port, *__: self.line(port, host.encode())
        self.endpoint.socket_of = lambda way: 0  # type: ignore[method-assign]
        self.callers: list[Any] = []
        self.registers: list[Any] = []
        self.callees: list[Any] = []

    def line(self, port: int, host: bytes = HOST) -> Line:
        """The way to an address."""
        return self.lines.setdefault((host, port), Line(host, port))

    def _way_to(self, hop: str) -> Line:
        from sip.names import address_of, place_of

        server = address_of(place_of(hop))
        return self.line(server.port if server is not None else 9, HOST)

    def feed(self, data: bytes, port: int, host: bytes = HOST) -> None:
        """Receive a message from that address."""
        self.endpoint.receive(data, self.line(port, host))

    def pass_time(self, ms: int) -> None:
        """Advance the time; timers run."""
        self._passed += ms
        self.endpoint.layer.wheel.run(time.monotonic_ns() // 1_000_000 + self._passed)

    # -- actions of the engine --------------------------------------------------------------------

    def _on_invite(self, leg: Any) -> None:
        self.callers.append(leg)
        leg.listener = self._on_event
        if self.dials:
            self.dial(leg)

    def dial(self, caller: Any, port: int = PHONE) -> Any:
        """Call the phone for this caller."""
        invite = caller.invite
        leg = self.endpoint.dial(
            f"sip:phone@127.0.0.1:{port}",
            from_=b"<sip:a@example.com>",
            to=b"<sip:b@example.com>",
            block=invite.passing(frozenset(b"via from to call-id cseq contact max-forwards".split()
                                           + b"content-type content-length record-route".split())),
            body=invite.body,
            content_type=invite.content_type,
            max_forwards=69,
            listener=self._on_event,
        )  # fmt: skip
        leg.owner = caller
        caller.owner = leg
        self.callees.append(leg)
        return leg

    def _on_event(self, event: Any) -> None:
        self.events.append(event)
        leg = event.leg
        if isinstance(event, Progress):
            caller: Any = leg.owner
            leg.peer, caller.peer = caller, leg
            caller.progress(event.code, event.message, event.early, alone=True)
        elif isinstance(event, Answered):
            caller = leg.owner
            leg.accept()
            if caller.answer(event.code, event.message):
                leg.peer, caller.peer = caller, leg
            else:
                leg.hangup()
        elif isinstance(event, Failed):
            leg.owner.reject(event.code, event.message)
        elif isinstance(event, (Ended, Cancelled)):
            other: Any = leg.owner
            other.hangup(leg.farewell)


@contextmanager
def house() -> Iterator[House]:
    """A house that must end without an error."""
    made = House()
    yield made
    assert made.errors == [], made.errors
    assert made.endpoint.illegal_counts["exception"] == 0


def request(
    method: str,
    *,
    port: int = CALLER,
    call_id: str = "",
    cseq: int = 1,
    tag: str = "",
    from_tag: str = "caller",
    branch: str = "",
    fields: tuple[str, ...] = (),
    body: bytes = b"",
    target: str = "sip:b@example.com",
    contact: str = "",
) -> bytes:
    """A request of the caller's side."""
    branch = branch or f"z9hG4bK{next(_numbers)}"
    lines = [
        f"{method} {target} SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.0.1:{port};rport;branch={branch}",
        f"From: <sip:a@example.com>;tag={from_tag}",
        f"To: <sip:b@example.com>{';tag=' + tag if tag else ''}",
        f"Call-ID: {call_id or 'call'}",
        f"CSeq: {cseq} {method}",
        "Max-Forwards: 70",
        f"Contact: {contact or f'<sip:a@127.0.0.1:{port}>'}",
        *fields,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answer(
    asked: Message,
    code: int,
    *,
    tag: str = "phone",
    fields: tuple[str, ...] = (),
    body: bytes = b"",
    port: int = PHONE,
) -> bytes:
    """A response to a request of the engine."""
    lines = [f"SIP/2.0 {code} Because".encode()]
    for name, line, _ in asked.fields:
        if name in (b"via", b"from", b"call-id", b"cseq"):
            lines.append(line)
        elif name == b"to":
            has_tag = asked.to_tag is not None
            lines.append(line if has_tag or not tag else line + b";tag=" + tag.encode())
    if not any(field.startswith("Contact") for field in fields):
        lines.append(b"Contact: <sip:phone@127.0.0.1:%d>" % port)
    lines += [field.encode() for field in fields]
    lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body
