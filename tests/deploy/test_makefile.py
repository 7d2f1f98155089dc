"""The Makefile on machines where something is missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make, without the environment of the make that runs the tests."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=alone, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("version", ["3.10.12", "3.15.0"])
def test_a_python_that_does_not_fit_is_refused_by_its_version(tmp_path: Path, version: str) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" || exit 1\n')
    python.chmod(0o755)
    done = make("install", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    error = " ".join(done.stderr.split())
    assert "needs Python 3.11 to 3.14: name one with make PYTHON=..." in error
    assert f"this is Python {version}" in error
    assert not (tmp_path / "venv").exists()


# A substitute for an environment's Python: its version is accepted, and it prints what pip prints.
PYTHON = """#!/bin/sh
case "$*" in
    *"-m pip"*requirements.lock) {pip} ;;
esac
"""
PACKAGES = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo Collecting p$n==1; echo '  Using p'; done"


def environment(directory: Path, pip: str) -> Path:
    python = directory / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.format(pip=pip))
    python.chmod(0o755)
    return directory / "venv"


def test_an_installation_shows_its_progress(tmp_path: Path) -> None:
    venv = environment(tmp_path, f"{PACKAGES}; echo Installing collected packages: p1")
    done = make("install", f"VENV={venv}")
    assert done.returncode == 0, done
    lines = done.stderr.splitlines()
    assert any(line.startswith("renvoi: 10 of at most ") for line in lines), lines
    assert "renvoi: 12 packages are here, unpacking them" in lines
    assert done.stdout == ""
    assert (venv / ".installed").exists()


def test_an_installation_that_fails_is_none(tmp_path: Path) -> None:
    venv = environment(tmp_path, f"{PACKAGES}; echo 'ERROR: no such package' >&2; exit 1")
    done = make("install", f"VENV={venv}")
    assert done.returncode != 0
    assert "ERROR: no such package" in done.stderr
    assert not (venv / ".installed").exists()


@pytest.mark.parametrize("target", ["run", "install"])
def test_running_installs_what_running_needs(target: str, tmp_path: Path) -> None:
    output = make("--dry-run", target, f"VENV={tmp_path}/venv").stdout
    assert "requirements.lock" in output
    assert "requirements-dev.lock" not in output
    assert "requirements-api.lock" not in output
