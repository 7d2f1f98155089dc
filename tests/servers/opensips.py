"""OpenSIPS with the shipped configuration, where it is installed: it is in no Debian suite."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from socket import inet_aton

import pytest

from tests.scenarios.processes import ROOT
from tests.servers.places import ENGINE, OTHER_ENGINE, OTHER_SERVER, SERVER, SIP_PORT

SHIPPED = ROOT / "deploy" / "opensips"
PROGRAM, MODULES = "RENVOI_TEST_OPENSIPS", "RENVOI_TEST_OPENSIPS_MODULES"
"""Environment variables: program and modules, if not where a package installs them."""
START_S = 30.0


def moved(text: str) -> str:
    """A file of ours with the other addresses."""
    return text.replace(SERVER, OTHER_SERVER).replace(ENGINE, OTHER_ENGINE)


class OpenSips:
    """One OpenSIPS, as in deploy/opensips except its address and that of the first engine."""

    address = (OTHER_SERVER, SIP_PORT)
    uri = f"sip:{OTHER_SERVER}:{SIP_PORT};lr"

    def __init__(self, directory: Path) -> None:
        found = os.environ.get(PROGRAM) or shutil.which("opensips") or "/usr/sbin/opensips"
        if not Path(found).exists():
            pytest.skip(f"OpenSIPS is in no Debian suite, and {PROGRAM} names none")
        self._program = found
        self.tables = directory / "dbtext"
        self.tables.mkdir()
        for path in (SHIPPED / "dbtext").iterdir():
            (self.tables / path.name).write_text(moved(path.read_text()))
        text = moved((SHIPPED / "opensips.cfg").read_text())
        text = text.replace("text:///etc/opensips/dbtext", f"text://{self.tables}")
        text = text.replace("stderror_enabled = no", "stderror_enabled = yes")
        modules = os.environ.get(MODULES)
        if modules:
            text = re.sub(r'^mpath = ".*"$', f'mpath = "{modules}"', text, flags=re.M)
        self._config = directory / "opensips.cfg"
        self._config.write_text(text)
        self._log = directory / "opensips.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """Its log."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def check(self) -> subprocess.CompletedProcess[str]:
        """Check its configuration."""
        command = [self._program, "-C", "-f", str(self._config)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def start(self) -> None:
        """Start it and wait until its socket is bound."""
        command = [self._program, "-F", "-f", str(self._config), "-m", "64", "-M", "8"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        # As in /proc/net: the address in reverse byte order.
        bound = f"{inet_aton(OTHER_SERVER)[::-1].hex().upper()}:{SIP_PORT:04X}"
        while bound not in Path("/proc/net/udp").read_text():
            assert self._process.poll() is None, f"OpenSIPS ended:\n{self.log}"
            assert time.monotonic() < deadline, f"OpenSIPS is not there:\n{self.log}"
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it as an administrator does."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(START_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
