"""Several workers, each on its own port: replaced, drained and changed without a loss."""

from __future__ import annotations

import json
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest

from tests.scenarios.continued import is_up, kept, noted, rang, until
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, RunningEngine, Setup, to_voicemail
from tests.scenarios.worker_pool import WorkerPool

WORKERS = 2
DRAIN_S = 60  # no call here reaches it


@pytest.fixture(scope="module")
def running_engine(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    shared_redis.client.flushall()
    directory = tmp_path_factory.mktemp("pool")
    settings = {
        "timers": {"drain_s": DRAIN_S, "hung_s": 8},
        "limits": {"forwards_per_line": 15},  # so few that all are counted in Redis
    }
    pool = WorkerPool(directory, shared_redis.url, WORKERS, settings)
    pool.start()
    try:
        yield RunningEngine(pool, shared_redis.client, directory)
        assert pool.status() is None, pool.log
        assert not pool.leaks(shared_redis.client)
    finally:
        status = pool.stop()
    assert status == 0, pool.log
    traced = [event for event in pool.events() if "Traceback" in json.dumps(event)]
    assert not traced


@pytest.fixture
def pool(setup: Setup) -> WorkerPool:
    assert isinstance(setup.engine, WorkerPool)
    return setup.engine


@pytest.fixture
async def setup(running_engine: RunningEngine) -> AsyncIterator[Setup]:
    async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
        yield setup


async def stand(setup: Setup, worker: int, **fields: object) -> tuple[str, Call, Call]:
    """A call in progress in a worker."""
    assert isinstance(setup.engine, WorkerPool)
    line, phone = await setup.line_with_phone(**fields)
    caller = await setup.endpoint()
    call = caller.start(setup.engine.address_of(worker), line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    return line, call, ring


async def talk(call: Call, ring: Call) -> None:
    """Both sides of a call in progress can still reach each other."""
    call.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
    info = await ring.receive("INFO")
    ring.respond(200, to=info)
    await call.receive(200, "INFO")


async def test_every_worker_takes_calls_and_the_pages_show_all_of_them(
    setup: Setup, pool: WorkerPool
) -> None:
    before = pool.metric("renvoi_calls_total", outcome="answered")
    standing = [await stand(setup, worker) for worker in range(WORKERS)]
    shown = {call["call_id"]: call["worker"] for call in pool.calls()}
    assert shown == {call.call_id: worker for worker, (_, call, _) in enumerate(standing)}
    assert pool.metric("renvoi_active_calls") == WORKERS
    assert pool.metric("renvoi_worker_up") == WORKERS
    assert pool.get("/readyz") == (200, "ready\n")
    assert pool.get("/healthz")[0] == 200
    for _, call, ring in standing:
        await part(call, ring)
        await setup.ended(call.call_id, outcome="answered")
    assert pool.metric("renvoi_calls_total", outcome="answered") == before + WORKERS


async def test_a_killed_worker_is_back_and_its_calls_go_on(setup: Setup, pool: WorkerPool) -> None:
    answered = pool.metric("renvoi_calls_total", outcome="answered")
    _, other_call, other_ring = await stand(setup, 0)
    line, call, ring = await stand(setup, 1, max_calls=1)
    over_line, over, over_ring = await stand(setup, 1)
    await part(over, over_ring)
    phone = await setup.endpoint()
    voicemail = setup.server("voicemail")
    forwarding = setup.line(
        to=[phone.uri()],
        forwards={"unconditional": to_voicemail(over_line)},
    )
    caller = await setup.endpoint()
    forwarded = caller.start(pool.address_of(1), forwarding, body=OFFER_BYTES)
    mailbox = await voicemail.incoming()
    mailbox.respond(180)
    await forwarded.receive(180)
    await setup.ended(over.call_id, outcome="answered")
    await noted(setup, call, is_up)
    await rang(setup, forwarded)
    await until(lambda: kept(setup, over.call_id) is None, "the journal drops what is over")
    assert setup.redis.zcard(f"forwards:{forwarding}") == 1
    assert pool.get("/metrics")[0] == 200  # the supervisor has its counts so far
    pid = pool.kill(1)
    took_s = await pool.replaced(1, pid)
    print(f"back after {took_s:.3f} s")
    (taken,) = pool.logged("calls.taken_over", worker=1)
    assert (taken["continued"], taken["ended"], taken["lost"]) == (2, 0, 0)
    await setup.ended(over.call_id, outcome="answered")  # one record, unchanged
    (death,) = await until(lambda: pool.logged("worker.died", pid=pid))
    assert (death["status"], death["calls"]) == ("SIGKILL", 2)
    shown = {each["id"] for each in pool.calls() if each["worker"] == 1}
    assert shown == set(death["standing"])
    # the ringing call continues
    mailbox.respond(200, body=ANSWER_BYTES)
    forwarded.ack(await forwarded.receive(200))
    await mailbox.receive("ACK")
    await part(forwarded, mailbox)
    record = await setup.ended(forwarded.call_id, outcome="answered", takeovers="1")
    assert (record["condition"], record["destination"]) == ("unconditional", "voicemail")
    # the answered call continues too, and counts
    assert setup.redis.zcard(f"live:{line}") == 1
    await talk(call, ring)
    await part(call, ring)
    record = await setup.ended(call.call_id, outcome="answered", why="bye", takeovers="1")
    assert record["legs"][0]["role"] == "line"
    # the line of the other call is free at once, before its lease expires
    await pool.until(lambda: setup.redis.zcard(f"forwards:{forwarding}") == 0)
    again, again_ring = await next_call(setup, pool, line, 1)
    await part(again, again_ring)
    # the other worker is not affected
    await talk(other_call, other_ring)
    await part(other_call, other_ring)
    await setup.ended(other_call.call_id, outcome="answered")
    # no sum has decreased: `over`, the three continued calls and the one after them
    assert pool.metric("renvoi_calls_total", outcome="answered") == answered + 5
    assert pool.metric("renvoi_worker_restarts_total", reason="died", worker="1") >= 1


async def next_call(setup: Setup, pool: WorkerPool, line: str, worker: int) -> tuple[Call, Call]:
    phone = await setup.endpoint()
    setup.redis.delete(f"reg:{line}")
    setup.register(line, phone.uri())
    await setup.settle()
    caller = await setup.endpoint()
    call = caller.start(pool.address_of(worker), line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    return call, ring


async def test_a_worker_that_hangs_is_replaced(setup: Setup, pool: WorkerPool) -> None:
    _, call, ring = await stand(setup, 0)
    pid = pool.kill(1, signal.SIGSTOP)
    await pool.replaced(1, pid, within_s=20)
    await until(lambda: pool.logged("worker.hung", pid=pid))
    await talk(call, ring)
    await part(call, ring)
    await setup.ended(call.call_id)  # otherwise it would continue in the next test


async def test_a_crash_leaves_pythons_stack(setup: Setup, pool: WorkerPool) -> None:
    pid = pool.kill(0, signal.SIGABRT)
    await pool.replaced(0, pid)
    (death,) = await until(lambda: pool.logged("worker.died", pid=pid))
    assert death["status"] == "SIGABRT"
    assert "supervised.py" in death["stack"]


async def test_workers_that_served_come_back_at_once_however_often_they_die(
    setup: Setup, pool: WorkerPool
) -> None:
    """Both of them, repeatedly: a back-off would have reached 16 s, and closed the sockets."""

    def is_back(worker: int, pid: int) -> bool:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with udp, pytest.raises(OSError, match="in use"):
            udp.bind(pool.address_of(worker))
        return pool.pid_of(worker) != pid

    for _ in range(6):
        pids = [pool.kill(worker, signal.SIGABRT) for worker in range(2)]
        for worker, pid in enumerate(pids):
            await pool.until(partial(is_back, worker, pid), 15)
    for worker in range(2):
        _, call, ring = await stand(setup, worker)
        await part(ring, call)


async def test_a_rolling_restart_hands_the_calls_over(setup: Setup, pool: WorkerPool) -> None:
    pids = [pool.pid_of(worker) for worker in range(WORKERS)]
    standing = [await stand(setup, worker) for worker in range(WORKERS)]
    taken = len(pool.logged("calls.taken_over"))
    done = len(pool.logged("roll.done"))
    pool.signal(signal.SIGHUP)  # without a change of configuration: new processes, for new code
    await pool.until(lambda: len(pool.logged("roll.done")) > done)
    await pool.until(lambda: not set(pids) & {pool.pid_of(worker) for worker in range(WORKERS)})
    assert not pool.logged("roll.drains")
    assert [each["continued"] for each in pool.logged("calls.taken_over")[taken:]] == [1, 1]
    assert {call["call_id"] for call in pool.calls()} == {call.call_id for _, call, _ in standing}
    for worker, (_, call, ring) in enumerate(standing):
        await talk(call, ring)
        await part(call, ring)
        record = await setup.ended(call.call_id, outcome="answered", why="bye", takeovers="1")
        assert record["id"].startswith(f"{worker}-")


async def test_what_can_change_live_does_in_every_worker(setup: Setup, pool: WorkerPool) -> None:
    pids = [pool.pid_of(worker) for worker in range(WORKERS)]
    standing = [await stand(setup, worker) for worker in range(WORKERS)]
    pool.change(limits={"calls": 1})
    pool.signal(signal.SIGHUP)
    await pool.until(lambda: len(pool.logged("reload.done", keys=["limits.calls"])) == WORKERS + 1)
    for worker in range(WORKERS):
        line, _ = await setup.line_with_phone()
        caller = await setup.endpoint()
        refused = caller.start(pool.address_of(worker), line, body=OFFER_BYTES)
        assert (await refused.final()).code == 503
    pool.change(limits={"calls": 20000})
    pool.signal(signal.SIGHUP)
    both = 2 * (WORKERS + 1)
    await pool.until(lambda: len(pool.logged("reload.done", keys=["limits.calls"])) == both)
    assert [pool.pid_of(worker) for worker in range(WORKERS)] == pids
    for _, call, ring in standing:
        await part(call, ring)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"timers": {"max_call_s": -1}}, "timers.max_call_s"),
        ({"workers": 3}, "workers: a change needs a restart"),
        ({"limits": {"nonsense": 1}}, "limits.nonsense"),
    ],
)
async def test_a_change_that_cannot_be_made_is_refused_whole(
    pool: WorkerPool, keys: dict[str, object], reason: str
) -> None:
    before = pool._config.read_text("utf-8")
    refusals = len(pool.logged("reload.refused"))
    pids = [pool.pid_of(worker) for worker in range(WORKERS)]
    pool.change(**{**keys, "sip": {"realm": "other"}})
    pool.signal(signal.SIGHUP)
    await pool.until(lambda: len(pool.logged("reload.refused")) > refusals)
    assert reason in pool.logged("reload.refused")[-1]["error"]

    def lines() -> list[str]:
        events = [event["event"] for event in pool.events()]
        return [event for event in events if event.startswith("renvoi: reload refused:")]

    await pool.until(lambda: len(lines()) > refusals)
    assert reason in lines()[-1]
    pool._config.write_text(before, "utf-8")
    assert [pool.pid_of(worker) for worker in range(WORKERS)] == pids


async def test_a_new_process_that_cannot_start_stops_the_roll(
    setup: Setup, pool: WorkerPool
) -> None:
    before = pool._config.read_text("utf-8")
    _, call, ring = await stand(setup, 1)
    listen = json.loads(before)["sip"]["listen"]
    pid = pool.pid_of(0)
    pool.change(sip={"listen": [*listen, "tls:127.0.0.1:0"]})
    pool.signal(signal.SIGHUP)
    await pool.until(lambda: pool.logged("roll.stopped"))
    assert "tls_certificate" in pool.logged("roll.stopped")[-1]["error"]
    await pool.replaced(0, pid)  # as before
    await pool.until(lambda: pool.metric("renvoi_worker_up") == WORKERS)
    pool._config.write_text(before, "utf-8")
    await talk(call, ring)
    await part(call, ring)
    await setup.ended(call.call_id)


async def test_a_place_is_taken_as_soon_as_the_system_has_a_process_again(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("pool")
    pool = WorkerPool(directory, shared_redis.url, WORKERS)
    pool.start()
    assert pool._process is not None
    supervisor = pool._process.pid
    before = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    try:
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, before[1]))  # no further files
        pid = pool.kill(1)
        await pool.replaced(1, pid)  # by the warm spare
        await pool.until(lambda: pool.logged("worker.not_spawned"))
        pid = pool.kill(1)
        await pool.until(lambda: pool.logged("worker.not_spawned", worker=1))
        assert "Too many open files" in pool.logged("worker.not_spawned", worker=1)[0]["error"]
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, before)
        await pool.replaced(1, pid)
        await pool.until(lambda: pool.metric("renvoi_worker_up") == WORKERS)
        assert pool.status() is None
    finally:
        status = pool.stop()
    assert status == 0, pool.log
    assert not [event for event in pool.events() if "Traceback" in json.dumps(event)]


async def test_sigterm_drains_all_workers(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("pool")
    pool = WorkerPool(directory, shared_redis.url, WORKERS, {"timers": {"drain_s": 10}})
    pool.start()
    running_engine = RunningEngine(pool, shared_redis.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            standing = [await stand(setup, worker) for worker in range(WORKERS)]
            pool.signal(signal.SIGTERM)
            await pool.until(lambda: pool.get("/readyz")[0] == 503)
            for _, call, ring in standing:
                await talk(call, ring)
            assert pool.status() is None
            await part(*standing[0][1:])
            # the other one reaches the deadline
            await standing[1][1].receive("BYE", wait_s=14)
            await standing[1][2].receive("BYE")
            assert await pool.exited(10) == 0
            for _, call, _ in standing:
                await setup.ended(call.call_id, outcome="answered")
    finally:
        pool.stop()
