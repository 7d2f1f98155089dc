"""A short run of `tests.campaigns.alerts`: dashboard, rules and nine alerts, live."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import yaml

from tests.campaigns import alerts
from tests.campaigns.prometheus import RULES, hurried

FACTOR = 150
NUMBERS = {
    **alerts.NUMBERS,
    "RenvoiRulesLate": ("> 45", "> 3"),
    "RenvoiRulesTooLate": ("> 60", "> 4"),
    "RenvoiTargetUnreachable": (">= 10", ">= 2"),
    "RenvoiMassDeregistration": (">= 20", ">= 5"),
}
AT_ONCE = (
    ("forwards_pile_up", "voicemail_fails", "strangers", "numbers_gone"),
    ("registrations_gone",),
    ("redis_hangs",),
    ("engine_gone",),
)
TOO_LONG = {"RenvoiRulesStale"}


@pytest.mark.scenario
@pytest.mark.timeout(300)
def test_panels_have_data_and_alerts_fire_and_clear() -> None:
    cases = {case.fault.__name__: case for case in alerts.CASES}
    groups = [
        [
            replace(cases[name], alerts=tuple(a for a in cases[name].alerts if a not in TOO_LONG))
            for name in names
        ]
        for names in AT_ONCE
    ]
    shown = asyncio.run(
        alerts.campaign(
            groups, factor=FACTOR, numbers=NUMBERS, warm_s=6, clears_s=60, tell=print
        )
    )
    assert len({one.alert for one in shown}) == 10


def test_hurried_rules_are_the_same_rules_with_shorter_times() -> None:
    text = (RULES / "alerts.yml").read_text()
    quick = hurried(text, 60)
    assert "[5m]" in text
    assert "[5s]" in quick
    assert "offset 1h" in text
    assert "offset 60s" in quick
    before, after = yaml.safe_load(text), yaml.safe_load(quick)
    for old, new in zip(before["groups"], after["groups"], strict=True):
        for first, second in zip(old["rules"], new["rules"], strict=True):
            assert first["alert"] == second["alert"]
            assert first["annotations"] == second["annotations"]
            assert len(first["expr"].split()) == len(second["expr"].split())


def test_a_number_that_an_alert_does_not_have_cannot_be_changed() -> None:
    with pytest.raises(AssertionError, match="RenvoiDown has no > 45"):
        hurried((RULES / "alerts.yml").read_text(), 60, {"RenvoiDown": ("> 45", "> 3")})
