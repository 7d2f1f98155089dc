"""Writes Python's stack to a file in the data directory when the process crashes.

A bug in C or a SIGABRT ends the process; `faulthandler` then writes the stack. Costs nothing until
then.
"""

from __future__ import annotations

import faulthandler
import time
from pathlib import Path
from typing import IO

KEPT = 10  # reports of a worker that are kept
SHOWN_BYTES = 4000

_file: IO[bytes] | None = None  # faulthandler writes to its descriptor: it must stay open


def watch_for_crashes(directory: Path, index: int) -> None:
    """Make a crash of this process leave its stack. An unwritable directory does not prevent
    serving."""
    global _file
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep_last(directory, index)
        _file = _path(directory, index).open("wb", buffering=0)
    except OSError:
        return
    faulthandler.enable(_file)


def last_stack(directory: Path, index: int) -> str:
    """The stack of this worker's last process; empty if it was killed or ended normally."""
    try:
        return _path(directory, index).read_bytes()[:SHOWN_BYTES].decode("utf-8", "replace")
    except OSError:
        return ""


def _path(directory: Path, index: int) -> Path:
    return directory / f"crash-{index}.txt"


def _keep_last(directory: Path, index: int) -> None:
    """Keep the last report under its time, and delete the oldest."""
    path = _path(directory, index)
    if path.exists() and path.stat().st_size:
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(path.stat().st_mtime))
        path.rename(path.with_name(f"crash-{index}-{when}.txt"))
    for old in sorted(directory.glob(f"crash-{index}-*.txt"))[:-KEPT]:
        old.unlink(missing_ok=True)
