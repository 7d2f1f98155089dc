"""Writes log lines: a bounded buffer, and a thread that writes it out.

The thread never blocks in a write: it first checks whether the other end of a pipe accepts data. A
reader that has stopped costs lines, which are counted, and no time.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
import time
from collections import deque
from typing import IO

BUFFER_LINES = 20_000
WRITE_INTERVAL_S = 0.05
LAST_WORDS_S = 2.0  # at the end, for a slow reader
PIECE = 4096  # bytes: a ready pipe accepts that much at once (PIPE_BUF, pipe(7))
WHOLE = 1 << 20  # of a file


class Writer:
    """A bounded buffer of lines and the thread that writes it to a stream.

    `capacity` is in lines. `dropped` counts the lines that were lost, because the buffer was full
    or the stream refused them.
    """

    def __init__(self, stream: IO[str], capacity: int = BUFFER_LINES) -> None:
        self.dropped = 0
        self._stream = stream
        self._capacity = capacity
        self._lines: deque[str] = deque()
        self._closing = threading.Event()
        self._writing = threading.Lock()
        self._descriptor = _descriptor(stream)
        self._started = b""  # of a partly written line
        # A timed wait instead of a wake-up per line, because the loop would compete with the thread
        # for the interpreter lock.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Add one line, without its end. Never waits."""
        if len(self._lines) >= self._capacity:
            self.dropped += 1
        else:
            self._lines.append(line)

    def flush(self, within_s: float = LAST_WORDS_S) -> None:
        """Write out, in the calling thread, all lines so far; gives up after `within_s`."""
        until = time.monotonic() + within_s
        if not self._writing.acquire(timeout=within_s):
            return
        try:
            while self._lines or self._started:
                if self._descriptor is None:
                    self._write_text()
                elif not self._write_bytes(until):
                    return
        finally:
            self._writing.release()

    def close(self) -> None:
        """Write the rest, as far as the stream accepts it, and end the thread."""
        self._closing.set()
        self._thread.join(timeout=LAST_WORDS_S)
        self.flush()
        self.dropped += len(self._lines)
        self._lines.clear()

    def _run(self) -> None:
        while not self._closing.wait(WRITE_INTERVAL_S):
            self.flush(WRITE_INTERVAL_S)

    def _take(self) -> list[str]:
        lines: list[str] = []
        with contextlib.suppress(IndexError):
            while len(lines) < 1000:
                lines.append(self._lines.popleft())
        return lines

    def _write_text(self) -> None:
        """To a stream without a file descriptor."""
        lines = self._take()
        try:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # closed: nobody reads it
            self.dropped += len(lines)

    def _write_bytes(self, until: float) -> bool:
        """False if the stream accepts no more for now."""
        descriptor = self._descriptor
        assert descriptor is not None
        lines = 0
        if not self._started:
            taken = self._take()
            lines = len(taken)
            self._started = ("\n".join(taken) + "\n").encode("utf-8", "backslashreplace")
        try:
            waits = _waits(descriptor)
            while self._started:
                if waits and not _is_ready(descriptor, until - time.monotonic()):
                    return False
                piece = _piece(self._started) if waits else self._started[:WHOLE]
                done = os.write(descriptor, piece)
                self._started = self._started[done:]
        except BlockingIOError:
            return False
        except OSError:
            self.dropped += lines or self._started.count(b"\n")
            self._started = b""
        return True


def _descriptor(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _piece(content: bytes) -> bytes:
    """The next write to a pipe: whole lines, if one fits, because several workers may write to the
    same pipe, and writes of at most PIECE are atomic."""
    piece = content[:PIECE]
    return piece[: piece.rfind(b"\n") + 1] or piece


def _waits(descriptor: int) -> bool:
    """Whether a write to it may block."""
    return not stat.S_ISREG(os.fstat(descriptor).st_mode)


def _is_ready(descriptor: int, within_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(max(0, round(within_s * 1000))))
