"""OPTIONS: the engine answers them, and sends them to the destinations."""

from __future__ import annotations

import asyncio
import time

from tests.patience import within
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import Setup, to_number

SETTINGS = {"sip": {"probe_s": 1}}


async def wait_until_up(setup: Setup, destination: str, wanted: float) -> None:
    deadline = time.monotonic() + within(15)
    while setup.engine.metric("renvoi_destination_up", destination=destination) != wanted:
        assert time.monotonic() < deadline, f"{destination} is not {wanted}"
        await asyncio.sleep(0.05)


async def test_options_is_answered_with_what_the_engine_can(setup: Setup) -> None:
    watcher = await setup.endpoint()
    asked = watcher.start(setup.engine.address, "ping", method="OPTIONS", body=b"")
    answer = await asked.receive(200, "OPTIONS")
    assert "INVITE" in answer.one("Allow")
    assert "application/sdp" in answer.one("Accept")
    assert "100rel" in answer.one("Supported")
    assert answer.to_tag


async def test_the_destinations_are_asked(setup: Setup) -> None:
    for kind in ("voicemail", "fax", "number"):
        await wait_until_up(setup, kind, 1)
        deadline = time.monotonic() + within(5)
        while not (asked := [m for m in setup.server(kind).stray if m.method == "OPTIONS"]):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert asked[0].uri == f"sip:127.0.0.1:{setup.engine.ports[kind]}"
    assert setup.engine.metric("renvoi_sip_messages_total", direction="out", kind="OPTIONS") >= 3


async def test_a_dead_gateway_is_known_before_a_call_meets_it(setup: Setup) -> None:
    line = setup.line(forwards={"unconditional": to_number("+33140506070")})
    gateway = setup.server("number")
    await wait_until_up(setup, "number", 1)
    gateway.close()
    await wait_until_up(setup, "number", 0)
    call = await setup.call(line)
    await call.receive(480, wait_s=4)  # max_ring_s is 60, a lost INVITE takes 32
    await setup.ended(call.call_id, outcome="unreachable", why="destination_down")
    await wait_until_up(setup, "voicemail", 1)
    again = await Endpoint.open(port=gateway.port)
    setup._stack.callback(again.close)
    await wait_until_up(setup, "number", 1)
    call = await setup.call(line)
    ring = await again.incoming()
    await connect(call, ring)
    await part(call, ring)
