"""docs/metrics.md lists exactly the metrics of an engine, and the rules for the figures."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from engine.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
RECORDED = re.compile(r"`((?:job|instance):[\w.:]+)[`{]")
# Metrics that are exposed only when they have samples: name -> labels.
WHEN_TOLD = {
    "renvoi_sip_messages_total": ("direction", "kind"),
    "renvoi_destination_up": ("destination",),
}


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and labels by metric, from the page's tables."""
    found = {}
    of_a_worker = PAGE.partition("## An engine with several workers")[0]
    for name, kind, labels in re.findall(
        r"^\| `(\w+)` \| (\w+) \|(.*?)\|", of_a_worker, re.MULTILINE
    ):
        assert name not in found, f"{name} is listed twice"
        found[name] = (kind, tuple(re.findall(r"`(\w+)`", labels)))
    return found


async def exposed() -> dict[str, tuple[str, tuple[str, ...]]]:
    """The same, from a scrape."""
    text = (await Metrics().render()).decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    found = {}
    for name, kind in types.items():
        sample = re.search(rf"^{name}(?:_count)?(?:\{{(.*?)\}})? ", text, re.MULTILINE)
        labels = re.findall(r'(\w+)="', sample[1] or "") if sample else WHEN_TOLD[name]
        found[name] = (kind, tuple(labels))
    return found


async def test_the_page_names_every_metric_with_its_type_and_labels_and_no_other() -> None:
    assert documented() == await exposed()


def test_every_metric_has_a_meaning() -> None:
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            assert len(line.split("|")[4].strip()) > 8, line


def test_the_figures_of_the_page_are_recorded() -> None:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/figures.yml").read_text())["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"]}
    named = set(RECORDED.findall(PAGE))
    assert named - {"instance:renvoi_..:rate5m"} <= recorded, named - recorded
    # The page gives one window of those that have several.
    several = {name for name in recorded if re.search(r"ratio(30m|1h|6h|3d)$", name)}
    assert {name for name in recorded - several if name.startswith("job:")} <= named
