"""Structured logs that never make the event loop wait.

A log line is formatted where it is written (orjson) and put into a bounded buffer, which
`log_writer.py` writes out. Level, sampling and the policy on numbers can change while the engine
runs: `change`.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
import zlib
from types import TracebackType
from typing import IO, Any, cast

import msgspec
import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from engine.config import Log as Section
from engine.telemetry.log_writer import Writer
from engine.telemetry.masking import Policy, clean_event

__all__ = [
    "FilteringBoundLogger",
    "apply",
    "change",
    "configure",
    "detail",
    "dropped",
    "exception_entries",
    "flush",
    "get_logger",
    "log_end",
    "numbers",
    "of_worker",
    "set_up",
]  # fmt: skip

ENGINE = "engine"  # the name of a worker's own logger
FRAMES = 30  # of a traceback, the last ones
_LEVELS = {"warn": "warning", "exception": "error"}  # of methods that are not called like them
_PRIORITIES = {"debug": "<7>", "warning": "<4>", "error": "<3>", "critical": "<2>"}
_METHODS = (
    "debug", "info", "warning", "warn", "error", "critical", "fatal", "exception", "msg", "log",
    "adebug", "ainfo", "awarning", "awarn", "aerror", "acritical", "afatal", "aexception", "amsg",
    "alog", "is_enabled_for", "get_effective_level",
)  # fmt: skip


class _Named:
    """A logger for structlog: a name, with every level writing to the same buffer."""

    __slots__ = ("name",)

    def __init__(self, name: str = "renvoi") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        if _writer is not None:
            _writer.put(line)

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


class _StandardLibrary(logging.Handler):
    """Brings the logs of libraries (asyncio, redis) into the same stream and form."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            get_logger(record.name).log(
                record.levelno, record.getMessage(), exc_info=record.exc_info or None
            )
        except Exception:
            self.handleError(record)


# Every logger is of this class. A change of the level replaces its methods, so that events below
# the level cost a call of an empty function, and existing loggers stay valid.
class _Bound(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
    pass


class _Detailed(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
    """The logger of a sampled call: it logs everything, whatever the level."""


_writer: Writer | None = None
_level = logging.INFO
_numbers: Policy = "full"
_worker: int | None = None  # the worker of this process
_in_json = True
_second, _date = -1, ""  # of the last time stamp
_sampled_below = 0  # of 2**32: calls whose Call-ID has a lower hash are sampled


def configure(
    level: str = "info",
    format: str = "json",
    stream: IO[str] | None = None,
    *,
    sample: float = 0.0,
    numbers: Policy = "full",
) -> None:
    """Sets up logging for the whole process; may be called again.

    `level`: debug, info, warning, error or critical. `format`: json or console. `stream`: standard
    output when None. `sample`: share of the calls (0 to 1) whose debug events are logged.
    `numbers`: full, masked or none.
    """
    global _in_json, _worker, _writer
    close()
    stream = stream or sys.stdout
    _worker, _writer, _in_json = None, Writer(stream), format != "console"
    processors = _processors(format, colors=stream.isatty())
    structlog.configure(
        processors=[*processors, _prioritise] if _is_journal(stream) else processors,
        wrapper_class=_Bound,
        logger_factory=_Named,
        cache_logger_on_first_use=True,
    )
    logging.getLogger().handlers = [_StandardLibrary()]
    change(level, sample=sample, numbers=numbers)


def set_up(section: Section) -> None:
    """As `configure`, by the section `log` of the configuration."""
    configure(section.level, section.format, sample=section.sample, numbers=section.numbers)


def apply(section: Section) -> None:
    """As `change`, by the section `log` of the configuration."""
    change(section.level, sample=section.sample, numbers=section.numbers)


def change(level: str, *, sample: float, numbers: Policy) -> None:
    """Change level, share of sampled calls and policy on numbers from the next line on."""
    global _level, _numbers, _sampled_below
    _level, _numbers = logging.getLevelNamesMapping()[level.upper()], numbers
    _sampled_below = 1 << 32 if _level <= logging.DEBUG else round(sample * (1 << 32))
    at_level = structlog.make_filtering_bound_logger(_level)
    for name in _METHODS:
        setattr(_Bound, name, getattr(at_level, name))
    logging.getLogger().setLevel(max(_level, logging.INFO))


def of_worker(index: int) -> None:
    """Add the worker's number to every line from now on."""
    global _worker
    _worker = index


def get_logger(name: str, **context: Any) -> FilteringBoundLogger:
    """A logger that writes `logger=name` and `context` with every event."""
    lazy = structlog.get_logger(name, **context)
    # The proxy looks its methods up for each event; the wrapped logger does not.
    return cast(FilteringBoundLogger, lazy.bind() if structlog.is_configured() else lazy)


def detail(call_id: str, /, **context: Any) -> FilteringBoundLogger | None:
    """The logger for the debug events of the call with this Call-ID; None if the call is not
    sampled. The Call-ID alone decides, so every engine on a call's path decides the same."""
    if not _sampled_below or zlib.crc32(call_id.encode("latin-1", "replace")) >= _sampled_below:
        return None
    lazy = structlog.wrap_logger(_Named("call"), wrapper_class=_Detailed, **context)
    return cast(FilteringBoundLogger, lazy.bind())


def numbers() -> Policy:
    """The policy on numbers in force."""
    return _numbers


def dropped() -> int:
    """Lines lost since `configure`."""
    return _writer.dropped if _writer else 0


def log_end(logger: FilteringBoundLogger, facts: dict[str, Any]) -> None:
    """`logger.info("call.end", **facts)`, past the steps of structlog where nothing has to be left
    out: every call pays for it. `logger` is the worker's, `facts` are this function's to change."""
    if _level > logging.INFO:
        return
    if _writer is None or not _in_json or _numbers != "full" or _has_password(facts):
        logger.info("call.end", **facts)
        return
    facts["event"] = "call.end"
    if _worker is not None:
        facts["worker"] = _worker
    facts["logger"] = ENGINE
    facts["level"] = "info"
    facts["timestamp"] = _timestamp()
    _writer.put(_render_json(None, "", facts))


def flush() -> None:
    """Write out what was logged so far; waits for the stream for a limited time."""
    if _writer:
        _writer.flush()


def close() -> None:
    """Writes out the rest and ends the writer's thread. Later lines are lost."""
    global _writer
    if _writer:
        _writer.close()
        _writer = None


def _processors(format: str, colors: bool) -> list[Processor]:
    if format == "console":
        return [_complete, _show_exception, structlog.dev.ConsoleRenderer(colors=colors)]
    return [_complete, _render_json]


def _complete(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Add the fields of every event and mask what may not be logged: one step, because each call
    pays for it."""
    if "exc_info" in event:
        _show_cause(event)
    event = _keep_private(event)
    if _worker is not None:
        event["worker"] = _worker
    event["logger"] = logger.name
    event["level"] = _LEVELS.get(method, method)
    event["timestamp"] = _timestamp()
    return event


def _timestamp() -> str:
    """Now, ISO 8601 in UTC with microseconds. The date is written once a second."""
    global _second, _date
    now = time.time()
    second = int(now)
    if second != _second:
        _second, _date = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{_date}.{int((now - second) * 1e6):06d}Z"


def _show_cause(event: EventDict) -> None:
    """`exc_info` becomes `exception`: type, text and frames, outermost first, without values of
    variables; its causes follow."""
    given = event.pop("exc_info", None)
    if given:
        error = given if isinstance(given, BaseException) else None
        if error is None:
            error = given[1] if isinstance(given, tuple) else sys.exc_info()[1]
        if error is not None:
            event["exception"] = exception_entries(error)


def exception_entries(error: BaseException) -> list[dict[str, Any]]:
    """An exception and its causes as plain data."""
    chain: list[dict[str, Any]] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 5:
        frames = _frames(current.__traceback__)
        chain.append({"type": type(current).__name__, "text": str(current), "frames": frames})
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)
    return chain


def _frames(trace: TracebackType | None) -> list[str]:
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-FRAMES:]


def _keep_private(event: EventDict) -> EventDict:
    if _numbers == "full" and event.get("event") == "call.end" and not _has_password(event):
        return event
    return clean_event(event, _numbers)


def _has_password(event: EventDict) -> bool:
    """Whether one of a call's URIs may hold one (sip:user:password@host); all else in the end of a
    call is numbers and words of our own."""
    for leg in event.get("legs", ()):
        user, at, _ = leg.uri.rpartition("@")
        if at and user.count(":") != 1:
            return True
    return False


def _show_exception(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    for one in event.pop("exception", ()):
        lines = [f"{one['type']}: {one['text']}", *(f"  at {f}" for f in reversed(one["frames"]))]
        event["exception"] = "\n".join(filter(None, (event.get("exception"), *lines)))
    return event


def _render_json(_logger: WrappedLogger, _name: str, event: Any) -> str:
    """One JSON object per line; values that JSON cannot represent are written as text."""
    try:
        return orjson.dumps(event, default=_to_json, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):  # a lone surrogate in a header, an integer over 64 bits
        return orjson.dumps({str(key): _plain(value) for key, value in event.items()}).decode()


def _is_journal(stream: IO[str]) -> bool:
    """Whether systemd's journal reads it (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # of no descriptor
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _prioritise(_logger: WrappedLogger, method: str, line: Any) -> str:
    """The line with its level as the journal reads and removes it (sd-daemon(3)); without one it
    counts as info."""
    return f"{_PRIORITIES.get(_LEVELS.get(method, method), '')}{line}"


def _to_json(value: object) -> object:
    return msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else str(value)


def _plain(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


atexit.register(close)
