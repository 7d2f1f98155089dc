"""Messages on standard error, beside the log."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Write lines in one write. `print` writes the line end separately, so that a log line could
    come in between if both go to one file."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
