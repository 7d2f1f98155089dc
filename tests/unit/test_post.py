"""How soon a dead worker's place is taken again."""

from __future__ import annotations

from engine.processes.post import BACK_OFF_S, Post


def test_the_first_restart_is_at_once_and_a_process_that_keeps_dying_waits_longer() -> None:
    post = Post(0)
    pauses = [post.pause_s(lived_s=0.5, started=True) for _ in range(9)]
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_one_that_lived_for_long_is_replaced_at_once_whatever_was_before() -> None:
    post = Post(0)
    for _ in range(5):
        post.pause_s(0.5, started=True)
    assert post.pause_s(3600, started=True) == 0
    assert post.pause_s(0.5, started=True) == BACK_OFF_S[1]


def test_one_that_never_started_counts_as_young_however_long_it_tried() -> None:
    post = Post(0)
    assert [post.pause_s(100, started=False) for _ in range(3)] == [0, 1, 2]
