"""A short run of each campaign: `make test ARGS=tests/campaigns`, some five minutes.

The long runs are commands. `make test` checks the same properties for single calls without load.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.campaigns import (
    alerts,
    continued,
    fuzz,
    imports,
    leaks,
    soak,
    structured,
    transfers,
    truth,
    workers,
)

ALERTS_FACTOR = 150
ALERTS_NUMBERS = {
    **alerts.NUMBERS,
    "RenvoiRulesLate": ("> 45", "> 3"),
    "RenvoiRulesTooLate": ("> 60", "> 4"),
    "RenvoiTargetUnreachable": (">= 10", ">= 2"),
    "RenvoiMassDeregistration": (">= 20", ">= 5"),
}
FAULTS_AT_ONCE = (
    ("forwards_pile_up", "voicemail_fails", "strangers", "numbers_gone"),
    ("registrations_gone",),
    ("redis_hangs",),
    ("engine_gone",),
)
TOO_LONG = {"RenvoiRulesStale"}


def test_hostile_messages_neither_kill_the_engine_nor_leave_anything_in_it() -> None:
    print(fuzz.run(seconds=3.0, seed=20_261_122, rate=80.0))


def test_messages_that_hide_fields_neither_kill_the_engine_nor_leave_anything_in_it() -> None:
    print(structured.run(3000, 20_261_129, pace=600))


def test_six_hundred_calls_leave_nothing_behind_but_their_records() -> None:
    print(leaks.run(calls=600, rate=100.0, hurry=True))


def test_mixed_calls_over_a_network_that_loses_packets_all_end_as_they_should() -> None:
    print(soak.run(calls=260, rate=40.0, loss=0.03, seed=20_261_123, hurry=True))


def test_the_soak_finds_a_call_that_ended_otherwise() -> None:
    wrong = {"busy": replace(soak.KINDS["busy"], outcome="answered")}
    with pytest.raises(soak.Wrong, match=r"\('busy', 'none', 'line'\)"):
        soak.run(3, 20.0, 0.0, 1, hurry=True, names=["busy"], expected=wrong)


def test_no_call_is_lost_when_workers_are_killed_reloaded_rolled_and_drained() -> None:
    print(workers.run(rate=40.0, stage_s=1.5, hold_s=0.7))


def test_calls_of_every_kind_go_on_when_their_workers_are_killed() -> None:
    print(continued.run(standing=48, rate=20.0, kills=3, seed=20_261_130))


def test_an_import_is_whole_or_not_at_all_and_no_call_waits_for_it() -> None:
    print(imports.run(lines=6_000, form="csv", answer_s=5.0))


def test_records_usage_and_live_counts_are_true_through_crashes_and_fail_overs() -> None:
    print(truth.run_apart(examples=8, steps=25, seed=20_261_125))


def test_who_pays_for_transfers_is_what_a_model_says() -> None:
    print(transfers.run(examples=3, steps=40, seed=105))


@pytest.mark.timeout(300)
def test_panels_have_data_and_alerts_fire_and_clear() -> None:
    cases = {case.fault.__name__: case for case in alerts.CASES}
    groups = [
        [
            replace(cases[name], alerts=tuple(a for a in cases[name].alerts if a not in TOO_LONG))
            for name in names
        ]
        for names in FAULTS_AT_ONCE
    ]
    shown = asyncio.run(
        alerts.campaign(
            groups, factor=ALERTS_FACTOR, numbers=ALERTS_NUMBERS, warm_s=6, clears_s=60, tell=print
        )
    )
    assert len({one.alert for one in shown}) == 10
