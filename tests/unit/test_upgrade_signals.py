"""Signals while one process becomes another one."""

from __future__ import annotations

import asyncio
import os
import signal

import uvloop

from engine.processes.upgrade import note_signals, shield_threads


def test_a_signal_after_the_last_turn_of_the_loop_is_noted_too() -> None:
    numbers = (signal.SIGHUP, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    async def hand_over() -> list[signal.Signals]:
        noted = note_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_BLOCK, ())  # as `become` does; the loop has no turn
        return list(noted)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(hand_over()) == [signal.SIGHUP]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_threads_of_a_loop_take_no_signals() -> None:
    """One that came in such a thread just before the process became another one would be lost."""

    async def blocked() -> set[int]:
        shield_threads()
        return await asyncio.to_thread(signal.pthread_sigmask, signal.SIG_BLOCK, ())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(blocked())
    assert found >= {signal.SIGHUP, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM}
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
