"""A call's coroutine gets its events in order, and a deadline ends the wait."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from engine.event_queue import PER_S, Deadlines, EventQueue, Stop


def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def test_what_came_before_is_there_at_once_and_in_order() -> None:
    mailbox = EventQueue(Deadlines(loop()))
    first, second = Stop(503, "first"), Stop(503, "second")
    mailbox.put(first)
    mailbox.put(second)
    assert await mailbox.get(loop().time() + 10) is first
    assert await mailbox.get(loop().time() + 10) is second


async def test_a_reader_wakes_for_an_event() -> None:
    mailbox = EventQueue(Deadlines(loop()))
    stop = Stop(503, "late")
    loop().call_soon(mailbox.put, stop)
    assert await mailbox.get(loop().time() + 10) is stop
    mailbox.close()


async def test_a_deadline_that_has_passed_gives_none_at_once() -> None:
    assert await EventQueue(Deadlines(loop())).get(loop().time() - 1) is None


async def test_an_event_wins_over_a_deadline_that_has_passed() -> None:
    mailbox = EventQueue(Deadlines(loop()))
    stop = Stop(503, "there")
    mailbox.put(stop)
    assert await mailbox.get(loop().time() - 1) is stop


async def test_a_later_deadline_outlives_the_timer_of_an_earlier_one() -> None:
    mailbox = EventQueue(Deadlines(loop()))
    loop().call_soon(mailbox.put, Stop(503, "early"))
    await mailbox.get(loop().time() + 0.02)
    start = loop().time()
    assert await mailbox.get(start + 0.06) is None
    assert loop().time() - start >= 0.055


async def test_an_earlier_deadline_replaces_a_later_one() -> None:
    mailbox = EventQueue(Deadlines(loop()))
    loop().call_soon(mailbox.put, Stop(503, "early"))
    await mailbox.get(loop().time() + 3600)
    assert await mailbox.get(loop().time() + 0.01) is None


def test_deadlines_close_to_one_another_share_a_moment_and_none_is_early() -> None:
    moments: list[float] = []
    clock: Any = SimpleNamespace(call_at=lambda when, *_: moments.append(when))
    deadlines = Deadlines(clock)
    for deadline in (1000.0, 1000.001, 1000.015, 1000.016, 1000.031):
        deadlines.at(deadline, lambda: None)
        assert deadline <= moments[-1] < deadline + 1 / PER_S
    assert [(when - 1000) * PER_S for when in moments] == [0, 1, 1, 2, 2]


def test_calls_whose_deadlines_have_come_continue_one_in_each_turn() -> None:
    """A message that arrives meanwhile is read before the last of them."""
    timers: list[Callable[[], None]] = []
    turn: list[Callable[[], None]] = []
    clock: Any = SimpleNamespace(
        call_at=lambda _, add, wake: timers.append(lambda: add(wake)), call_soon=turn.append
    )
    deadlines, woken = Deadlines(clock), list[int]()
    for number in range(3):
        deadlines.at(1000.0, lambda number=number: woken.append(number))  # type: ignore[misc]
    for timer in timers:
        timer()
    for number in range(3):
        assert len(turn) == 1
        turn.pop()()
        assert woken == list(range(number + 1))
    assert not turn


def test_an_error_of_one_delays_no_other() -> None:
    turn: list[Callable[[], None]] = []
    clock: Any = SimpleNamespace(call_at=lambda _, add, wake: add(wake), call_soon=turn.append)
    deadlines, woken = Deadlines(clock), list[str]()

    def fail() -> None:
        raise ValueError("odd")

    deadlines.at(1000.0, fail)
    deadlines.at(1000.0, lambda: woken.append("next"))
    with pytest.raises(ValueError, match="odd"):
        turn.pop()()
    turn.pop()()
    assert woken == ["next"]
