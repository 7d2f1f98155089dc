"""A call's events reach its coroutine in order, and a deadline ends the wait."""

import asyncio

from engine.event_queue import EventQueue, Stop


def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def test_what_came_before_is_there_at_once_and_in_order() -> None:
    mailbox = EventQueue(loop())
    first, second = Stop(503, "first"), Stop(503, "second")
    mailbox.put(first)
    mailbox.put(second)
    assert await mailbox.get(loop().time() + 10) is first
    assert await mailbox.get(loop().time() + 10) is second


async def test_a_reader_wakes_for_an_event() -> None:
    mailbox = EventQueue(loop())
    stop = Stop(503, "late")
    loop().call_soon(mailbox.put, stop)
    assert await mailbox.get(loop().time() + 10) is stop
    mailbox.close()


async def test_a_deadline_that_has_passed_gives_none_at_once() -> None:
    assert await EventQueue(loop()).get(loop().time() - 1) is None


async def test_an_event_wins_over_a_deadline_that_has_passed() -> None:
    mailbox = EventQueue(loop())
    stop = Stop(503, "there")
    mailbox.put(stop)
    assert await mailbox.get(loop().time() - 1) is stop


async def test_a_later_deadline_outlives_the_timer_of_an_earlier_one() -> None:
    mailbox = EventQueue(loop())
    loop().call_soon(mailbox.put, Stop(503, "early"))
    await mailbox.get(loop().time() + 0.02)
    start = loop().time()
    assert await mailbox.get(start + 0.06) is None
    assert loop().time() - start >= 0.055


async def test_an_earlier_deadline_replaces_a_later_one() -> None:
    mailbox = EventQueue(loop())
    loop().call_soon(mailbox.put, Stop(503, "early"))
    await mailbox.get(loop().time() + 3600)
    assert await mailbox.get(loop().time() + 0.01) is None
