"""What is read for the calls of a line: a REFER in them is decided from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from engine import max_calls
from engine.call_tasks import CallTasks
from engine.leases import LiveCalls
from engine.max_calls import MaxCalls
from tests.patience import within

LINE, ID, FLEET = "+33972101001", "0-a-1", "acme"


class Memory:
    """A store and its fleets, with a line in Redis that memory has or not."""

    def __init__(self, *, max_calls: int | None, knows_line: bool) -> None:
        self._entry: Any = SimpleNamespace(line=SimpleNamespace(fleet=FLEET, max_calls=max_calls))
        self.knows_line = knows_line
        self.has_fleet = asyncio.Event()
        self.redis_up, self.off_s = True, 0.0  # for how long the stream of changes is off
        self.looked_up = 0
        self.older: list[Any] = []  # what the next look-ups return, while the answer is late

    def recall(self, _number: str) -> tuple[Any, bool]:
        if self.older:
            return self.older[-1], False
        return (self._entry, not self.off_s) if self.knows_line else (None, False)

    def age_s(self) -> float:
        return self.off_s

    def ask_if_line(self, _number: str, tell: Callable[[bool], None]) -> None:
        tell(True)

    async def look_up(self, _number: str) -> Any:
        self.looked_up += 1
        if len(self.older) > 1:
            return self.older.pop()
        self.older.clear()
        self.knows_line = True
        return self._entry

    def find(self, _fleet: str) -> object | None:
        return self if self.has_fleet.is_set() else None

    async def load(self, fleet: str) -> None:
        assert fleet == FLEET
        self.has_fleet.set()


def counting(
    monkeypatch: pytest.MonkeyPatch,
    memory: Any,
    on_leased: Callable[[str], None] = lambda _: None,
) -> tuple[MaxCalls, LiveCalls, CallTasks]:
    """What leases calls on the lines of `memory`, at once, with its counts and its tasks."""
    monkeypatch.setattr(max_calls, "GATHER_S", 0.0)
    loop = asyncio.get_running_loop()
    redis: Any = SimpleNamespace()
    live, tasks = LiveCalls(redis, shared=True), CallTasks(loop)
    return MaxCalls(loop, memory, memory, live, tasks, on_leased), live, tasks


@pytest.mark.parametrize("max_calls", [None, 2])
@pytest.mark.parametrize("knows_line", [False, True])
async def test_the_line_of_a_call_and_its_fleet_are_read(
    monkeypatch: pytest.MonkeyPatch, max_calls: int | None, knows_line: bool
) -> None:
    """Also if the call was leased by another process, which this one continues; or if the line is
    in memory because another line's forward names it."""
    memory: Any = Memory(max_calls=max_calls, knows_line=knows_line)
    counts, live, _ = counting(monkeypatch, memory)
    if max_calls is not None:
        live.add(LINE, ID, lease=True)
    counts.count(LINE, ID)
    await asyncio.wait_for(memory.has_fleet.wait(), within(5))
    assert memory.knows_line
    assert live.is_leased(LINE, ID) is (max_calls is not None)


async def test_a_limit_counts_though_the_answer_that_has_it_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look-up returns the older copy after 50 ms: the line is looked at again."""
    memory: Any = Memory(max_calls=2, knows_line=True)
    leased: list[str] = []
    counts, live, _ = counting(monkeypatch, memory, leased.append)
    live.add(LINE, ID)
    before = SimpleNamespace(line=SimpleNamespace(fleet=FLEET, max_calls=None))
    memory.older = [before] * 3
    counts.changed(LINE)
    await asyncio.wait_for(memory.has_fleet.wait(), within(5))
    assert leased == [ID]
    assert live.is_leased(LINE, ID)


async def test_while_the_stream_of_changes_is_off_a_line_is_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any answer may be older then. All lines are looked at when it is on again."""
    memory: Any = Memory(max_calls=2, knows_line=True)
    counts, live, tasks = counting(monkeypatch, memory)
    asked: list[Any] = []

    def is_known_by(entry: Any) -> bool:
        asked.append(entry)
        return False

    facts = SimpleNamespace(id=ID, identity="", caller=LINE)
    call: Any = SimpleNamespace(facts=facts, is_known_by=is_known_by)
    memory.off_s = 1.0
    live.add(LINE, ID)
    counts.makes(call)
    await asyncio.wait_for(memory.has_fleet.wait(), within(5))
    assert live.is_leased(LINE, ID)
    while len(tasks):
        await asyncio.sleep(0)
    assert memory.looked_up == len(asked) == 1
    memory.off_s = 0.0
    counts.changed(None)
    async with asyncio.timeout(within(5)):
        while len(asked) == 1:
            await asyncio.sleep(0.01)


async def test_a_call_that_may_be_a_lines_own_is_looked_at_when_redis_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis was away when the call began: nobody knew the phones of the line in its From."""
    monkeypatch.setattr(max_calls, "GATHER_S", 0.0)
    loop = asyncio.get_running_loop()
    redis: Any = SimpleNamespace()
    memory: Any = Memory(max_calls=1, knows_line=False)
    memory.ask_if_line = lambda *_: None
    live = LiveCalls(redis, shared=True)
    counts = MaxCalls(loop, memory, memory, live, CallTasks(loop), lambda _: None)
    known = asyncio.Event()

    def is_known_by(entry: Any) -> bool:
        if entry is not None:
            known.set()
        return entry is not None

    facts = SimpleNamespace(id=ID, identity="", caller=LINE)
    call: Any = SimpleNamespace(facts=facts, is_known_by=is_known_by)
    counts.makes(call)
    await asyncio.sleep(0.05)
    assert not known.is_set()
    del memory.ask_if_line
    counts.changed(None)
    await asyncio.wait_for(known.wait(), within(5))
