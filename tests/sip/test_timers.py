"""The timer wheel: near and far timers, on a fake clock."""

from sip.timers import Wheel


class Waiter:
    """Stores the time of each of its ticks."""

    def __init__(self, wheel: Wheel, clock: list[int]) -> None:
        self.wheel, self.clock = wheel, clock
        self.due = -1
        self.rang: list[int] = []
        self.lapsed = 0

    def wait(self, ms: int) -> None:
        self.due = self.wheel.after(self, ms)

    def on_tick(self, tick: int) -> None:
        if tick == self.due:
            self.rang.append(self.clock[0])
        else:
            self.lapsed += 1


def pass_time(wheel: Wheel, clock: list[int], ms: int, step: int = 10) -> None:
    until = clock[0] + ms
    while clock[0] < until:
        clock[0] += step
        wheel.run(clock[0])


def test_a_timer_runs_at_its_time_and_not_before() -> None:
    clock = [1_000_003]
    wheel = Wheel(clock[0])
    waiter = Waiter(wheel, clock)
    waiter.wait(500)
    pass_time(wheel, clock, 480)
    assert waiter.rang == []
    pass_time(wheel, clock, 40)
    assert [1_000_493 <= at <= 1_000_523 for at in waiter.rang] == [True]
    assert wheel.waiting == 0


def test_a_timer_runs_in_a_turn_that_comes_late() -> None:
    clock = [0]
    wheel = Wheel(0)
    waiters = [Waiter(wheel, clock) for _ in range(100)]
    for n, waiter in enumerate(waiters):
        waiter.wait(n * 20)
    clock[0] = 10_000
    wheel.run(10_000)
    assert all(waiter.rang == [10_000] for waiter in waiters)


def test_a_timer_that_was_stopped_or_moved_lapses() -> None:
    clock = [0]
    wheel = Wheel(0)
    waiter = Waiter(wheel, clock)
    waiter.wait(100)
    waiter.wait(300)
    pass_time(wheel, clock, 200)
    assert (waiter.rang, waiter.lapsed) == ([], 1)
    waiter.due = -1
    pass_time(wheel, clock, 200)
    assert (waiter.rang, waiter.lapsed, wheel.waiting) == ([], 2, 0)


def test_far_timers_run_too() -> None:
    """A session of half an hour, beyond the 82 s of the wheel."""
    clock = [0]
    wheel = Wheel(0)
    waiters = [Waiter(wheel, clock) for _ in range(4)]
    for waiter, seconds in zip(waiters, (1800, 90, 81, 83), strict=True):
        waiter.wait(seconds * 1000)
    pass_time(wheel, clock, 1_801_000, step=500)
    assert [waiter.rang for waiter in waiters] == [[1_800_000], [90_000], [81_000], [83_000]]


def test_a_timer_may_be_started_by_another() -> None:
    clock = [0]
    wheel = Wheel(0)

    class Again(Waiter):
        def on_tick(self, tick: int) -> None:
            super().on_tick(tick)
            self.wait(0)

    waiter = Again(wheel, clock)
    waiter.wait(10)
    pass_time(wheel, clock, 50)
    assert waiter.rang == [10, 20, 30, 40, 50]
    assert wheel.waiting == 1


def test_an_idle_wheel_does_not_tick() -> None:
    wheel = Wheel(0)
    wheel.run(10**12)
    waiter = Waiter(wheel, [0])
    waiter.wait(1000)
    wheel.run(10**12 + 990)
    assert waiter.rang == []
    wheel.run(10**12 + 1010)
    assert len(waiter.rang) == 1
