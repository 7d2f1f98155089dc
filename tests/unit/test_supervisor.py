"""What the supervisor decides when signals meet."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.config import read
from engine.processes import upgrade
from engine.supervisor import Supervisor
from tests.patience import within


@pytest.fixture
async def supervisor(tmp_path: Path) -> Supervisor:
    """One that has not started its workers."""
    path = tmp_path / "config.yaml"
    path.write_text("workers: 2\n", encoding="utf-8")
    return Supervisor(read({"workers": 2}), path)


async def test_new_code_is_tried_after_the_rolling_restart_that_it_waits_for(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may take hours, and the configuration that was tried before it may be broken by then."""
    tried: list[bool] = []
    rolls = asyncio.Event()

    async def roll() -> None:
        await rolls.wait()

    async def fault(_workers: int) -> str:
        tried.append(not supervisor._rolling.in_progress)
        if len(tried) == 1:  # a SIGHUP meanwhile
            supervisor._rolling._task = asyncio.ensure_future(asyncio.sleep(0.01))
            return ""
        return "limits.calls: -1"

    monkeypatch.setattr(upgrade, "fault", fault)
    supervisor._rolling._task = asyncio.ensure_future(roll())
    supervisor.upgrade()
    upgrading = supervisor._upgrading
    assert upgrading is not None
    for _ in range(10):
        await asyncio.sleep(0)
    assert tried == []
    rolls.set()
    async with asyncio.timeout(within(10)):
        await upgrading
    assert tried == [True, True]


async def test_a_sigterm_after_a_sigint_does_not_undo_it(supervisor: Supervisor) -> None:
    """The calls end at once all the same, and a worker that hangs is not waited for an hour."""
    supervisor._stop("drain")
    supervisor._stop("at once")
    asked_at = supervisor._stop_asked_at
    supervisor._stop("drain")
    assert (supervisor._stopping, supervisor._stop_asked_at) == ("at once", asked_at)


def test_more_connections_by_sighup_get_descriptors_in_the_supervisor_too(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the next rolling restart they pass through it."""
    rooms: list[int] = []
    monkeypatch.setattr("engine.supervisor.raised", rooms.append)
    document = {
        "workers": 2,
        "sip": {"listen": ["tcp:127.0.0.1:5080"]},
        "limits": {"connections": 20_000},
    }
    supervisor._adopt(read(document), document)
    assert rooms == [20_000]
