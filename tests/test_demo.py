"""`renvoi demo` as a command and in-process: it passes, detects faults, leaves nothing behind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import Config
from engine.demo import engine as demo_engine
from engine.demo import show as demo
from engine.demo.cases import Case, Result, all_cases
from engine.demo.stage import Stage
from rules.model import Condition, Kind
from tests.patience import within

pytestmark = pytest.mark.scenario

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = within(10)
COMMAND = [sys.executable, "-m", "engine.cli", "demo"]


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory with a path short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="demo-", dir="/tmp") as name:
        yield Path(name)


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(directory), "RENVOI_REDIS_URL": "redis://127.0.0.1:1"}


def named(*names: str) -> list[Case]:
    found = [case for case in all_cases() if case.name in names]
    assert len(found) == len(names)
    return found


def rows(cases: Sequence[Case], output: pytest.CaptureFixture[str]) -> tuple[int, list[Any]]:
    """The exit status of a demo of these cases, and its JSON lines."""
    status = demo.run(Config(), as_json=True, cases=cases)
    out, err = output.readouterr()
    assert not err
    return status, [json.loads(line) for line in out.splitlines()]


def test_every_condition_meets_every_destination() -> None:
    cases = all_cases()
    pairs = {f"{c.replace('_', ' ')} -> {k}" for c in Condition for k in Kind}
    assert pairs < {case.name for case in cases}
    numbers = [line["number"] for case in cases for line in case.lines]
    assert len(numbers) == len(set(numbers)), "two cases share a line"


def test_the_command_passes_and_leaves_nothing(place: Path) -> None:
    done = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    shown = [line[6:].split("  ")[0] for line in done.stdout.splitlines() if line[:3] == "ok "]
    assert sorted(shown) == sorted(case.name for case in all_cases())
    assert f"{len(shown)} of {len(shown)} as expected, 0 different" in done.stdout
    assert not list(place.iterdir())


def test_json_has_the_same_results(capsys: pytest.CaptureFixture[str]) -> None:
    status, (row, summary) = rows(named("busy -> voicemail"), capsys)
    assert status == 0
    assert row["ok"]
    assert row["got"] == row["expected"]
    assert row["got"]["invited"][-1][0] == "voicemail"
    assert 0 < row["setup_ms"] < 1000 * LIMIT_S
    assert summary["different"] == 0
    assert summary["records"] == summary["calls"] == 1


def test_a_wrong_expectation_fails_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    forwarded, plain = named("unconditional -> number", "plain call")
    right = forwarded.expected
    wrong = [
        replace(plain, name="code", expected=replace(plain.expected, code=486)),
        replace(forwarded, name="reason", expected=replace(right, diversions=(("+331", "busy"),))),
        replace(named("busy -> fax")[0], name="target", expected=Result((("fax", "+331"),), 200)),
        replace(named("unregistered, no forward")[0], name="181", expected=right),
    ]
    status, (*shown, summary) = rows(wrong, capsys)
    differences = {row["call"]: " ".join(row["differences"]) for row in shown}
    assert status == 1
    assert summary["different"] == 4
    assert "expected 486, got 200" in differences["code"]
    assert "expected +331 busy, got +33972101020 unconditional" in differences["reason"]
    assert "got phone +33972101040, fax +33972101041" in differences["target"]
    assert "181 missing" in differences["181"]


def test_the_table_shows_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    (plain,) = named("plain call")
    wrong = replace(plain, expected=replace(plain.expected, code=486))
    assert demo.run(Config(), cases=[wrong]) == 1
    out = capsys.readouterr().out
    assert "DIFF  plain call" in out
    assert "code: expected 486, got 200" in out
    assert "0 of 1 as expected, 1 different" in out


def test_a_start_that_fails_is_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_engine, "TIMERS", {"pre_ringing_s": -7})
    assert demo.run(Config()) == 1
    output = capsys.readouterr().err
    assert output.startswith("renvoi: demo: the engine did not start: timers.pre_ringing_s")
    assert "-7" in output
    assert output.count("\n") == 1


def test_an_engine_that_dies_is_reported_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_first(stage: Stage, cases: Sequence[Case]) -> None:
        process = stage.engine._process
        assert process is not None
        process.kill()

    monkeypatch.setattr(Stage, "write", kill_first)
    assert demo.run(Config()) == 1
    assert f"the engine ended with status -{signal.SIGKILL:d}: " in capsys.readouterr().err


def test_a_stopped_demo_takes_its_engine_with_it(place: Path) -> None:
    with subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("renvoi demo")
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        running.terminate()
        _, err = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 1
    assert err == "renvoi: demo: stopped by a signal\n"
    assert len(children) == 1
    assert not Path(f"/proc/{children[0]}").exists()
    assert not list(place.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("pjsua2") is None, reason="pjsua2 is not installed")
def test_phones_of_another_stack_do_the_same(place: Path) -> None:
    """PJSIP plays the phones, each in a process that is gone afterwards."""
    done = subprocess.run(
        [*COMMAND, "--phones", "pjsua2"],
        cwd=ROOT,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=3 * LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " as expected, 0 different" in done.stdout
    assert not list(place.iterdir())


def test_phones_that_are_not_installed_are_reported_as_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.demo.softphone.find_spec", lambda name: None)
    assert demo.run(Config(), pjsua2=True) == 1
    assert "pip install 'renvoi[phones]'" in capsys.readouterr().err
