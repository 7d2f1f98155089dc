"""docs/integration.md as instructions: its sections and the blocks in them."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.scenarios.processes import ROOT

TEXT = (ROOT / "docs" / "integration.md").read_text("utf-8")


def blocks(section: str, kind: str) -> list[str]:
    """The blocks of that kind (sh, yaml ...) of a section of the page, in order."""
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    assert found, f"no section {section}"
    return re.findall(rf"^```{kind}\n(.*?)^```$", found[1], re.M | re.S)


def settings(section: str) -> dict[str, Any]:
    """The engine's configuration in the section."""
    (text,) = blocks(section, "yaml")
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def ladders() -> dict[str, str]:
    """The ladders of the page, by their names."""
    return dict(re.findall(r"^```ladder ([\w-]+)\n(.*?)^```$", TEXT, re.M | re.S))
