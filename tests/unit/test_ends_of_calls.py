"""Calls that end at the same time are told together, a few between two turns of the loop."""

from typing import Any
from unittest.mock import MagicMock

from engine.call_ends import AT_ONCE, CallEnds
from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over

OVER = Over(Outcome.ANSWERED, 200, "bye")


class Loop:
    """Keeps what it is to call."""

    def __init__(self) -> None:
        self.due: list[Any] = []

    def call_later(self, _seconds: float, work: Any) -> None:
        self.due.append(work)

    def call_soon(self, work: Any) -> None:
        self.due.append(work)


def ending(count: int) -> tuple[CallEnds, Any]:
    """Calls that have ended, and what they are written to."""
    to: Any = MagicMock(loop=Loop())
    ends = CallEnds(to.loop, to.log, to.metrics, to.journal, to.recorder, None)
    for number in range(count):
        ends.add(CallFacts(f"0-1-{number}", "id", "", "+33972100001"), OVER)
    return ends, to


def recorded(to: Any) -> list[str]:
    return [call.args[0].id for call in to.recorder.add.call_args_list]


def test_ends_are_told_in_their_order_a_few_at_a_time() -> None:
    _, to = ending(AT_ONCE + 3)
    assert len(to.loop.due) == 1
    assert not recorded(to)
    to.loop.due.pop()()
    assert len(recorded(to)) == AT_ONCE
    to.loop.due.pop()()
    assert recorded(to) == [f"0-1-{number}" for number in range(AT_ONCE + 3)]
    assert not to.loop.due


def test_a_record_says_when_the_call_ended_not_when_it_was_told() -> None:
    ends, to = ending(1)
    ended = ends._waiting[0][0].ended
    ends.tell()
    assert to.recorder.add.call_args.args[0].ended == ended
    assert to.metrics.call_over.call_count == to.log.info.call_count == 1


def test_one_that_cannot_be_told_keeps_no_other_back() -> None:
    _, to = ending(2)
    to.metrics.call_over.side_effect = [ValueError("odd"), None]
    try:
        to.loop.due.pop()()
    except ValueError:
        to.loop.due.pop()()
    assert recorded(to) == ["0-1-1"]


def test_at_the_end_of_a_worker_all_are_told() -> None:
    ends, to = ending(AT_ONCE * 3)
    ends.tell()
    assert len(recorded(to)) == AT_ONCE * 3
