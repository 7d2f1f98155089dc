"""What a call counts on, and what remains in Redis when another host has it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from engine.call_path import CallPath
from engine.config import Limits
from engine.dialling import NO_MESSAGE
from engine.forwards import Forwards
from engine.leases import LiveCalls
from engine.max_calls import hold

LINE, CALLER, ID = "+33972101001", "+33972101002", "0-a-1"


async def test_the_leases_of_a_call_that_another_host_has_stay() -> None:
    """They have the same names as those of the other host: a line with `max_calls` would be free
    for one call more."""
    redis: Any = SimpleNamespace()
    live = LiveCalls(redis, shared=True)
    live._task = asyncio.current_task()
    services: Any = SimpleNamespace(
        live=live, numbering=None, marks=SimpleNamespace(forwarded=lambda *_: ())
    )
    path = CallPath(services, ID, NO_MESSAGE)
    path.visited = (LINE,)
    live.add(LINE, ID, lease=True)
    live.add(CALLER, hold(ID), lease=True)
    path.leave_leases(CALLER)
    path.end()
    live.leave(CALLER, hold(ID))
    assert live.count(LINE) == live.count(CALLER) == 0
    assert not any(live._changes.values()), "none is released"
    assert live._timer is not None
    live._timer.cancel()


@pytest.mark.parametrize("quota", ["none", "meanwhile"])
async def test_a_forward_that_a_transfer_and_the_call_ask_for_at_once_counts_once(
    quota: str,
) -> None:
    """It would count on the line until the process ends: the end of the call takes back one."""
    redis: Any = SimpleNamespace()
    forwards = Forwards(redis, workers=2)
    services: Any = SimpleNamespace(
        forwards=forwards,
        config=SimpleNamespace(limits=Limits(forwards_per_line=8)),
        live=SimpleNamespace(leave=lambda *_: None),
        numbering=None,
        marks=SimpleNamespace(forwarded=lambda *_: ()),
    )
    answered = asyncio.Event()

    async def admit(*_: object) -> None:
        await answered.wait()

    pool: Any = forwards.pools[0]
    pool.admit, pool.leave = admit, lambda *_: None
    path = CallPath(services, ID, NO_MESSAGE)

    async def count() -> str | None:
        return None if path.may_forward(LINE) else await path.ask_to_forward(LINE)

    first = asyncio.create_task(count())
    await asyncio.sleep(0)
    if quota == "meanwhile":
        forwards.workers = 1
    second = asyncio.create_task(count())
    await asyncio.sleep(0)
    answered.set()
    await asyncio.gather(first, second)
    assert first.result() is second.result() is None
    assert path.held == (LINE,)
    assert forwards.standing(LINE) == 1
    path.end()
    assert len(forwards) == 0
    assert not forwards._in_pool
