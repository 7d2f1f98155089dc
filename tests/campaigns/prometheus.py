"""A real Prometheus that scrapes one engine, with faster versions of the rules of
deploy/prometheus.

Every window, `for` and offset is divided by a factor, so minutes become seconds. Nothing else is
changed except the numbers that a caller names.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.scenarios.processes import ROOT
from tests.scenarios.sipp import HOST, free_port

RULES = ROOT / "deploy" / "prometheus"
SCRAPE_S = 0.5
SHORTEST_S = 3  # a window must contain some scrapes
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WINDOW = re.compile(r"(\[|\boffset )(\d+)([smhd])\b")
_FOR = re.compile(r"(\bfor: )(\d+)([smhd])$", re.MULTILINE)

Numbers = Mapping[str, tuple[str, str]]


def hurried(text: str, factor: float, numbers: Numbers | None = None) -> str:
    """Rules with shorter times. `numbers`: by alert, a number in its expression and its
    replacement."""

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[2]) * _UNITS[found[3]] / factor
        if found[1].startswith("for"):
            return f"{found[1]}{round(seconds)}s"
        return f"{found[1]}{max(SHORTEST_S, round(seconds))}s"

    text = _FOR.sub(shorter, _WINDOW.sub(shorter, text))
    for alert, (old, new) in (numbers or {}).items():
        head, name, rest = text.partition(f"alert: {alert}\n")
        expression, labels, tail = rest.partition("labels:")
        assert old in expression, f"{alert} has no {old}: {expression}"
        text = head + name + expression.replace(old, new) + labels + tail
    return text


class Prometheus:
    """The server, with its data in its own directory."""

    def __init__(
        self, directory: Path, targets: list[str], factor: float, numbers: Numbers | None = None
    ) -> None:
        self._directory = directory / "prometheus"
        self._directory.mkdir()
        self.port = free_port(socket.SOCK_STREAM)
        self.url = f"http://{HOST}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("figures.yml", "alerts.yml"):
            text = hurried((RULES / name).read_text(), factor, numbers if "alert" in name else None)
            (self._directory / name).write_text(text)
        config = {
            "global": {"scrape_interval": f"{SCRAPE_S * 1000:.0f}ms",
                       "scrape_timeout": f"{SCRAPE_S * 1000:.0f}ms", "evaluation_interval": "1s"},
            "rule_files": ["figures.yml", "alerts.yml"],
            "scrape_configs": [{"job_name": "renvoi", "static_configs": [{"targets": targets}]}],
        }  # fmt: skip
        # JSON is YAML too
        (self._directory / "prometheus.yml").write_text(json.dumps(config, indent=1))

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                   f"--web.listen-address={HOST}:{self.port}", "--log.level=warn"]  # fmt: skip
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self._directory, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self._answers():
            said = (self._directory / "log").read_text()
            assert self._process.poll() is None, f"prometheus did not start: {said}"
            assert time.monotonic() < deadline, f"prometheus is not ready: {said}"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(10)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of a request to its API. Raises AssertionError with its error."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def values(self, expression: str) -> list[float]:
        """The values of an expression now, one for each series."""
        result = self.ask("query", query=expression)["result"]
        return [float(series["value"][1]) for series in result]

    def rules(self) -> dict[str, dict[str, Any]]:
        """The state of every rule, by name."""
        groups = self.ask("rules")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def firing(self) -> set[str]:
        """The alerts that fire now."""
        return {
            alert["labels"]["alertname"]
            for alert in self.ask("alerts")["alerts"]
            if alert["state"] == "firing"
        }
