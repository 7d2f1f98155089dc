"""Forwards of a line: those in progress, and those of the last hour."""

from __future__ import annotations

import pytest

from engine import forwards as module
from engine.config import Limits
from engine.forwards import HOUR_S, Forwards

HOURLY = Limits(forwards_per_line=0, forwards_per_line_per_hour=3)
UNLIMITED = Limits(forwards_per_line=0)


def test_any_hour_counts_not_the_clock_s() -> None:
    now = 0.0
    forwards = Forwards(clock=lambda: now)
    for _ in range(3):
        assert forwards.begin("a", HOURLY)
        now += 10
    assert forwards.last_hour("a", 3) == 3
    now = HOUR_S + 5
    assert forwards.last_hour("a", 3) == 2
    now = HOUR_S + 25
    assert forwards.last_hour("a", 3) == 0
    assert forwards.standing("a") == 3


def test_without_a_limit_nothing_is_kept() -> None:
    forwards = Forwards()
    assert forwards.begin("a", UNLIMITED)
    assert forwards.last_hour("a", 0) == 0
    assert not forwards._recent
    forwards.end("a", "call")
    assert len(forwards) == 0


def test_lines_without_forwards_lately_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWEEP", 4)
    now = 0.0
    forwards = Forwards(clock=lambda: now)
    for line in range(100):
        now += HOUR_S / 2
        forwards.begin(str(line), HOURLY)
        assert len(forwards._recent) <= 8
    assert forwards.last_hour("99", 3) == 1
