"""The scrape benchmark: calls are assigned to the window of their INVITE; ratios are correct."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from benchmarks.figures import Result
from benchmarks.load import Plan, Run
from benchmarks.rig import Rig
from benchmarks.scrape import Window, assign, interval, new_callers, ratios
from benchmarks.subject import Subject
from benchmarks.wire import Seen, Wire


def windows(of_each: dict[bool, list[float]]) -> list[Window]:
    """A B B A, each window with these decisions, and set-up times three times as long."""
    made = [Window(scraped, 0.0, 1.0) for scraped in (False, True, True, False)]
    for window in made:
        window.decision_ms = sorted(of_each[window.scraped])
        window.setup_ms = [3 * ms for ms in window.decision_ms]
    return made


def test_a_call_belongs_to_the_window_of_its_invite(tmp_path: Path) -> None:
    first, second = Window(False, 100.0, 105.0), Window(True, 106.0, 111.0)
    log = tmp_path / "log"
    log.write_text("104 999000 0 0 105 1000\n105 500000 0 0 105 600000\n106 0 0 0 106 4000\n107 0")
    seen = [
        Seen(invited=104_999_000_000, dialled=[105_001_000_000, 109_000_000_000]),
        Seen(invited=105_500_000_000, dialled=[105_501_000_000]),  # between the windows
        Seen(invited=110_000_000_000, dialled=[]),  # not dialled
        Seen(invited=106_000_000_000, dialled=[106_000_500_000]),
    ]
    assign([first, second], log, seen)
    assert first.setup_ms == pytest.approx([2.0])
    assert second.setup_ms == pytest.approx([4.0])
    assert first.decision_ms == pytest.approx([2.0])
    assert second.decision_ms == pytest.approx([0.5])


def test_the_ratio_is_that_of_the_pools() -> None:
    plain = [1.0] * 98 + [2.0, 9.0]
    text, figures = ratios(windows({False: plain, True: [1.1] * 98 + [2.2, 9.9]}))
    assert "p99 2.000 -> 2.200 ms (1.100)" in text
    assert figures["decision_p50"] == [1.0, 1.1, 1.1]
    assert figures["decision_p99"] == [2.0, 2.2, 1.1]
    assert figures["decision_p99.9"] == [9.0, 9.9, 1.1]
    assert figures["set-up_p99"] == [6.0, 6.6, 1.1]
    assert figures["decision_p99_interval"] == [1.1, 1.1]  # all pairs are the same
    assert figures["decision_p99_ratios"] == [1.1, 1.1]
    names = {field.name for field in dataclasses.fields(Result)}
    assert not names & set(figures)  # the names of the other fields of this JSON line


def test_the_interval_is_as_wide_as_the_pairs_differ() -> None:
    same = [1.0] * 100
    low, high = interval([(same, same), (same, [2.0] * 100), (same, same)])
    assert (low, high) == (1.0, 2.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="capturing packets needs root")
def test_every_call_is_seen_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, calls = 8, 20  # more calls than lines
    monkeypatch.setattr("benchmarks.rig.LINES", lines)
    monkeypatch.setattr("benchmarks.scrape.LINES", lines)
    core = min(os.sched_getaffinity(0))
    no_shedding = {"wait_s": 5}  # a busy machine would refuse calls, and these are not dialled
    with (
        Rig(Subject(), cores=(core, core), limits=no_shedding) as rig,
        Wire(rig.sip_port) as wire,
    ):
        running = Run(rig, Plan(rate=20.0, calls=calls), "test", numbers=new_callers(rig, calls))
        while running.step():
            pass
        assert running.finish().last.started == calls
    assert len(wire.calls) == calls
    assert len(wire.decisions_ms()) == calls
