"""Order and marks: the quick tests first, the scenarios (real processes, real time) last; a
parallel run begins with the modules that take longest, so that none of them runs alone at the
end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import Stalls
from tests.scenarios import certificates as tls_files

TESTS = Path(__file__).parent
SCENARIOS = TESTS / "scenarios"
# The modules that take more than ten seconds, longest first; those that wait alternate with those
# that compute.
LONGEST = (
    "redis/test_store", "manager/test_roles", "manager/test_browser_sizes",
    "scenarios/test_real_phones", "manager/test_hostile", "scenarios/test_workers",
    "scenarios/test_check", "scenarios/test_harness", "manager/test_browser",
    "scenarios/test_tls", "scenarios/test_life_cycle", "scenarios/test_terminal",
    "scenarios/test_pjsua2_phones", "manager/test_outage", "scenarios/test_clocks",
    "scenarios/test_in_force", "redis/test_recorder", "scenarios/test_kamailio",
    "scenarios/test_supervisor_killed", "scenarios/test_redis", "manager/test_pages",
    "scenarios/test_no_answer", "scenarios/test_tcp", "manager/test_authorisation",
    "manager/test_api", "sip/test_builds_agree", "manager/test_browser_form",
    "scenarios/test_network_cut", "scenarios/test_stopping", "prometheus/test_rules",
    "scenarios/test_dns", "scenarios/test_takeover", "scenarios/test_redis_shapes",
    "scenarios/test_session_timers", "scenarios/test_countries", "test_demo",
    "manager/test_cluster", "redis/test_cluster_away", "scenarios/test_live_counts",
    "scenarios/test_transfer_payer", "redis/test_recorder_cluster", "scenarios/test_advertise",
    "manager/test_list", "scenarios/test_hunting", "manager/test_health", "manager/test_undo",
    "scenarios/test_star_codes", "test_campaigns", "redis/test_shapes",
    "scenarios/test_refused_documents", "manager/test_operator", "sip/test_builds",
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
    """Measures the time for which the machine did not run this test."""
    with Stalls() as stalls:
        yield stalls


@pytest.fixture(scope="session")
def certificates() -> Iterator[None]:
    """The files of `tests.scenarios.certificates`, once for all tests of this process."""
    with tls_files.made():
        yield
