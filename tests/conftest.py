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
    "manager/test_browser", "prometheus/test_rules", "redis/test_store",
    "manager/test_browser_sizes", "scenarios/test_real_phones",
    "scenarios/test_supervisor_killed", "test_demo", "manager/test_description",
    "scenarios/test_pjsua2_phones", "scenarios/test_clocks", "sip/test_builds",
    "scenarios/test_no_answer", "scenarios/test_redis_shapes", "scenarios/test_tcp",
    "scenarios/test_redis", "scenarios/test_workers", "scenarios/test_life_cycle",
    "scenarios/test_check", "redis/test_recorder", "test_campaigns",
    "scenarios/test_refused_documents", "manager/test_browser_form", "manager/test_hostile",
    "scenarios/test_kamailio", "manager/test_api", "manager/test_roles",
    "scenarios/test_returning", "scenarios/test_in_force", "scenarios/test_tls",
    "manager/test_health", "manager/test_authorisation", "scenarios/test_live_counts",
    "scenarios/test_takeover", "scenarios/test_countries", "manager/test_history",
    "redis/test_shapes", "scenarios/test_advertise", "scenarios/test_star_codes",
    "redis/test_recorder_cluster", "manager/test_chains", "manager/test_pages",
    "manager/test_outage", "sip/test_builds_agree", "scenarios/test_network_cut",
    "manager/test_undo", "scenarios/test_dns", "scenarios/test_session_timers",
    "redis/test_cluster_away", "scenarios/test_hunting",
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
