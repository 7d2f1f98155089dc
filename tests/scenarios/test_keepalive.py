"""OPTIONS: answered to whoever watches the engine, and asked of the destinations."""

from __future__ import annotations

import asyncio
import time

from tests.patience import within
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.stage import Stage, to_number

SETTINGS = {"sip": {"probe_s": 1}}


async def wait_until_up(stage: Stage, destination: str, wanted: float) -> None:
    deadline = time.monotonic() + within(15)
    while stage.engine.metric("renvoi_destination_up", destination=destination) != wanted:
        assert time.monotonic() < deadline, f"{destination} is not {wanted}"
        await asyncio.sleep(0.05)


async def test_options_is_answered_with_what_the_engine_can(stage: Stage) -> None:
    watcher = await stage.endpoint()
    asked = watcher.start(stage.engine.address, "ping", method="OPTIONS", body=b"")
    answer = await asked.receive(200, "OPTIONS")
    assert "INVITE" in answer.one("Allow")
    assert "application/sdp" in answer.one("Accept")
    assert "100rel" in answer.one("Supported")
    assert answer.to_tag


async def test_the_destinations_are_asked(stage: Stage) -> None:
    for kind in ("voicemail", "fax", "number"):
        await wait_until_up(stage, kind, 1)
        deadline = time.monotonic() + within(5)
        while not (asked := [m for m in stage.server(kind).stray if m.method == "OPTIONS"]):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert asked[0].uri == f"sip:127.0.0.1:{stage.engine.ports[kind]}"
    assert stage.engine.metric("renvoi_sip_messages_total", direction="out", kind="OPTIONS") >= 3


async def test_a_dead_gateway_is_known_before_a_call_meets_it(stage: Stage) -> None:
    line = stage.line(forwards={"unconditional": to_number("+33140506070")})
    gateway = stage.server("number")
    await wait_until_up(stage, "number", 1)
    gateway.close()
    await wait_until_up(stage, "number", 0)
    call = await stage.call(line)
    await call.receive(480, wait_s=1)  # max_ring_s is 8, a lost INVITE takes 32
    await stage.ended(call.call_id, outcome="unreachable", why="destination_down")
    assert stage.engine.metric("renvoi_destination_up", destination="voicemail") == 1
    again = await Endpoint.open(port=gateway.port)
    stage._stack.callback(again.close)
    await wait_until_up(stage, "number", 1)
    call = await stage.call(line)
    ring = await again.incoming()
    await connect(call, ring)
    await part(call, ring)
