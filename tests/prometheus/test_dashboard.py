"""deploy/grafana/renvoi.json: what Grafana needs, and nothing that an engine does not expose."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "renvoi.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
UNITS = {"reqps", "mps", "s", "percentunit", "short", "bytes"}
NAME = re.compile(r"\b(?:(?:job|instance):)?(?:renvoi|process|python)_\w+(?::\w+)?")


def known() -> set[str]:
    """Every metric that docs/metrics.md defines, and what figures.yml records."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    names = set()
    for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE):
        ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {name + end for end in ends}
    groups = yaml.safe_load((ROOT / "deploy/prometheus/figures.yml").read_text())["groups"]
    return names | {rule["record"] for group in groups for rule in group["rules"]}


def expressions() -> list[str]:
    """All of PromQL that is shipped."""
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    found += [one["expr"] for one in DASHBOARD["annotations"]["list"] if "expr" in one]
    for name in ("figures.yml", "alerts.yml"):
        groups = yaml.safe_load((ROOT / "deploy/prometheus" / name).read_text())["groups"]
        found += [rule["expr"] for group in groups for rule in group["rules"]]
    return found


def test_every_name_in_a_query_or_rule_is_a_metric_or_a_figure() -> None:
    for expression in expressions():
        unknown = set(NAME.findall(expression)) - known()
        assert not unknown, expression


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_in_which_unit(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 8
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in UNITS
    steps = [step["value"] for step in defaults["thresholds"]["steps"]]
    assert steps[0] is None
    assert sorted(steps[1:]) == steps[1:]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == sorted(set(letters))
    for target in panel["targets"]:
        assert '$job"' in target["expr"]
        assert target["legendFormat"]


def test_panels_have_their_own_ids_and_places() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for one, other in itertools.combinations((panel["gridPos"] for panel in everything), 2):
        apart = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        )  # fmt: skip
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24


def test_the_dashboard_can_be_provisioned() -> None:
    assert DASHBOARD["uid"] == "renvoi"
    assert DASHBOARD["schemaVersion"] == 39
    assert "id" not in DASHBOARD  # Grafana gives one
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "job", "instance"]
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/renvoi.yml").read_text())
    assert provider["providers"][0]["type"] == "file"
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/renvoi.yml").read_text())
    assert source["datasources"][0]["type"] == "prometheus"
