"""The trial of the code on disk before an upgrade."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from engine.processes import upgrade
from store import background_tasks
from tests.patience import within

HANGS = """
import os, pathlib, sys, time
path = pathlib.Path(sys.argv[1])
path.with_suffix(".new").write_text(str(os.getpid()))
path.with_suffix(".new").rename(path)
time.sleep(600)
"""


async def test_a_trial_that_hangs_ends_with_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM during an upgrade: nobody would end that process."""
    pid = tmp_path / "pid"
    monkeypatch.setattr(upgrade, "command", lambda: [sys.executable, "-c", HANGS, str(pid)])
    trial = asyncio.create_task(upgrade.fault(1))
    async with asyncio.timeout(within(5)):
        while not pid.exists():
            await asyncio.sleep(0.01)
    await background_tasks.end([trial])
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
