"""A call that has ended is freed at once: nothing of it waits for the cyclic garbage collector.

The engine relies on that (engine/collector.py): it never examines old objects while it serves, so a
call that left a reference cycle would stay in memory forever.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.expect import call_off, connect, part, refuse
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import Setup, started_engine, to_number, to_voicemail

# An engine that never runs the collector while it serves. At its end it prints which objects of
# calls the collector would have freed.
UNCOLLECTED = """
import collections, gc, json, sys
collect = gc.collect
gc.disable()
gc.collect = lambda generation=2: 0
from engine.cli import main
code = main()
gc.set_debug(gc.DEBUG_SAVEALL)
gc.unfreeze()
collect()
of_calls = (
    "engine.failed_legs", "engine.dialled_target", "engine.call", "engine.event_queue",
    "engine.call_outcome", "engine.records.record", "engine.ringing", "engine.call_path",
    "engine.starcode", "engine.call_facts",
    "sip.events", "sip.end_of_call", "sip.reliable", "sip.bye", "sip.dialog",
    "sip.exchange", "sip.incoming", "sip.message", "sip.outgoing",
    "sip.transaction",
)
found = collections.Counter(
    type(each).__qualname__ for each in gc.garbage if type(each).__module__ in of_calls
)
print(json.dumps({"event": "garbage", "level": "info", "found": found}))
sys.exit(code)
"""


async def test_no_call_leaves_a_cycle_behind(shared_redis: RedisServer, tmp_path: Path) -> None:
    engine = Engine(tmp_path, shared_redis.url, {"timers": {"pre_ringing_s": 6}})
    engine.program = ["-c", UNCOLLECTED]
    with started_engine(engine, shared_redis.client, tmp_path) as running_engine:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            await asyncio.gather(
                _answered(setup),
                _held(setup),
                _cancelled(setup),
                _no_answer(setup),
                _busy(setup),
                _refused(setup),
                _unreachable(setup),
                _star_code(setup),
                _nobody(setup),
            )
            # What only a transaction refers to is no garbage yet.
            deadline = time.monotonic() + within(40)
            while await asyncio.to_thread(engine.metric, "renvoi_sip_transactions"):
                assert time.monotonic() < deadline, "transactions do not end"
                await asyncio.sleep(0.2)
    events = [event for event in engine.events() if event["event"] == "garbage"]
    assert [event["found"] for event in events] == [{}]


async def _answered(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(ring, call)


async def _held(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    call.request("INVITE", body=b"v=0\r\na=sendonly\r\n", content_type="application/sdp")
    ring.respond(200, to=await ring.receive("INVITE"), body=b"v=0\r\n")
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await part(call, ring)


async def _cancelled(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await call_off(call, ring)


async def _no_answer(setup: Setup) -> None:
    """The phone never responds, and its line has no other forward."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    await phone.incoming()
    assert (await call.final()).code == 480


async def _busy(setup: Setup) -> None:
    target = numbers.outside_number()
    line, phone = await setup.line_with_phone(forwards={"busy": to_number(target)})
    call = await setup.call(line)
    await refuse(await phone.incoming(), 486)
    ring = await setup.server("number").incoming()
    await connect(call, ring)
    await part(call, ring)


async def _refused(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    await refuse(await phone.incoming(), 488)
    assert (await call.final()).code == 488


async def _unreachable(setup: Setup) -> None:
    line = setup.line()
    line = setup.line(forwards={"unreachable": to_voicemail(line)})
    call = await setup.call(line)
    ring = await setup.server("voicemail").incoming()
    await refuse(ring, 500)
    await call.final()


async def _star_code(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = phone.start(setup.engine.address, "*#21#", caller=line)
    await call.final()


async def _nobody(setup: Setup) -> None:
    call = await setup.call(numbers.line_number())
    assert (await call.final()).code == 404
