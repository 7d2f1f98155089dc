"""The compiled core under AddressSanitizer and UndefinedBehaviorSanitizer:
`python -m tests.campaigns.sanitized [--messages N] [--seed S] [--directory D]`.

The sources are copied, compiled there with gcc's sanitizers, and `tests.campaigns.inside` runs on
them. Any finding of a sanitizer ends the run with its report. Leaks are not checked, because
CPython does not free all its memory at exit. `--directory` keeps the build for the next run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sip", "tests")
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -g1"
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "PYTHONMALLOC": "malloc",  # so that each object is a separate allocation
    "RENVOI_SIP_CORE": "",
}


def library(name: str) -> str:
    """The path of one of gcc's libraries."""
    done = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def build(into: Path) -> None:
    """Copy the sources and compile them there, unless that was done before."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            into / package,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),
        )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, into / name)
    flags = {"CFLAGS": FLAGS, "LDFLAGS": FLAGS}
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext"],
        cwd=into, env={**os.environ, **flags}, check=True,
    )  # fmt: skip


def run(into: Path, messages: int, seed: int) -> int:
    """Play the messages; returns the exit status of the run."""
    preload = " ".join(library(name) for name in ("libasan.so", "libubsan.so"))
    return subprocess.run(
        [sys.executable, "-m", "tests.campaigns.inside", "--messages", str(messages),
         "--seed", str(seed)],
        cwd=into, env={**os.environ, **OPTIONS, "LD_PRELOAD": preload}, check=False,
    ).returncode  # fmt: skip


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, help="how many to send")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where to build; a temporary one otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sanitized-") as name:
        into: Path = options.directory or Path(name)
        into.mkdir(parents=True, exist_ok=True)
        build(into)
        return run(into, options.messages, options.seed)


if __name__ == "__main__":
    sys.exit(main())
