"""Calls through the whole core, without a network: what each side hears."""

from __future__ import annotations

import asyncio

import pytest

from sip.screening import Rejection
from tests.sip.house import CALLER, OTHER, PHONE, SDP, House, answer, house, request


def ring(home: House, fields: tuple[str, ...] = ()) -> None:
    """A call comes in and the phone rings."""
    fields = ("Content-Type: application/sdp", *fields)
    home.feed(request("INVITE", body=SDP, fields=fields), CALLER)
    home.feed(answer(home.line(PHONE).sent[0], 180), PHONE)


def talk(home: House) -> str:
    """A call that is answered and acknowledged on both sides; the To tag of the caller's dialog."""
    ring(home)
    home.feed(answer(home.line(PHONE).sent[0], 200, body=SDP), PHONE)
    tag: str = home.line(CALLER).sent[-1].to_tag.decode()
    home.feed(request("ACK", tag=tag), CALLER)
    home.line(CALLER).sent.clear()
    home.line(PHONE).sent.clear()
    return tag


async def test_a_call_that_the_caller_ends() -> None:
    with house() as home:
        ring(home)
        await asyncio.sleep(0)
        home.feed(answer(home.line(PHONE).sent[0], 200, body=SDP), PHONE)
        caller, phone = home.line(CALLER), home.line(PHONE)
        assert caller.heard() == ["180", "200"]
        assert phone.heard() == ["INVITE", "ACK"]
        ok = caller.sent[-1]
        assert ok.body == SDP
        assert ok.contact == b"sip:renvoi@127.0.0.1:5080"
        assert caller.sent[0].to_tag == ok.to_tag
        home.feed(request("ACK", tag=ok.to_tag.decode()), CALLER)
        home.feed(request("BYE", tag=ok.to_tag.decode(), cseq=2), CALLER)
        assert caller.heard() == ["180", "200"]  # until the phone has answered
        assert phone.heard() == ["INVITE", "ACK", "BYE"]
        home.feed(answer(phone.sent[-1], 200), PHONE)
        assert caller.heard() == ["180", "200", "200"]
        home.pass_time(40_000)
        layer = home.endpoint.layer
        assert (layer.legs, layer.servers, layer.clients, layer.merged) == ({}, {}, {}, {})
        home.pass_time(40_000)
        assert layer.past == {}
        assert layer.wheel.waiting == 0


async def test_a_100_follows_where_nothing_else_was_said() -> None:
    with house() as home:
        home.feed(request("INVITE"), CALLER)
        await asyncio.sleep(0)
        assert home.line(CALLER).heard() == ["100"]


async def test_the_phone_ends_a_call() -> None:
    with house() as home:
        talk(home)
        leg = home.callees[0].dialog
        bye = request(
            "BYE", port=PHONE, call_id=leg.call_id.decode(), tag=leg.local_tag.decode(),
            from_tag="phone", cseq=9,
        )  # fmt: skip
        home.feed(bye, PHONE)
        assert home.line(PHONE).heard() == []
        home.feed(answer(home.line(CALLER).sent[0], 202), CALLER)
        home.feed(bye, PHONE)  # again: the same answer
        assert home.line(PHONE).heard() == ["202", "202"]
        assert home.line(CALLER).heard() == ["BYE"]


async def test_both_hang_up_at_once() -> None:
    with house() as home:
        tag = talk(home)
        leg = home.callees[0].dialog
        home.feed(request("BYE", tag=tag, cseq=2), CALLER)
        bye = request(
            "BYE", port=PHONE, call_id=leg.call_id.decode(), tag=leg.local_tag.decode(),
            from_tag="phone", cseq=9,
        )  # fmt: skip
        home.feed(bye, PHONE)
        assert home.line(PHONE).heard() == ["BYE", "200"]
        assert home.line(CALLER).heard() == ["200"]
        assert home.races == ["byes_crossed"]


async def test_messages_that_come_again_are_taken_once() -> None:
    with house() as home:
        invite = request("INVITE", body=SDP)
        for _ in range(3):
            home.feed(invite, CALLER)
        phone = home.line(PHONE)
        assert phone.heard() == ["INVITE"]
        ringing = answer(phone.sent[0], 180)
        final = answer(phone.sent[0], 200)
        for data in (ringing, final, final, ringing, final):
            home.feed(data, PHONE)
        assert phone.heard() == ["INVITE", "ACK", "ACK", "ACK"]  # one for each 2xx
        home.feed(invite, CALLER)
        caller = home.line(CALLER)
        assert caller.heard() == ["180", "200"]  # RFC 6026: the copy is taken in
        ack = request("ACK", tag=caller.sent[-1].to_tag.decode())
        home.feed(ack, CALLER)
        home.feed(ack, CALLER)
        home.feed(invite, CALLER)
        assert phone.heard() == ["INVITE", "ACK", "ACK", "ACK"]
        assert home.endpoint.counts["in", "INVITE"] == 1
        assert len(home.callers) == 1


async def test_a_call_that_is_cancelled_while_it_rings() -> None:
    with house() as home:
        branch = "z9hG4bKthis"
        home.feed(request("INVITE", branch=branch), CALLER)
        phone, caller = home.line(PHONE), home.line(CALLER)
        home.feed(answer(phone.sent[0], 180), PHONE)
        home.feed(request("CANCEL", branch=branch), CALLER)
        assert caller.heard() == ["180", "200", "487"]
        assert caller.sent[1].cseq_method == b"CANCEL"
        assert phone.heard() == ["INVITE", "CANCEL"]
        assert phone.sent[1].branch == phone.sent[0].branch
        home.feed(answer(phone.sent[1], 200), PHONE)
        home.feed(answer(phone.sent[0], 487), PHONE)
        assert phone.heard() == ["INVITE", "CANCEL", "ACK"]
        home.feed(request("ACK", branch=branch, tag="x"), CALLER)
        home.pass_time(6_000)
        assert caller.heard() == ["180", "200", "487"]


async def test_a_cancel_waits_for_the_first_provisional_response() -> None:
    """RFC 3261 9.1."""
    with house() as home:
        branch = "z9hG4bKthis"
        home.feed(request("INVITE", branch=branch), CALLER)
        home.feed(request("CANCEL", branch=branch), CALLER)
        phone = home.line(PHONE)
        assert phone.heard() == ["INVITE"]
        home.feed(answer(phone.sent[0], 100, tag=""), PHONE)
        assert phone.heard() == ["INVITE", "CANCEL"]


async def test_a_200_that_crosses_the_cancel_gets_ack_and_bye() -> None:
    with house() as home:
        branch = "z9hG4bKthis"
        home.feed(request("INVITE", branch=branch), CALLER)
        phone = home.line(PHONE)
        home.feed(answer(phone.sent[0], 180), PHONE)
        home.feed(request("CANCEL", branch=branch), CALLER)
        home.callees[0].detach()
        home.feed(answer(phone.sent[0], 200), PHONE)
        assert phone.heard() == ["INVITE", "CANCEL", "ACK", "BYE"]


async def test_a_second_answer_of_a_forked_call_is_ended() -> None:
    """RFC 3261 13.2.2.4: each dialog has its ACK and BYE, by its own tag, target and route."""
    with house() as home:
        ring(home)
        phone = home.line(PHONE)
        home.feed(answer(phone.sent[0], 200, tag="first"), PHONE)
        late = answer(phone.sent[0], 200, tag="second", port=OTHER)
        home.feed(late, OTHER)
        assert phone.heard() == ["INVITE", "ACK"]
        other = home.line(OTHER)
        assert other.heard() == ["ACK", "BYE"]
        assert {message.to_tag for message in other.sent} == {b"second"}
        assert other.sent[0].cseq == phone.sent[0].cseq
        assert home.races.count("fork_answered_late") == 1


async def test_each_phone_of_a_fork_counts_its_own_requests() -> None:
    """RFC 3261 12.2.1.1: a CSeq number belongs to one dialog. The phone that answers begins below
    the one that rang."""
    with house() as home:
        ring(home)
        phone, caller = home.line(PHONE), home.line(CALLER)
        leg = home.callees[0].dialog

        def says(method: str, tag: str, cseq: int) -> str:
            sent = len(phone.sent)
            data = request(
                method, port=PHONE, call_id=leg.call_id.decode(), tag=leg.local_tag.decode(),
                from_tag=tag, cseq=cseq,
            )  # fmt: skip
            home.feed(data, PHONE)
            home.feed(answer(caller.sent[-1], 200), CALLER)
            assert len(phone.sent) == sent + 1
            return phone.heard()[-1]

        assert says("INFO", "phone", 5000) == "200"
        home.feed(answer(phone.sent[0], 183, tag="two"), PHONE)
        assert says("INFO", "two", 1) == "200"
        assert says("INFO", "two", 1) == "500"  # out of order
        home.feed(answer(phone.sent[0], 200, tag="two", body=SDP), PHONE)
        home.feed(request("ACK", tag=caller.sent[-1].to_tag.decode()), CALLER)
        assert says("BYE", "two", 2) == "200"


async def test_a_refusal_reaches_the_caller_with_its_headers() -> None:
    with house() as home:
        ring(home)
        phone, caller = home.line(PHONE), home.line(CALLER)
        home.feed(answer(phone.sent[0], 486, fields=('Warning: 399 phone "no"',)), PHONE)
        assert phone.heard() == ["INVITE", "ACK"]
        assert caller.heard() == ["180", "486"]
        assert caller.sent[1].first(b"warning") == b'399 phone "no"'
        assert caller.sent[1].phrase == b"Because"


async def test_a_phone_that_says_nothing() -> None:
    """Timer B: the INVITE is repeated, then 408."""
    with house() as home:
        home.feed(request("INVITE"), CALLER)
        home.pass_time(33_000)
        phone = home.line(PHONE)
        assert phone.heard()[:2] == ["INVITE", "INVITE"]
        assert home.line(CALLER).heard()[0] == "408"


async def test_a_caller_that_never_acknowledges() -> None:
    with house() as home:
        ring(home)
        home.feed(answer(home.line(PHONE).sent[0], 200), PHONE)
        home.pass_time(33_000)
        assert "BYE" in home.line(CALLER).heard()
        assert "BYE" in home.line(PHONE).heard()
        assert "ack_missing" in home.races


async def test_a_reinvite_and_its_ack_travel() -> None:
    with house() as home:
        tag = talk(home)
        caller, phone = home.line(CALLER), home.line(PHONE)
        home.feed(request("INVITE", tag=tag, cseq=5, body=SDP, contact="<sip:new@127.0.0.1:5079>",
                          fields=("Content-Type: application/sdp",)), CALLER)  # fmt: skip
        assert (caller.heard(), phone.heard()) == (["100"], ["INVITE"])
        home.feed(answer(phone.sent[0], 200, body=SDP), PHONE)
        assert caller.heard() == ["100", "200"]
        home.feed(answer(phone.sent[0], 200, body=SDP), PHONE)
        home.feed(request("ACK", tag=tag, cseq=5, body=b"late"), CALLER)
        assert phone.heard() == ["INVITE", "ACK"]
        assert phone.sent[1].body == b"late"
        home.feed(answer(phone.sent[0], 200, body=SDP), PHONE)
        assert phone.heard() == ["INVITE", "ACK", "ACK"]
        home.callers[0].hangup()
        assert home.line(5079).heard() == ["BYE"]  # the target was refreshed


async def test_requests_in_no_dialog_and_out_of_order() -> None:
    with house() as home:
        tag = talk(home)
        caller = home.line(CALLER)
        home.feed(request("INFO", tag="unknown", cseq=2), CALLER)
        home.feed(request("INFO", tag=tag, cseq=2, call_id="other"), CALLER)
        home.feed(request("INFO", tag=tag, cseq=2, from_tag="other"), CALLER)
        assert caller.heard() == ["481", "481", "481"]
        home.feed(request("INFO", tag=tag, cseq=1), CALLER)
        assert caller.heard()[3:] == ["500"]
        home.feed(request("CANCEL", branch="z9hG4bKnone"), CALLER)
        assert caller.heard()[4:] == ["481"]


async def test_a_request_of_somebody_elses_is_refused() -> None:
    with house() as home:
        tag = talk(home)
        home.feed(request("BYE", tag=tag, cseq=2), 5099, host=b"192.0.2.66")
        assert home.line(5099, b"192.0.2.66").heard() == ["403"]
        assert home.line(PHONE).heard() == []
        assert home.rejected[0].startswith("foreign")


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (request("INVITE", fields=("Proxy-Require: magic",)), "420", "unsupported"),
        (request("OPTIONS", fields=("Require: magic",)), "420", "unsupported"),
        (request("SUBSCRIBE"), "405", "unsupported"),
        (request("FROBNICATE"), "501", "unsupported"),
        (request("INVITE").replace(b"Forwards: 70", b"Forwards: 0"), "483", "loop_detected"),
        (request("INVITE").replace(b"Contact: ", b"X-Y: "), "400", "no_contact"),
        (request("INVITE", contact="<mailto:a@b>"), "400", "malformed"),
        (request("INVITE", contact="<sip:a@[]>"), "400", "malformed"),
        (request("INVITE", fields=("Record-Route: <sip:[];lr>",)), "400", "malformed"),
        (request("INVITE", fields=("Record-Route: <sip:p;lr>, sip",)), "400", "malformed"),
        (request("INVITE", target="http://b"), "416", "malformed"),
        (request("INVITE").replace(b"CSeq: 1 INVITE", b"CSeq: x INVITE"), "400", "malformed"),
        (request("INVITE").replace(b"SIP/2.0\r\n", b"SIP/2.1\r\n", 1), "505", "malformed"),
    ],
)  # fmt: skip
async def test_what_the_door_refuses(data: bytes, code: str, reason: str) -> None:
    with house() as home:
        home.feed(data, CALLER)
        assert home.line(CALLER).heard() == [code]
        assert [told.partition(":")[0] for told in home.rejected] == [reason]
        assert home.endpoint.layer.legs == {}


async def test_a_stranger_gets_403_and_an_ack_nothing() -> None:
    with house() as home:
        home.feed(request("INVITE"), 5099, host=b"192.0.2.66")
        home.feed(request("ACK"), 5099, host=b"192.0.2.66")
        home.feed(b"\r\n\r\n", 5099, host=b"192.0.2.66")
        assert home.line(5099, b"192.0.2.66").heard() == ["403"]
        assert len(home.rejected) == 1


@pytest.mark.parametrize("field", ["Contact: <sip:[]>", "Record-Route: <sip:@x;lr>"])
async def test_an_answer_that_leads_nowhere_is_dropped_and_the_next_one_heard(field: str) -> None:
    with house() as home:
        home.feed(request("INVITE"), CALLER)
        invite = home.line(PHONE).sent[0]
        home.feed(answer(invite, 200, fields=(field,)), PHONE)
        assert home.line(CALLER).heard() == []
        home.feed(answer(invite, 200), PHONE)
        assert home.line(CALLER).heard() == ["200"]


async def test_an_invite_that_came_by_two_ways_is_a_loop() -> None:
    with house() as home:
        home.feed(request("INVITE", branch="z9hG4bKone"), CALLER)
        home.feed(request("INVITE", branch="z9hG4bKtwo"), OTHER)
        assert home.line(OTHER).heard() == ["482"]
        assert len(home.callers) == 1


async def test_refused_once_refused_for_good() -> None:
    with house() as home:
        home.policy.rejection = Rejection("overload", 503, 7)
        invite = request("INVITE")
        home.feed(invite, CALLER)
        home.policy.rejection = None
        home.feed(invite, CALLER)
        caller = home.line(CALLER)
        assert caller.heard() == ["503", "503"]
        assert caller.sent[0].first(b"retry-after") == b"7"
        assert len(home.rejected) == 1
        assert home.endpoint.layer.servers == {}


async def test_an_exception_ends_nothing_and_is_answered_500_once() -> None:
    home = House()
    home.dials = False

    def stumble(leg: object) -> None:
        raise RuntimeError("oops")

    home.endpoint.layer.screening._on_invite = stumble  # type: ignore[union-attr]
    invite = request("INVITE")
    home.feed(invite, CALLER)
    assert home.line(CALLER).heard() == ["500"]
    assert [str(error) for error in home.errors] == ["oops"]
    home.feed(request("OPTIONS"), CALLER)
    assert home.line(CALLER).heard() == ["500", "200"]


async def test_a_reinvite_that_only_rings_is_given_up() -> None:
    """RFC 3261 16.8: CANCEL after three minutes, and 408 when nothing follows it."""
    with house() as home:
        tag = talk(home)
        caller, phone = home.line(CALLER), home.line(PHONE)
        home.feed(request("INVITE", tag=tag, cseq=5, body=SDP), CALLER)
        home.feed(answer(phone.sent[0], 183), PHONE)
        for _ in range(9):
            home.pass_time(19_000)
            home.feed(answer(phone.sent[0], 183), PHONE)
        assert phone.heard() == ["INVITE"]
        home.pass_time(19_000)
        assert phone.sent[1].method == b"CANCEL"
        home.feed(answer(phone.sent[1], 200), PHONE)
        home.pass_time(33_000)
        assert caller.sent[-1].status == 408
