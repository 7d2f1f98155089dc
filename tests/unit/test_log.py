"""Logs: one JSON object per line, the loop never waits, nothing is lost at exit."""

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.records.record import LegRecord
from engine.telemetry import log
from engine.telemetry.log_writer import Writer
from tests.patience import Stalls, within

_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z?")


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


@pytest.mark.parametrize(
    "uri", ["sip:phone@192.0.2.1", "sip:phone:secret@192.0.2.1", "sip:\udcff@a"]
)
@pytest.mark.parametrize("numbers", ["full", "masked"])
@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("level", ["info", "warning"])
def test_the_end_of_a_call_is_logged_as_any_other_event(
    stream: io.StringIO, uri: str, numbers: str, format: str, level: str
) -> None:
    log.configure(level, format, stream, numbers=numbers)
    log.of_worker(3)
    leg = LegRecord("line", "+33972101001", uri, 200, None, 1.0, 1.5, 2.0, 3.0, "none")
    engine = log.get_logger(log.ENGINE)
    log.log_end(engine, {"call": "0-1-1", "caller": "+33612345678", "legs": [leg]})
    engine.info("call.end", call="0-1-1", caller="+33612345678", legs=[leg])
    log.flush()
    lines = [_TIME.sub("", line) for line in stream.getvalue().splitlines()]
    assert len(lines) == (2 if level == "info" else 0)
    assert len(set(lines)) <= 1
    assert "secret" not in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("is_journal", [True, False])
def test_the_journal_gets_the_level_of_each_line_as_its_priority(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str,
    is_journal: bool,
) -> None:  # fmt: skip
    """sd-daemon(3). The runbook begins with `journalctl -p warning`."""
    path = tmp_path / "log"
    with path.open("w", encoding="utf-8") as journal:
        of = os.fstat(journal.fileno())
        where = f"{of.st_dev}:{of.st_ino + (0 if is_journal else 1)}"
        monkeypatch.setenv("JOURNAL_STREAM", where)
        log.configure("debug", format, journal)
        logger = log.get_logger("x")
        for method in ("debug", "info", "warning", "error", "critical", "exception"):
            getattr(logger, method)("event")
        log.log_end(logger, {"call": "0-1-1", "legs": []})
        log.close()
    begins = [line[:3] if line[0] == "<" else "" for line in path.read_text().splitlines()]
    expected = ["<7>", "", "<4>", "<3>", "<2>", "<3>", ""] if is_journal else [""] * 7
    assert begins == expected


def test_every_line_of_a_worker_says_which(stream: io.StringIO) -> None:
    log.configure("debug", "json", stream)
    made_before = log.get_logger("cdr")
    log.of_worker(3)
    made_before.warning("cdr.lost")
    log.get_logger("engine").info("worker.start")
    detail = log.detail("call-id", call="42")
    assert detail is not None
    detail.debug("call.begin")
    assert [event["worker"] for event in written(stream)] == [3, 3, 3]


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
    (error,) = event["exception"]
    assert (error["type"], error["text"]) == ("ValueError", "boom")
    assert "test_exceptions_are_part_of_their_event" in error["frames"][-1]


def test_an_exception_has_its_cause(stream: io.StringIO) -> None:
    log.configure("info", "json", stream)
    try:
        try:
            raise ValueError("first")
        except ValueError as error:
            raise KeyError("second") from error
    except KeyError:
        log.get_logger("x").exception("failed")
    (event,) = written(stream)
    assert [one["text"] for one in event["exception"]] == ["'second'", "first"]


def test_on_a_console_an_exception_is_text(stream: io.StringIO) -> None:
    log.configure("info", "console", stream)
    try:
        raise ValueError("boom")
    except ValueError:
        log.get_logger("x").exception("failed")
    log.flush()
    assert "ValueError: boom" in stream.getvalue()
    assert "test_log.py" in stream.getvalue()


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
    """A terminal that accepts nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait(within(5))
        return super().write(text)


def test_a_stuck_output_delays_nobody_and_drops_are_counted(stalls: Stalls) -> None:
    stuck = Stuck()
    writer = Writer(stuck, capacity=100)
    started = time.monotonic()
    for i in range(1000):
        writer.put(str(i))
    assert time.monotonic() - started < 0.5 + stalls.total_s
    assert writer.dropped >= 800
    stuck.go.set()
    writer.close()
    assert len(stuck.getvalue().splitlines()) == 1000 - writer.dropped


def test_a_closed_output_is_counted_and_never_raised() -> None:
    closed = io.StringIO()
    closed.close()
    writer = Writer(closed)
    writer.put("lost")
    writer.close()
    assert writer.dropped == 1


def test_the_last_lines_before_the_exit_are_written() -> None:
    code = (
        "from engine.telemetry import log; log.configure(); "
        "[log.get_logger('x').info('line', i=i) for i in range(500)]; raise SystemExit(3)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=within(10)
    )
    assert child.returncode == 3
    assert [json.loads(line)["i"] for line in child.stdout.splitlines()] == list(range(500))


# While the engine runs


def test_the_level_changes_for_loggers_that_are_held(stream: io.StringIO) -> None:
    log.configure("info", "json", stream)
    held = log.get_logger("x").bind(a=1)
    held.debug("no")
    log.change("debug", sample=0, numbers="full")
    held.debug("yes")
    log.change("warning", sample=0, numbers="full")
    held.info("no")
    held.warning("yes too")
    assert [event["event"] for event in written(stream)] == ["yes", "yes too"]


def test_what_is_below_the_level_costs_almost_nothing(stream: io.StringIO) -> None:
    log.configure("info", "json", stream)
    held = log.get_logger("x")
    debug, empty = type(held).debug, type(held).info
    assert debug is not empty
    assert debug(held, "event", some="thing") is None
    assert written(stream) == []


def test_a_sampled_call_is_logged_completely_and_the_others_not_at_all(stream: io.StringIO) -> None:
    log.configure("info", "json", stream, sample=0.1)
    for number in range(2000):
        call_id = f"{number}@caller.example"
        for step in range(3):
            detail = log.detail(call_id, call_id=call_id)
            if detail is not None:
                detail.debug("step", step=step)
    events = written(stream)
    by_call: dict[str, list[int]] = {}
    for event in events:
        assert event["level"] == "debug"
        by_call.setdefault(event["call_id"], []).append(event["step"])
    assert 120 < len(by_call) < 280
    assert set(map(tuple, by_call.values())) == {(0, 1, 2)}


@pytest.mark.parametrize(
    ("level", "sample", "count"), [("info", 0, 0), ("info", 1, 100), ("debug", 0, 100)]
)
def test_none_or_all(stream: io.StringIO, level: str, sample: float, count: int) -> None:
    log.configure(level, "json", stream, sample=sample)
    assert sum(log.detail(f"{n}@x") is not None for n in range(100)) == count


def test_the_policy_on_numbers_holds_for_every_value(stream: io.StringIO) -> None:
    log.configure("info", "json", stream, numbers="masked")
    held = log.get_logger("x", line="+33972101001")
    held.info("a", text="to sip:+33612345678@gw", items=[{"n": "0972101001"}], raw=b"+33612345678")
    log.change("info", sample=0, numbers="none")
    held.info("b", text="to sip:+33612345678@gw")
    first, second = written(stream)
    assert first["line"] == "+339******01"
    assert first["text"] == "to sip:+336******78@gw"
    assert first["items"] == [{"n": "0972****01"}]
    assert first["raw"] == "+336******78"
    assert (second["line"], second["text"]) == ("***", "to sip:***@gw")


# A reader that has stopped: a full pipe


def test_a_pipe_that_nobody_reads_delays_nobody_and_the_end_comes(stalls: Stalls) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream:
        writer = Writer(stream, capacity=1000)
        started = time.monotonic()
        slowest = 0.0
        for number in range(20_000):
            before = time.monotonic()
            writer.put(f"{number:06} " + "x" * 200)
            slowest = max(slowest, time.monotonic() - before)
        assert time.monotonic() - started < 5 + stalls.total_s
        assert slowest < 1.0 + stalls.total_s
        writer.close()
        assert time.monotonic() - started < 15 + stalls.total_s
        assert writer.dropped > 15_000
        os.set_blocking(read_end, False)
        taken = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(read_end, 1 << 20):
                taken += piece
    lines = taken.split(b"\n")
    assert [int(line[:6]) for line in lines if len(line) == 207] == list(range(len(lines) - 1))
    os.close(read_end)


def test_a_pipe_that_is_read_again_goes_on_where_it_stopped() -> None:
    read_end, write_end = os.pipe()
    taken = bytearray()
    with os.fdopen(write_end, "w") as stream:
        writer = Writer(stream, capacity=100_000)
        for number in range(5000):
            writer.put(f"{number:06} " + "x" * 100)
        time.sleep(0.3)  # now the pipe is full

        def drain() -> None:
            while piece := os.read(read_end, 1 << 16):
                taken.extend(piece)

        reader = threading.Thread(target=drain)
        reader.start()
        writer.close()
        assert writer.dropped == 0
    reader.join(within(5))
    os.close(read_end)
    assert [int(line[:6]) for line in taken.splitlines()] == list(range(5000))
