"""How many connections fit a limit on open files."""

import pytest

from engine.descriptors import fit, needed


@pytest.mark.parametrize(
    ("limit", "used", "connections", "fits"),
    [
        (65_536, 60, 10_000, (10_000, 100)),
        (1024, 60, 10_000, (753, 83)),
        (64, 30, 10_000, (17, 1)),
        (64, 60, 10_000, (1, 1)),  # hopeless: one of each all the same
        (needed(500, 60), 60, 500, (500, 60)),
    ],
)
def test_connections_leave_descriptors_to_the_rest(
    limit: int, used: int, connections: int, fits: tuple[int, int]
) -> None:
    assert fit(limit, used, connections) == fits
