"""Log lines about an attack: what came, from where, how often, and a bounded number of lines."""

from __future__ import annotations

from typing import Any

import pytest

from engine import rejections
from engine.refusal_sources import MOST, SHOWN, Sources
from engine.rejections import Rejections


class Log:
    """Stores log events."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    error = warning


class Metrics:
    """Counts nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Clock:
    """A clock that the test advances."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rejections, "time", clock)
    return clock


@pytest.fixture
def logged(clock: Clock) -> tuple[Rejections, Log]:
    log = Log()
    made: Any = Rejections(Metrics(), log)  # type: ignore[arg-type]
    return made, log


def test_one_line_a_second_says_how_many_there_were(
    logged: tuple[Rejections, Log], clock: Clock
) -> None:
    refused, log = logged
    asked: list[int] = []

    def detail() -> str:
        asked.append(1)
        return "x"

    for second in range(3):
        clock.now = 1000.0 + second
        for _ in range(5000):
            refused.rejected("malformed", detail, b"192.0.2.1")
    assert [fields["count"] for _, fields in log.lines] == [1, 5000, 5000]
    assert len(asked) == 3


def test_once_a_minute_the_sources_are_logged(logged: tuple[Rejections, Log], clock: Clock) -> None:
    refused, log = logged
    for n in range(3 * MOST):
        refused.rejected("stranger", lambda: "x", b"198.51.100.%d" % n)
    for _ in range(500):
        refused.rejected("malformed", lambda: "x", b"192.0.2.1")
    refused.connection("slow_reader", "tcp 2001:db8::1:5060")
    log.lines.clear()
    refused.log_sources()
    assert log.lines == []
    clock.now += 60.0
    refused.log_sources()
    refused.log_sources()
    fields_of = {fields.pop("reason"): (event, fields) for event, fields in log.lines}
    assert fields_of["malformed"] == (
        "request.rejections",
        {"seconds": 60, "count": 500, "sources": {}, "others": 500},
    )  # the table of sources was full
    assert fields_of["slow_reader"][1]["count"] == 1
    stranger = fields_of["stranger"][1]
    assert (stranger["count"], len(stranger["sources"])) == (3 * MOST, SHOWN)
    assert stranger["others"] == 3 * MOST - SHOWN
    assert len(log.lines) == 3


def test_the_source_with_most_requests_comes_first() -> None:
    sources = Sources()
    for times, source in ((1, b"192.0.2.1"), (7, b"2001:db8::1"), (3, b"192.0.2.3")):
        for _ in range(times):
            sources.count("malformed", source)
    [entry] = sources.take()
    assert list(entry.sources.items()) == [("2001:db8::1", 7), ("192.0.2.3", 3), ("192.0.2.1", 1)]
    assert (entry.count, entry.others) == (11, 0)
    assert sources.take() == []


def test_a_repeated_exception_is_logged_once_a_second(
    logged: tuple[Rejections, Log], clock: Clock
) -> None:
    refused, log = logged
    for _ in range(100):
        try:
            raise ValueError("boom")
        except ValueError as error:
            error.add_note("127.0.0.1:9 200 bytes 'xxx'")
            refused.internal_error(error, "call" * 200)
    [(event, fields)] = log.lines
    assert (event, fields["count"], len(fields["call_id"])) == ("sip.error", 1, 200)
    assert fields["shape"] == "127.0.0.1:9 200 bytes 'xxx'"


def test_a_connection_that_fails_repeatedly_is_logged_once_a_second(
    logged: tuple[Rejections, Log], clock: Clock
) -> None:
    refused, log = logged
    for _ in range(100):
        refused.connection("connect_failed", "tcp 192.0.2.1:5060: timed out")
    assert len(log.lines) == 1
