"""Calls that end at the same time are reported together, a few per turn of the loop."""

from typing import Any
from unittest.mock import MagicMock

from engine.call_ends import AT_ONCE, CallEnds
from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over

OVER = Over(Outcome.ANSWERED, 200, "bye")


class Loop:
    """Stores the callbacks."""

    def __init__(self) -> None:
        self.due: list[Any] = []

    def call_later(self, _seconds: float, work: Any) -> None:
        self.due.append(work)

    def call_soon(self, work: Any) -> None:
        self.due.append(work)


def ending(count: int) -> tuple[CallEnds, Any]:
    """Calls that have ended, and where they are reported."""
    to: Any = MagicMock(loop=Loop())
    ends = CallEnds(to.loop, to.log, to.metrics, to.journal, to.recorder, None)
    for number in range(count):
        ends.add(CallFacts(f"0-1-{number}", "id", "", "+33972100001"), OVER)
    return ends, to


def recorded(to: Any) -> list[str]:
    return [call.args[0].id for call in to.recorder.add.call_args_list]


def test_ends_are_reported_in_order_a_few_at_a_time() -> None:
    _, to = ending(AT_ONCE + 3)
    assert len(to.loop.due) == 1
    assert not recorded(to)
    to.loop.due.pop()()
    assert len(recorded(to)) == AT_ONCE
    to.loop.due.pop()()
    assert recorded(to) == [f"0-1-{number}" for number in range(AT_ONCE + 3)]
    assert not to.loop.due


def test_the_journal_has_an_end_before_anybody_can_hear_of_it() -> None:
    """A process that continued such a call would keep it: both sides have hung up."""
    _, to = ending(AT_ONCE + 3)
    written = [call.args[1].id for call in to.journal.over.call_args_list]
    assert written == [f"0-1-{number}" for number in range(AT_ONCE + 3)]
    while to.loop.due:
        to.loop.due.pop()()
    assert to.journal.over.call_count == AT_ONCE + 3


def test_a_record_has_the_time_of_the_end_not_of_the_report() -> None:
    ends, to = ending(1)
    ended = ends._waiting[0].ended
    ends.report()
    assert to.recorder.add.call_args.args[0].ended == ended
    assert to.metrics.call_over.call_count == to.log.info.call_count == 1


def test_one_that_cannot_be_reported_delays_no_other() -> None:
    _, to = ending(2)
    to.metrics.call_over.side_effect = [ValueError("odd"), None]
    try:
        to.loop.due.pop()()
    except ValueError:
        to.loop.due.pop()()
    assert recorded(to) == ["0-1-1"]


def test_at_the_end_of_a_worker_all_are_reported() -> None:
    ends, to = ending(AT_ONCE * 3)
    ends.report()
    assert len(recorded(to)) == AT_ONCE * 3
