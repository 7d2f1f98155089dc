"""Documents that cannot be read, and records that cannot be written: calls are refused and the
fault is reported."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import Setup, started_engine
from tests.scenarios.worker_pool import WorkerPool

BAD = {
    "a field": json.dumps({"name": "{}", "suspended": True, "cap_seconds": "much"}),
    "no JSON": "{",
    "another name": json.dumps({"name": "other", "suspended": True}),
}


async def ready_says(setup: Setup, says: Callable[[str], bool]) -> str:
    deadline = time.monotonic() + within(10)
    while True:
        status, text = setup.engine.get("/readyz")
        assert status == 200
        if says(text):
            return text
        assert time.monotonic() < deadline, text
        await asyncio.sleep(0.05)


async def code_of(setup: Setup, line: str, phone: Endpoint) -> int:
    """The final code of a call to the line: 200 if its phone rings."""
    call = await setup.call(line)
    deadline = time.monotonic() + within(10)
    while time.monotonic() < deadline:
        if phone.invited():
            ring = phone.invited()[-1]
            if ring.state == "early":
                await connect(call, ring)
                await part(call, ring)
                return 200
        if call.codes() and call.codes()[-1] >= 300:
            return call.codes()[-1]
        await asyncio.sleep(0.01)
    raise AssertionError(call)


async def becomes(setup: Setup, line: str, phone: Endpoint, code: int) -> None:
    """Calls to the line soon end with this code: workers read a fleet again after its
    notification."""
    deadline = time.monotonic() + within(1)
    while (now := await code_of(setup, line, phone)) != code:
        assert time.monotonic() < deadline, f"calls end with {now}"


@pytest.mark.parametrize("kind", [*BAD, "no string"])
async def test_a_fleet_whose_document_was_never_good_is_closed(setup: Setup, kind: str) -> None:
    """It may suspend all its lines, and its state before the start of the engine is unknown."""
    fleet = f"closed-{numbers.line_number()[1:]}"
    key = f"fleet:{fleet}"
    if kind == "no string":
        setup.redis.rpush(key, "x")
    else:
        setup.redis.set(key, BAD[kind].replace("{}", fleet))
    await setup.know_fleet(fleet)
    line, phone = await setup.line_with_phone(fleet=fleet)
    call = await setup.call(line)
    assert (await call.final()).code == 500
    await setup.ended(call.call_id, outcome="failed", code=500, why="bad_document")
    text = await ready_says(setup, lambda text: key in text)
    assert "closed" in text
    setup.redis.delete(key)
    setup.redis.set(key, json.dumps({"name": fleet, "suspended": True}))
    await ready_says(setup, lambda text: key not in text)
    await becomes(setup, line, phone, 403)
    setup.redis.set(key, json.dumps({"name": fleet}))
    await becomes(setup, line, phone, 200)
    # From here on the last good document is used.
    setup.redis.set(key, "{")
    text = await ready_says(setup, lambda text: key in text)
    assert "last good one serves" in text
    assert await code_of(setup, line, phone) == 200
    setup.redis.delete(key)


async def test_a_line_document_that_is_refused_is_reported(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    assert await code_of(setup, line, phone) == 200
    good = setup.redis.get(f"line:{line}")
    assert good is not None
    setup.redis.set(f"line:{line}", "{")
    await setup.settle()
    assert await code_of(setup, line, phone) == 200
    await ready_says(setup, lambda text: "1 line documents are refused" in text)
    setup.redis.set(f"line:{line}", good)
    await setup.settle()
    assert await code_of(setup, line, phone) == 200
    await ready_says(setup, lambda text: "line documents" not in text)


async def test_records_that_wait_because_cdr_is_no_stream_are_reported(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    setup.redis.delete("cdr")
    setup.redis.set("cdr", "no stream")
    try:
        assert await code_of(setup, line, phone) == 200
        text = await ready_says(setup, lambda text: "cdr: " in text)
        assert "WRONGTYPE" in text
        assert " records wait" in text
    finally:
        setup.redis.delete("cdr")
    await ready_says(setup, lambda text: "cdr" not in text)
    assert (await setup.records_of(line))[0]["outcome"] == "answered"


async def test_the_supervisor_reports_the_faults_of_its_workers(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    pool = WorkerPool(tmp_path, shared_redis.url, 2)
    with started_engine(pool, shared_redis.client, tmp_path) as running_engine:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            setup.redis.set("fleet:bad", "{")
            await setup.know_fleet("bad", *map(pool.address_of, range(2)))
            line = setup.line(fleet="bad")
            for worker in range(2):
                caller = await setup.endpoint()
                call = caller.start(pool.address_of(worker), line)
                assert (await call.final()).code == 500
            text = await ready_says(setup, lambda text: text.count("fleet:bad") == 2)
            assert "worker 0: fleet:bad is refused" in text
            setup.redis.delete("fleet:bad")
