"""A full engine: which calls are refused, and how; calls in progress are not affected."""

from __future__ import annotations

import asyncio

from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.message import Message, parameters
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup
from tests.scenarios.sipp import free_port

PORT, PORT6 = free_port(), free_port()
OTHER_PEER = "127.0.0.3"
SETTINGS = {
    "limits": {"calls": 3, "peer_calls": 2, "line_calls": 1},
    "sip": {
        "listen": [f"udp:127.0.0.1:{PORT}", f"udp:[::1]:{PORT6}"],
        "trusted_peers": ["127.0.0.1/32", f"{OTHER_PEER}/32", "::1/128"],
    },
}
Standing = list[tuple[Call, Call]]


async def standing(setup: Setup, callers: list[Endpoint]) -> Standing:
    """One answered call from each caller, each to a separate line."""
    calls = []
    for caller in callers:
        line, phone = await setup.line_with_phone()
        call = caller.start(setup.engine.address, line, body=OFFER_BYTES)
        ring = await phone.incoming()
        await connect(call, ring)
        calls.append((call, ring))
    return calls


async def full(setup: Setup) -> Standing:
    """An engine with the maximum number of calls, which has just refused one."""
    other = await setup.endpoint(OTHER_PEER)
    caller = await setup.endpoint()
    calls = await standing(setup, [caller, caller, other])
    refused = other.start(setup.engine.address, setup.line(), body=OFFER_BYTES)
    assert (await refused.receive(503)).one("Retry-After")
    return calls


async def leave(calls: Standing) -> None:
    for call, ring in calls:
        await part(call, ring)


def refusals(setup: Setup, reason: str = "overload") -> float:
    return setup.engine.metric("renvoi_rejected_total", reason=reason)


async def test_a_refusal_from_the_bytes_is_a_proper_response(setup: Setup) -> None:
    calls = await full(setup)
    before = refusals(setup)
    caller = await setup.endpoint(OTHER_PEER)
    line = setup.line()
    call = caller.start(
        setup.engine.address,
        line,
        body=OFFER_BYTES,
        headers=[("v", "SIP/2.0/UDP up;branch=z9hG4bKx")],
    )
    answer = await call.receive(503)
    assert 1 <= int(answer.one("Retry-After")) <= 30
    assert answer.to_tag
    for name in ("From", "Call-ID", "CSeq"):
        assert answer.one(name) == call.first.one(name)
    top, below = answer.every("Via")
    assert below == "SIP/2.0/UDP up;branch=z9hG4bKx"
    assert parameters(top)["branch"] == call.first.branch
    assert parameters(top)["rport"] == str(caller.port)
    assert parameters(top)["received"] == OTHER_PEER
    # the same INVITE again is the same call, with the same answer
    call.repeat(call.first)
    finals = await call.copies(2, 503)
    assert len(finals) == 2
    assert {m.to_tag for m in finals} == {answer.to_tag}
    assert refusals(setup) == before + 1
    assert not caller.stray
    await leave(calls)


async def test_calls_in_progress_do_not_notice(setup: Setup) -> None:
    calls = await full(setup)
    call, ring = calls[0]
    call.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
    info = await ring.receive("INFO")
    ring.respond(200, to=info)
    await call.receive(200, "INFO")
    offer = ring.request("INVITE", body=OFFER_BYTES)
    again = await call.receive("INVITE")
    call.respond(200, to=again, body=ANSWER_BYTES)
    answer = await ring.receive(200)
    assert answer.cseq == offer.cseq
    ring.ack(answer)
    await call.receive("ACK")
    await leave(calls)


async def test_an_invite_that_came_in_is_not_refused_when_it_comes_again(setup: Setup) -> None:
    caller, other = await setup.endpoint(), await setup.endpoint(OTHER_PEER)
    calls = await standing(setup, [caller, caller])
    line, phone = await setup.line_with_phone()
    call = other.start(setup.engine.address, line, body=OFFER_BYTES)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    refused = other.start(setup.engine.address, setup.line(), body=OFFER_BYTES)
    await refused.receive(503)
    for _ in range(3):
        call.repeat(call.first)
    await asyncio.sleep(0.3)
    assert set(call.codes()) == {180}
    assert len(phone.invited()) == 1
    ring.respond(486)
    await call.receive(486)
    await leave(calls)


async def test_there_is_room_again_as_soon_as_a_call_ends(setup: Setup) -> None:
    calls = await full(setup)
    await part(*calls.pop())
    line, phone = await setup.line_with_phone()
    caller = await setup.endpoint(OTHER_PEER)
    call = caller.start(setup.engine.address, line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    await leave(calls)


async def test_a_peer_above_its_limit_is_refused_and_others_come_in(setup: Setup) -> None:
    caller, other = await setup.endpoint(), await setup.endpoint(OTHER_PEER)
    calls = await standing(setup, [caller, caller])
    before = refusals(setup, "peer_limit")
    for _ in range(2):  # the second one is refused from its bytes
        refused = caller.start(setup.engine.address, setup.line(), body=OFFER_BYTES)
        assert (await refused.receive(503)).one("Retry-After")
    assert refusals(setup, "peer_limit") == before + 2
    calls += await standing(setup, [other])
    await leave(calls)


async def test_a_line_above_its_limit_says_480(setup: Setup) -> None:
    caller = await setup.endpoint()
    calls = await standing(setup, [caller])
    line = calls[0][0].first.user
    before = refusals(setup, "line_limit")
    for _ in range(2):
        refused = caller.start(setup.engine.address, line, body=OFFER_BYTES)
        assert (await refused.receive(480)).one("Retry-After")
    assert refusals(setup, "line_limit") == before + 2
    calls += await standing(setup, [caller])
    await leave(calls)


async def test_strangers_still_get_403(setup: Setup) -> None:
    calls = await full(setup)
    before = refusals(setup, "stranger")
    stranger = await setup.endpoint("127.0.0.9")
    call = stranger.start(setup.engine.address, setup.line(), body=OFFER_BYTES)
    answer = await call.receive(403)
    assert not answer.has("Retry-After")
    assert refusals(setup, "stranger") == before + 1
    await leave(calls)


async def test_without_rport_the_answer_goes_where_via_says(setup: Setup) -> None:
    calls = await full(setup)
    shown, caller = await setup.endpoint(OTHER_PEER), await setup.endpoint(OTHER_PEER)
    caller.rport = False
    caller.show(shown)
    call = caller.start(setup.engine.address, setup.line(), body=OFFER_BYTES)
    await call.receive(503)
    assert [m.code for m in shown.heard if m.method == "INVITE"] == [503]
    await leave(calls)


async def test_over_ipv6(setup: Setup) -> None:
    calls = await full(setup)
    caller = await setup.endpoint("::1")
    call = caller.start(("::1", PORT6), setup.line(), body=OFFER_BYTES)
    answer = await call.receive(503)
    assert parameters(answer.every("Via")[0])["received"] == "::1"
    await leave(calls)


async def test_an_incomplete_invite_crashes_nothing(setup: Setup) -> None:
    calls = await full(setup)
    caller = await setup.endpoint(OTHER_PEER)
    whole = caller.start(setup.engine.address, setup.line(), body=OFFER_BYTES).first.raw
    for line in (b"Via", b"From", b"To", b"Call-ID", b"CSeq"):
        without = b"\r\n".join(x for x in whole.split(b"\r\n") if not x.startswith(line + b":"))
        caller.send(without, setup.engine.address)
    for cut in range(0, len(whole), 37):
        caller.send(whole[:cut], setup.engine.address)
    for odd in (b"INVITE \r\n\r\n", b"INVITE " + b"x" * 5000, whole.replace(b"UDP", b"\xff")):
        caller.send(odd, setup.engine.address)
    call = caller.start(setup.engine.address, setup.line(), body=OFFER_BYTES)
    answer: Message = await call.receive(503)
    assert answer.call_id == call.call_id
    await leave(calls)


async def test_an_invite_that_was_refused_stays_refused_when_there_is_room_again(
    setup: Setup,
) -> None:
    caller, other = await setup.endpoint(), await setup.endpoint(OTHER_PEER)
    calls = await standing(setup, [caller, caller, other])
    line, phone = await setup.line_with_phone()
    before = refusals(setup)
    refused = other.start(setup.engine.address, line, body=OFFER_BYTES)
    await refused.receive(503)
    await leave(calls)
    await asyncio.sleep(1.5)
    refused.repeat(refused.first)
    await refused.copies(2, 503)
    assert [m.code for m in refused.received] == [503, 503]
    assert not phone.invited()
    assert refusals(setup) == before + 1
