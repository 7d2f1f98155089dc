"""Every internal link of the README and of docs/ is valid; the modules in docs/architecture.md
exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("engine", "manager", "notify", "rules", "sip", "store", "tests")


def anchors(markdown: str) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), link
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there.read_text(encoding="utf-8")), link


def test_the_modules_that_the_architecture_names_are_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    there = {path.name for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert not set(re.findall(r"`(?:\w+/)*(\w+\.py)`", page)) - there
    picture = page.partition("```")[2].partition("```")[0]
    named = re.findall(r"^  ([a-z_]+(?:, [a-z_]+)*)(?:\.\w+)?  ", picture, re.MULTILINE)
    names = {name for several in named for name in several.split(", ")}
    assert {"layer", "screening", "call", "decide"} <= names
    assert not {f"{name}.py" for name in names} - there
