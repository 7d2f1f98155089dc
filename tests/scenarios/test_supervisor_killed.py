"""The supervisor is killed: its workers go on, and the next supervisor adopts them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.scenarios.crew import Crew
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import RedisServer
from tests.scenarios.stage import OFFER_BYTES, Stage, Theatre

WORKERS = 2


@pytest.fixture
async def stage(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Stage]:
    """Two workers, whose supervisor may be killed."""
    crew = Crew(tmp_path, shared_redis.url, WORKERS)
    crew.start()
    await crew.until(lambda: len(crew.told("worker.start")) == WORKERS)
    theatre = Theatre(crew, shared_redis.client, tmp_path)
    pids = [crew.pid_of(worker) for worker in range(WORKERS)]
    try:
        async with theatre.endpoints() as servers, Stage(theatre, servers) as stage:
            yield stage
    finally:
        crew.stop()
        for pid in pids:  # what no supervisor has ended
            if os.path.exists(f"/proc/{pid}"):
                os.kill(pid, signal.SIGKILL)


def crew_of(stage: Stage) -> Crew:
    assert isinstance(stage.engine, Crew)
    return stage.engine


async def call_through(stage: Stage, worker: int, line: str) -> Call:
    caller = await stage.endpoint()
    return caller.start(crew_of(stage).address_of(worker), line, body=OFFER_BYTES)


async def takes_calls(stage: Stage, worker: int) -> None:
    line, phone = await stage.line_with_phone()
    call = await call_through(stage, worker, line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def kill_supervisor(crew: Crew) -> None:
    gone = len(crew.told("supervisor.gone"))
    crew.signal(signal.SIGKILL)
    await crew.exited(10)
    await crew.until(lambda: len(crew.told("supervisor.gone")) == gone + WORKERS)


async def start_another(crew: Crew) -> float:
    """The next supervisor; the seconds until it has the workers."""
    began, adopted = time.monotonic(), len(crew.told("worker.adopted"))
    crew.spawn()
    await crew.until(lambda: len(crew.told("worker.adopted")) == adopted + WORKERS)
    await crew.until(lambda: crew.get("/readyz")[0] == 200)
    return time.monotonic() - began


async def test_workers_go_on_and_are_adopted_by_the_next_supervisor(stage: Stage) -> None:
    crew = crew_of(stage)
    pids = [crew.pid_of(worker) for worker in range(WORKERS)]
    line, phone = await stage.line_with_phone()
    standing = await call_through(stage, 0, line)
    ring = await phone.incoming()
    await connect(standing, ring)
    for _ in range(2):  # as often as it is killed
        await kill_supervisor(crew)
        for worker in range(WORKERS):
            await takes_calls(stage, worker)
        print(f"adopted after {await start_another(crew):.1f} s")
        assert [crew.pid_of(worker) for worker in range(WORKERS)] == pids
        assert {call["call_id"] for call in crew.calls()} == {standing.call_id}
        for worker in range(WORKERS):
            await takes_calls(stage, worker)
    # They are the new one's own: replaced when they die, told of a new configuration, ended.
    pid = crew.kill(1)
    await crew.replaced(1, pid)
    await takes_calls(stage, 1)
    crew.change(log={"level": "debug"})
    crew.signal(signal.SIGHUP)
    await crew.until(lambda: crew.told("reload.done", worker=0))
    await part(standing, ring)
    await stage.ended(standing.call_id, outcome="answered", why="bye")
    crew.signal(signal.SIGTERM)
    assert await crew.exited(20) == 0
    await crew.until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


async def test_a_supervisor_that_comes_late_undoes_that_its_workers_drain(stage: Stage) -> None:
    crew = crew_of(stage)
    line, phone = await stage.line_with_phone()
    calls = []
    for worker in range(WORKERS):
        standing = await call_through(stage, worker, line)
        ring = await phone.incoming()
        await connect(standing, ring)
        calls.append((standing, ring))
    await kill_supervisor(crew)
    await crew.until(lambda: len(crew.told("drain.start")) == WORKERS, within_s=30)
    for worker in range(WORKERS):
        assert (await (await call_through(stage, worker, line)).final()).code == 503
    await start_another(crew)
    for worker in range(WORKERS):
        await takes_calls(stage, worker)
    for standing, ring in calls:
        assert not standing.requests("BYE")
        await part(ring, standing)
        await stage.ended(standing.call_id, outcome="answered")


async def test_workers_without_calls_end_when_no_supervisor_comes(stage: Stage) -> None:
    crew = crew_of(stage)
    pids = [crew.pid_of(worker) for worker in range(WORKERS)]
    await kill_supervisor(crew)
    await crew.until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 40)
    started = len(crew.told("worker.start"))
    crew.spawn()  # and the next one starts its own
    await crew.until(lambda: len(crew.told("worker.start")) == started + WORKERS)
    await crew.until(lambda: crew.get("/readyz")[0] == 200)
    await takes_calls(stage, 0)
    assert not crew.told("worker.adopted")
    assert json.loads(crew.get("/calls")[1]) == []
