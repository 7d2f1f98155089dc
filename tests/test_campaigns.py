"""Faults that campaigns found earlier, and short runs of their models; `tests/campaigns` has the
load."""

from __future__ import annotations

import pytest

from tests.campaigns import fuzz, transfers, truth
from tests.campaigns.site import open_site

pytestmark = pytest.mark.scenario

# The named cases that earlier ended the engine or left state in it; `tests.campaigns.play` plays
# them all.
QUICK = [
    "invite_with_an_empty_host_in_From",
    "invite_with_an_empty_host_in_Record-Route",
    "answer_with_an_empty_host_in_contact",
    "answer_with_an_empty_host_in_record_route",
    "answer_without_to_tag",
    "second_answer_without_to_tag",
    "reinvite_by_the_caller_left_at_100_then_bye",
    "reinvite_by_the_phone_left_at_180_then_bye",
    "BYE_of_3999_by_Via_from_the_phone",
    "answer_with_huge_record_routes_then_update",
]


def test_no_named_case_ends_the_engine_or_stays_in_it() -> None:
    with open_site(fuzz.SETTINGS) as site:
        fuzz.play_cases(site, QUICK)
        fuzz.play_tortures(site)
        standing = site.engine.settle(fuzz.SETTLE_S)
        fuzz.check(site, "settling")
        assert not standing


def test_records_usage_and_live_counts_are_true_through_crashes_and_fail_overs() -> None:
    print(truth.run_apart(examples=3, steps=25, seed=20_261_125))


def test_who_pays_for_transfers_is_what_a_model_says() -> None:
    print(transfers.run(examples=1, steps=40, seed=105))
