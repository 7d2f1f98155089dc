"""How soon a dead worker's place is taken again."""

from __future__ import annotations

from engine.processes.post import BACK_OFF_S, Post


def test_processes_that_die_before_they_serve_wait_ever_longer() -> None:
    post = Post(0)
    pauses = [post.pause_s(served=False) for _ in range(9)]
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_one_that_served_is_replaced_at_once_however_often_it_dies() -> None:
    post = Post(0)
    assert [post.pause_s(served=True) for _ in range(50)] == [0.0] * 50


def test_one_that_served_ends_a_row_of_failures() -> None:
    post = Post(0)
    for _ in range(5):
        post.pause_s(served=False)
    assert post.pause_s(served=True) == 0
    assert [post.pause_s(served=False) for _ in range(2)] == list(BACK_OFF_S[:2])
