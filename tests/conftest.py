"""Order and marks: the quick tests first, the scenarios (real processes, real time) last; several
modules at once begin with those that take longest, or the last one would run alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import Stalls

TESTS = Path(__file__).parent
SCENARIOS = TESTS / "scenarios"
# The modules that take more than ten seconds, longest first.
LONGEST = (
    "scenarios/test_workers", "scenarios/test_tcp", "scenarios/test_redis_shapes",
    "redis/test_store", "scenarios/test_clocks", "scenarios/test_terminal",
    "scenarios/test_pjsua2_phones", "manager/test_browser", "test_demo",
    "scenarios/test_supervisor_killed", "prometheus/test_rules", "sip/test_builds",
    "scenarios/test_real_phones", "manager/test_browser_sizes", "scenarios/test_no_answer",
    "scenarios/test_check", "manager/test_browser_form", "scenarios/test_refused_documents",
    "scenarios/test_session_timers", "manager/test_hostile", "scenarios/test_advertise",
    "manager/test_outage", "redis/test_recorder", "manager/test_authorisation",
    "scenarios/test_kamailio", "scenarios/test_in_force", "scenarios/test_redis",
    "manager/test_list", "scenarios/test_network_cut", "manager/test_roles",
    "scenarios/test_returning", "scenarios/test_takeover_workers", "scenarios/test_life_cycle",
    "manager/test_cluster", "redis/test_recorder_cluster", "manager/test_pages",
    "scenarios/test_live_counts", "redis/test_cluster_away", "scenarios/test_countries",
    "scenarios/test_transfer_payer", "scenarios/test_takeover", "scenarios/test_hunting",
    "scenarios/test_stopping", "manager/test_health", "manager/test_api",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Make `-m "not scenario"` select the quick tests."""
    config.addinivalue_line("markers", "scenario: real SIPp, redis-server and engine processes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the scenarios and sort the modules."""
    for item in items:
        if item.path.is_relative_to(SCENARIOS):
            item.add_marker(pytest.mark.scenario)
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {TESTS / f"{name}.py": place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path, len(places)))
    else:
        items.sort(key=lambda item: item.path.is_relative_to(SCENARIOS))


@pytest.fixture
def stalls() -> Iterator[Stalls]:
    """What the machine withheld from this test so far."""
    with Stalls() as stalls:
        yield stalls
