"""Commands of `renvoi`, run in the tests' own process: a new process would take longer to import
its modules than most commands take to run."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout

from engine.cli import main


def run(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """One command: its exit status and what it printed. `typed` is its standard input."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    stdin, sys.stdin = sys.stdin, io.StringIO(typed)
    try:
        with redirect_stdout(out), redirect_stderr(err), ThreadPoolExecutor(1) as beside:
            status = beside.submit(main, arguments).result()  # in a thread without an event loop
    finally:
        sys.stdin = stdin
    for each in (out, err):
        each.seek(0)
    return subprocess.CompletedProcess(arguments, status, out.read(), err.read())
