"""The proof that a change is in force: two engines, one of which may hang, die or stop."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.command import run
from tests.scenarios import numbers
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup, to_voicemail


@pytest.fixture(scope="module")
def pair(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Engine]]:
    """Two engines on one Redis."""
    shared_redis.client.flushall()
    first, second = (
        Engine(tmp_path_factory.mktemp(name), shared_redis.url) for name in ("first", "second")
    )
    for engine in (first, second):
        engine.start()
    yield first, second
    for engine in (first, second):
        engine.signal(signal.SIGCONT)
        engine.stop()


@pytest.fixture
async def setup(
    pair: tuple[Engine, Engine],
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Setup]:
    running_engine = RunningEngine(pair[0], shared_redis.client, tmp_path_factory.mktemp("setup"))
    async with Setup(running_engine) as setup:
        yield setup


async def renvoi(engine: Engine, *arguments: str) -> str:
    """Run a command, which must succeed; returns its output."""
    done = await asyncio.to_thread(run, *arguments, "--config", str(engine.config))
    assert done.returncode == 0, done.stderr
    return done.stdout


async def forward(setup: Setup, *arguments: str) -> dict[str, Any]:
    """`renvoi forward` on the setup's engine; returns its proof."""
    answer = json.loads(await renvoi(setup.engine, "forward", *arguments, "--json"))
    proof: dict[str, Any] = answer["in_force"]
    return proof


async def reached(engine: Engine, setup: Setup, line: str, box: Endpoint) -> str:
    """The target of a call through this engine: "phone" or "voicemail"."""
    before = len(box.invited(line))
    caller = await setup.endpoint()
    call = caller.start(engine.address, line, caller=numbers.caller_number(), body=b"v=0\r\n")
    assert (await call.final()).code == 486
    return "voicemail" if len(box.invited(line)) > before else "phone"


async def refuse_all(endpoint: Endpoint) -> None:
    """Answer every call with busy."""
    while True:
        (await endpoint.incoming(wait_s=60)).respond(486)


async def test_the_next_call_on_every_engine_follows_what_was_confirmed(
    setup: Setup, pair: tuple[Engine, Engine]
) -> None:
    phone = await setup.endpoint()
    boxes = [await Endpoint.open(port=engine.ports["voicemail"]) for engine in pair]
    busy = [asyncio.create_task(refuse_all(endpoint)) for endpoint in (phone, *boxes)]
    line = setup.line(to=[phone.uri()])
    try:
        for _ in range(3):
            for arguments, place in (
                (("set", line, "unconditional", "voicemail"), "voicemail"),
                (("off", line, "unconditional"), "phone"),
            ):
                proof = await forward(setup, *arguments)
                while not proof["complete"]:  # the machine may be slow
                    proof = await forward(setup, *arguments)
                assert proof["workers"] == 2
                # No waiting here: a confirmed change is in force.
                for engine, box in zip(pair, boxes, strict=True):
                    assert await reached(engine, setup, line, box) == place
    finally:
        for task in busy:
            task.cancel()
        for box in boxes:
            box.close()


async def test_an_engine_that_hangs_is_named(setup: Setup, pair: tuple[Engine, Engine]) -> None:
    line = setup.line(forwards={"busy": to_voicemail(numbers.line_number()) | {"on": False}})
    pair[1].signal(signal.SIGSTOP)
    try:
        output = await renvoi(setup.engine, "forward", "set", line, "busy", "voicemail")
    finally:
        pair[1].signal(signal.SIGCONT)
    assert "of 2 workers after" in output
    assert pair[1]._process is not None
    assert f"(pid {pair[1]._process.pid})" in output
    await complete(setup, line, workers=2)


async def complete(setup: Setup, line: str, workers: int) -> None:
    """Change the line until `workers` workers confirm that it is in force: the machine may be
    slow."""
    for _ in range(10):
        proof = await forward(setup, "off", line, "busy")
        if proof["complete"] and proof["workers"] == workers:
            return
    raise AssertionError(f"never in force on {workers} workers: {proof}")


async def test_an_engine_that_stops_is_not_waited_for(
    setup: Setup, pair: tuple[Engine, Engine]
) -> None:
    line = setup.line()
    pair[1].stop()
    await forward(setup, "set", line, "busy", "voicemail")
    await complete(setup, line, workers=1)
    pair[1].start()
    await complete(setup, line, workers=2)


async def test_that_no_engine_runs_is_reported(setup: Setup, pair: tuple[Engine, Engine]) -> None:
    line = setup.line()
    for engine in pair:
        engine.stop()
    output = await renvoi(setup.engine, "forward", "set", line, "busy", "voicemail")
    assert output == f"{line} busy: voicemail, no engine runs: in force as soon as one does\n"
