"""Signals to a worker."""

from __future__ import annotations

import asyncio
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from engine.serve import run
from tests.patience import within


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_is_known_before_the_next_turn_of_the_loop(number: signal.Signals) -> None:
    """An upgrade whose trial ends in that turn would hand over, and the stop be forgotten."""
    loop = asyncio.get_running_loop()
    admission = SimpleNamespace(draining=False)
    known: list[bool] = []

    async def nothing() -> None: ...

    worker: Any = SimpleNamespace(
        admission=admission,
        start=nothing,
        drain=nothing,
        close=nothing,
        active_calls=0,
        log=SimpleNamespace(info=lambda *_, **__: known.append(admission.draining)),
    )
    running = asyncio.ensure_future(
        run(worker, started=lambda: os.kill(os.getpid(), number), stopping=lambda: None)
    )
    try:
        async with asyncio.timeout(within(10)):
            await running
    finally:
        running.cancel()
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)
    assert known[0]
