"""A full engine refuses calls at once, and calls in progress are not affected."""

from __future__ import annotations

from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import call_off, connect
from tests.scenarios.setup import Setup
from tests.scenarios.sipp import free_port

PROXY_PORT = free_port()
SETTINGS = {
    "limits": {"calls": 2},
    "timers": {"max_call_s": 4},
    "sip": {"outbound_proxy": f"sip:127.0.0.1:{PROXY_PORT};lr"},
}


async def test_above_the_limit_a_call_gets_503_with_retry_after(setup: Setup) -> None:
    proxy = await Endpoint.open(port=PROXY_PORT)
    try:
        line, phone = await setup.line_with_phone()
        calls = [await setup.call(line) for _ in range(2)]
        rings = [await proxy.incoming() for _ in range(2)]
        one_more = await setup.call(line)
        answer = await one_more.final()
        assert answer.code == 503
        assert int(answer.one("Retry-After").split(";")[0]) > 0
        assert setup.engine.metric("renvoi_rejected_total", reason="overload") >= 1
        by_proxy = {ring.first.uri for ring in rings}
        assert by_proxy == {phone.uri()}
        assert all(f":{PROXY_PORT};lr" in ring.first.one("Route") for ring in rings)
        for ring in rings:
            ring.respond(180)
            ring.respond(486)
        for call in calls:
            await call.receive(486)
    finally:
        proxy.close()


async def test_a_call_that_lasts_too_long_is_ended_on_both_sides(setup: Setup) -> None:
    proxy = await Endpoint.open(port=PROXY_PORT)
    try:
        line, _ = await setup.line_with_phone()
        call = await setup.call(line)
        ring = await proxy.incoming()
        await connect(call, ring)
        await call.receive("BYE", wait_s=6)
        await ring.receive("BYE")
        await setup.ended(call.call_id, outcome="answered")
        call = await setup.call(line)
        await call_off(call, await proxy.incoming())
    finally:
        proxy.close()
