"""The Makefile on machines that lack something."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("version", ["3.10.12", "3.15.0"])
def test_a_python_that_does_not_fit_is_refused_by_its_version(tmp_path: Path, version: str) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" || exit 1\n')
    python.chmod(0o755)
    done = make("install", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    told = " ".join(done.stderr.split())
    assert "needs Python 3.11 to 3.14: name one with make PYTHON=..." in told
    assert f"this is Python {version}" in told
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("target", ["run", "install"])
def test_running_installs_what_running_needs(target: str, tmp_path: Path) -> None:
    told = make("--dry-run", target, f"VENV={tmp_path}/venv").stdout
    assert "requirements.lock" in told
    assert "requirements-dev.lock" not in told
    assert "requirements-api.lock" not in told
