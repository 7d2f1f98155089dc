"""What a call counts on, and what remains in Redis when another host has it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from engine.call_path import CallPath
from engine.dialling import NO_MESSAGE
from engine.leases import hold
from engine.max_calls import LiveCalls

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
