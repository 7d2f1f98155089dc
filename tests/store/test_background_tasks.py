"""Background tasks end even if a cancellation is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from store import background_tasks
from tests.patience import within


async def test_a_task_that_loses_a_cancellation_is_ended() -> None:
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(within(5)):
        await background_tasks.end([None, task])
    assert task.cancelled()
    assert lost == 2


async def test_tasks_that_have_ended_are_left_alone() -> None:
    async def fail() -> None:
        raise ValueError("gone")

    failed = asyncio.create_task(fail())
    await asyncio.wait([failed])
    waiting = asyncio.create_task(asyncio.sleep(60))
    await background_tasks.end([failed, waiting])
    assert waiting.cancelled()
    assert isinstance(failed.exception(), ValueError)


async def test_work_that_no_error_may_end_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_tasks, "_PAUSE_S", 0.0)
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    errors = [KeyError("a"), RuntimeError("b")]

    async def work() -> None:
        if errors:
            raise errors.pop()

    async with asyncio.timeout(within(5)):
        await background_tasks.continuing(work, "it stopped")
    assert [str(each["exception"]) for each in reported] == ["b", "'a'"]
    assert {each["message"] for each in reported} == {"it stopped"}
    waiting = asyncio.create_task(background_tasks.continuing(asyncio.Event().wait, ""))  # type: ignore[arg-type]
    await background_tasks.end([waiting])
    assert waiting.cancelled()
