"""Admission: limits by engine, peer and line; Retry-After from the actual drain rate; shedding."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from engine.admission import FLOOR, KEPT, RETRY_MAX_S, WINDOW_S, Admission
from engine.config import Limits
from sip.screening import Rejection

NONE = Limits(calls=0)
ALICE, BOB = b"10.0.0.1", b"10.0.0.2"


class Clock:
    """A clock that the test advances."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def number_of(target: bytes) -> str | None:
    found = re.search(rb"sip:(\+\d+)@", target)
    return found[1].decode() if found else None


def uri(line: int = 1) -> bytes:
    return b"sip:+3397210%04d@127.0.0.1" % line


def policy(**limits: float) -> tuple[Admission, Clock]:
    clock = Clock()
    return Admission(replace(NONE, **limits), clock, number_of), clock  # type: ignore[arg-type]


def came_in(gate_: Admission, attempts: int, source: bytes = ALICE, line: int = 1) -> int:
    return sum(gate_.ask(source, uri(line)) is None for _ in range(attempts))


def test_without_limits_every_call_is_admitted() -> None:
    admission, _ = policy()
    assert came_in(admission, 10_000) == 10_000


def test_the_engine_takes_so_many_calls_at_once() -> None:
    admission, _ = policy(calls=2)
    for _ in range(2):
        assert admission.ask(ALICE, uri()) is None
        admission.began("10.0.0.1", "+33972100001")
    rejection = admission.ask(ALICE, uri())
    assert rejection is not None
    assert (rejection.reason, rejection.code) == ("overload", 503)
    admission.ended("10.0.0.1", "+33972100001")
    assert admission.ask(ALICE, uri()) is None


def test_new_calls_a_second_are_a_bucket_one_second_deep() -> None:
    admission, clock = policy(calls_per_second=10)
    assert came_in(admission, 50) == 10
    clock.now += 0.5
    assert came_in(admission, 50) == 5
    clock.now += 100
    assert came_in(admission, 50) == 10


def test_a_peer_above_its_limit_leaves_the_others_alone() -> None:
    admission, _ = policy(peer_calls_per_second=5)
    assert came_in(admission, 20, ALICE) == 5
    rejection = admission.ask(ALICE, uri())
    assert rejection is not None
    assert (rejection.reason, rejection.code) == ("peer_limit", 503)
    assert came_in(admission, 20, BOB) == 5


def test_a_peer_holds_so_many_calls_at_once() -> None:
    admission, _ = policy(peer_calls=3)
    for _ in range(3):
        admission.began("10.0.0.1", "+33972100001")
    assert came_in(admission, 1, ALICE) == 0
    assert came_in(admission, 1, BOB) == 1
    admission.ended("10.0.0.1", "+33972100001")
    assert came_in(admission, 1, ALICE) == 1


def test_a_line_above_its_limit_says_480_and_leaves_the_others_alone() -> None:
    admission, _ = policy(line_calls_per_second=2)
    assert came_in(admission, 9, line=1) == 2
    rejection = admission.ask(ALICE, uri(1))
    assert rejection is not None
    assert (rejection.reason, rejection.code) == ("line_limit", 480)
    assert came_in(admission, 9, line=2) == 2


def test_a_call_refused_by_one_limit_uses_no_other() -> None:
    admission, clock = policy(calls_per_second=10, peer_calls_per_second=2)
    assert came_in(admission, 100, ALICE) == 2
    assert came_in(admission, 2, BOB) == 2
    clock.now += 0.01
    assert came_in(admission, 9, b"10.0.0.3") == 2


def test_a_target_without_number_is_not_counted_on_a_line() -> None:
    admission, _ = policy(line_calls_per_second=1)
    assert [admission.ask(ALICE, b"sip:127.0.0.1") for _ in range(3)] == [None] * 3


def retry(admission: Admission) -> int:
    rejection = admission.ask(ALICE, uri())
    assert isinstance(rejection, Rejection)
    return rejection.retry_after_s


def test_retry_after_is_the_queue_over_the_rate_at_which_calls_end() -> None:
    admission, clock = policy(calls=100)
    for _ in range(100):
        admission.began("10.0.0.1", "+33972100001")
    for _ in range(1000):  # 20 calls a second end, and others replace them
        clock.now += 0.05
        admission.ended("10.0.0.1", "+33972100001")
        admission.began("10.0.0.1", "+33972100001")
    waits = [retry(admission) for _ in range(200)]
    assert waits[0] == 1
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(200 / 20, abs=1)
    for _ in range(100):  # half of the queue is admitted
        clock.now += 0.05
        admission.ended("10.0.0.1", "+33972100001")
        admission.began("10.0.0.1", "+33972100001")
    assert retry(admission) == pytest.approx(5, abs=1)


def test_retry_after_of_a_rate_limit_is_by_that_rate() -> None:
    admission, _ = policy(calls_per_second=10)
    assert came_in(admission, 10) == 10
    assert [retry(admission) for _ in range(40)] == sorted([1, 2, 3, 4] * 10)


def test_retry_after_is_bounded_when_no_call_ends() -> None:
    admission, _ = policy(calls=1)
    admission.began("10.0.0.1", "+33972100001")
    assert {retry(admission) for _ in range(1000)} == {RETRY_MAX_S}


def test_a_draining_engine_sends_the_time_until_it_is_done() -> None:
    admission, clock = policy()
    for _ in range(300):
        admission.began("10.0.0.1", "+33972100001")
    for _ in range(200):
        clock.now += 0.1
        admission.ended("10.0.0.1", "+33972100001")
    admission.draining = True
    rejection = admission.ask(ALICE, uri())
    assert rejection is not None
    assert (rejection.reason, rejection.code) == ("draining", 503)
    assert rejection.retry_after_s == pytest.approx(100 / 10, abs=3)


@pytest.mark.parametrize("limit", ["peer_calls_per_second", "peer_calls"])
def test_peers_that_are_quiet_are_forgotten(limit: str) -> None:
    admission, clock = policy(**{limit: 5})
    for host in range(3 * KEPT):
        clock.now += 1
        assert admission.ask(b"10.1.%d.%d" % divmod(host, 256), uri()) is None
    assert len(admission._peers) <= KEPT + 1


def test_limits_change_while_calls_are_in_progress() -> None:
    admission, _ = policy(calls=1)
    admission.began("10.0.0.1", "+33972100001")
    assert came_in(admission, 1) == 0
    admission.limit(replace(NONE, calls=2))
    assert came_in(admission, 1) == 1


@pytest.mark.parametrize("limit", ["peer_calls", "line_calls"])
def test_a_limit_that_begins_during_calls_counts_them(limit: str) -> None:
    """The end of one of them makes room for one call, and not for more than the limit has."""
    admission, _ = policy()
    calls = [("10.0.0.1", "+33972100001")] * 2
    for call in calls:
        admission.began(*call)
    admission.limit(replace(NONE, **{limit: 2}), calls)
    assert admission.ask(ALICE, uri(1)) is not None
    assert admission.ask(BOB, uri(2)) is None
    admission.ended(*calls.pop())
    assert admission.ask(ALICE, uri(1)) is None
    admission.began("10.0.0.1", "+33972100001")
    assert admission.ask(ALICE, uri(1)) is not None
    admission.ended(*calls.pop())
    assert admission.ask(ALICE, uri(1)) is None


# An engine that handles `capacity` calls a second and queues the others.


def load(
    admission: Admission, clock: Clock, offered: float, capacity: float, seconds: float
) -> tuple[float, float]:
    """Calls/s that were admitted in the second half, and the longest wait in it, in seconds."""
    waiting, done, longest = 0.0, 0, 0.0
    step, credit = 0.02, 0.0
    steps = int(seconds / step)
    for number in range(steps):
        clock.now += step
        credit += offered * step
        while credit >= 1:
            credit -= 1
            if admission.ask(ALICE, uri()) is None:
                waiting += 1
                done += number >= steps // 2
        waiting = max(0.0, waiting - capacity * step)
        admission.waited(waiting / capacity)
        if number >= steps // 2:
            longest = max(longest, waiting / capacity)
    return done / (seconds / 2), longest


@pytest.mark.parametrize("times", [1.1, 2, 5, 20])
def test_above_its_capacity_the_engine_stays_near_it_and_no_call_waits_long(
    times: float,
) -> None:
    admission, clock = policy(wait_s=0.1)
    came, longest = load(admission, clock, 200 * times, 200, 60)
    assert came == pytest.approx(200, rel=0.07)
    assert longest < 0.3


def test_below_its_capacity_nobody_is_refused() -> None:
    admission, clock = policy(wait_s=0.1)
    came, _ = load(admission, clock, 190, 200, 20)
    assert came == pytest.approx(190, rel=0.01)
    assert admission.shedding.per_second == math.inf


def test_after_an_overload_calls_are_admitted_again() -> None:
    admission, clock = policy(wait_s=0.1)
    load(admission, clock, 1000, 200, 20)
    assert admission.shedding.per_second < 300
    load(admission, clock, 100, 200, 20)
    assert admission.shedding.per_second == math.inf


def test_a_loop_that_is_late_for_any_reason_still_takes_some_calls() -> None:
    admission, clock = policy(wait_s=0.1)
    for _ in range(100):
        clock.now += WINDOW_S
        admission.waited(3.0)
        admission.ask(ALICE, uri())
    assert admission.shedding.per_second == FLOOR
    clock.now += 1
    assert came_in(admission, 5) >= 2


def test_one_short_wait_in_a_window_shows_that_it_was_only_a_burst() -> None:
    admission, clock = policy(wait_s=0.1)
    for _ in range(50):
        for waited in (2.0, 2.0, 0.001):
            clock.now += WINDOW_S / 3
            admission.waited(waited)
    assert admission.shedding.per_second == math.inf
    assert came_in(admission, 1000) == 1000
