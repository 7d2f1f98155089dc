"""Work over all calls of a worker yields to new calls, also with thousands of calls."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from engine.call_tasks import CallTasks
from engine.calls import Calls


class Standing:
    """A call in progress."""

    def __init__(self, number: int) -> None:
        self.facts = SimpleNamespace(id=f"c-{number}")
        self.stopped: tuple[int, str] | None = None

    def stop(self, code: int, why: str) -> None:
        self.stopped = code, why

    def now(self) -> dict[str, Any]:
        return {"id": self.facts.id}


def calls_of(count: int) -> Calls:
    nothing: Any = SimpleNamespace()
    ends: Any = SimpleNamespace(report=lambda: None)
    tasks = CallTasks(asyncio.get_running_loop())
    calls = Calls(
        nothing, tasks, ends, journal=nothing, admission=nothing, collector=nothing, prefix="c",
        index=3,
    )  # fmt: skip
    calls._active.update({f"c-{n}": cast(Any, Standing(n)) for n in range(count)})
    return calls


async def test_every_call_is_shown_with_its_worker() -> None:
    assert json.loads(await calls_of(0).shown()) == []
    shown = json.loads(await calls_of(45).shown())
    assert shown == [{"worker": 3, "id": f"c-{n}"} for n in range(45)]


@asynccontextmanager
async def others(calls: Calls) -> AsyncIterator[Counter[str]]:
    """Another task on the loop, which ends the last call."""
    had: Counter[str] = Counter()

    async def turn() -> None:
        while True:
            await asyncio.sleep(0)
            had["turns"] += 1
            calls._active.pop("c-999", None)

    task = asyncio.create_task(turn())
    yield had
    task.cancel()


async def test_other_tasks_run_meanwhile_and_ended_calls_are_not_shown() -> None:
    calls = calls_of(1000)
    async with others(calls) as had:
        shown = json.loads(await calls.shown())
    assert had["turns"] >= 1000 / 20 - 1
    assert [call["id"] for call in shown] == [f"c-{n}" for n in range(999)]


async def test_all_calls_are_stopped_a_few_at_a_time() -> None:
    calls = calls_of(1000)
    standing = cast(list[Standing], list(calls))
    async with others(calls) as had:
        await calls.stop(1.0)
    assert {call.stopped for call in standing} == {(503, "shutdown")}
    assert had["turns"] >= 1000 / 20 - 1
