"""Many times more calls than are admitted: admitted calls are served, the others are refused at
once, and calls in progress are not affected. (How many an engine can carry: `benchmarks
goodput`.)"""

from __future__ import annotations

import asyncio

from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import ROOT
from tests.scenarios.setup import Setup
from tests.scenarios.sipp import Sipp

PER_SECOND = 200
SETTINGS = {
    "limits": {"calls_per_second": PER_SECOND},
    "timers": {"max_call_s": 60},  # for calls that SIPp has ended with a lost BYE
}
SCENARIOS = ROOT / "benchmarks" / "scenarios"
RATE, CALLS = 1500, 4500
STANDING = 5


async def press(call: Call, ring: Call) -> None:
    """Send a digit from one side to the other. A datagram may be lost in a flood, and a phone
    repeats its request (RFC 3261 17.1.2)."""
    sent = call.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
    for _ in range(20):
        if "INFO" in [m.method for m in ring.received]:
            break
        await asyncio.sleep(0.5)
        call.repeat(sent)
    info = await ring.receive("INFO", wait_s=1)
    ring.respond(200, to=info)
    await call.receive(200, "INFO", wait_s=20)


async def test_a_flood_is_shed_and_calls_in_progress_go_on(setup: Setup) -> None:
    engine, directory = setup.engine, setup.running_engine.directory
    standing = []
    for _ in range(STANDING):
        line, phone = await setup.line_with_phone()
        call = await setup.call(line)
        ring = await phone.incoming()
        await connect(call, ring)
        standing.append((call, ring))
    phones = Sipp(directory, (SCENARIOS / "answering.xml").read_text(), engine.peer)
    await phones.start(calls=CALLS * 2, limit_s=120, trace=False)
    busy = setup.line(to=[f"sip:phone@127.0.0.1:{phones.port}"])
    await setup.settle()
    script = (SCENARIOS / "patient.xml").read_text()
    script = script.replace("[field0]", busy).replace("[field1]", "+33140000001")
    flood = Sipp(directory, script, engine.peer)
    try:
        await flood.start(rate=RATE, calls=CALLS, limit_s=90, trace=False)
        await asyncio.sleep(1.5)
        for call, ring in standing:  # during the flood
            await press(call, ring)
        async with asyncio.timeout(80):
            while flood.status() is None:
                await asyncio.sleep(0.2)
    finally:
        await flood.stop()
        await phones.stop()
    refused = engine.metric("renvoi_rejected_total", reason="overload")
    answered = engine.metric("renvoi_calls_total", outcome="answered")
    assert refused > CALLS / 10
    assert answered >= PER_SECOND
    assert refused + answered >= CALLS
    for call, ring in standing:
        await part(call, ring)
        await setup.ended(call.call_id, outcome="answered")
    assert engine.metric("renvoi_calls_total", outcome="failed") == 0
    for _ in range(140):
        if not engine.metric("renvoi_active_calls"):
            return
        await asyncio.sleep(0.5)
