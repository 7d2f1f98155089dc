"""What is measured, and on what machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import BenchmarkError

CHECKOUT = Path(__file__).resolve().parent.parent
SWITCH = "RENVOI_SIP_CORE"


@dataclass(frozen=True)
class Subject:
    """What is measured: a checkout of Renvoi, or any command that keeps its contract."""

    checkout: Path = CHECKOUT
    command: tuple[str, ...] | None = None  # {config} stands for the path of config.yaml
    core: str | None = None  # the SIP core, as in RENVOI_SIP_CORE; None = as for this process

    def argv(self, config: Path) -> list[str]:
        """The command that serves `config`. Raises BenchmarkError without an entry point."""
        if self.command is not None:
            return [part.replace("{config}", str(config)) for part in self.command]
        project = tomllib.loads((self.checkout / "pyproject.toml").read_text())
        module, _, function = project["project"]["scripts"]["renvoi"].partition(":")
        start = f"import sys; from {module} import {function}; sys.exit({function}())"
        return [self._python, "-c", start, "serve", "--config", str(config)]

    def environment(self) -> dict[str, str]:
        """The environment, in which the checkout's packages win over installed ones."""
        environment = {k: v for k, v in os.environ.items() if k != "RENVOI_REDIS_URL"}
        if self.core is not None:
            environment.pop(SWITCH, None)
        chosen = {SWITCH: self.core} if self.core else {}
        return environment | {"PYTHONPATH": str(self.checkout)} | chosen

    def compile(self) -> None:
        """Compile this checkout's SIP core with the interpreter that will run it. Raises
        BenchmarkError when that fails: an uncompiled core is ten times slower."""
        if not (self.checkout / "setup.py").exists():
            return
        made = subprocess.run(
            [self._python, "setup.py", "--quiet", "build_ext"],
            cwd=self.checkout,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise BenchmarkError(f"{self.checkout}: not compiled: {made.stderr.strip()[-400:]}")

    @property
    def _python(self) -> str:
        own = self.checkout / ".venv" / "bin" / "python"
        return str(own) if own.exists() else sys.executable


def machine(subject: Subject) -> dict[str, object]:
    """What a figure depends on besides the code: processor, cores, versions, commit."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    commit = subprocess.run(
        ["git", "-C", str(subject.checkout), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "commit": commit.stdout.strip() or "none",
    }
