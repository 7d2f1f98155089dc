"""Logs: one JSON object a line, nothing that makes the loop wait, nothing lost at the end."""

import io
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine import log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    log.close()
    root.handlers, root.level = handlers, level


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    log.flush()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_json_object_a_line_with_level_time_and_logger(stream: io.StringIO) -> None:
    log.configure("info", "json", stream)
    bound = log.get_logger("call", id="42").bind(called="+33972101001")
    bound.info("call.end", outcome="answered", text="two\nlines")
    bound.debug("not shown")
    (event,) = written(stream)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "call.end",
        "level": "info",
        "logger": "call",
        "id": "42",
        "called": "+33972101001",
        "outcome": "answered",
        "text": "two\nlines",
    }


def test_what_json_cannot_hold_is_written_as_text(stream: io.StringIO) -> None:
    log.configure("info", "json", stream)
    log.get_logger("x").info("odd", header="a\udcffb", big=1 << 80, thing={1, 2}, raw=b"\xff")
    (event,) = written(stream)
    assert event["header"] == "a\\udcffb"
    assert event["big"] == str(1 << 80)


def test_exceptions_are_part_of_their_event(stream: io.StringIO) -> None:
    log.configure("info", "json", stream)
    try:
        raise ValueError("boom")
    except ValueError:
        log.get_logger("x").exception("failed")
    (event,) = written(stream)
    assert event["level"] == "error"
    assert "ValueError: boom" in event["exception"]


def test_libraries_log_into_the_same_stream(stream: io.StringIO) -> None:
    log.configure("info", "json", stream)
    logging.getLogger("asyncio").error("task %s was never retrieved", "t1")
    (event,) = written(stream)
    assert (event["logger"], event["event"]) == ("asyncio", "task t1 was never retrieved")


def test_console_is_for_people(stream: io.StringIO) -> None:
    log.configure("info", "console", stream)
    log.get_logger("x").info("serving", port=5080)
    log.flush()
    assert "serving" in stream.getvalue()
    assert "port=5080" in stream.getvalue()


class Stuck(io.StringIO):
    """A terminal that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait(5)
        return super().write(text)


def test_a_stuck_output_delays_nobody_and_drops_are_counted() -> None:
    stuck = Stuck()
    writer = log.Writer(stuck, capacity=100)
    started = time.monotonic()
    for i in range(1000):
        writer.put(str(i))
    assert time.monotonic() - started < 0.5
    assert writer.dropped >= 800
    stuck.go.set()
    writer.close()
    assert len(stuck.getvalue().splitlines()) == 1000 - writer.dropped


def test_a_closed_output_is_counted_and_never_raised() -> None:
    closed = io.StringIO()
    closed.close()
    writer = log.Writer(closed)
    writer.put("lost")
    writer.close()
    assert writer.dropped == 1


def test_the_last_lines_before_the_exit_are_written() -> None:
    code = (
        "from engine import log; log.configure(); "
        "[log.get_logger('x').info('line', i=i) for i in range(500)]; raise SystemExit(3)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert child.returncode == 3
    assert [json.loads(line)["i"] for line in child.stdout.splitlines()] == list(range(500))
