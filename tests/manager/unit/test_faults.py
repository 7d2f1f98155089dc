"""What the manager keeps in memory is followed on after an error that nobody expected."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from manager import directory, health
from manager.calls import Calls
from manager.directory import Directory
from manager.health import Health
from store import background_tasks
from tests.patience import within


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_tasks, "_PAUSE_S", 0.0)
    monkeypatch.setattr(directory, "_FAULT_S", 0.0)
    monkeypatch.setattr(health, "_LOOK_EVERY_S", 0.0)


def reports() -> list[str]:
    """What is reported from now on."""
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(str(context["exception"]))
    )
    return reported


async def test_the_directory_reads_all_lines_again() -> None:
    reported, reads, again = reports(), 0, asyncio.Event()

    async def read_all() -> None:
        nonlocal reads
        reads += 1
        if reads == 1:
            raise RuntimeError("a line that nobody expected")
        again.set()

    lines: Any = object.__new__(Directory)
    lines._wake, lines._tried = asyncio.Event(), asyncio.Event()
    lines._all, lines._changed, lines._read_all = True, set(), read_all
    lines._wake.set()
    following = asyncio.create_task(Directory._follow(lines))
    async with asyncio.timeout(within(5)):
        await again.wait()
    following.cancel()
    assert reads == 2
    assert reported == ["a line that nobody expected"]


async def test_records_are_followed_on() -> None:
    reported, found = reports(), asyncio.Event()

    class Redis:
        async def xrevrange(self, *_: Any, **__: Any) -> list[Any]:
            if not reported:
                raise RuntimeError("an entry that nobody expected")
            return []

        async def xread(self, *_: Any, **__: Any) -> None:
            found.set()
            await asyncio.sleep(60)

    redis: Any = Redis()
    calls = Calls(redis)
    await calls.start()
    async with asyncio.timeout(within(5)):
        await found.wait()
    await calls.close()
    assert reported == ["an entry that nobody expected"]


async def test_redis_is_looked_at_again() -> None:
    reported, seen = reports(), []

    async def ping() -> None:
        seen.append(looking._away)
        if len(seen) == 1:
            raise RuntimeError("a reply that nobody expected")

    looking: Any = object.__new__(Health)
    looking._site, looking._away = SimpleNamespace(ping=ping), ""
    task = asyncio.create_task(Health._look(looking))
    async with asyncio.timeout(within(5)):
        while len(seen) < 3:
            await asyncio.sleep(0)
    task.cancel()
    assert seen[:3] == ["", "redis was not asked", ""]
    assert reported == ["a reply that nobody expected"]
