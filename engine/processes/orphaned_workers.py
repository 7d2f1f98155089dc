"""How the next supervisor adopts a worker whose supervisor has died, with its ports and its calls.

Without a supervisor a worker listens on a socket beside its journal. The next supervisor on the
same data directory finds it there before it starts its own worker for that slot. Only the same user
can open the directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.processes.journal import directory_of

ADOPTION_S = 10.0
"""Seconds that a worker takes calls without a supervisor; then it drains, and can still be
adopted."""


def _path(data_dir: Path, index: int) -> Path:
    return directory_of(data_dir) / f"worker-{index}.sock"


@contextmanager
def adoption_socket(data_dir: Path, index: int) -> Iterator[socket.socket]:
    """The socket on which the next supervisor finds this worker. Raises OSError."""
    path = _path(data_dir, index)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        listening.listen(1)
        yield listening
    finally:
        listening.close()
        path.unlink(missing_ok=True)


async def find_orphan(data_dir: Path, index: int) -> socket.socket | None:
    """The line to a worker without supervisor in this slot; None if there is none."""
    path = _path(data_dir, index)
    if not path.exists():
        return None
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(1.0):
            await asyncio.get_running_loop().sock_connect(end, str(path))
    except (OSError, TimeoutError):  # it has ended without cleaning up
        end.close()
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return end
