"""The rules with shorter times for `tests.campaigns.alerts` are otherwise the same rules."""

from __future__ import annotations

import pytest
import yaml

from tests.campaigns.prometheus import RULES, hurried


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
