"""Fleets from Redis: in force at once, kept while it is away; caps that hold across workers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import uvloop

from engine.records.recorder import CallRecord, ForwardRecord, Recorder
from engine.records.spending_caps import SpendingCaps
from rules.fleet import Fleet, load_fleet
from rules.model import DocumentError
from rules.numbers import Numbering
from rules.usage_notes import Note, encode_note, notes_of, out_of_plan_of
from store.fleets import Fleets, FleetState, read_notes
from store.lines import Store
from tests.month import this_month
from tests.patience import Stalls
from tests.redis.servers import RedisServer, running_server
from tests.redis.stores import until
from tests.redis.test_recorder import call as a_record

LINE, OTHER = "+33972101001", "+33972101002"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call waits for 50 ms; a busy machine may take longer to ask Redis."""
    monkeypatch.setattr("store.fleets._PATIENCE_S", 10.0)


@asynccontextmanager
async def fleets(server: RedisServer) -> AsyncIterator[Fleets]:
    redis = server.connect()
    made = Fleets(redis, timezone="UTC", numbering=Numbering("FR"))
    store = Store(
        redis,
        numbering=Numbering("FR"),
        cache_lines=100,
        stale_max_s=100,
        timezone="UTC",
        canary=f"t{id(made)}",
    )
    store.on_fleet = made.changed
    await made.start()
    await store.start()
    try:
        yield made
    finally:
        await store.close()
        await made.close()
        await redis.aclose()


def state(known: Fleets) -> FleetState:
    found = known.find("acme")
    assert found is not None
    return found


def put(server: RedisServer, **fields: Any) -> None:
    with server.client() as client:
        client.set("fleet:acme", json.dumps({"name": "acme", **fields}))


def usage_key(name: str = "fleet:acme") -> str:
    return f"usage:{name}:{this_month('UTC')}"


async def test_changes_are_in_force_at_once(server: RedisServer) -> None:
    async with fleets(server) as known:
        assert known.find("acme") is None
        assert (await known.load("acme")).fleet is None
        put(server, suspended=True)
        await until(lambda: state(known).suspended)
        put(server, cap_seconds=100)
        with server.client() as client:
            client.hincrby(usage_key(), "out_of_plan", 40)
        now = time.time()
        await until(lambda: state(known).cap_left_s(now) == 60)
        with server.client() as client:
            client.flushall()
        await until(lambda: state(known).fleet is None)


def test_a_loop_that_is_late_once_takes_the_document(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's loop runs timers before it sends and reads."""
    monkeypatch.setattr("store.fleets._PATIENCE_S", 0.5)
    put(server, suspended=True)

    async def ask() -> None:
        async with fleets(server) as known:
            await known.load("other")  # it is connected
            asked = asyncio.create_task(known.load("acme"))
            for _ in range(5):
                await asyncio.sleep(0)  # it is sent
            time.sleep(0.6)  # noqa: ASYNC251  the loop is busy with other calls
            assert (await asked).suspended

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask())


async def test_a_name_that_begins_like_a_key_is_told_as_it_is(server: RedisServer) -> None:
    name = "fleet:acme"
    with server.client() as client:
        client.set(f"fleet:{name}", json.dumps({"name": name}))
        async with fleets(server) as known:
            assert not (await known.load(name)).suspended
            client.set(f"fleet:{name}", json.dumps({"name": name, "suspended": True}))
            await until(lambda: known.find(name).suspended)  # type: ignore[union-attr]


async def test_the_last_good_document_serves(server: RedisServer) -> None:
    refused: list[DocumentError] = []
    put(server, cap_seconds=7)
    async with fleets(server) as known:
        known.on_refused = lambda key, error: refused.append(error)
        await known.load("acme")
        put(server, cap_seconds="much")
        await until(lambda: bool(refused))
        for _ in range(3):
            known.changed("acme")
            await asyncio.sleep(0.05)
        assert [error.field for error in refused] == ["cap_seconds"]
        server.kill()
        await asyncio.sleep(0.1)
        assert (await known.load("other")).fleet is None
        assert state(known).fleet == Fleet("acme", cap_seconds=7)
        server.start()
        put(server, suspended=True)
        await until(lambda: state(known).suspended)


async def test_a_document_is_parsed_when_it_changes_not_when_its_usage_does(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []

    def load(raw: bytes, name: str, numbering: Numbering) -> Fleet:
        parsed.append(raw)
        return load_fleet(raw, name, numbering)

    monkeypatch.setattr("store.fleets.load_fleet", load)
    office = {"zone": "Europe/Paris", "holidays": "FR"}
    put(server, cap_seconds=100, calendars={"office": office}, lists={"vip": ["+331*"]})
    async with fleets(server) as known:
        await known.load("acme")
        assert "+33140000001" in state(known).lists["vip"]
        with server.client() as client:
            for used in range(1, 4):
                client.hset(usage_key(), "out_of_plan", used)
                await until(lambda used=used: state(known).used_s == used)  # type: ignore[misc]
        assert len(parsed) == 1
        known.renumber(Numbering("DE"))
        put(server, cap_seconds=100, lists={"vip": ["+49*"]})
        await until(lambda: "+4930901820" in state(known).lists["vip"])
        assert not state(known).calendars
        put(server, lists={"vip": ["me"]})
        await until(lambda: "acme" in known.refused)
        assert "lists.vip[0]" in known.refused["acme"]
        assert "+4930901820" in state(known).lists["vip"]
        put(server)
        await until(lambda: not state(known).lists)


async def test_a_fleet_that_causes_an_error_delays_no_other(server: RedisServer) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fails(key: str, error: DocumentError) -> None:
        raise LookupError(key)

    with server.client() as client:
        client.set("fleet:a-bad-one", "{}")
    put(server, suspended=True)
    async with fleets(server) as known:
        known.on_refused = fails
        bad, good = await asyncio.gather(known.load("a-bad-one"), known.load("acme"))
        assert bad.fleet is None
        assert good.suspended
        put(server, suspended=False)
        await until(lambda: not state(known).suspended)
    assert "a-bad-one" in reported[0]["message"]
    assert isinstance(reported[0]["exception"], LookupError)


async def test_many_calls_of_many_fleets_at_once_are_one_exchange(server: RedisServer) -> None:
    put(server, suspended=True)
    async with fleets(server) as known:
        names = [f"f{n}" for n in range(50)] + ["acme"] * 100
        with server.client() as client:
            before = client.info("stats")["total_connections_received"]
            states = await asyncio.gather(*map(known.load, names))
            assert client.info("stats")["total_connections_received"] <= before + 2
    assert [state.suspended for state in states] == [False] * 50 + [True] * 100


async def test_a_caller_who_hangs_up_takes_no_other_call_s_answer(server: RedisServer) -> None:
    put(server, suspended=True)
    async with fleets(server) as known:
        first = asyncio.ensure_future(known.load("acme"))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(known.load("acme"))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).suspended


# Calls in progress


def test_active_calls_use_a_plan_together() -> None:
    notes = [
        Note(LINE, 100.0, 50.0, 138.0),  # two calls of one line, 40 s and 30 s, of 50 s left
        Note(LINE, 110.0, 50.0, 138.0),
        Note(OTHER, 100.0, 41.0, 138.0),  # within its plan
        Note(OTHER, 130.0, None, 138.0),  # out of plan anyway
    ]
    assert out_of_plan_of(notes, 140.0, 0.0) == (20.0 + 10.0, {LINE})
    # a new month began at 135: only its seconds count
    assert out_of_plan_of(notes, 140.0, 135.0) == (5.0, set())
    # with another clock the error is at most the lifetime of a note
    assert out_of_plan_of(notes[3:], 3740.0, 0.0) == (8.0 + 5.0, set())
    assert out_of_plan_of(notes[3:], -3460.0, 0.0) == (8.0, set())


async def test_thousands_of_notes_are_read_while_others_have_their_turn() -> None:
    notes = {f"{n}".encode(): encode_note(Note(LINE, 100.0, None, 140.0)) for n in range(2050)}
    notes[b"odd"] = b"{"
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    assert await read_notes(notes, 141.0) == notes_of(notes, 141.0)
    task.cancel()
    assert turns >= 9
    assert await read_notes({}, 141.0) == {}


def forward(billing: str, line: str = LINE) -> ForwardRecord:
    return ForwardRecord(line, "busy", "number", "+33612345678", billing, 0, "acme", None, None)


def test_an_active_call_uses_the_plan_of_this_month_since_its_begin() -> None:
    """What it used before midnight is settled with the month before."""
    now = datetime(2026, 12, 1, 0, 30, tzinfo=ZoneInfo("Europe/Paris")).timestamp()
    unused: Any = None
    caps = SpendingCaps(
        unused, unused, lambda _: None,
        timezone="Europe/Paris", clock=lambda: now, steady=lambda: now,
    )  # fmt: skip
    caps.begin("0-a-1", forward("deducted"), 9000, lambda: None)
    assert caps.less_standing(LINE, FleetState(), 7200.0, now) == 5400.0
    caps.begin("0-a-2", forward("deducted"), 100, lambda: None)
    assert caps.less_standing(LINE, FleetState(), 7200.0, now) == 5300.0
    assert caps.less_standing(OTHER, FleetState(), 7200.0, now) == 7200.0
    caps.end("0-a-1")
    assert caps.less_standing(LINE, FleetState(), 7200.0, now) == 7100.0
    caps.end("0-a-2")
    assert caps.less_standing(LINE, FleetState(), 7200.0, now) == 7200.0


class Worker:
    """One worker of several: a meter and a recorder with their own clock."""

    def __init__(self, server: RedisServer, known: Fleets, spool: Path, name: str) -> None:
        self.redis = server.connect()
        self.known = known
        self.now = time.time()
        self.plan_left_s: dict[str, float] = {}
        self.stopped: list[str] = []
        self.spending_caps = SpendingCaps(
            self.redis, known, self.plan_left_s.get, timezone="UTC",
            clock=lambda: self.now, steady=lambda: self.now,
        )  # fmt: skip
        self.recorder = Recorder(self.redis, timezone="UTC", worker=name, spool=spool / name)

    def begin(self, call_id: str, billing: str = "out_of_plan", line: str = LINE) -> None:
        stop = lambda: self.stopped.append(call_id)  # noqa: E731
        self.spending_caps.begin(call_id, forward(billing, line), 0.0, stop)

    async def end(self, call_id: str, seconds: int) -> None:
        self.spending_caps.end(call_id)
        record: CallRecord = a_record(0, answered=self.now - seconds, seconds=seconds)
        record.id = call_id
        record.forwards = [forward("out_of_plan")]
        record.forwards[0].seconds = seconds
        self.recorder.add(record)
        await until(lambda: self.recorder.backlog == 0)


@asynccontextmanager
async def workers(server: RedisServer, folder: Path) -> AsyncIterator[tuple[Worker, Worker]]:
    async with AsyncExitStack() as stack:
        made = []
        for name in ("0-a", "1-b"):
            known = await stack.enter_async_context(fleets(server))
            await known.load("acme")
            worker = Worker(server, known, folder, name)
            stack.push_async_callback(worker.redis.aclose)
            await worker.recorder.start()
            stack.push_async_callback(worker.recorder.close)
            made.append(worker)
        yield made[0], made[1]


async def step(seconds: float, *made: Worker) -> None:
    """Advance the time; every worker's meter ticks."""
    for worker in made:
        worker.now += seconds
    for worker in made:
        await worker.spending_caps.tick()


async def test_the_cap_is_reached_by_all_active_calls_together(
    server: RedisServer, tmp_path: Path
) -> None:
    put(server, cap_seconds=100)
    async with workers(server, tmp_path) as (a, b):
        a.begin("0-a-1")
        b.begin("1-b-1")
        for _ in range(4):
            await step(11, a, b)
            for worker in (a, b):  # the notes are those of this second
                await worker.spending_caps.tick()
        assert not a.stopped
        assert not b.stopped
        await step(6, a, b)
        await step(1, a, b)
        await step(1, a, b)
        assert set(a.stopped) == {"0-a-1"}
        assert set(b.stopped) == {"1-b-1"}


async def test_a_call_that_was_settled_does_not_count_twice(
    server: RedisServer, tmp_path: Path
) -> None:
    put(server, cap_seconds=100)
    async with workers(server, tmp_path) as (a, b):
        a.begin("0-a-1")
        b.begin("1-b-1")
        for _ in range(8):
            await step(5, a, b)
        await b.end("1-b-1", 40)  # 40 s settled and 40 s in progress: not 120
        for _ in range(3):
            await step(1, a, b)
        assert not a.stopped
        with server.client() as client:
            assert client.hget(usage_key(), "out_of_plan") == "40"
            assert client.hkeys("standing:{" + usage_key() + "}") == ["0-a-1"]
        for _ in range(8):
            await step(3, a)
        assert a.stopped


async def test_a_worker_without_calls_of_a_fleet_counts_those_of_others_before_it_dials(
    server: RedisServer, tmp_path: Path, stalls: Stalls
) -> None:
    """Within a second of each note; and of a call that is settled, once."""
    stalls.watch(server.pid)
    put(server, cap_seconds=100)
    async with workers(server, tmp_path) as (a, b):
        a.spending_caps._plan_left_s = {OTHER: 1000.0}.get
        answered = a.now = time.time() - 30
        a.begin("0-a-1")
        a.begin("0-a-2", "deducted", OTHER)
        a.now = time.time()
        await a.spending_caps.tick()
        written = time.monotonic()
        await until(lambda: state(b.known).using.out_of_plan == 1)
        assert time.monotonic() - written < 1.0 + stalls.total_s
        at = state(b.known).using.at
        left = state(b.known).cap_left_s(at)
        assert left == pytest.approx(100 - (at - answered))
        assert left is not None
        assert left <= 70
        assert state(b.known).cap_left_s(at + 3) == pytest.approx(left - 3)
        # No worker has renewed it for the lifetime of a note: it no longer counts.
        assert state(b.known).cap_left_s(at + 60) == pytest.approx(left - 5)
        assert b.spending_caps.less_standing(OTHER, state(b.known), 100.0, at) == pytest.approx(
            100 - (at - answered)
        )
        assert b.spending_caps.less_standing(LINE, state(b.known), 100.0, at) == 100.0
        await a.end("0-a-1", 30)
        await until(lambda: state(b.known).using.out_of_plan == 0)
        assert state(b.known).cap_left_s(time.time()) == 70
        with server.client() as client:
            client.delete("standing:{" + usage_key() + "}")
        await until(lambda: state(b.known).using.planned == {})


async def test_a_dead_worker_s_calls_stop_counting(server: RedisServer, tmp_path: Path) -> None:
    put(server, cap_seconds=100)
    async with workers(server, tmp_path) as (a, b):
        a.begin("0-a-1")
        b.begin("1-b-1")
        await step(45, a, b)
        for _ in range(8):  # b is gone
            await step(4, a)
        assert not a.stopped  # it has 77 s itself


async def test_a_planned_call_is_ended_only_beyond_its_plan(
    server: RedisServer, tmp_path: Path
) -> None:
    put(server, cap_seconds=10)
    async with workers(server, tmp_path) as (a, b):
        a.plan_left_s = b.plan_left_s = {}
        left_s = {LINE: 30.0, OTHER: 1000.0}
        a.spending_caps._plan_left_s = b.spending_caps._plan_left_s = left_s.get
        a.begin("0-a-1", "deducted")
        b.begin("1-b-1", "deducted")
        b.begin("1-b-2", "deducted", OTHER)
        a.now += 10
        assert a.spending_caps.less_standing(LINE, FleetState(), 30.0, a.now) == 20.0
        a.now -= 10
        for _ in range(3):
            await step(5, a, b)
            for worker in (a, b):
                await worker.spending_caps.tick()
        assert not a.stopped
        assert not b.stopped
        for _ in range(8):
            await step(1, a, b)
        assert "0-a-1" in a.stopped
        assert set(b.stopped) == {"1-b-1"}


async def test_a_call_that_is_paid_for_anew_counts_once(
    server: RedisServer, tmp_path: Path
) -> None:
    """A transfer may be reported when the call is already metered."""
    async with workers(server, tmp_path) as (a, _):
        for billing in ("deducted", "deducted", "out_of_plan", "deducted"):
            a.begin("0-a-1", billing)
        a.now += 10
        assert a.spending_caps.less_standing(LINE, FleetState(), 30.0, a.now) == 20.0
        a.spending_caps.end("0-a-1")
        assert len(a.spending_caps) == 0
        assert a.spending_caps.less_standing(LINE, FleetState(), 30.0, a.now) == 30.0


async def test_redis_away_ends_no_call(server: RedisServer, tmp_path: Path) -> None:
    put(server, cap_seconds=1)
    async with workers(server, tmp_path) as (a, _):
        a.begin("0-a-1")
        server.kill()
        for _ in range(3):
            await step(5, a)
        assert not a.stopped
        a.spending_caps.end("0-a-1")
        assert len(a.spending_caps) == 0
