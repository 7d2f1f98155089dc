"""Lines kept on disk while Redis is away: one file, first in first out, bounded.

A file belongs to one process at a time (flock). While an older process of the same worker still
drains, the newer one writes to `NAME.1`, and so on. A process that opens the spool takes over what
dead processes left in the other files.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_FILES = 8
_OF_WORKER = re.compile(r"cdr-(\d+)\.spool(?:\.\d+)?")


def spool_of(directory: Path, index: int) -> Path:
    """The spool of a worker."""
    return directory / f"cdr-{index}.spool"


def spools_beyond(directory: Path, workers: int) -> list[Path]:
    """What an engine that had more workers has left: nobody else opens these files."""
    files = ((_OF_WORKER.fullmatch(path.name), path) for path in directory.glob("cdr-*"))
    return sorted(path for name, path in files if name is not None and int(name[1]) >= workers)


class Spool:
    """Bounded first-in-first-out file of lines. Safe to use from several threads.

    `size_of(line)` returns the number of records in a line, 0 if it is invalid. `others` are taken
    over too, if no process has them open.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit_bytes: int,
        size_of: Callable[[bytes], int],
        others: Sequence[Path] = (),
    ) -> None:
        self.path = path  # the file in use, once open
        self._base = path
        self._others = others
        self.records = 0
        self._limit = limit_bytes
        self._size_of = size_of
        self._lock = threading.Lock()
        self._fd = -1
        self._end = 0  # bytes in the file
        self._at = 0  # where the first unread line begins
        self._lines: deque[tuple[int, int]] = deque()  # (bytes, records) of each unread line
        self._refused = False  # the last append did not fit or failed

    @property
    def full(self) -> bool:
        """Whether an append would fail: no room, no file, or the last attempt failed."""
        return self._fd < 0 or self._refused or self._end >= self._limit

    def __len__(self) -> int:
        return len(self._lines)

    def open(self) -> None:
        """Open and lock the file, repair its end, and take over the files of dead processes. Raises
        OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            for candidate in self._candidates():
                fd = _take(candidate)
                if fd >= 0:
                    break
            else:
                raise OSError(f"spool {self.path}: all {_FILES} files are in use")
            self._fd, self.path = fd, candidate
            for line in _read_lines(fd):
                self._count(line)
            # A process killed during a write left half a line, which is useless.
            os.ftruncate(fd, self._end)
        for candidate in (*self._candidates(), *self._others):
            if candidate != self.path and candidate.exists():
                self._take_over(candidate)

    def append(self, line: bytes, records: int) -> bool:
        """Write one line (without its end) durably. False if there is no room or the disk refuses
        it; the file is then as before."""
        with self._lock:
            if self._fd < 0 or self._end + len(line) + 1 > self._limit:
                self._refused = True
                return False
            try:
                _write(self._fd, line + b"\n", self._end)
                os.fsync(self._fd)
            except OSError:
                self._refused = True
                try:
                    os.ftruncate(self._fd, self._end)
                except OSError:
                    pass  # the next append writes at the same position
                return False
            self._refused = False
            self._end += len(line) + 1
            self._lines.append((len(line) + 1, records))
            self.records += records
            return True

    def head(self) -> bytes | None:
        """The oldest line, None without one. Raises OSError."""
        with self._lock:
            if not self._lines:
                return None
            return os.pread(self._fd, self._lines[0][0], self._at).rstrip(b"\n")

    def drop_head(self, *, aside: bool = False) -> None:
        """Remove the oldest line. `aside`: keep it in `NAME.bad`, because it is invalid. After the
        last line the file is emptied, which may take the disk a while. Raises OSError.
        """
        with self._lock:
            if self._fd < 0:  # closed meanwhile: the line stays
                return
            length, records = self._lines[0]
            if aside:
                with self.path.with_name(self.path.name + ".bad").open("ab") as bad:
                    bad.write(os.pread(self._fd, length, self._at))
            self._lines.popleft()
            self._at += length
            self.records -= records
            if not self._lines:
                os.ftruncate(self._fd, 0)
                self._at = self._end = 0
                self._refused = False

    def close(self) -> None:
        """Close the file and keep its content."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _candidates(self) -> list[Path]:
        name = self._base.name
        return [self._base, *(self._base.with_name(f"{name}.{n}") for n in range(1, _FILES))]

    def _count(self, line: bytes) -> None:
        records = self._size_of(line.rstrip(b"\n"))
        self._end += len(line)
        self._lines.append((len(line), records))
        self.records += records

    def _take_over(self, other: Path) -> None:
        fd = _take(other)
        if fd < 0:
            return
        try:
            for line in _read_lines(fd):
                if not self.append(line[:-1], self._size_of(line[:-1])):
                    return  # the batch number identifies what was copied before
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)


def _take(path: Path) -> int:
    """Open and lock a file: its descriptor, -1 if another process has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read_lines(fd: int) -> Iterator[bytes]:
    """The complete lines of an open file, each with its end."""
    with os.fdopen(os.dup(fd), "rb") as reader:
        reader.seek(0)
        for line in reader:
            if line.endswith(b"\n"):
                yield line


def _write(fd: int, content: bytes, at: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(fd, left, at)
        left, at = left[written:], at + written
