"""Scenarios that mostly wait for a timer: played all at once, reported one by one.

A module collects its scenarios in a `Batch`; one fixture plays them together, and one parametrised
test per scenario reports its result. Each scenario uses its own numbers, so that they do not
interfere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager

import pytest

from tests.scenarios.setup import Setup

Scenario = Callable[[Setup], Awaitable[None]]
Opener = Callable[[], AbstractAsyncContextManager[Callable[[], Setup]]]


class Batch:
    """Named scenarios. `together` bounds how many play at the same time."""

    def __init__(self, together: int = 24) -> None:
        self._together = together
        self._scenarios: dict[str, Scenario] = {}

    @property
    def names(self) -> list[str]:
        """The scenarios' names, in the order they were added."""
        return list(self._scenarios)

    def __call__(self, scenario: Scenario) -> Scenario:
        """Add a scenario under its own name (a decorator)."""
        self.add(getattr(scenario, "__name__", repr(scenario)), scenario)
        return scenario

    def add(self, name: str, scenario: Scenario) -> None:
        """Add a scenario; a name given twice is an error."""
        assert name not in self._scenarios, name
        self._scenarios[name] = scenario

    def play(self, open_set: Opener, wanted: Iterable[str]) -> Outcomes:
        """Play the wanted scenarios together on one set of destination servers."""
        return Outcomes(asyncio.run(self._play(open_set, list(wanted))))

    async def _play(self, open_set: Opener, wanted: list[str]) -> dict[str, BaseException | None]:
        turn = asyncio.Semaphore(self._together)

        async def play_one(scenario: Scenario, setup: Setup) -> None:
            async with turn, setup:
                await scenario(setup)

        async with open_set() as new_stage:
            results = await asyncio.gather(
                *(play_one(self._scenarios[name], new_stage()) for name in wanted),
                return_exceptions=True,
            )
        return dict(zip(wanted, results, strict=True))


class Outcomes:
    """The result of each scenario of a batch."""

    def __init__(self, results: dict[str, BaseException | None]) -> None:
        self._results = results

    def check(self, name: str) -> None:
        """Raise the exception of the scenario, if there was one."""
        error = self._results[name]
        if error is not None:
            raise error


def names_in(request: pytest.FixtureRequest) -> list[str]:
    """The batch names that this run selected from the requesting module."""
    return [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and hasattr(item, "callspec")
        and "name" in item.callspec.params
    ]
