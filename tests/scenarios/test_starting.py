"""The first moments: whoever is answered at all is answered by the rules."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.processes import START_S, Engine, RedisServer
from tests.scenarios.stage import OFFER_BYTES, Stage, Theatre, to_voicemail


async def test_the_first_call_that_is_answered_reaches_its_destination(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A server beside us sends calls as soon as the port is open: none may be refused."""
    directory = tmp_path_factory.mktemp("engine")
    engine = Engine(directory, shared_redis.url)
    theatre = Theatre(engine, shared_redis.client, directory)
    try:
        async with theatre.endpoints() as servers, Stage(theatre, servers) as stage:
            line = numbers.line_number()
            stage.line(number=line, forwards={"unconditional": to_voicemail(line)})
            caller = await stage.endpoint()
            calls: list[Call] = []
            engine.spawn()
            deadline = time.monotonic() + START_S
            while not any(call.received for call in calls):
                assert time.monotonic() < deadline, engine.log
                calls.append(caller.start(engine.address, line, body=OFFER_BYTES))
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.5)
            answered = [call for call in calls if call.received]
            refused = [call for call in answered if call.state == "ended"]
            assert not refused, f"{len(refused)} of {len(answered)}: {refused[0]}\n{engine.log}"
            assert len(servers["voicemail"].invited(line)) == len(answered)
            caller.calls[:] = answered  # the others never got there
            for call in answered:
                call.cancel()
                await call.receive(200, "CANCEL")
    finally:
        status = engine.stop()
    assert status == 0, engine.log
