"""Session timers (RFC 4028) between the two sides, and the end of a session without a refresh."""

from __future__ import annotations

import asyncio

from tests.scenarios.endpoint import Call, Headers
from tests.scenarios.expect import part
from tests.scenarios.message import Message
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup

TIMER = ("Supported", "timer")


async def talk(
    setup: Setup, asks: Headers = (), answers: Headers = ()
) -> tuple[Call, Call, Message]:
    """A call in progress: the caller's side, the phone's, and the caller's 200."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=asks)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES, headers=answers)
    answer = await call.receive(200)
    call.ack(answer)
    await ring.receive("ACK")
    return call, ring, answer


async def refresh(side: Call, other: Call, method: str, seconds: int | None) -> Message:
    """A refresh by `side` that `other` answers; returns the answer to `side`."""
    headers = [TIMER, ("Session-Expires", "90;refresher=uac")]
    side.request(method, body=OFFER_BYTES, headers=headers)
    request = await other.receive(method)
    assert request.one("Session-Expires") == "90;refresher=uac"
    answers = [("Session-Expires", f"{seconds};refresher=uac")] if seconds is not None else []
    other.respond(200, to=request, body=ANSWER_BYTES, headers=answers)
    answer = await side.receive(200, method)
    if method == "INVITE":
        side.ack(answer)
        await other.receive("ACK")
    return answer


async def expired(call: Call, ring: Call) -> None:
    """Both sides get a BYE with the reason."""
    for side in (call, ring):
        bye = await side.receive("BYE", wait_s=10)
        assert bye.one("Reason").startswith("Q.850;cause=102")


async def test_what_the_two_sides_agree_on_passes_untouched(setup: Setup) -> None:
    asks = [TIMER, ("Session-Expires", "120;refresher=uas"), ("Min-SE", "100")]
    call, ring, answer = await talk(
        setup, asks, [("Session-Expires", "120;refresher=uas"), ("Require", "timer")]
    )
    assert ring.first.values("Session-Expires") == ["120;refresher=uas"]
    assert ring.first.one("Min-SE") == "100"
    assert answer.values("Session-Expires") == ["120;refresher=uas"]
    assert answer.values("Require") == ["timer"]
    await part(call, ring)


async def test_a_session_without_a_refresh_is_ended_on_both_sides(setup: Setup) -> None:
    call, ring, _ = await talk(
        setup, [TIMER], [("Session-Expires", "4;refresher=uac"), ("Require", "timer")]
    )
    await expired(call, ring)
    await setup.ended(call.call_id, outcome="answered", why="session_expired")


async def test_a_refresh_by_either_side_keeps_the_session(setup: Setup) -> None:
    async def kept(method: str, by_caller: bool) -> None:
        call, ring, _ = await talk(setup, [TIMER], [("Session-Expires", "8")])
        side, other = (call, ring) if by_caller else (ring, call)
        for _ in range(4):
            await asyncio.sleep(2.4)
            await refresh(side, other, method, 8)
        assert call.requests("BYE") == ring.requests("BYE") == []
        await expired(call, ring)
        await setup.ended(call.call_id, outcome="answered", why="session_expired")

    ways = [(method, by_caller) for method in ("INVITE", "UPDATE") for by_caller in (True, False)]
    await asyncio.gather(*(kept(*way) for way in ways))


async def test_the_engine_asks_for_timers_if_the_caller_does_not(setup: Setup) -> None:
    call, ring, answer = await talk(setup)
    assert ring.first.one("Session-Expires") == "1800"
    assert not answer.has("Session-Expires")  # neither side supports timers
    assert not answer.has("Require")
    await part(call, ring)


async def test_a_caller_that_supports_timers_refreshes_if_the_phone_does_not(
    setup: Setup,
) -> None:
    call, ring, answer = await talk(setup, [TIMER, ("Session-Expires", "300")])
    assert answer.one("Session-Expires") == "300;refresher=uac"
    assert answer.one("Require") == "timer"
    again = await refresh(call, ring, "INVITE", None)
    assert again.one("Session-Expires") == "90;refresher=uac"
    await part(call, ring)


async def test_a_phone_that_supports_timers_refreshes_if_the_caller_does_not(
    setup: Setup,
) -> None:
    call, ring, answer = await talk(setup, (), [("Session-Expires", "10;refresher=uas")])
    assert not answer.has("Require")
    await refresh(ring, call, "UPDATE", 600)
    await asyncio.sleep(10.5)
    assert call.requests("BYE") == []
    await part(ring, call)


async def test_a_refresh_without_a_time_ends_the_timing(setup: Setup) -> None:
    call, ring, _ = await talk(setup, (), [("Session-Expires", "10;refresher=uas")])
    ring.request("INVITE", body=OFFER_BYTES)
    request = await call.receive("INVITE")
    call.respond(200, to=request, body=ANSWER_BYTES)
    ring.ack(await ring.receive(200))
    await call.receive("ACK")
    await asyncio.sleep(10.5)
    assert call.requests("BYE") == []
    await part(ring, call)


async def test_an_interval_too_small_is_refused_by_the_phone_and_asked_again(
    setup: Setup,
) -> None:
    line, phone = await setup.line_with_phone()
    first = await setup.call(line, headers=[TIMER, ("Session-Expires", "90")])
    ring = await phone.incoming()
    ring.respond(422, headers=[("Min-SE", "600")])
    await ring.receive("ACK")
    refused = await first.receive(422)
    assert refused.one("Min-SE") == "600"
    second = await setup.call(line, headers=[TIMER, ("Session-Expires", "600"), ("Min-SE", "600")])
    ring = await phone.incoming()
    assert ring.first.one("Session-Expires") == "600"
    ring.respond(200, body=ANSWER_BYTES, headers=[("Session-Expires", "600;refresher=uac")])
    second.ack(await second.receive(200))
    await ring.receive("ACK")
    await part(second, ring)
