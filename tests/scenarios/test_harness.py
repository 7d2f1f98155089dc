"""The test tools: SIPp with SIPp, and SIPp with the scripted endpoint, without an engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.scenarios import script
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.message import parameters, parse, split_commas, untagged, user_of
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES
from tests.scenarios.sipp import _PORTS, Sipp, Trace, free_port


async def play(directory: Path, caller: str, phone: str) -> tuple[Trace, Trace]:
    uas = await Sipp(directory, phone, "127.0.0.1:9").start(limit_s=10)
    uac = Sipp(directory, caller, f"127.0.0.1:{uas.port}")
    try:
        await uac.start(limit_s=10)
        return await uac.finish(), await uas.finish()
    finally:
        await uac.stop()
        await uas.stop()


@pytest.mark.parametrize("ends", ["caller", "callee"])
async def test_an_answered_call_is_played_to_its_end(tmp_path: Path, ends: str) -> None:
    caller, phone = await play(
        tmp_path,
        script.answered_call("+33972100001", "+33140000001", headers=["X-A: 1"], ends=ends),
        script.answering_phone(ends=ends),
    )
    assert phone.invites("+33972100001")[0].body == OFFER_BYTES
    assert phone.invites()[0].one("x-a") == "1"
    assert caller.answer(200).body == ANSWER_BYTES


async def test_a_refusal_is_played_to_its_end(tmp_path: Path) -> None:
    caller, _ = await play(
        tmp_path,
        script.refused_call("+33972100001", "+33140000001", 486),
        script.refusing_phone(
            "486 Busy Here", after=["180 Ringing"], headers=["Reason: Q.850;cause=17"]
        ),
    )
    assert caller.codes() == [180, 486]
    assert caller.answer(486).one("Reason") == "Q.850;cause=17"


async def test_a_cancelled_call_is_played_to_its_end(tmp_path: Path) -> None:
    caller, phone = await play(
        tmp_path,
        script.cancelled_call("+33972100001", "+33140000001", after=180),
        script.cancelled_phone(),
    )
    assert caller.codes() == [180, 487]
    assert list(dict.fromkeys(m.method for m in phone.received)) == ["INVITE", "CANCEL", "ACK"]


async def test_a_wrong_answer_makes_sipp_fail_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="603"):
        await play(
            tmp_path,
            script.refused_call("+33972100001", "+33140000001", 486),
            script.refusing_phone("603 Decline"),
        )


async def test_the_endpoint_plays_both_sides_against_sipp(tmp_path: Path) -> None:
    endpoint = await Endpoint.open()
    phone = await Sipp(tmp_path, script.answering_phone(), "127.0.0.1:9").start(limit_s=10)
    caller = Sipp(
        tmp_path, script.answered_call("+1", "+2", ends="callee"), f"127.0.0.1:{endpoint.port}"
    )
    try:
        out = endpoint.start(("127.0.0.1", phone.port), "+33972100001", body=OFFER_BYTES)
        answer = await out.receive(200)
        assert out.codes() == [180, 200]
        out.ack(answer)
        await out.hang_up()

        await caller.start(limit_s=10)
        call = await endpoint.incoming("+1")
        call.respond(180)
        call.respond(200, body=ANSWER_BYTES)
        await call.receive("ACK")
        await call.hang_up()
        await asyncio.gather(phone.finish(), caller.finish())
    finally:
        endpoint.close()
        await phone.stop()
        await caller.stop()


async def test_the_endpoint_follows_the_rules_of_transactions() -> None:
    left, right = await Endpoint.open(), await Endpoint.open()
    try:
        out = left.start(("127.0.0.1", right.port), "+33972100001", body=OFFER_BYTES)
        call = await right.incoming()
        call.respond(180)
        out.repeat(out.first)
        await out.receive(180)
        await out.receive(180)
        out.cancel()
        await out.receive(200, "CANCEL")
        await out.receive(487)
        await call.receive("ACK")
        assert call.repeats == 1
        assert (out.state, call.state) == ("ended", "ended")
        lost = right.start(("127.0.0.1", left.port), "+1", method="OPTIONS")
        await lost.receive(481, "OPTIONS")
    finally:
        left.close()
        right.close()


def test_messages_are_read_as_written() -> None:
    message = parse(
        b'INVITE sip:%2B33972100001@h;user=phone SIP/2.0\r\nf: "A, B" <sip:+331@x>;tag=1\r\n'
        b"Call-ID: c\r\nCSeq: 7 INVITE\r\nDiversion: <sip:a@h>;reason=user-busy, <sip:b@h>\r\n"
        b"Diversion: <sip:c@h?a=1,2>\r\nl: 3\r\n\r\nabcd"
    )
    assert (message.user, message.from_tag, message.body) == ("+33972100001", "1", b"abc")
    assert untagged(message.one("From")) == '"A, B" <sip:+331@x>'
    assert [user_of(value) for value in message.values("Diversion")] == ["a", "b", "c"]
    assert parameters(message.values("Diversion")[0]) == {"reason": "user-busy"}
    assert split_commas('"x, y" <sip:a@b>, <sip:c@d>') == ['"x, y" <sip:a@b>', "<sip:c@d>"]


def test_ports_do_not_run_out_and_none_comes_again_before_the_others() -> None:
    most = len(_PORTS) // 12 - 25  # other programs have some
    given = [free_port(several=12) for _ in range(most)]
    assert len(set(given)) == most
    for _ in range(4000):  # more than there are
        first = free_port(several=12)
        assert first in _PORTS
        assert first + 11 in _PORTS


def test_ports_that_nobody_can_have_are_an_error() -> None:
    with pytest.raises(AssertionError, match="20000 ports"):
        free_port(several=20_000)
