"""The four state machines, row by row, on a fake clock and a fake transport.

A script is a list of steps: an event, and after the arrow the new state and the actions. The
expectations are from RFC 3261 figures 5 to 8 and RFC 6026, not from the tables.
"""

from __future__ import annotations

from typing import Any

import pytest

from sip import transaction
from sip.message import Message
from sip.timers import Wheel
from sip.transaction import Client, Server

NAMES = (
    "CALLING", "TRYING", "PROCEEDING", "COMPLETED", "CONFIRMED", "ACCEPTED", "ACKNOWLEDGED",
    "TERMINATED",
)  # fmt: skip
STATES = {number: name.lower() for name, number in vars(transaction).items() if name in NAMES}


class Way:
    """A transport that stores what is sent, and can fail."""

    carried = None

    def __init__(self, *, reliable: bool = False) -> None:
        self.reliable = reliable
        self.most = 65_507
        self.works = True
        self.sent: list[str] = []

    def send(self, data: bytes) -> bool:
        is_response = data.startswith(b"SIP")
        self.sent.append((data[8:11] if is_response else data.split(b" ")[0]).decode())
        return self.works


class User:
    """The transaction user: stores what is reported to it."""

    def __init__(self) -> None:
        self.reports: list[str] = []

    def on_response(self, client: Client, code: int, message: Message | None) -> None:
        self.reports.append(f"{code}" if message is not None else f"no hope {code}")

    def on_2xx_again(self, client: Client, message: Message) -> None:
        self.reports.append(f"again {message.status}")

    def on_gone(self, server: Server, code: int) -> None:
        self.reports.append(f"gone {code}")


class Bench:
    """One transaction, its clock, its transport and its user."""

    def __init__(self, kind: str, *, reliable: bool = False) -> None:
        role, _, method = kind.partition(" ")
        self.now = 0
        self.wheel = Wheel(0)
        self.way = Way(reliable=reliable)
        self.user = User()
        self.table: dict[bytes, Any] = {}
        name = method.encode()
        made = (self.table, self.wheel, self.way, b"key", name, 1)
        self.client = Client(*made) if role == "client" else None
        self.server = Server(*made) if role == "server" else None
        self.one = self.client or self.server
        assert self.one is not None
        self.one.user = self.user
        if self.client is not None:
            parts = (b"sip:b@c", b"SIP/2.0/UDP a", b"", b"<sip:a@b>", b"<sip:b@c>", b"id")
            assert self.client.start(name + b" request", parts)

    def do(self, step: str) -> str:
        """Do one step; returns the new state, and what was sent and reported."""
        self.way.sent.clear()
        self.user.reports.clear()
        what, _, more = step.partition(" ")
        if what == "wait":
            until = self.now + int(more)
            while self.now < until:
                self.now += 10
                self.wheel.run(self.now)
        elif what == "broken":
            assert self.one is not None
            self.one.on_broken()
        elif self.client is not None and what.isdigit():
            self.client.receive(response(int(what)))
        elif self.client is not None and what == "cancel":
            self.client.cancel()
        elif self.server is not None and what.isdigit():
            self.server.respond(int(what), b"SIP/2.0 %s x" % what.encode())
        elif self.server is not None:
            {
                "request": self.server.receive_again,
                "ack": self.server.receive_ack,
                "acked": self.server.acknowledged,
            }[what]()
        assert self.one is not None
        state = STATES[self.one.state]
        assert (state == "terminated") == (not self.table)
        done = [*self.way.sent, *(f"({one})" for one in self.user.reports)]
        return " ".join([state, *done])


def response(code: int) -> Message:
    return Message(
        b"SIP/2.0 %d x\r\nVia: SIP/2.0/UDP a;branch=key\r\nFrom: <sip:a@b>;tag=1\r\n"
        b"To: <sip:b@c>;tag=2\r\nCall-ID: id\r\nCSeq: 1 INVITE\r\n\r\n" % code
    )


SCRIPTS = {
    # -- INVITE client: RFC 3261 figure 5, RFC 6026 8.4
    "timer A doubles without end, timer B ends it": (
        "client INVITE", False,
        ["wait 490 -> calling", "wait 30 -> calling INVITE", "wait 970 -> calling",
         "wait 30 -> calling INVITE", "wait 2030 -> calling INVITE",
         "wait 4030 -> calling INVITE", "wait 8030 -> calling INVITE",
         "wait 16000 -> calling INVITE", "wait 500 -> terminated (no hope 408)"],
    ),
    "a provisional response stops timers A and B": (
        "client INVITE", False,
        ["180 -> proceeding (180)", "wait 60000 -> proceeding", "183 -> proceeding (183)"],
    ),
    "a refusal is acknowledged as often as it comes, until timer D": (
        "client INVITE", False,
        ["486 -> completed ACK (486)", "486 -> completed ACK", "180 -> completed",
         "200 -> completed", "wait 31900 -> completed", "486 -> completed ACK",
         "wait 200 -> terminated"],
    ),
    "a refusal after ringing": (
        "client INVITE", False,
        ["180 -> proceeding (180)", "603 -> completed ACK (603)", "broken -> terminated"],
    ),
    "a 2xx is reported each time it comes, until timer M": (
        "client INVITE", False,
        ["200 -> accepted (200)", "200 -> accepted (again 200)", "180 -> accepted",
         "486 -> accepted", "broken -> accepted", "wait 31900 -> accepted",
         "202 -> accepted (again 202)", "wait 200 -> terminated"],
    ),
    "a 2xx after ringing": (
        "client INVITE", False, ["183 -> proceeding (183)", "200 -> accepted (200)"],
    ),
    "a transport that fails ends it, before and after ringing": (
        "client INVITE", False, ["broken -> terminated (no hope 503)", "180 -> terminated"],
    ),
    "a transport that fails while it rings": (
        "client INVITE", False, ["180 -> proceeding (180)", "broken -> terminated (no hope 503)"],
    ),
    "a CANCEL waits for a provisional response and gives 64*T1": (
        "client INVITE", False,
        ["cancel -> calling", "180 -> proceeding (180)", "cancel -> proceeding CANCEL",
         "cancel -> proceeding", "wait 490 -> proceeding", "wait 30 -> proceeding CANCEL",
         "wait 31000 -> proceeding CANCEL CANCEL CANCEL CANCEL CANCEL CANCEL CANCEL CANCEL CANCEL",
         "wait 600 -> terminated (no hope 408)"],
    ),
    "a CANCEL that a 487 follows": (
        "client INVITE", False,
        ["180 -> proceeding (180)", "cancel -> proceeding CANCEL", "487 -> completed ACK (487)",
         "cancel -> completed"],
    ),
    "a reliable transport repeats nothing and needs no timer D": (
        "client INVITE", True,
        ["wait 31900 -> calling", "486 -> terminated ACK (486)"],
    ),
    "timer B and M run on a reliable transport too": (
        "client INVITE", True, ["200 -> accepted (200)", "wait 32100 -> terminated"],
    ),
    # -- other clients: figure 6
    "timer E doubles up to T2, timer F ends it": (
        "client OPTIONS", False,
        ["wait 510 -> trying OPTIONS", "wait 1010 -> trying OPTIONS",
         "wait 2010 -> trying OPTIONS", "wait 4010 -> trying OPTIONS",
         "wait 4010 -> trying OPTIONS", "wait 4010 -> trying OPTIONS",
         "wait 16480 -> terminated OPTIONS OPTIONS OPTIONS OPTIONS (no hope 408)"],
    ),
    "after a provisional response every T2": (
        "client OPTIONS", False,
        ["100 -> proceeding (100)", "wait 3900 -> proceeding", "wait 200 -> proceeding OPTIONS",
         "wait 4010 -> proceeding OPTIONS", "182 -> proceeding (182)",
         "wait 23900 -> terminated OPTIONS OPTIONS OPTIONS OPTIONS OPTIONS (no hope 408)"],
    ),
    "a final response ends it after timer K": (
        "client OPTIONS", False,
        ["200 -> completed (200)", "200 -> completed", "180 -> completed", "wait 4900 -> completed",
         "wait 200 -> terminated"],
    ),
    "a refusal is one more final response": (
        "client BYE", False,
        ["100 -> proceeding (100)", "481 -> completed (481)", "wait 5100 -> terminated"],
    ),
    "refused at once": ("client BYE", False, ["481 -> completed (481)", "broken -> completed"]),
    "answered after a provisional response": (
        "client BYE", False, ["100 -> proceeding (100)", "200 -> completed (200)"],
    ),
    "another transport that fails": (
        "client BYE", False, ["broken -> terminated (no hope 503)"],
    ),
    "another transport that fails later": (
        "client BYE", False, ["100 -> proceeding (100)", "broken -> terminated (no hope 503)"],
    ),
    "no timer K on a reliable transport": (
        "client BYE", True, ["wait 20000 -> trying", "200 -> terminated (200)"],
    ),
    # -- INVITE server: figure 7, RFC 6026 8.5
    "the last provisional response is repeated when the INVITE is": (
        "server INVITE", False,
        ["request -> proceeding", "100 -> proceeding 100", "request -> proceeding 100",
         "180 -> proceeding 180", "request -> proceeding 180", "wait 90000 -> proceeding"],
    ),
    "a refusal is repeated by timer G until the ACK": (
        "server INVITE", False,
        ["486 -> completed 486", "request -> completed 486", "wait 510 -> completed 486",
         "wait 1010 -> completed 486", "wait 2010 -> completed 486", "wait 4010 -> completed 486",
         "wait 4010 -> completed 486", "180 -> completed", "200 -> completed",
         "ack -> confirmed", "ack -> confirmed", "request -> confirmed", "wait 4900 -> confirmed",
         "wait 200 -> terminated"],
    ),
    "timer H ends a refusal without ACK": (
        "server INVITE", False,
        ["480 -> completed 480", "wait 31900 -> completed 480 480 480 480 480 480 480 480 480 480",
         "wait 200 -> terminated"],
    ),
    "a 2xx is repeated until the ACK, and copies of the INVITE are absorbed": (
        "server INVITE", False,
        ["200 -> accepted 200", "request -> accepted", "wait 510 -> accepted 200",
         "wait 1010 -> accepted 200", "acked -> acknowledged", "acked -> acknowledged",
         "request -> acknowledged", "ack -> acknowledged", "wait 30300 -> acknowledged",
         "wait 300 -> terminated"],
    ),
    "a 2xx without ACK": (
        "server INVITE", False,
        ["200 -> accepted 200", "broken -> accepted", "ack -> accepted",
         "wait 31900 -> accepted 200 200 200 200 200 200 200 200 200 200",
         "wait 200 -> terminated (gone 408)"],
    ),
    "a transport that fails before the answer": (
        "server INVITE", False, ["180 -> proceeding 180", "broken -> terminated (gone 503)"],
    ),
    "a transport that fails after a refusal": (
        "server INVITE", False, ["486 -> completed 486", "broken -> terminated"],
    ),
    "a 2xx is repeated on a reliable transport too": (
        "server INVITE", True,
        ["200 -> accepted 200", "wait 510 -> accepted 200", "wait 1010 -> accepted 200"],
    ),
    "a refusal is not repeated on a reliable transport": (
        "server INVITE", True,
        ["486 -> completed 486", "wait 20000 -> completed", "ack -> terminated"],
    ),
    # -- other servers: figure 8
    "a request that comes again before an answer is dropped": (
        "server BYE", False,
        ["request -> trying", "100 -> proceeding 100", "request -> proceeding 100",
         "200 -> completed 200", "request -> completed 200", "481 -> completed",
         "wait 31900 -> completed", "request -> completed 200", "wait 200 -> terminated"],
    ),
    "answered at once": ("server BYE", False, ["481 -> completed 481", "broken -> terminated"]),
    "the peer is gone": ("server BYE", False, ["broken -> terminated (gone 503)"]),
    "the peer is gone later": (
        "server BYE", False, ["100 -> proceeding 100", "broken -> terminated (gone 503)"],
    ),
    "refused after a provisional response": (
        "server BYE", False,
        ["100 -> proceeding 100", "100 -> proceeding 100", "486 -> completed 486"],
    ),
    "no timer J on a reliable transport": ("server BYE", True, ["200 -> terminated 200"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_machine(name: str) -> None:
    kind, reliable, steps = SCRIPTS[name]
    bench = Bench(kind, reliable=reliable)
    for step in steps:
        what, _, expected = step.partition(" -> ")
        assert bench.do(what) == expected, step


def test_every_row_of_every_table_is_in_a_script() -> None:
    """Rows without a script are not tested."""
    names = {number: name.lower() for name, number in _events().items()}
    tables = {
        "client INVITE": transaction.INVITE_CLIENT,
        "client": transaction.CLIENT,
        "server INVITE": transaction.INVITE_SERVER,
        "server": transaction.SERVER,
    }
    rows = {
        (kind, STATES[state], names[event])
        for kind, table in tables.items()
        for state, event in table
    }
    gone = set()
    for kind, _, steps in SCRIPTS.values():
        role, _, method = kind.partition(" ")
        which = kind if method == "INVITE" else role
        state = {"client INVITE": "calling", "server INVITE": "proceeding"}.get(which, "trying")
        for step in steps:
            what, _, after = step.partition(" -> ")
            gone |= {(which, state, event) for event in _caused(what, after)}
            state = after.split()[0]
    assert rows - gone == set()


def _events() -> dict[str, int]:
    first = ("PROVISIONAL", "SUCCESS", "REFUSAL", "REQUEST")
    names = (*first, "ACK", "ACKED", "AGAIN", "LATE", "BROKEN")
    return {name: getattr(transaction, name) for name in names}


def _caused(step: str, after: str) -> set[str]:
    what = step.split()[0]
    if what.isdigit():
        code = int(what)
        return {"provisional" if code < 200 else "success" if code < 300 else "refusal"}
    if what == "wait":
        return {"late", "again"} if "terminated" in after else {"again"}
    return {what}


def test_a_request_that_cannot_be_sent_leaves_nothing_behind() -> None:
    bench = Bench("server INVITE")
    bench.way.works = False
    table: dict[bytes, Any] = {}
    client = Client(table, bench.wheel, bench.way, b"key", b"INVITE", 1)
    client.user = bench.user
    assert not client.start(b"INVITE request", None)
    assert client.is_over
    assert (table, bench.user.reports) == ({}, [])


def test_a_response_that_cannot_be_sent_is_reported() -> None:
    bench = Bench("server INVITE")
    bench.way.works = False
    assert bench.do("180") == "terminated 180 (gone 503)"


def test_an_ended_transaction_reports_nothing() -> None:
    bench = Bench("client INVITE")
    assert bench.client is not None
    bench.client.end()
    assert bench.do("wait 40000") == "terminated"


def test_the_ack_of_a_refusal_repeats_fields_of_its_invite() -> None:
    """RFC 3261 17.1.1.3."""
    heard: list[bytes] = []

    class Line(Way):
        def send(self, data: bytes) -> bool:
            heard.append(data)
            return True

    wheel = Wheel(0)
    client = Client({}, wheel, Line(), b"key", b"INVITE", 7)
    parts = (
        b"sip:b@c", b"SIP/2.0/UDP a;branch=key", b"Route: <sip:p;lr>\r\n", b"<sip:a@b>;tag=1",
        b"<sip:b@c>", b"id",
    )  # fmt: skip
    client.start(b"INVITE request", parts)
    client.receive(response(486))
    assert heard[1].decode().split("\r\n") == [
        "ACK sip:b@c SIP/2.0",
        "Via: SIP/2.0/UDP a;branch=key",
        "Route: <sip:p;lr>",
        "From: <sip:a@b>;tag=1",
        "To: <sip:b@c>;tag=2",
        "Call-ID: id",
        "CSeq: 7 ACK",
        "Max-Forwards: 70",
        "Content-Length: 0",
        "",
        "",
    ]
