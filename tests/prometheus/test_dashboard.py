"""deploy/grafana/renvoi.json: valid for Grafana, and only with metrics that an engine exposes."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from engine.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "renvoi.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
UNITS = {"reqps", "mps", "s", "percentunit", "short", "bytes"}
NAME = re.compile(r"\b(?:(?:job|instance):)?(?:renvoi|process|python)_\w+(?::\w+)?")
SELECTOR = re.compile(r"\b(renvoi_\w+)\{(.*?)\}")
VALUE = re.compile(r'(\w+)[=!~]+"(.*?)"')


def known() -> set[str]:
    """Every metric in the documentation, and every series that figures.yml records."""
    page = "".join((ROOT / "docs" / f"{n}.md").read_text() for n in ("metrics", "notifications"))
    names = set()
    for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE):
        ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {name + end for end in ends}
    groups = yaml.safe_load((ROOT / "deploy/prometheus/figures.yml").read_text())["groups"]
    return names | {rule["record"] for group in groups for rule in group["rules"]}


# Fields that Grafana reads but its schema lacks: of queries in annotations and variables.
BEYOND_SCHEMA = re.compile(r"annotations\.list\.\d\.(step|titleFormat)|list\.\d\.definition")
BY_LABEL = re.compile(
    r"sum by \((?P<label>\w+)\) \((?:rate|increase)\((?P<metric>\w+)\{(?P<wanted>.*?)\}\["
)


def lost(given: Any, read: Any, path: str = "") -> Iterator[str]:
    """The paths that are in `given` and not in `read`."""
    if isinstance(given, dict) and isinstance(read, dict):
        for name, value in given.items():
            yield from lost(value, read.get(name), f"{path}.{name}")
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for place, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from lost(one, other, f"{path}.{place}")
    elif given != read:
        yield path


def test_nothing_is_written_that_the_schema_of_grafana_does_not_have() -> None:
    """The dashboard is read into types generated from Grafana's schema, and written again."""
    plugins.register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(DASHBOARD), cls=JSONEncoder))
    assert not [path for path in lost(DASHBOARD, read) if not BEYOND_SCHEMA.search(path)]


def by_label() -> list[tuple[str, str, re.Match[str]]]:
    """Panel, query and matched parts, for each query that draws one line per label value."""
    return [
        (panel["title"], target["expr"], found)
        for panel in PANELS
        if panel["type"] == "timeseries"
        for target in panel["targets"]
        if (found := BY_LABEL.match(target["expr"])) and " / " not in target["expr"]
    ]


def test_values_that_never_occur_are_not_drawn_over_the_others(tmp_path: Path) -> None:
    """In a stacked panel a series of zeros hides the line below it. If all are zero, one is drawn,
    so that the panel shows zero and not "no data". Checked with a real Prometheus."""
    cases = []
    for title, query, found in by_label():
        label, wanted = found["label"], found["wanted"]
        regular = re.search(rf'{label}=~"([^"]*)"', wanted)
        occurs, never = regular[1].split("|")[1:3] if regular else ("occurs", "never")
        shown = re.search(rf'{label}="(\w+)"', query)
        always = shown[1] if shown else None
        base = 'job="renvoi",instance="a"' + ("" if label == "condition" else ',condition="busy"')
        value = 300 if "increase" in query else 1
        expected = [{"labels": f'{{{label}="{occurs}"}}', "value": value}]
        if always:
            expected.append({"labels": f'{{{label}="{always}"}}', "value": 0})
        expression = query.replace("$job", "renvoi").replace("$instance", ".*")
        cases.append({
            "name": title,
            "interval": "1m",
            "input_series": [
                {"series": f'{found["metric"]}{{{base},{label}="{value}"}}', "values": values}
                for value, values in ((occurs, "0+60x30"), (never, "0x30"), (always, "0x30"))
                if value
            ],
            "promql_expr_test": [{
                "expr": re.sub(r"\[(?:\$__rate_interval|1h)\]", "[5m]", expression),
                "eval_time": "10m",
                "exp_samples": expected,
            }],
        })  # fmt: skip
    assert len(cases) > 10
    (tmp_path / "panels.yml").write_text(json.dumps({"tests": cases}))
    done = subprocess.run(
        ["promtool", "test", "rules", "panels.yml"], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> list[str]:
    """All shipped PromQL expressions."""
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


async def test_every_value_of_a_label_in_a_query_or_rule_occurs() -> None:
    page = (await Metrics().render()).decode()
    series = re.findall(r"^(\w+)\{(.*?)\} ", page, re.MULTILINE)
    occurs = {(name, *pair) for name, labels in series for pair in VALUE.findall(labels)}
    occurs |= {("renvoi_sip_messages_total", "direction", value) for value in ("in", "out")}
    metrics = {name for name, *_ in occurs}  # those of every engine
    asked = {
        (name, label, value)
        for name, labels in SELECTOR.findall("\n".join(expressions()))
        for label, values in VALUE.findall(labels)
        if name in metrics and label not in ("job", "instance")
        for value in values.split("|")
    }
    assert len(asked) > 30
    never = {
        (name, label, value)
        for name, label, value in asked
        if not any(each[:2] == (name, label) and re.fullmatch(value, each[2]) for each in occurs)
    }
    assert not never


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
    assert "id" not in DASHBOARD  # Grafana assigns it
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "job", "instance"]
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/renvoi.yml").read_text())
    assert provider["providers"][0]["type"] == "file"
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/renvoi.yml").read_text())
    assert source["datasources"][0]["type"] == "prometheus"
