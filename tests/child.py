"""Processes that tests start, and how they are ended, also if they ignore the signal."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.patience import within
from tests.preloaded import Forked

Process = subprocess.Popen[bytes] | Forked


def end(process: Process, number: signal.Signals, seconds: float = 3) -> int:
    """Send the signal, wait `within` the seconds, then kill; the exit status."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(within(seconds))
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


@contextmanager
def started(stop: Callable[[], object]) -> Iterator[None]:
    """While a process starts: if the start fails it is stopped, because no fixture has it yet."""
    try:
        yield
    except BaseException:
        stop()
        raise
