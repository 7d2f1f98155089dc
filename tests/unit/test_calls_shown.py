"""`/calls` of a worker with thousands of calls gives way to those that come."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

from engine.calls import Calls


class Standing:
    """A call that stands."""

    def __init__(self, number: int) -> None:
        self.story = SimpleNamespace(id=f"c-{number}")

    def now(self) -> dict[str, Any]:
        return {"id": self.story.id}


def calls_of(count: int) -> Calls:
    calls = Calls(cast(Any, SimpleNamespace(index=3)), "c")
    calls._standing.update({f"c-{n}": cast(Any, Standing(n)) for n in range(count)})
    return calls


async def test_every_call_is_shown_with_its_worker() -> None:
    assert json.loads(await calls_of(0).shown()) == []
    shown = json.loads(await calls_of(45).shown())
    assert shown == [{"worker": 3, "id": f"c-{n}"} for n in range(45)]


async def test_others_have_their_turn_meanwhile_and_what_ended_is_not_shown() -> None:
    calls = calls_of(1000)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1
            calls._standing.pop("c-999", None)

    task = asyncio.create_task(others())
    shown = json.loads(await calls.shown())
    task.cancel()
    assert turns >= 1000 / 20 - 1
    assert [call["id"] for call in shown] == [f"c-{n}" for n in range(999)]
