"""Calls that end at the same time are told together, a few between two turns of the loop."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over
from engine.calls import AT_ONCE, Calls

OVER = Over(Outcome.ANSWERED, 200, "bye")


class Loop:
    """Keeps what it is to call."""

    def __init__(self) -> None:
        self.due: list[Any] = []

    def call_later(self, _seconds: float, work: Any) -> None:
        self.due.append(work)

    def call_soon(self, work: Any) -> None:
        self.due.append(work)


def ending(count: int) -> tuple[Calls, Any]:
    worker: Any = MagicMock(loop=Loop(), spans=None)
    calls = Calls(worker, "0-1")
    for number in range(count):
        facts = CallFacts(f"0-1-{number}", "id", "", "+33972100001")
        calls.over(SimpleNamespace(facts=facts, source="127.0.0.1"), OVER)  # type: ignore[arg-type]
    return calls, worker


def recorded(worker: Any) -> list[str]:
    return [call.args[0].id for call in worker.recorder.add.call_args_list]


def test_ends_are_told_in_their_order_a_few_at_a_time() -> None:
    _, worker = ending(AT_ONCE + 3)
    assert len(worker.loop.due) == 1
    assert not recorded(worker)
    worker.loop.due.pop()()
    assert len(recorded(worker)) == AT_ONCE
    worker.loop.due.pop()()
    assert recorded(worker) == [f"0-1-{number}" for number in range(AT_ONCE + 3)]
    assert not worker.loop.due


def test_a_record_says_when_the_call_ended_not_when_it_was_told() -> None:
    calls, worker = ending(1)
    ended = calls._ended[0][0].ended
    calls.tell_ends()
    assert worker.recorder.add.call_args.args[0].ended == ended
    assert worker.metrics.call_over.call_count == worker.log.info.call_count == 1


def test_one_that_cannot_be_told_keeps_no_other_back() -> None:
    _, worker = ending(2)
    worker.metrics.call_over.side_effect = [ValueError("odd"), None]
    try:
        worker.loop.due.pop()()
    except ValueError:
        worker.loop.due.pop()()
    assert recorded(worker) == ["0-1-1"]


async def test_a_worker_that_stops_tells_all() -> None:
    calls, worker = ending(AT_ONCE * 3)
    await calls.stop(0.1)
    assert len(recorded(worker)) == AT_ONCE * 3
