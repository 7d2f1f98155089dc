"""How soon a dead worker is replaced, by which process, and which running worker is adopted."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from engine.config import Redis
from engine.processes import worker_pool
from engine.processes.child import Child
from engine.processes.control import DRAINING, Assign, Left, Line, ToWorker
from engine.processes.worker_pool import BACK_OFF_S, WorkerPool, WorkerSlot
from tests.patience import within

IN_USE = "sip.listen: cannot listen on udp:127.0.0.1:5060: Address already in use"


def test_processes_that_die_before_they_serve_wait_longer_each_time() -> None:
    slot = WorkerSlot(0)
    pauses = [slot.pause_s(served=False) for _ in range(9)]
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_one_that_served_is_replaced_at_once_however_often_it_dies() -> None:
    slot = WorkerSlot(0)
    assert [slot.pause_s(served=True) for _ in range(50)] == [0.0] * 50


def test_one_that_served_ends_a_row_of_failures() -> None:
    slot = WorkerSlot(0)
    for _ in range(5):
        slot.pause_s(served=False)
    assert slot.pause_s(served=True) == 0
    assert [slot.pause_s(served=False) for _ in range(2)] == list(BACK_OFF_S[:2])


@pytest.fixture(autouse=True)
def problems_of_redis(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why Redis does not answer; empty: it does."""
    problems: list[str] = []

    async def unreachable(_url: str) -> str:
        return "".join(problems)

    monkeypatch.setattr(worker_pool, "unreachable", unreachable)
    return problems


class Worker:
    """A worker's process as a rolling restart sees it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.has_all, self.version, self.reads = True, 0, 2
        self.calls = 1
        self.not_ready = ""
        self.failure = ""
        self.asked: list[object] = []
        self.sockets: dict[str, int] = {}
        self.pid = 1

    @property
    def served(self) -> bool:
        return self.started.done()

    @property
    def takes_calls(self) -> bool:
        return self.started.done() and not self.exited.done()

    def start(self) -> None:
        self.version = 2
        self.started.set_result(None)

    async def settled(self) -> None:
        both: list[asyncio.Future[Any]] = [self.started, self.exited]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)

    async def stands_by(self) -> bool:
        return True

    async def assign(self, *_: Any) -> None:
        self.asked.append("assign")

    async def end(self) -> int:
        await asyncio.wait([self.exited])
        return self.exited.result()

    def reload(self, _document: Any) -> None: ...

    def close_sockets(self) -> None: ...

    def close_connections(self) -> None: ...

    async def ended(self, within_s: float) -> bool:
        await asyncio.wait([self.exited], timeout=within_s)
        return self.exited.done()

    async def kill(self) -> None:
        self.asked.append("kill")
        self.exited.set_result(-9)

    async def leave_to_another(self) -> None: ...

    def hand_over(self) -> None:
        self.asked.append("hand over")

    def signal(self, number: object) -> None:
        self.asked.append(number)


class Process:
    """A process as the pool sees it: a running worker, or a new one that finds its ports taken."""

    def __init__(self, orphan: object = None) -> None:
        self.is_adopted = self.takes_calls = orphan is not None
        self.failure = "" if self.is_adopted else IN_USE
        self.pid = self.calls = 1

    async def assign(self, *_: Any) -> None: ...

    async def settled(self) -> None: ...

    async def end(self) -> int:
        return 1

    def reload(self, _document: Any) -> None: ...

    def close_sockets(self) -> None: ...

    def close_connections(self) -> None: ...


async def ignore(_slot: WorkerSlot) -> None:
    """What is called before a worker leaves its calls to the next process."""


def pool_of(
    workers: int, on_leaving: Callable[[WorkerSlot], Awaitable[None]] = ignore
) -> WorkerPool:
    redis = Redis(url="redis://r", data_dir=Path("data"))
    config: Any = SimpleNamespace(workers=workers, redis=redis)
    log: Any = SimpleNamespace(**dict.fromkeys(("info", "warning", "error"), lambda *_, **__: None))
    return WorkerPool(config, {}, log, lambda _: None, on_leaving)


@pytest.mark.parametrize("looks", [1, 2, 3])
async def test_a_worker_that_is_too_busy_to_be_found_at_once_is_adopted(
    monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """It opens its socket for the next supervisor between two looks, or not at all."""
    asked: list[int] = []

    async def find_orphan(_directory: Any, index: int) -> object:
        asked.append(index)
        return object() if len(asked) == looks else None

    monkeypatch.setattr(worker_pool, "find_orphan", find_orphan)
    monkeypatch.setattr(worker_pool, "Child", Process)
    pool = pool_of(1)
    assert await pool.start() == ("" if looks < 3 else IN_USE)
    assert len(asked) == min(looks, 2)
    child = pool.slots[0].child
    assert child is not None
    assert child.is_adopted is (looks < 3)
    pool.close()


@pytest.mark.parametrize("adopted", [0, 1])
async def test_a_worker_that_cannot_start_does_not_end_those_that_are_adopted(
    monkeypatch: pytest.MonkeyPatch, adopted: int
) -> None:
    """A reason would make the supervisor end all of them, with their calls."""

    async def find_orphan(_directory: Any, index: int) -> object:
        return object() if index == adopted else None

    monkeypatch.setattr(worker_pool, "find_orphan", find_orphan)
    monkeypatch.setattr(worker_pool, "Child", Process)
    pool = pool_of(2)
    assert await pool.start() == ""
    assert [slot.child.is_adopted for slot in pool.slots if slot.child] == [
        index == adopted for index in range(2)
    ]
    pool.close()


async def test_received_sockets_are_closed_in_the_process_that_follows_by_exec() -> None:
    """SIGUSR2: the next supervisor gets them from the workers, and could never close these."""
    ours, theirs = (Line(end, ToWorker) for end in socket.socketpair())
    await ours.open()
    await theirs.open()
    reading, writing = os.pipe()
    try:
        ours.say(Left(["a"]), [reading])
        async with asyncio.timeout(within(10)):
            await theirs.hear()
        (received,) = theirs.take_descriptors(1)
        assert not os.get_inheritable(received)
        os.close(received)
    finally:
        ours.close()
        theirs.close()
        os.close(reading)
        os.close(writing)


async def test_a_process_that_waits_for_many_connections_is_of_the_present_generation() -> None:
    """A spare process has been silent for an hour, and reads its predecessor's connections slowly:
    the watch must not take it for hung, nor a rolling restart for an old one."""
    pool, (ours, theirs) = pool_of(1), socket.socketpair()
    slot, child = pool.slots[0], Child(ours)  # its process is this one
    child.heard_at -= 3600
    reading, writing = os.pipe()
    predecessor: Any = SimpleNamespace(
        connections={"x" * 4096 + str(n): reading for n in range(400)},
        flows=[],
        close_connections=lambda: None,
    )
    pool.renew()
    assigning = asyncio.ensure_future(pool._assign(slot, child, predecessor))
    line = Line(theirs, ToWorker)
    try:
        for _ in range(10):
            await asyncio.sleep(0)
        assert not assigning.done()
        assert slot.child is child
        assert pool.oldest is None
        assert asyncio.get_running_loop().time() - child.heard_at < within(10)
        await line.open()
        async with asyncio.timeout(within(10)):
            heard = [await line.hear() for _ in range(3)]
        assert [type(each) for each in heard] == [Left, Left, Assign]
        await assigning
    finally:
        assigning.cancel()
        line.close()
        pool.close()
        os.close(reading)
        os.close(writing)


def rolled(
    on_leaving: Callable[[WorkerSlot], Awaitable[None]] = ignore,
) -> tuple[WorkerPool, Any, Any]:
    """A pool that replaces its worker, the worker and the spare process."""
    pool = pool_of(1, on_leaving)
    worker: Any = Worker()
    spare: Any = Worker()
    pool.slots[0].child = worker
    pool.renew()
    pool._spare = spare
    return pool, worker, spare


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_worker_that_starts_is_not_drained_by_a_rolling_restart() -> None:
    """It replaces one that has just died, and continues its calls: it can hand them over when it
    takes calls."""
    pool, worker, _ = rolled()
    (slot,) = pool.slots
    replacing = asyncio.ensure_future(pool.replace(slot))
    await turns()
    assert worker.asked == []
    worker.start()
    assert await replacing == ""
    assert pool.oldest is slot  # so it is looked at again
    replacing = asyncio.ensure_future(pool.replace(slot))
    await turns()
    assert worker.asked == ["hand over"]
    replacing.cancel()


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_stop_waits_for_the_process_to_which_calls_were_left(is_gone: bool) -> None:
    """SIGTERM in the middle of a rolling restart: nobody else could end these calls."""
    pool, worker, spare = rolled()
    (slot,) = pool.slots
    worker.start()
    pool._slot_tasks = [asyncio.ensure_future(pool._keep(slot))]
    replacing = asyncio.ensure_future(pool.replace(slot))
    await turns()
    assert worker.asked == ["hand over"]
    if is_gone:
        worker.exited.set_result(0)
    replacing.cancel()
    pool.signal(signal.SIGTERM)
    leaving = asyncio.ensure_future(pool.leave())
    await turns()
    if not is_gone:
        worker.exited.set_result(0)
    await turns()
    assert not leaving.done()
    assert [slot.child] == [spare]
    pool.signal(signal.SIGINT)  # before it has read its assignment
    spare.start()
    await leaving
    pool.signal(signal.SIGTERM)
    assert worker.asked == ["hand over"]
    assert spare.asked == ["assign", signal.SIGTERM]
    assert all(keeper.done() for keeper in pool._slot_tasks)
    pool.close()


async def test_a_stop_replaces_no_worker_that_ends_by_it() -> None:
    pool, worker, spare = rolled()
    (slot,) = pool.slots
    worker.start()
    pool._slot_tasks = [asyncio.ensure_future(pool._keep(slot))]
    await turns()
    await pool.leave()
    worker.exited.set_result(0)
    await turns()
    assert slot.child is worker
    assert "assign" not in spare.asked
    pool.close()


@pytest.mark.parametrize("not_ready", ["", DRAINING])
async def test_a_worker_that_drains_instead_of_handing_over_is_not_hung(
    monkeypatch: pytest.MonkeyPatch, not_ready: str
) -> None:
    monkeypatch.setattr(worker_pool, "HAND_OVER_S", 0.01)
    pool, worker, _ = rolled()
    worker.start()
    worker.not_ready = not_ready
    replacing = asyncio.ensure_future(pool.replace(pool.slots[0]))
    async with asyncio.timeout(within(10)):
        while not worker.asked or pool.slots[0].left:
            await asyncio.sleep(0.01)
    await turns()
    assert worker.asked == ["hand over"] + ["kill"] * (not not_ready)
    replacing.cancel()


async def test_no_worker_is_replaced_while_redis_is_away(problems_of_redis: list[str]) -> None:
    """The new process could not start, and nobody could end the calls."""
    pool, worker, _ = rolled()
    worker.start()
    problems_of_redis.append("Connection refused")
    stopped = await pool.replace(pool.slots[0])
    assert stopped == "redis.url: cannot reach redis://r: Connection refused"
    assert worker.asked == []


async def test_workers_that_are_left_to_another_supervisor_do_not_count_as_hung(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one adopts them when the spare process and Redis have ended, which takes a while."""
    monkeypatch.setattr(worker_pool, "WATCH_S", 0.01)
    pool, worker, spare = rolled()
    config: Any = pool.config
    config.timers = SimpleNamespace(hung_s=0.1)
    worker.start()
    worker.heard_at = asyncio.get_running_loop().time()
    pool._watching = asyncio.ensure_future(pool._watch())
    leaving = asyncio.ensure_future(pool.leave_to_another())
    await asyncio.sleep(0.3)
    spare.exited.set_result(0)
    await leaving
    assert worker.asked == []


async def test_a_worker_s_counts_are_read_before_it_is_replaced() -> None:
    read: list[list[object]] = []

    async def look(_slot: WorkerSlot) -> None:
        read.append(list(worker.asked))

    pool, worker, _ = rolled(look)
    worker.start()
    replacing = asyncio.ensure_future(pool.replace(pool.slots[0]))
    await turns()
    assert (read, worker.asked) == ([[]], ["hand over"])
    replacing.cancel()


async def test_the_next_process_begins_before_the_journal_of_a_dead_one_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With thousands of calls that takes tenths of a second, in which nobody has their ports."""
    pool, worker, spare = rolled()
    worker.journal = tmp_path / "calls-0-a.journal"
    worker.journal.touch()
    worker.start()
    read: list[list[object]] = []

    def active_in(journal: BinaryIO) -> list[str]:
        journal.close()
        read.append(list(spare.asked))
        return []

    monkeypatch.setattr(worker_pool, "active_in", active_in)
    keeping = asyncio.ensure_future(pool._keep(pool.slots[0]))
    worker.exited.set_result(-signal.SIGKILL)
    await turns()
    assert read == [["assign"]]
    keeping.cancel()


async def test_an_error_of_ours_leaves_no_slot_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("store.background_tasks._PAUSE_S", 0.0)
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )

    async def no_orphan(_directory: Any, _index: int) -> None: ...

    made: list[Worker] = []

    def child(_orphan: object = None) -> Worker:
        made.append(Worker())
        return made[-1]

    monkeypatch.setattr(worker_pool, "find_orphan", no_orphan)
    monkeypatch.setattr(worker_pool, "Child", child)
    monkeypatch.setattr(Worker, "is_adopted", False, raising=False)
    monkeypatch.setattr(Worker, "journal", None, raising=False)
    pool = pool_of(1)
    broken = [OSError("no descriptor is left")]

    def last_stack(_directory: Path, _index: int) -> str:
        if broken:
            raise broken.pop()
        return ""

    monkeypatch.setattr(worker_pool, "last_stack", last_stack)
    starting = asyncio.ensure_future(pool.start())
    await turns()
    made[0].start()
    assert await starting == ""
    made[0].exited.set_result(-signal.SIGKILL)
    slot: Any = pool.slots[0]
    async with asyncio.timeout(within(5)):
        while slot.child is made[0]:
            await asyncio.sleep(0.01)
    assert [str(error) for error in reported] == ["no descriptor is left"]
    pool.close()
