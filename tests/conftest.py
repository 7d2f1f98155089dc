"""Order and marks: the quick tests first, the scenarios (real processes, real time) last."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCENARIOS = Path(__file__).parent / "scenarios"
# About PJSIP itself, of which there are wheels for some machines only.
ABOUT_PJSIP = ["sip/test_guard.py", "sip/test_layout.py", "sip/test_reliable.py",
               "sip/test_sieve.py", "sip/test_two_readers.py", "test_campaigns.py"]  # fmt: skip
collect_ignore = [] if importlib.util.find_spec("pjsua2") else ABOUT_PJSIP


def pytest_configure(config: pytest.Config) -> None:
    """Make `-m "not scenario"` select the quick tests."""
    config.addinivalue_line("markers", "scenario: real SIPp, redis-server and engine processes")
    config.addinivalue_line("markers", "own_core: what PJSIP cannot do (docs/core.md)")


def pytest_report_header() -> list[str]:
    """Say what is left out."""
    return [f"left out, for want of PJSIP: {' '.join(collect_ignore)}"] if collect_ignore else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the scenarios and move them to the end."""
    for item in items:
        if item.path.is_relative_to(SCENARIOS):
            item.add_marker(pytest.mark.scenario)
    items.sort(key=lambda item: item.path.is_relative_to(SCENARIOS))
