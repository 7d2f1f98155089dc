"""The commands that `renvoi serve` suggests next, ready to paste."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from engine.config import REDIS_URL_VARIABLE, Config


def next_steps(config: Config, path: Path | None) -> str:
    """A first line, a forward, and what would happen to a call; for a shell anywhere on this
    machine. `path` is the configuration's file, None = the one in this directory, if there is one.
    """
    program = _program()
    if path is not None:
        program += f" --config {shlex.quote(str(path.resolve()))}"
    number = config.numbering.plan().example()
    lines = [
        "renvoi: try next, in another terminal:",
        f"  cd {shlex.quote(str(Path.cwd()))}",
        f"""  echo '{{"number": "{number}", "fleet": "acme"}}' | {program} line set -""",
        f"  {program} forward set {number} unconditional voicemail",
        f"  {program} explain {number}",
    ]
    if os.environ.get(REDIS_URL_VARIABLE):  # it may contain a password, so it is not printed
        lines.insert(2, f"  # {REDIS_URL_VARIABLE} has to be set there too")
    return "\n".join(lines)


def _program() -> str:
    """The command line of this program."""
    called = Path(sys.argv[0])
    if called.name != "renvoi":  # python -m engine.cli
        return f"{shlex.quote(sys.executable)} -m engine.cli"
    found = shutil.which("renvoi")
    if found is not None and Path(found).resolve() == called.resolve():
        return "renvoi"
    return shlex.quote(str(called.absolute()))
