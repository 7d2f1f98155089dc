"""Order and marks: the quick tests first, the scenarios (real processes, real time) last."""

from __future__ import annotations

from pathlib import Path

import pytest

SCENARIOS = Path(__file__).parent / "scenarios"


def pytest_configure(config: pytest.Config) -> None:
    """Make `-m "not scenario"` select the quick tests."""
    config.addinivalue_line("markers", "scenario: real SIPp, redis-server and engine processes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the scenarios and move them to the end."""
    for item in items:
        if item.path.is_relative_to(SCENARIOS):
            item.add_marker(pytest.mark.scenario)
    items.sort(key=lambda item: item.path.is_relative_to(SCENARIOS))
