"""Legs of another process: written in every state, read by a new endpoint, and used there."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from sip.continued_call import connect
from sip.incoming import Incoming
from sip.leg_state import CSEQ_GAP, LegState
from sip.message import Message
from sip.outgoing import Outgoing
from sip.state import ANSWERED, CALLING, CANCELLING, CONFIRMED, EARLY, ENDED, TRYING
from tests.sip.house import CALLER, PHONE, SDP, House, answer, request
from tests.sip.test_endpoint import ring, talk

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LegState).decode


class Next:
    """The endpoint of the next process, and the legs of a call in it."""

    def __init__(self, before: House) -> None:
        (caller,), (callee,) = before.callers, before.callees
        kept = [_decode(_encode(leg.snapshot())) for leg in (caller, callee)]
        self.kept: tuple[LegState, LegState] = kept[0], kept[1]
        self.home = House()
        endpoint = self.home.endpoint
        endpoint.layer.expect_orphans()
        self.caller = Incoming.continued(endpoint, self.kept[0])
        self.callee = Outgoing.continued(endpoint, self.kept[1])
        self.caller.owner, self.callee.owner = self.callee, self.caller
        for leg in (self.caller, self.callee):
            leg.listener = self.home._on_event
        if min(self.caller.state, self.callee.state) >= ANSWERED:
            connect(self.caller, self.kept[0], self.callee, self.kept[1])
        self.to_caller, self.to_phone = self.home.line(CALLER), self.home.line(PHONE)

    def heard(self) -> tuple[list[str], list[str]]:
        """The messages sent to the caller and to the phone since the last call of this method."""
        found = self.to_caller.heard(), self.to_phone.heard()
        self.to_caller.sent.clear()
        self.to_phone.sent.clear()
        return found


@pytest.fixture
async def home() -> House:
    return House()


def from_phone(home: House, method: str, cseq: int, **more: Any) -> bytes:
    """A request of the phone inside the call."""
    leg = home.callees[0] if home.callees else None
    assert leg is not None
    dialog = leg.dialog
    return request(
        method, port=PHONE, call_id=dialog.call_id.decode(), cseq=cseq,
        tag=dialog.local_tag.decode(), from_tag=dialog.remote_tag.decode(), **more,
    )  # fmt: skip


@pytest.mark.parametrize("rung", [False, True])
async def test_a_caller_that_waits_is_refused_and_a_callee_cancelled(
    home: House, rung: bool
) -> None:
    if rung:
        ring(home)
    else:
        home.feed(request("INVITE", body=SDP), CALLER)
    assert home.callees[0].state is (EARLY if rung else CALLING)
    after = Next(home)
    assert after.caller.state is (EARLY if rung else TRYING)
    assert after.callee.state is EARLY  # a provisional response may have been lost
    assert after.heard() == ([], [])
    after.caller.reject(503, extra=b"Retry-After: 0")
    after.callee.detach()
    after.callee.hangup()
    invite = home.line(PHONE).sent[0]
    (refusal,), (cancel,) = after.to_caller.sent, after.to_phone.sent
    assert (refusal.status, refusal.first(b"retry-after")) == (503, b"0")
    assert (cancel.method, cancel.branch, cancel.cseq) == (b"CANCEL", invite.branch, invite.cseq)
    assert cancel.target == invite.target
    after.heard()
    after.home.feed(answer(invite, 487), PHONE)
    assert after.heard() == ([], ["ACK"])
    assert after.home.endpoint.legs == {}


async def test_a_callee_that_was_being_cancelled_gets_its_cancel(home: House) -> None:
    home.feed(request("INVITE", body=SDP), CALLER)
    home.callees[0].cancel()
    assert home.callees[0].state is CANCELLING
    assert home.line(PHONE).heard() == ["INVITE"]  # it has not responded
    after = Next(home)
    after.callee.hangup()
    assert after.heard() == ([], ["CANCEL"])


async def test_an_answer_that_crosses_the_cancel_of_the_next_process(home: House) -> None:
    ring(home)
    after = Next(home)
    after.callee.detach()
    after.callee.hangup()
    after.heard()
    after.home.feed(answer(home.line(PHONE).sent[0], 200, body=SDP), PHONE)
    assert after.heard() == ([], ["ACK", "BYE"])
    assert after.callee.state is ENDED


async def test_an_answer_without_its_ack_is_repeated(home: House) -> None:
    ring(home)
    home.feed(answer(home.line(PHONE).sent[0], 200, body=SDP), PHONE)
    first = home.line(CALLER).sent[-1]
    after = Next(home)
    assert after.caller.state is ANSWERED
    (again,) = after.to_caller.sent
    assert again.data == first.data
    after.home.pass_time(600)
    assert after.heard() == (["200", "200"], [])
    after.home.feed(request("INVITE", body=SDP), CALLER)  # a separate call
    after.heard()
    after.home.feed(request("ACK", tag=first.to_tag.decode()), CALLER)
    assert after.caller.state is CONFIRMED
    assert after.caller.invite is None
    after.heard()
    after.home.pass_time(2000)
    assert "200" not in after.heard()[0]


async def test_no_ack_at_all_ends_the_call(home: House) -> None:
    ring(home)
    home.feed(answer(home.line(PHONE).sent[0], 200, body=SDP), PHONE)
    after = Next(home)
    after.heard()
    after.home.pass_time(40_000)
    assert after.caller.state is ENDED
    assert "BYE" in after.heard()[0]


@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_numbers_of_requests_are_not_used_twice(home: House, who: str) -> None:
    tag = talk(home)
    after = Next(home)
    leg = after.caller if who == "caller" else after.callee
    other = after.callee if who == "caller" else after.caller
    sent = other.dialog.sent
    assert sent == (home.callees[0] if who == "caller" else home.callers[0]).dialog.sent + CSEQ_GAP
    if who == "caller":
        after.home.feed(request("BYE", cseq=2, tag=tag), CALLER)
    else:
        after.home.feed(from_phone(home, "BYE", 1), PHONE)
    await asyncio.sleep(0)
    heard = after.to_phone.sent if who == "caller" else after.to_caller.sent
    assert [(m.method, m.cseq) for m in heard if m.method] == [(b"BYE", sent + 1)]
    assert leg.state is ENDED


async def test_the_last_request_may_be_repeated_and_no_older_one(home: House) -> None:
    tag = talk(home)
    for cseq in (2, 3):
        home.feed(request("INFO", cseq=cseq, tag=tag, branch=f"z9hG4bKinfo{cseq}"), CALLER)
        home.feed(answer(home.line(PHONE).sent[-1], 200), PHONE)
    assert home.line(CALLER).heard() == ["200", "200"]
    after = Next(home)
    after.home.feed(request("INFO", cseq=2, tag=tag, branch="z9hG4bKinfo2"), CALLER)
    assert after.heard() == (["500"], [])
    after.home.feed(request("INFO", cseq=3, tag=tag, branch="z9hG4bKinfo3"), CALLER)
    assert after.heard() == ([], ["INFO"])


async def test_the_ack_of_an_answer_is_repeated_for_32_seconds(home: House) -> None:
    talk(home)
    invite = request_of(home)
    after = Next(home)
    after.home.feed(answer(invite, 200, body=SDP), PHONE)
    (ack,) = after.to_phone.sent
    assert (ack.method, ack.cseq, ack.target) == (b"ACK", 1, b"sip:phone@127.0.0.1:%d" % PHONE)
    after.heard()
    after.home.feed(answer(invite, 200, tag="another"), PHONE)  # a fork that lost
    assert after.heard() == ([], ["ACK", "BYE"])
    after.home.endpoint.layer.orphans_until = 1  # later
    after.home.feed(answer(invite, 200, body=SDP), PHONE)
    assert after.heard() == ([], [])


def request_of(home: House) -> Any:
    """The INVITE that the phone got, from its leg: the line no longer has it."""
    leg = home.callees[0]
    parts = [
        b"INVITE sip:phone@127.0.0.1 SIP/2.0", b"Via: SIP/2.0/UDP 127.0.0.1:5080;branch=z9hG4bKold",
        b"From: " + leg.dialog.local, b"To: <sip:b@example.com>",
        b"Call-ID: " + leg.dialog.call_id, b"CSeq: 1 INVITE", b"Content-Length: 0",
    ]  # fmt: skip
    return Message(b"\r\n".join([*parts, b"", b""]))


async def test_a_reinvite_that_waits_for_its_response(home: House) -> None:
    tag = talk(home)
    asked = request("INVITE", cseq=2, tag=tag, body=SDP, branch="z9hG4bKhold")
    home.feed(asked, CALLER)
    (sent,) = home.line(PHONE).sent
    home.feed(answer(sent, 100), PHONE)
    after = Next(home)
    assert after.heard() == ([], [])
    after.home.feed(asked, CALLER)  # a copy that was in transit
    assert after.heard() == ([], [])
    after.home.feed(answer(sent, 200, body=SDP), PHONE)
    assert [m.status for m in after.to_caller.sent] == [200]
    assert after.to_caller.sent[0].cseq == 2
    after.heard()
    after.home.feed(request("ACK", cseq=2, tag=tag), CALLER)
    (ack,) = after.to_phone.sent
    assert (ack.method, ack.cseq) == (b"ACK", sent.cseq)


async def test_a_reinvite_without_any_response_is_repeated(home: House) -> None:
    """It may have been lost before the process died."""
    tag = talk(home)
    home.feed(request("INVITE", cseq=2, tag=tag, body=SDP), CALLER)
    (sent,) = home.line(PHONE).sent
    after = Next(home)
    assert [m.data for m in after.to_phone.sent] == [sent.data]
    after.home.pass_time(600)
    assert after.heard() == ([], ["INVITE", "INVITE"])
    after.home.feed(answer(sent, 100), PHONE)
    after.home.pass_time(3000)
    assert after.heard() == ([], [])
    # the process after that one does not repeat it any more
    after.home.callers, after.home.callees = [after.caller], [after.callee]
    last = Next(after.home)
    assert last.heard() == ([], [])
    last.home.feed(answer(sent, 200, body=SDP), PHONE)
    assert last.heard() == (["200"], [])


async def test_a_reinvite_that_waits_for_its_ack(home: House) -> None:
    tag = talk(home)
    home.feed(request("INVITE", cseq=2, tag=tag), CALLER)
    (sent,) = home.line(PHONE).sent
    home.feed(answer(sent, 200, body=SDP), PHONE)
    after = Next(home)
    assert after.heard() == (["200"], [])
    after.home.feed(answer(sent, 200, body=SDP), PHONE)  # it waits for the caller's ACK
    assert after.heard() == ([], [])
    kind = ("Content-Type: application/sdp",)
    after.home.feed(request("ACK", cseq=2, tag=tag, body=SDP, fields=kind), CALLER)
    (ack,) = after.to_phone.sent
    assert (ack.method, ack.cseq, ack.body) == (b"ACK", sent.cseq, SDP)
    # the process after that one repeats it with its body
    after.home.callers, after.home.callees = [after.caller], [after.callee]
    last = Next(after.home)
    last.home.feed(answer(sent, 200, body=SDP), PHONE)
    (ack,) = last.to_phone.sent
    assert (ack.method, ack.cseq, ack.body) == (b"ACK", sent.cseq, SDP)


async def test_the_ack_of_a_reinvite_is_kept_before_it_is_sent_on(home: House) -> None:
    """Otherwise another process repeats an INVITE that the phone has completed."""
    tag = talk(home)
    home.feed(request("INVITE", cseq=2, tag=tag), CALLER)
    (sent,) = home.line(PHONE).sent
    home.feed(answer(sent, 200, body=SDP), PHONE)
    home.line(PHONE).sent.clear()
    kept: list[tuple[list[str], Next]] = []
    home.endpoint.on_kept = lambda leg: kept.append((home.line(PHONE).heard(), Next(home)))
    home.feed(request("ACK", cseq=2, tag=tag), CALLER)
    ((sent_before, after),) = kept
    assert sent_before == []
    assert home.line(PHONE).heard() == ["ACK"]
    assert after.heard() == ([], [])
    after.home.feed(answer(sent, 200, body=SDP), PHONE)  # the ACK was lost
    assert after.heard() == ([], ["ACK"])


async def test_a_reinvite_that_may_have_been_lost_is_refused(home: House) -> None:
    """Its journal entry is older than its relaying: the requester tries again."""
    tag = talk(home)
    home.feed(request("INVITE", cseq=2, tag=tag, body=SDP), CALLER)
    for client in list(home.callees[0].exchanges.sent):
        del home.callees[0].exchanges.sent[client]
    after = Next(home)
    assert after.heard() == (["491"], [])
    after.home.feed(request("INVITE", cseq=3, tag=tag, body=SDP), CALLER)
    assert after.heard() == (["100"], ["INVITE"])


async def test_trust_target_and_routes_are_those_of_before(home: House) -> None:
    talk(home)
    for leg in (home.callers[0], home.callees[0]):
        leg.dialog.set_route(b"sip:moved@127.0.0.1:%d" % PHONE, (b"<sip:127.0.0.1:7777;lr>",))
    home.callees[0].trusted = False
    home.callers[0].is_phone("sip:a@192.0.2.9")
    after = Next(home)
    assert (after.caller.trusted, after.callee.trusted) == (False, False)
    after.callee.hangup()
    after.caller.hangup()
    (bye, other) = after.home.line(7777).sent
    assert bye.target == other.target == b"sip:moved@127.0.0.1:%d" % PHONE
    assert bye.first(b"route") == b"<sip:127.0.0.1:7777;lr>"


async def test_a_caller_that_had_hung_up(home: House) -> None:
    caller = Incoming.gone(home.endpoint)
    assert caller.state is ENDED
    caller.hangup()
    caller.detach()
    assert home.endpoint.legs == {}
