"""The `renvoi` program: runs a command from argv and returns the exit status.

0 done, 1 failed, 2 wrong input (usage errors and unknown lines included), 130 ended by Ctrl-C. An
error is one line on standard error that names the field and the value; a traceback is never
shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; `arguments` without the program's name, None = those of the process.

    Returns the exit status.
    """
    _open_closed_streams()
    try:
        # Imported here, so that Ctrl-C during half a second of imports shows no traceback either.
        from engine.commands.program import run

        return run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def _open_closed_streams() -> None:
    """Standard streams that were closed (`>&-`) lead nowhere: Python has None for them, and a file
    or a socket would get their descriptor, also in the processes of `serve`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  # for good
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


if __name__ == "__main__":
    sys.exit(main())
