"""How soon a dead worker's place is taken again."""

from __future__ import annotations

from engine.processes.worker_pool import BACK_OFF_S, WorkerSlot


def test_processes_that_die_before_they_serve_wait_ever_longer() -> None:
    slot = WorkerSlot(0)
    pauses = [slot.pause_s(served=False) for _ in range(9)]
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_one_that_served_is_replaced_at_once_however_often_it_dies() -> None:
    slot = WorkerSlot(0)
    assert [slot.pause_s(served=True) for _ in range(50)] == [0.0] * 50


def test_one_that_served_ends_a_row_of_failures() -> None:
    slot = WorkerSlot(0)
    for _ in range(5):
        slot.pause_s(served=False)
    assert slot.pause_s(served=True) == 0
    assert [slot.pause_s(served=False) for _ in range(2)] == list(BACK_OFF_S[:2])
