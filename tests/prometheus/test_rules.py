"""deploy/prometheus: checked by promtool; every alert has a runbook section and a test."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus"
TIMING = ("seconds.yml", "minutes.yml", "days.yml")
RUNBOOK = ROOT / "docs" / "runbook.md"


def alerts() -> list[dict[str, Any]]:
    """Every alert, as written."""
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def anchors(markdown: str) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def promtool(*arguments: str, within: Path) -> None:
    """Run promtool; a failure shows its output."""
    done = subprocess.run(
        ["promtool", *arguments], cwd=within, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_and_rules_are_sound() -> None:
    promtool("check", "config", "prometheus.yml", within=RULES)
    promtool("check", "rules", "--lint=all", "--lint-fatal", "figures.yml", "alerts.yml",
             within=RULES)  # fmt: skip


@pytest.mark.parametrize("timing", TIMING)
def test_every_alert_fires_and_clears_in_time(timing: str, tmp_path: Path) -> None:
    shutil.copy(RULES / "figures.yml", tmp_path)
    rules = yaml.safe_load((RULES / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]  # texts are not tested here
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    shutil.copy(Path(__file__).with_name(timing), tmp_path)
    promtool("test", "rules", timing, within=tmp_path)


def test_every_figure_is_what_its_definition_says(tmp_path: Path) -> None:
    shutil.copy(RULES / "figures.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("ratios.yml"), tmp_path)
    promtool("test", "rules", "ratios.yml", within=tmp_path)
    text = (tmp_path / "ratios.yml").read_text()
    groups = yaml.safe_load((RULES / "figures.yml").read_text())["groups"]
    names = {rule["record"] for group in groups for rule in group["rules"]}
    longer = re.compile(r"_(errors|decisions):ratio(30m|1h|6h|3d)$")  # the same as those of 5m
    named = {name for name in names if name.startswith("job:") and not longer.search(name)}
    assert not {name for name in named if f"round({name}," not in text}


def test_the_timing_of_every_alert_is_tested() -> None:
    fires: set[str] = set()
    clears: set[str] = set()
    for timing in TIMING:
        for group in yaml.safe_load(Path(__file__).with_name(timing).read_text())["tests"]:
            for case in group["alert_rule_test"]:
                (fires if case["exp_alerts"] else clears).add(case["alertname"])
    names = {rule["alert"] for rule in alerts()}
    assert fires == names
    assert clears >= names - {"RenvoiSeerBurnSlow", "RenvoiDecisionBurnSlow"}  # clearing takes days


def test_every_alert_says_what_it_is_and_links_to_its_section_of_the_runbook() -> None:
    sections = anchors(RUNBOOK.read_text())
    linked = set()
    for rule in alerts():
        name = rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page.endswith("/runbook.md"), name
        assert anchor in sections, f"{name}: no section {anchor} in docs/runbook.md"
        linked.add(anchor)
    assert len(linked) > 10
