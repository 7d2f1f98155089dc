"""An exception in the engine: one 500, counted and reported once, and no state is left.

A hostile message would have to find such a fault. Here parts of the engine are replaced by ones
that raise.
"""

from __future__ import annotations

from typing import Any

import pytest

from sip.timers import Wheel
from tests.sip.house import CALLER, PHONE, SDP, House, answer, request
from tests.sip.test_endpoint import ring, talk

SECRET = "+33612345678"


class Boom(Exception):
    pass


def boom(*_: Any, **__: Any) -> Any:
    raise Boom


@pytest.fixture
async def home() -> House:
    return House()


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces a part of the engine by one that raises, until the test is over."""

    def do(place: str) -> None:
        monkeypatch.setattr(place, boom)

    do.mend = monkeypatch.undo  # type: ignore[attr-defined]
    return do


def check(home: House, count: int = 1) -> None:
    """The exception was counted and reported, and no state is left."""
    assert [type(error) for error in home.errors] == [Boom] * count
    assert home.endpoint.illegal_counts["exception"] == count
    home.pass_time(80_000)
    home.pass_time(80_000)
    layer = home.endpoint.layer
    assert (layer.legs, layer.servers, layer.clients, layer.merged) == ({}, {}, {}, {})
    assert (layer.past, layer.wheel.waiting) == ({}, 0)


async def test_while_a_call_comes_in(home: House, breaks: Any) -> None:
    home.endpoint.layer.screening._on_invite = boom  # type: ignore[union-attr]
    invite = request("INVITE", fields=("Subject: " + SECRET,))
    home.feed(invite, CALLER)
    home.feed(invite, CALLER)  # again: the same answer
    assert home.line(CALLER).heard() == ["500", "500"]
    assert home.line(CALLER).sent[0].to_tag == home.line(CALLER).sent[1].to_tag
    [note] = home.errors[0].__notes__
    assert note.startswith(f"127.0.0.1:{CALLER} {len(invite)} bytes")
    assert "Subject: +00000000000" in note
    check(home)


@pytest.mark.parametrize("part", ["wish_of", "of_request", "Incoming"])
async def test_before_there_is_a_leg(home: House, breaks: Any, part: str) -> None:
    breaks(f"sip.screening.{part}")
    home.feed(request("INVITE"), CALLER)
    assert home.line(CALLER).heard() == ["500"]
    check(home)


@pytest.mark.parametrize("method", ["OPTIONS", "FROBNICATE", "SUBSCRIBE"])
async def test_before_admission(home: House, breaks: Any, method: str) -> None:
    breaks("sip.screening.Screening.receive")
    home.feed(request(method), CALLER)
    assert home.line(CALLER).heard() == ["500"]
    check(home)


async def test_an_ack_is_never_answered(home: House, breaks: Any) -> None:
    breaks("sip.layer.Layer._ack")
    home.feed(request("ACK", tag="x"), CALLER)
    assert home.line(CALLER).heard() == []
    check(home)


@pytest.mark.parametrize("method", ["INVITE", "INFO", "UPDATE"])
async def test_while_a_request_is_relayed(home: House, breaks: Any, method: str) -> None:
    """The call continues, and the next request is relayed normally."""
    tag = talk(home)
    breaks("sip.exchange.relayed")
    home.feed(request(method, tag=tag, cseq=2, body=SDP), CALLER)
    assert home.line(CALLER).heard() == ["500"] if method != "INVITE" else ["100", "500"]
    breaks.mend()
    home.feed(request("INVITE", tag=tag, cseq=3, body=SDP), CALLER)
    assert home.line(PHONE).heard() == ["INVITE"]
    home.feed(answer(home.line(PHONE).sent[0], 488), PHONE)
    assert home.line(CALLER).heard()[-1] == "488"
    home.feed(request("BYE", tag=tag, cseq=4), CALLER)
    home.feed(answer(home.line(PHONE).sent[-1], 200), PHONE)
    check(home)


async def test_while_a_call_ends(home: House, breaks: Any) -> None:
    """The BYE gets a 500, and both sides end nevertheless."""
    tag = talk(home)
    breaks("sip.bye.receive")
    home.feed(request("BYE", tag=tag, cseq=2), CALLER)
    assert home.line(CALLER).heard() == ["500"]
    assert home.line(PHONE).heard() == ["BYE"]
    check(home)


async def test_while_an_answer_is_taken(home: House, breaks: Any) -> None:
    """The callee that answered gets ACK and BYE, the caller a 500."""
    ring(home)
    breaks("sip.outgoing.Outgoing._learn")
    home.feed(answer(home.line(PHONE).sent[0], 200, body=SDP), PHONE)
    assert home.line(PHONE).heard() == ["INVITE", "ACK", "BYE"]
    assert home.line(CALLER).heard()[-1] == "500"
    check(home)


async def test_while_an_answer_is_reported(home: House, breaks: Any) -> None:
    ring(home)
    heard: list[Any] = []

    def listen(event: Any) -> None:
        heard.append(event)
        if len(heard) == 1:
            raise Boom
        home._on_event(event)

    home.callees[0].listener = listen
    home.feed(answer(home.line(PHONE).sent[0], 200, body=SDP), PHONE)
    assert home.line(PHONE).heard() == ["INVITE", "ACK", "BYE"]
    assert home.line(CALLER).heard()[-1] == "480"
    check(home)


async def test_while_a_refusal_is_taken(home: House, breaks: Any) -> None:
    ring(home)
    breaks("sip.outgoing.Outgoing.mark")
    home.feed(answer(home.line(PHONE).sent[0], 486), PHONE)
    assert home.line(CALLER).heard()[-1] == "500"
    check(home)


async def test_while_a_relayed_answer_is_taken(home: House, breaks: Any) -> None:
    """The 200 to a re-INVITE gets its ACK, the side that sent it a 500; the call continues."""
    tag = talk(home)
    home.feed(request("INVITE", tag=tag, cseq=2, body=SDP), CALLER)
    breaks("sip.outgoing.Outgoing.mark")
    home.feed(answer(home.line(PHONE).sent[0], 200, body=SDP), PHONE)
    breaks.mend()
    assert home.line(PHONE).heard() == ["INVITE", "ACK"]
    assert home.line(CALLER).heard() == ["100", "500"]
    home.feed(request("BYE", tag=tag, cseq=3), CALLER)
    home.feed(answer(home.line(PHONE).sent[-1], 200), PHONE)
    check(home)


async def test_while_a_relayed_answer_is_passed_on(home: House, breaks: Any) -> None:
    """The side that asked gets a 500, and the next requests of both sides pass."""
    tag = talk(home)
    phone, caller = home.line(PHONE), home.line(CALLER)
    for n, method in enumerate(("INVITE", "INFO")):
        home.feed(request(method, tag=tag, cseq=2 + n, body=SDP), CALLER)
        breaks("sip.leg.relayed")
        home.feed(answer(phone.sent[-1], 200, body=SDP), PHONE)
        breaks.mend()
    assert phone.heard() == ["INVITE", "ACK", "INFO"]
    assert caller.heard() == ["100", "500", "500"]
    home.feed(request("INVITE", tag=tag, cseq=4, body=SDP), CALLER)
    home.feed(answer(phone.sent[-1], 200, body=SDP), PHONE)
    home.feed(request("ACK", tag=tag, cseq=4), CALLER)
    assert caller.heard()[3:] == ["100", "200"]
    assert phone.heard()[3:] == ["INVITE", "ACK"]
    home.feed(request("BYE", tag=tag, cseq=5), CALLER)
    home.feed(answer(phone.sent[-1], 200), PHONE)
    check(home, 2)


async def test_while_the_time_of_a_session_is_told(home: House, breaks: Any) -> None:
    """The side that asked has its 200, whose ACK passes."""
    tag = talk(home)
    phone, caller = home.line(PHONE), home.line(CALLER)
    home.feed(request("INVITE", tag=tag, cseq=2, body=SDP), CALLER)
    breaks("sip.exchange.Refreshed")
    home.feed(answer(phone.sent[-1], 200, body=SDP), PHONE)
    breaks.mend()
    home.feed(request("ACK", tag=tag, cseq=2, body=b"late"), CALLER)
    home.pass_time(2000)
    assert caller.heard() == ["100", "200"]
    assert phone.sent[-1].body == b"late"
    home.feed(request("BYE", tag=tag, cseq=3), CALLER)
    home.feed(answer(phone.sent[-1], 200), PHONE)
    check(home)


async def test_while_the_response_to_a_late_notify_is_taken(home: House, breaks: Any) -> None:
    tag = talk(home)
    dialog = home.callees[0].dialog
    caller, phone = home.line(CALLER), home.line(PHONE)
    home.feed(request("REFER", tag=tag, cseq=2, fields=("Refer-To: <sip:x@example.com>",)), CALLER)
    home.feed(answer(phone.sent[-1], 202), PHONE)
    home.feed(request("BYE", tag=tag, cseq=3), CALLER)
    home.feed(answer(phone.sent[-1], 200), PHONE)
    notify = request(
        "NOTIFY", port=PHONE, call_id=dialog.call_id.decode(), tag=dialog.local_tag.decode(),
        from_tag="phone", cseq=9,
    )  # fmt: skip
    home.feed(notify, PHONE)
    breaks("sip.late_notify.relayed")
    home.feed(answer(caller.sent[-1], 200), CALLER)
    assert phone.heard()[-1] == "481"
    check(home)


class Timed:
    def __init__(self, *, fails: bool) -> None:
        self.called, self.fails = 0, fails

    def on_tick(self, tick: int) -> None:
        self.called += 1
        if self.fails:
            raise Boom


def test_a_timer_that_raises_stops_no_other() -> None:
    errors: list[BaseException] = []
    wheel = Wheel(0)
    wheel.on_error = errors.append
    timers = [Timed(fails=n == 1) for n in range(3)]
    for timed in timers:
        wheel.after(timed, 100)
    later = Timed(fails=False)
    wheel.after(later, 200)
    wheel.run(300)
    assert [timed.called for timed in (*timers, later)] == [1, 1, 1, 1]
    assert [type(error) for error in errors] == [Boom]
    assert wheel.waiting == 0
