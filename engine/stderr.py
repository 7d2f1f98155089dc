"""What people are told on standard error while logs are written beside it."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Write lines of text at once: `print` writes their end by itself, and a log line that comes
    in between, where both go to one file, would be torn."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
