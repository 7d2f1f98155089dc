"""Structured logs that never make the event loop wait.

A log line is rendered where it is written (orjson) and put into a bounded buffer; a background
thread writes the buffer out a few times a second. When the buffer is full, because the disk or the
terminal is slow, lines are dropped and counted rather than calls delayed.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import threading
from collections import deque
from typing import IO, Any, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

__all__ = ["FilteringBoundLogger", "configure", "dropped", "flush", "get_logger"]

BUFFER_LINES = 20_000
WRITE_INTERVAL_S = 0.05


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
        # A timed wait instead of a wake-up per line: waking a thread for every line would make
        # the loop compete with it for the interpreter lock.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Takes one line, without its end. Never waits."""
        if len(self._lines) >= self._capacity:
            self.dropped += 1
        else:
            self._lines.append(line)

    def flush(self) -> None:
        """Writes out, in the calling thread, what was put so far."""
        with self._writing:
            lines: list[str] = []
            with contextlib.suppress(IndexError):
                while len(lines) < self._capacity:
                    lines.append(self._lines.popleft())
            if not lines:
                return
            try:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # a closed pipe or file: nobody reads any more
                self.dropped += len(lines)

    def close(self) -> None:
        """Writes the rest and ends the thread."""
        self._closing.set()
        self._thread.join(timeout=2)
        self.flush()

    def _run(self) -> None:
        while not self._closing.wait(WRITE_INTERVAL_S):
            self.flush()


class _Named:
    """What structlog calls a logger: a name, and every level ends in the same buffer."""

    __slots__ = ("name",)

    def __init__(self, name: str = "renvoi") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        if _writer is not None:
            _writer.put(line)

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


class _StandardLibrary(logging.Handler):
    """Brings what libraries log (asyncio, redis) into the same stream and form."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            get_logger(record.name).log(
                record.levelno, record.getMessage(), exc_info=record.exc_info or None
            )
        except Exception:
            self.handleError(record)


_writer: Writer | None = None


def configure(level: str = "info", format: str = "json", stream: IO[str] | None = None) -> None:
    """Sets up logging for the whole process; may be called again.

    `level`: debug, info, warning, error or critical. `format`: json or console.
    `stream`: standard output when None.
    """
    global _writer
    close()
    stream = stream or sys.stdout
    _writer = Writer(stream)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=_processors(format, colors=stream.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_Named,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_StandardLibrary()]
    root.setLevel(max(threshold, logging.INFO))


def get_logger(name: str, **context: Any) -> FilteringBoundLogger:
    """A logger that writes `logger=name` and `context` with every event."""
    lazy = structlog.get_logger(name, **context)
    # The proxy looks its methods up anew for each event; what it stands for does not.
    return cast(FilteringBoundLogger, lazy.bind() if structlog.is_configured() else lazy)


def dropped() -> int:
    """Lines lost since `configure`."""
    return _writer.dropped if _writer else 0


def flush() -> None:
    """Writes out what was logged so far; waits for the stream."""
    if _writer:
        _writer.flush()


def close() -> None:
    """Writes out the rest and ends the writer's thread. Later lines are lost."""
    global _writer
    if _writer:
        _writer.close()
        _writer = None


def _processors(format: str, colors: bool) -> list[Processor]:
    shared: list[Processor] = [
        _add_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if format == "console":
        return [*shared, structlog.dev.ConsoleRenderer(colors=colors)]
    return [*shared, structlog.processors.format_exc_info, _render_json]


def _add_name(logger: WrappedLogger, _level: str, event: EventDict) -> EventDict:
    event["logger"] = logger.name
    return event


def _render_json(_logger: WrappedLogger, _name: str, event: Any) -> str:
    """One JSON object a line; what JSON cannot hold is written as its text."""
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):  # a lone surrogate in a header, an integer over 64 bits
        return orjson.dumps({str(key): _plain(value) for key, value in event.items()}).decode()


def _plain(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


atexit.register(close)
