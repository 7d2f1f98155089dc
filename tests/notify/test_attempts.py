"""When an attempt that failed is made again."""

from __future__ import annotations

import pytest

from notify.attempts import pause_s


@pytest.mark.parametrize(
    ("failures", "expected_s"), [(1, 10), (2, 20), (3, 40), (7, 640), (8, 900), (10_000, 900)]
)
def test_pauses_double_up_to_the_longest_and_differ_between_targets(
    failures: int, expected_s: int
) -> None:
    pauses = [pause_s(failures, 10, 900) for _ in range(100)]
    assert 0.9 * expected_s <= min(pauses) < max(pauses) <= 1.1 * expected_s
