"""What the log says of an attack: what came, from where, how often, and not more than that."""

from __future__ import annotations

from typing import Any

import pytest

from engine import rejections
from engine.rejections import Rejections
from engine.sources import MOST, SHOWN, Sources


class Log:
    """Keeps what is logged."""

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
    """Time that passes when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rejections, "time", clock)
    return clock


@pytest.fixture
def told(clock: Clock) -> tuple[Rejections, Log]:
    log = Log()
    made: Any = Rejections(Metrics(), log)  # type: ignore[arg-type]
    return made, log


def test_one_line_a_second_says_how_many_there_were(
    told: tuple[Rejections, Log], clock: Clock
) -> None:
    refused, log = told
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


def test_once_a_minute_it_says_who_sent_them(told: tuple[Rejections, Log], clock: Clock) -> None:
    refused, log = told
    for n in range(3 * MOST):
        refused.rejected("stranger", lambda: "x", b"198.51.100.%d" % n)
    for _ in range(500):
        refused.rejected("malformed", lambda: "x", b"192.0.2.1")
    refused.connection("slow_reader", "tcp 2001:db8::1:5060")
    log.lines.clear()
    refused.tell_sources()
    assert log.lines == []
    clock.now += 60.0
    refused.tell_sources()
    refused.tell_sources()
    told_of = {fields.pop("reason"): (event, fields) for event, fields in log.lines}
    assert told_of["malformed"] == (
        "request.rejections",
        {"seconds": 60, "count": 500, "sources": {}, "others": 500},
    )  # no room was left for one more source
    assert told_of["slow_reader"][1]["count"] == 1
    stranger = told_of["stranger"][1]
    assert (stranger["count"], len(stranger["sources"])) == (3 * MOST, SHOWN)
    assert stranger["others"] == 3 * MOST - SHOWN
    assert len(log.lines) == 3


def test_the_loudest_source_comes_first() -> None:
    sources = Sources()
    for times, source in ((1, b"192.0.2.1"), (7, b"2001:db8::1"), (3, b"192.0.2.3")):
        for _ in range(times):
            sources.count("malformed", source)
    [told] = sources.take()
    assert list(told.sources.items()) == [("2001:db8::1", 7), ("192.0.2.3", 3), ("192.0.2.1", 1)]
    assert (told.count, told.others) == (11, 0)
    assert sources.take() == []


def test_an_exception_that_comes_all_the_time_is_told_once_a_second(
    told: tuple[Rejections, Log], clock: Clock
) -> None:
    refused, log = told
    for _ in range(100):
        try:
            raise ValueError("boom")
        except ValueError as error:
            error.add_note("127.0.0.1:9 200 bytes 'xxx'")
            refused.stumbled(error, "call" * 200)
    [(event, fields)] = log.lines
    assert (event, fields["count"], len(fields["call_id"])) == ("sip.error", 1, 200)
    assert fields["shape"] == "127.0.0.1:9 200 bytes 'xxx'"


def test_a_connection_that_fails_all_the_time_is_told_once_a_second(
    told: tuple[Rejections, Log], clock: Clock
) -> None:
    refused, log = told
    for _ in range(100):
        refused.connection("connect_failed", "tcp 192.0.2.1:5060: timed out")
    assert len(log.lines) == 1
