"""Calls through the whole core, without a network: the messages to each side."""

from __future__ import annotations

import asyncio

import pytest

from sip.message import Message
from sip.outside_dialogs import Request
from sip.replaces import End
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
        assert caller.heard() == ["180", "200"]  # before the phone has answered the BYE
        assert phone.heard() == ["INVITE", "ACK", "BYE"]
        home.feed(answer(phone.sent[-1], 200), PHONE)
        assert caller.heard() == ["180", "200", "200"]
        home.pass_time(40_000)
        layer = home.endpoint.layer
        assert (layer.legs, layer.servers, layer.clients, layer.merged) == ({}, {}, {}, {})
        home.pass_time(40_000)
        assert layer.past == {}
        assert layer.wheel.waiting == 0


async def test_a_100_follows_if_no_other_response_was_sent() -> None:
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


async def test_a_phone_that_hangs_up_before_its_ack_gets_it_nevertheless() -> None:
    """It waits for the caller's ACK, which is to bring the answer: RFC 3261 13.2.2.4."""
    with house() as home:
        home.feed(request("INVITE"), CALLER)
        phone, leg = home.line(PHONE), home.callees[0]
        leg.listener = list[object]().append
        final = answer(phone.sent[0], 200, body=SDP)
        home.feed(final, PHONE)
        assert phone.heard() == ["INVITE"]
        bye = request(
            "BYE", port=PHONE, call_id=leg.dialog.call_id.decode(),
            tag=leg.dialog.local_tag.decode(), from_tag="phone", cseq=9,
        )  # fmt: skip
        home.feed(bye, PHONE)
        home.feed(final, PHONE)
        assert phone.heard() == ["INVITE", "200", "ACK", "ACK"]


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
        assert caller.heard() == ["180", "200"]  # RFC 6026: the copy is absorbed
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
    """RFC 3261 13.2.2.4: each dialog gets its ACK and BYE, with its own tag, target and route."""
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


async def test_a_second_answer_that_is_repeated_gets_one_bye() -> None:
    """Each copy of the 2xx gets its ACK (RFC 3261 13.2.2.4), and only so many phones a BYE, which
    is kept for 64*T1."""
    with house() as home:
        ring(home)
        phone, other = home.line(PHONE), home.line(OTHER)
        home.feed(answer(phone.sent[0], 200, tag="first"), PHONE)
        for _ in range(3):
            home.feed(answer(phone.sent[0], 200, tag="second", port=OTHER), OTHER)
        assert other.heard() == ["ACK", "BYE", "ACK", "ACK"]
        assert home.races.count("fork_answered_late") == 1
        for n in range(100):
            home.feed(answer(phone.sent[0], 200, tag=f"many{n}", port=OTHER), OTHER)
        assert other.heard().count("ACK") == 103
        assert other.heard().count("BYE") == 50


async def test_a_second_answer_is_ended_by_the_way_it_came() -> None:
    """RFC 3261 13.2.2.4: the route set of each dialog is that of its own 2xx."""
    with house() as home:
        ring(home)
        phone, proxy = home.line(PHONE), home.line(5090)
        home.feed(answer(phone.sent[0], 200, tag="first"), PHONE)
        recorded = "Record-Route: <sip:127.0.0.1:5091;lr>, <sip:127.0.0.1:5090;lr>"
        late = answer(phone.sent[0], 200, tag="second", port=OTHER, fields=(recorded,))
        home.feed(late, OTHER)
        assert proxy.heard() == ["ACK", "BYE"]
        for message in proxy.sent:
            assert message.to_tag == b"second"
            assert message.target == b"sip:phone@127.0.0.1:%d" % OTHER
            ports = [value[15:19] for value in message.values(b"route")]
            assert ports == [b"5090", b"5091"]


async def test_an_early_dialog_that_has_ended_is_not_followed() -> None:
    """RFC 6228: 199 ends one of several. Requests still go to the phone that rings."""
    with house() as home:
        ring(home)
        phone, caller = home.line(PHONE), home.line(CALLER)
        home.feed(answer(phone.sent[0], 180, tag="two"), PHONE)
        home.feed(answer(phone.sent[0], 199), PHONE)
        assert caller.heard() == ["180", "180"]
        tag = caller.sent[-1].to_tag.decode()
        home.feed(request("INFO", tag=tag, cseq=2), CALLER)
        assert (phone.sent[-1].method, phone.sent[-1].to_tag) == (b"INFO", b"two")
        home.feed(answer(phone.sent[-1], 200), PHONE)
        assert caller.heard() == ["180", "180", "200"]


async def test_a_reliable_199_gets_its_prack() -> None:
    """RFC 3262 4: otherwise its phone repeats it for 64*T1. The caller gets neither."""
    with house() as home:
        home.feed(request("INVITE", body=SDP, fields=("Supported: 100rel",)), CALLER)
        phone, caller = home.line(PHONE), home.line(CALLER)
        home.feed(answer(phone.sent[0], 180), PHONE)
        route = "Record-Route: <sip:127.0.0.1:5090;lr>"
        ended = answer(phone.sent[0], 199, tag="two", fields=("Require: 100rel", "RSeq: 7", route))
        home.feed(ended, PHONE)
        home.feed(ended, PHONE)  # again: the PRACK was lost
        (prack,) = home.line(5090).sent
        assert (prack.method, prack.to_tag) == (b"PRACK", b"two")
        assert prack.first(b"rack") == b"7 1 INVITE"
        assert caller.heard() == ["180"]
        home.feed(answer(prack, 200), 5090)
        tag = caller.sent[-1].to_tag.decode()
        home.feed(request("INFO", tag=tag, cseq=2), CALLER)
        assert phone.sent[-1].to_tag == b"phone"
        assert phone.sent[-1].cseq > prack.cseq


@pytest.mark.parametrize("code", [401, 407])
@pytest.mark.parametrize("method", ["INFO", "UPDATE", "INVITE"])
async def test_a_challenge_inside_a_call_is_passed_on_as_403(method: str, code: int) -> None:
    """Its fields concern this engine and do not cross, and without them it is invalid (RFC 3261
    20.27, 20.44)."""
    with house() as home:
        tag = talk(home)
        home.feed(request(method, tag=tag, cseq=5), CALLER)
        challenge = 'WWW-Authenticate: Digest realm="x", nonce="y"'
        home.feed(answer(home.line(PHONE).sent[0], code, fields=(challenge,)), PHONE)
        assert home.line(CALLER).heard()[-1] == "403"
        assert home.line(CALLER).sent[-1].first(b"www-authenticate") is None


async def test_a_call_may_be_cancelled_after_a_199() -> None:
    with house() as home:
        home.feed(request("INVITE", branch="z9hG4bKthis"), CALLER)
        home.feed(answer(home.line(PHONE).sent[0], 199), PHONE)
        home.feed(request("CANCEL", branch="z9hG4bKthis"), CALLER)
        assert home.line(PHONE).heard() == ["INVITE", "CANCEL"]


@pytest.mark.parametrize(
    ("route", "is_loose"),
    [
        ("sip:127.0.0.1:5090;lr", True),
        ("sip:127.0.0.1:5090;x=y;LR=on", True),
        ("sip:a,b@127.0.0.1:5090;lr", True),
        ("sip:a;lr@127.0.0.1:5090", False),
        ("sip:127.0.0.1:5090", False),
    ],
)
async def test_a_route_is_loose_by_a_parameter_of_its_uri(route: str, is_loose: bool) -> None:
    """RFC 3261 12.2.1.1, 19.1.1: a user part is no parameter, and may contain a comma."""
    with house() as home:
        ring(home)
        recorded = (f"Record-Route: <{route}>",)
        home.feed(answer(home.line(PHONE).sent[0], 200, fields=recorded), PHONE)
        (ack,) = home.line(5090).sent
        target, routes = f"sip:phone@127.0.0.1:{PHONE}", [route]
        if not is_loose:
            target, routes = route, [target]
        assert ack.target == target.encode()
        assert ack.values(b"route") == [f"<{one}>".encode() for one in routes]


async def test_a_prack_takes_the_way_of_the_early_dialog_that_it_acknowledges() -> None:
    with house() as home:
        home.feed(request("INVITE", body=SDP, fields=("Supported: 100rel",)), CALLER)
        phone, caller = home.line(PHONE), home.line(CALLER)
        first = ("Require: 100rel", "RSeq: 1", "Record-Route: <sip:127.0.0.1:5090;lr>")
        home.feed(answer(phone.sent[0], 183, tag="one", fields=first), PHONE)
        second = ("Record-Route: <sip:127.0.0.1:5091;lr>",)
        home.feed(answer(phone.sent[0], 180, tag="two", fields=second), PHONE)
        assert caller.heard() == ["183", "180"]
        tag = caller.sent[0].to_tag.decode()
        home.feed(request("PRACK", tag=tag, cseq=2, fields=("RAck: 1 1 INVITE",)), CALLER)
        assert home.line(5091).heard() == []
        (prack,) = home.line(5090).sent
        assert (prack.method, prack.to_tag) == (b"PRACK", b"one")


async def test_the_null_tag_is_written_0_in_the_name_of_a_dialog() -> None:
    """RFC 3891 3: 0 matches a null tag. Otherwise a phone without tags could not be named, and
    others could learn the name of its dialog."""
    with house() as home:
        home.feed(request("INVITE", body=SDP), CALLER)
        phone, caller = home.line(PHONE), home.line(CALLER)
        home.feed(answer(phone.sent[0], 200, tag="", body=SDP), PHONE)
        home.feed(request("ACK", tag=caller.sent[-1].to_tag.decode()), CALLER)
        leg, names = home.callees[0], home.endpoint.dialog_names
        call_id, ours = leg.dialog.call_id, leg.dialog.local_tag
        theirs = home.callers[0].dialog.local_tag
        by_caller = b"Replaces: call;to-tag=%b;from-tag=caller" % theirs
        own = b"Replaces: %b;to-tag=0;from-tag=%b" % (call_id, ours)
        assert names.pass_on(by_caller, End(leg=leg)) == own
        by_phone = b"Replaces: %b;to-tag=%b;from-tag=0" % (call_id, ours)
        turned = b"Replaces: call;to-tag=caller;from-tag=%b" % theirs
        assert names.pass_on(by_phone, End(leg=home.callers[0])) == turned
        assert names.pass_on(own, End(leg=leg)) == own
        assert names.pass_on(own, End(uri="sip:stranger@127.0.0.1")) == b""
        other = own.replace(b"=0", b"=1")
        assert names.pass_on(other, End(uri="sip:stranger@127.0.0.1")) == other


@pytest.mark.parametrize("field", ["Supported: 100REL", "k: timer,100Rel", "Require: 100rEL"])
async def test_an_option_tag_is_read_in_any_case(field: str) -> None:
    """RFC 3261 7.3.1: tokens are case-insensitive."""
    with house() as home:
        home.feed(request("INVITE", body=SDP, fields=(field,)), CALLER)
        phone, caller = home.line(PHONE), home.line(CALLER)
        reliable = ("require: 100REL", "RSeq: 7")
        home.feed(answer(phone.sent[0], 183, fields=reliable), PHONE)
        (progress,) = caller.sent
        assert progress.values(b"require") == [b"100rel"]
        rack = f"RAck: {(progress.first(b'rseq') or b'').decode()} 1 INVITE"
        tag = progress.to_tag.decode()
        home.feed(request("PRACK", tag=tag, cseq=2, fields=(rack,)), CALLER)
        assert phone.sent[-1].first(b"rack") == b"7 1 INVITE"


async def test_a_prack_for_a_phone_that_another_one_forestalled_is_answered_here() -> None:
    """That phone is being cancelled: its 481 would end a call that has just been answered."""
    with house() as home:
        fields = ("Supported: 100rel", "Content-Type: application/sdp")
        home.feed(request("INVITE", body=SDP, fields=fields), CALLER)
        phone, caller = home.line(PHONE), home.line(CALLER)
        first = ("Require: 100rel", "RSeq: 1")
        home.feed(answer(phone.sent[0], 183, tag="one", fields=first, body=SDP), PHONE)
        home.feed(answer(phone.sent[0], 200, tag="two", body=SDP), PHONE)
        assert caller.heard() == ["183"]  # the 200 waits for the PRACK
        tag = caller.sent[0].to_tag.decode()
        home.feed(request("PRACK", tag=tag, cseq=2, fields=("RAck: 1 1 INVITE",)), CALLER)
        assert caller.heard() == ["183", "200", "200"]
        assert [message.cseq_method for message in caller.sent[1:]] == [b"PRACK", b"INVITE"]
        assert phone.heard() == ["INVITE", "ACK"]


async def test_each_phone_of_a_fork_counts_its_own_requests() -> None:
    """RFC 3261 12.2.1.1: a CSeq number belongs to one dialog. The phone that answers begins with a
    lower number than the one that rang."""
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


async def test_a_phone_that_does_not_respond() -> None:
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


async def test_an_answer_is_repeated_on_another_connection_when_its_own_is_lost() -> None:
    """RFC 3261 13.3.1.4, 18.2.2."""
    with house() as home:
        ring(home)
        caller, again = home.line(CALLER), home.line(OTHER)
        caller.other = again
        home.feed(answer(home.line(PHONE).sent[0], 200, body=SDP), PHONE)
        home.endpoint.layer.broken(caller)
        home.pass_time(600)
        assert again.heard() == ["200"]
        assert again.sent[0].body == SDP
        home.feed(request("ACK", tag=again.sent[0].to_tag.decode()), OTHER)
        home.pass_time(5_000)
        assert again.heard() == ["200"]
        assert caller.heard() == ["180", "200"]


async def test_a_lost_connection_costs_its_own_transactions_only() -> None:
    """With all of them searched, many phones that lost their connections at once stopped the
    engine."""
    with house() as home:
        layer = home.endpoint.layer
        ring(home)
        phone, caller = home.line(PHONE), home.line(CALLER)
        assert [list(line.carried) for line in (caller, phone)] == [
            list(layer.servers.values()),
            list(layer.clients.values()),
        ]
        everything = layer.clients, layer.servers
        layer.clients = layer.servers = None  # type: ignore[assignment]
        layer.broken(home.line(OTHER))
        layer.clients, layer.servers = everything
        again = caller.other = home.line(OTHER)
        layer.broken(caller)
        assert (list(again.carried), caller.carried) == (list(layer.servers.values()), {})
        layer.broken(phone)
        assert again.heard() == ["503"]
        home.pass_time(40_000)
        assert (again.carried, phone.carried) == ({}, {})


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


async def test_the_100_to_a_reinvite_has_its_timestamp() -> None:
    """RFC 3261 8.2.6.1."""
    with house() as home:
        tag = talk(home)
        home.feed(request("INVITE", tag=tag, cseq=5, fields=("timestamp : 54.2 0.1",)), CALLER)
        assert home.line(CALLER).sent[-1].first(b"timestamp") == b"54.2 0.1"
        assert home.line(PHONE).sent[-1].first(b"timestamp") is None


async def test_a_cancel_of_a_refused_reinvite_leaves_the_one_in_progress() -> None:
    """RFC 3261 9.2: a CANCEL that comes after the final response has no effect."""
    with house() as home:
        tag = talk(home)
        caller, phone = home.line(CALLER), home.line(PHONE)
        home.feed(request("INVITE", tag=tag, cseq=5, branch="z9hG4bKfirst"), CALLER)
        home.feed(answer(phone.sent[0], 180), PHONE)
        home.feed(request("INVITE", tag=tag, cseq=6, branch="z9hG4bKsecond"), CALLER)
        home.feed(request("CANCEL", tag=tag, cseq=6, branch="z9hG4bKsecond"), CALLER)
        assert caller.heard() == ["100", "180", "500", "200"]
        assert phone.heard() == ["INVITE"]
        home.feed(request("CANCEL", tag=tag, cseq=5, branch="z9hG4bKfirst"), CALLER)
        assert phone.heard() == ["INVITE", "CANCEL"]


async def test_a_request_that_nobody_answers_gets_no_408() -> None:
    """RFC 4320 4.2: whoever asked has given up by then."""
    with house() as home:
        tag = talk(home)
        home.feed(request("INFO", tag=tag, cseq=2), CALLER)
        home.pass_time(33_000)
        assert set(home.line(PHONE).heard()) == {"INFO"}
        assert home.line(CALLER).heard() == []
        assert home.endpoint.layer.servers == {}
        home.feed(request("INFO", tag=tag, cseq=3), CALLER)
        home.feed(answer(home.line(PHONE).sent[-1], 200), PHONE)
        assert home.line(CALLER).heard() == ["200"]


@pytest.mark.parametrize("method", ["INFO", "INVITE", "BYE"])
async def test_a_503_to_a_request_inside_a_call_concerns_one_phone(method: str) -> None:
    """RFC 3261 16.7, 21.5.4: the server that gets a 503 sends nothing more to its sender for a
    while, which would be all calls."""
    with house() as home:
        tag = talk(home)
        caller, phone = home.line(CALLER), home.line(PHONE)
        home.feed(request(method, tag=tag, cseq=5), CALLER)
        home.feed(answer(phone.sent[0], 503, fields=("Retry-After: 3600",)), PHONE)
        assert caller.heard()[-1] == "500"
    with house() as home:
        tag = talk(home)
        home.line(PHONE).works = False
        home.feed(request(method, tag=tag, cseq=5), CALLER)
        assert home.line(CALLER).heard()[-1] == ("200" if method == "BYE" else "500")


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


async def test_a_proxy_of_the_route_set_may_have_a_display_name() -> None:
    """A Record-Route is a name-addr (RFC 3261 20.30)."""
    with house() as home:
        ring(home)
        recorded = ('Record-Route: "Edge: a@b" <sip:192.0.2.5;lr>',)
        home.feed(answer(home.line(PHONE).sent[0], 200, fields=recorded, body=SDP), PHONE)
        home.feed(request("ACK", tag=home.line(CALLER).sent[-1].to_tag.decode()), CALLER)
        dialog = home.callees[0].dialog
        bye = request(
            "BYE", port=PHONE, call_id=dialog.call_id.decode(), tag=dialog.local_tag.decode(),
            from_tag="phone", cseq=9,
        )  # fmt: skip
        home.feed(bye, 5060, host=b"192.0.2.5")
        assert home.line(CALLER).heard()[-1] == "BYE"
        assert home.rejected == []


async def test_a_request_from_another_source_is_refused() -> None:
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
async def test_requests_that_are_refused_without_a_leg(data: bytes, code: str, reason: str) -> None:
    with house() as home:
        home.feed(data, CALLER)
        assert home.line(CALLER).heard() == [code]
        assert [one.partition(":")[0] for one in home.rejected] == [reason]
        assert home.endpoint.layer.legs == {}


@pytest.mark.parametrize("method", ["INVITE", "INFO", "BYE", "OPTIONS", "ACK"])
@pytest.mark.parametrize("inside", [False, True])
async def test_nothing_is_kept_of_a_request_whose_response_fits_no_packet(
    method: str, inside: bool
) -> None:
    """A response repeats Via, From, To, Call-ID and CSeq, and is longer than what it repeats."""
    with house() as home:
        tag = talk(home)
        lines = [
            f"{method} sip:b@example.com SIP/2.0",
            "v:SIP/2.0/UDP 127.0.0.1:5071;rport;branch=z9hG4bKlong",
            "f:<sip:a@example.com>;tag=caller",
            f"t:<sip:b@example.com>{';tag=' + tag if inside else ''}",
            f"i:{'call' if inside else 'other'}",
            f"CSeq:2 {method}",
            "m:<sip:a@127.0.0.1:5071>",
        ]
        lines[1] += "x" * (65_507 - len("\r\n".join([*lines, "", ""])))
        home.feed("\r\n".join([*lines, "", ""]).encode(), CALLER)
        assert home.line(CALLER).heard() == ([] if method == "ACK" else ["513"])
        assert home.line(PHONE).heard() == []
        assert [told.partition(":")[0] for told in home.rejected] == ["too_large"]
        home.feed(request("BYE", tag=tag, cseq=3), CALLER)
        home.feed(answer(home.line(PHONE).sent[-1], 200), PHONE)
        home.pass_time(40_000)
        layer = home.endpoint.layer
        assert (layer.legs, layer.servers, layer.clients, layer.merged) == ({}, {}, {}, {})


async def test_nothing_is_kept_of_a_registration_whose_response_fits_no_packet() -> None:
    with house() as home:
        message, way = Message(request("REGISTER")), home.line(CALLER)
        message.way, layer = way, home.endpoint.layer
        server = layer.serve(message, way, message.key(b"REGISTER"))
        waiting: set[Request] = set()
        asked = Request(layer, server, message, True, waiting)
        asked.respond(200, b"Path: " + b"x" * way.most)
        assert (way.heard(), layer.servers, waiting) == ([], {}, set())


async def test_a_stranger_gets_403_and_an_ack_nothing() -> None:
    with house() as home:
        home.feed(request("INVITE"), 5099, host=b"192.0.2.66")
        home.feed(request("ACK"), 5099, host=b"192.0.2.66")
        home.feed(b"\r\n\r\n", 5099, host=b"192.0.2.66")
        assert home.line(5099, b"192.0.2.66").heard() == ["403"]
        assert len(home.rejected) == 1


@pytest.mark.parametrize("field", ["Contact: <sip:[]>", "Record-Route: <sip:@x;lr>"])
async def test_an_invalid_answer_is_dropped_and_the_next_one_taken(field: str) -> None:
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


async def test_an_invite_that_a_proxy_forks_to_two_lines_calls_both() -> None:
    with house() as home:
        for target in ("sip:one@example.com", "sip:two@example.com"):
            home.feed(request("INVITE", target=target), CALLER)
        home.feed(request("INVITE", target="sip:two@example.com;user=phone"), OTHER)
        assert home.line(OTHER).heard() == ["482"]
        assert [leg.invite.target for leg in home.callers] == [
            b"sip:one@example.com", b"sip:two@example.com",
        ]  # fmt: skip


async def test_a_refused_request_stays_refused() -> None:
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

    def fail(leg: object) -> None:
        raise RuntimeError("oops")

    home.endpoint.layer.screening._on_invite = fail  # type: ignore[union-attr]
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
