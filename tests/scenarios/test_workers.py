"""Several workers, each on its own port: replaced, drained and changed without a loss."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.scenarios.crew import Crew
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import RedisServer
from tests.scenarios.stage import OFFER_BYTES, Stage, Theatre, to_voicemail

WORKERS = 2
DRAIN_S = 60  # nobody here is cut off


@pytest.fixture(scope="module")
def theatre(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Theatre]:
    shared_redis.client.flushall()
    directory = tmp_path_factory.mktemp("crew")
    settings = {
        "timers": {"drain_s": DRAIN_S, "hung_s": 4},
        "limits": {"forwards_per_line": 15},  # so few that all are counted in Redis
    }
    crew = Crew(directory, shared_redis.url, WORKERS, settings)
    crew.start()
    try:
        yield Theatre(crew, shared_redis.client, directory)
        assert crew.status() is None, crew.log
        assert not crew.leaks(shared_redis.client)
    finally:
        status = crew.stop()
    assert status == 0, crew.log
    traced = [event for event in crew.events() if "Traceback" in json.dumps(event)]
    assert not traced


@pytest.fixture
def crew(stage: Stage) -> Crew:
    assert isinstance(stage.engine, Crew)
    return stage.engine


@pytest.fixture
async def stage(theatre: Theatre) -> AsyncIterator[Stage]:
    async with theatre.endpoints() as servers, Stage(theatre, servers) as stage:
        yield stage


async def stand(stage: Stage, worker: int, **fields: object) -> tuple[str, Call, Call]:
    """A call that stands in a worker."""
    assert isinstance(stage.engine, Crew)
    line, phone = await stage.line_with_phone(**fields)
    caller = await stage.endpoint()
    call = caller.start(stage.engine.address_of(worker), line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    return line, call, ring


async def talk(call: Call, ring: Call) -> None:
    """Both sides of a standing call still hear one another."""
    call.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
    heard = await ring.receive("INFO")
    ring.respond(200, to=heard)
    await call.receive(200, "INFO")


async def test_every_worker_takes_calls_and_the_pages_show_all_of_them(
    stage: Stage, crew: Crew
) -> None:
    before = crew.metric("renvoi_calls_total", outcome="answered")
    standing = [await stand(stage, worker) for worker in range(WORKERS)]
    shown = {call["call_id"]: call["worker"] for call in crew.calls()}
    assert shown == {call.call_id: worker for worker, (_, call, _) in enumerate(standing)}
    assert crew.metric("renvoi_active_calls") == WORKERS
    assert crew.metric("renvoi_worker_up") == WORKERS
    assert crew.get("/readyz") == (200, "ready\n")
    assert crew.get("/healthz")[0] == 200
    for _, call, ring in standing:
        await part(call, ring)
        await stage.ended(call.call_id, outcome="answered")
    assert crew.metric("renvoi_calls_total", outcome="answered") == before + WORKERS


async def test_a_killed_worker_is_back_and_its_calls_have_their_records(
    stage: Stage, crew: Crew
) -> None:
    answered = crew.metric("renvoi_calls_total", outcome="answered")
    _, other_call, other_ring = await stand(stage, 0)
    line, call, ring = await stand(stage, 1, max_calls=1)
    over_line, over, over_ring = await stand(stage, 1)
    await part(over, over_ring)
    phone = await stage.endpoint()
    voicemail = stage.server("voicemail")
    forwarding = stage.line(
        to=[phone.uri()],
        forwards={"unconditional": to_voicemail(over_line)},
    )
    caller = await stage.endpoint()
    forwarded = caller.start(crew.address_of(1), forwarding, body=OFFER_BYTES)
    mailbox = await voicemail.incoming()
    mailbox.respond(180)
    await forwarded.receive(180)
    await stage.ended(over.call_id, outcome="answered")
    await asyncio.sleep(0.6)  # what changes is written down after a moment
    assert stage.redis.zcard(f"forwards:{forwarding}") == 1
    assert crew.get("/metrics")[0] == 200  # the supervisor knows what it counted so far
    pid = crew.kill(1)
    took_s = await crew.replaced(1, pid)
    print(f"back after {took_s:.3f} s")
    record = await stage.ended(call.call_id, outcome="failed", why="worker_died", called=line)
    assert record["legs"][0]["role"] == "line"
    assert float(record["answered"]) > 0
    record = await stage.ended(forwarded.call_id, outcome="failed", why="worker_died")
    assert (record["condition"], record["destination"]) == ("unconditional", "voicemail")
    await stage.ended(over.call_id, outcome="answered")  # one record, as it was
    (death,) = crew.told("worker.died", pid=pid)
    assert (death["status"], death["calls"]) == ("SIGKILL", 2)
    assert sorted(death["standing"]) == sorted(
        record["id"] for record in stage.records() if record["why"] == "worker_died"
    )
    # its lines are free again at once, without waiting for the lease
    await crew.until(lambda: stage.redis.zcard(f"forwards:{forwarding}") == 0)
    again, again_ring = await next_call(stage, crew, line, 1)
    await part(again, again_ring)
    # the other worker has not noticed
    await talk(other_call, other_ring)
    await part(other_call, other_ring)
    await stage.ended(other_call.call_id, outcome="answered")
    # no sum has fallen: `over`, the call that went on and the one that came after
    assert crew.metric("renvoi_calls_total", outcome="answered") == answered + 3
    assert crew.metric("renvoi_calls_total", outcome="failed") >= 2
    assert crew.metric("renvoi_worker_restarts_total", reason="died", worker="1") >= 1
    for left in (call, ring, forwarded, mailbox):
        left.endpoint.calls.clear()  # nobody will end them


async def next_call(stage: Stage, crew: Crew, line: str, worker: int) -> tuple[Call, Call]:
    phone = await stage.endpoint()
    stage.redis.delete(f"reg:{line}")
    stage.register(line, phone.uri())
    await stage.settle()
    caller = await stage.endpoint()
    call = caller.start(crew.address_of(worker), line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    return call, ring


async def test_a_worker_that_hangs_is_replaced(stage: Stage, crew: Crew) -> None:
    _, call, ring = await stand(stage, 0)
    pid = crew.kill(1, signal.SIGSTOP)
    await crew.replaced(1, pid)
    assert crew.told("worker.hung", pid=pid)
    await talk(call, ring)
    await part(call, ring)


async def test_a_crash_leaves_pythons_stack(stage: Stage, crew: Crew) -> None:
    pid = crew.kill(0, signal.SIGABRT)
    await crew.replaced(0, pid)
    (death,) = crew.told("worker.died", pid=pid)
    assert death["status"] == "SIGABRT"
    assert "supervised.py" in death["stack"]


async def test_workers_that_served_come_back_at_once_however_often_they_die(
    stage: Stage, crew: Crew
) -> None:
    """Both of them, over and over: a back-off would be at 16 s by then."""
    for _ in range(6):
        pids = [crew.kill(worker, signal.SIGABRT) for worker in range(2)]
        for worker, pid in enumerate(pids):
            assert await crew.replaced(worker, pid, within_s=15) < 15
    for worker in range(2):
        _, call, ring = await stand(stage, worker)
        await part(ring, call)


async def test_a_rolling_restart_loses_no_standing_call(stage: Stage, crew: Crew) -> None:
    pids = [crew.pid_of(worker) for worker in range(WORKERS)]
    standing = [await stand(stage, worker) for worker in range(WORKERS)]
    crew.signal(signal.SIGHUP)  # with nothing changed: new processes, for new code
    await crew.until(lambda: crew.told("drain.start", worker=0))
    # the first drains: no new call, but its own goes on; the second serves
    line, phone = await stage.line_with_phone()
    caller = await stage.endpoint()
    refused = caller.start(crew.address_of(0), line, body=OFFER_BYTES)
    assert (await refused.final()).code == 503
    await talk(*standing[0][1:])
    _, other, other_ring = await stand(stage, 1)
    assert crew.get("/readyz")[0] == 200
    assert crew.pid_of(0) == pids[0]
    await part(*standing[0][1:])
    await crew.replaced(0, pids[0])
    await talk(*standing[1][1:])
    for call, ring in (standing[1][1:], (other, other_ring)):
        await part(call, ring)
    await crew.replaced(1, pids[1])
    await crew.until(lambda: crew.metric("renvoi_worker_up") == WORKERS)
    for worker, (_, call, _) in enumerate(standing):
        record = await stage.ended(call.call_id, outcome="answered", why="bye")
        assert record["id"].startswith(f"{worker}-")
    assert len(phone.invited()) == 0


async def test_what_can_change_live_does_in_every_worker(stage: Stage, crew: Crew) -> None:
    pids = [crew.pid_of(worker) for worker in range(WORKERS)]
    standing = [await stand(stage, worker) for worker in range(WORKERS)]
    crew.change(limits={"calls": 1})
    crew.signal(signal.SIGHUP)
    await crew.until(lambda: len(crew.told("reload.done", keys=["limits.calls"])) == WORKERS + 1)
    for worker in range(WORKERS):
        line, _ = await stage.line_with_phone()
        caller = await stage.endpoint()
        refused = caller.start(crew.address_of(worker), line, body=OFFER_BYTES)
        assert (await refused.final()).code == 503
    crew.change(limits={"calls": 20000})
    crew.signal(signal.SIGHUP)
    both = 2 * (WORKERS + 1)
    await crew.until(lambda: len(crew.told("reload.done", keys=["limits.calls"])) == both)
    assert [crew.pid_of(worker) for worker in range(WORKERS)] == pids
    for _, call, ring in standing:
        await part(call, ring)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"timers": {"max_call_s": -1}}, "timers.max_call_s"),
        ({"workers": 3}, "workers: can only change with a new start"),
        ({"limits": {"nonsense": 1}}, "limits.nonsense"),
    ],
)
async def test_a_change_that_cannot_be_made_is_refused_whole(
    crew: Crew, keys: dict[str, object], reason: str
) -> None:
    before = crew._config.read_text("utf-8")
    told = len(crew.told("reload.refused"))
    pids = [crew.pid_of(worker) for worker in range(WORKERS)]
    crew.change(**{**keys, "sip": {"realm": "other"}})
    crew.signal(signal.SIGHUP)
    await crew.until(lambda: len(crew.told("reload.refused")) > told)
    assert reason in crew.told("reload.refused")[-1]["error"]
    lines = [e["event"] for e in crew.events() if e["event"].startswith("renvoi: reload refused:")]
    assert reason in lines[-1]
    crew._config.write_text(before, "utf-8")
    assert [crew.pid_of(worker) for worker in range(WORKERS)] == pids


async def test_a_new_process_that_cannot_start_stops_the_roll(stage: Stage, crew: Crew) -> None:
    before = crew._config.read_text("utf-8")
    _, call, ring = await stand(stage, 1)
    listen = json.loads(before)["sip"]["listen"]
    pid = crew.pid_of(0)
    crew.change(sip={"listen": [*listen, "tls:127.0.0.1:0"]})
    crew.signal(signal.SIGHUP)
    await crew.until(lambda: crew.told("roll.stopped"))
    assert "tls_certificate" in crew.told("roll.stopped")[-1]["error"]
    await crew.replaced(0, pid)  # as it was before
    await crew.until(lambda: crew.metric("renvoi_worker_up") == WORKERS)
    crew._config.write_text(before, "utf-8")
    await talk(call, ring)
    await part(call, ring)


async def test_a_place_is_taken_as_soon_as_the_system_has_a_process_again(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("crew")
    crew = Crew(directory, shared_redis.url, WORKERS)
    crew.start()
    assert crew._process is not None
    supervisor = crew._process.pid
    before = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    try:
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, before[1]))  # nothing more
        pid = crew.kill(1)
        await crew.replaced(1, pid)  # by the process that stood by
        await crew.until(lambda: crew.told("worker.not_spawned"))
        pid = crew.kill(1)
        await crew.until(lambda: crew.told("worker.not_spawned", worker=1))
        assert "Too many open files" in crew.told("worker.not_spawned", worker=1)[0]["error"]
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, before)
        await crew.replaced(1, pid)
        await crew.until(lambda: crew.metric("renvoi_worker_up") == WORKERS)
        assert crew.status() is None
    finally:
        status = crew.stop()
    assert status == 0, crew.log
    assert not [event for event in crew.events() if "Traceback" in json.dumps(event)]


async def test_sigterm_drains_all_workers(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("crew")
    crew = Crew(directory, shared_redis.url, WORKERS, {"timers": {"drain_s": 4}})
    crew.start()
    theatre = Theatre(crew, shared_redis.client, directory)
    try:
        async with theatre.endpoints() as servers, Stage(theatre, servers) as stage:
            standing = [await stand(stage, worker) for worker in range(WORKERS)]
            crew.signal(signal.SIGTERM)
            await crew.until(lambda: crew.get("/readyz")[0] == 503)
            for _, call, ring in standing:
                await talk(call, ring)
            assert crew.status() is None
            await part(*standing[0][1:])
            # the other one meets the deadline
            await standing[1][1].receive("BYE", wait_s=8)
            await standing[1][2].receive("BYE")
            assert await crew.exited(10) == 0
            for _, call, _ in standing:
                await stage.ended(call.call_id, outcome="answered")
    finally:
        crew.stop()

